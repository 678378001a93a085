"""Training on several processes, as ``torchrun`` starts them: one per GPU, or several on a processor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .. import resources
from ..errors import InputError, NotAvailableError

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOST = (
    "closed by peer",
    "connection reset",
    "connection refused",
    "broken pipe",
    "gloo",
    "nccl",
    "timed out",
)


@dataclass(frozen=True)
class Processes:
    """The processes of a training, seen from one of them.

    Attributes:
        rank: number of this one; 0 is the only one that writes.
        count: how many there are.
        device: this one's.
        talk: the group they agree in. Its threads end with the last reference to it, unlike those of
            the group that averages gradients: one that still let go of a tensor of `agreed` while
            the interpreter ended would abort the process.
    """

    rank: int
    count: int
    device: torch.device
    talk: dist.ProcessGroup | None = None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def shared(self, module: nn.Module) -> nn.Module:
        """The module whose gradients are averaged over the processes; itself when there is only one.

        Batch normalisation counts the whole batch of all processes on GPUs (`synchronised`); on
        processors each one counts its own, and the running statistics are those of the first.
        """
        if self.count == 1:
            return module
        # Parts that a stage of the training leaves out have no gradient.
        return DistributedDataParallel(module, find_unused_parameters=True)

    def synchronised(self, network: nn.Module) -> nn.Module:
        """The network with batch statistics over all processes, where torch can do that."""
        if self.count == 1 or self.device.type != "cuda":
            return network
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)

    def share(self, pairs: int) -> int:
        """How many of a step's pairs fall to each process.

        Raises:
            InputError: they cannot be shared evenly, so that their mean would not be that of all pairs.
        """
        if pairs % self.count:
            fitting = ", ".join(str(n) for n in range(1, pairs + 1) if pairs % n == 0)
            raise InputError(
                f"A step of this training takes {pairs} pairs, which {self.count} processes cannot share "
                f"evenly; resume it with {fitting} of them."
            )
        return pairs // self.count

    def agreed(self, wish: int) -> int:
        """The largest of all processes' wishes; they wait for one another here."""
        if self.count == 1:
            return wish
        tensor = torch.tensor([wish])
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.talk)
        return int(tensor)


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """This process among those of the training; alone unless ``torchrun``'s variables say otherwise.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: no such device, or incomplete variables.
        NotAvailableError: there is no usable GPU.
    """
    place = resources.device(device)
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        yield Processes(0, 1, place)
        return
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise InputError(f"WORLD_SIZE is set, but {missing[0]} is not; start several processes by torchrun.")
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    gpu = place.type == "cuda"
    if gpu:
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
        torch.cuda.set_device(place)
    try:
        dist.init_process_group("nccl" if gpu else "gloo", rank=rank, world_size=count)
        talk = dist.new_group(backend="gloo")
    except RuntimeError as error:
        raise NotAvailableError(
            f"The {count} processes of the training did not find one another at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}."
        ) from error
    try:
        yield Processes(rank, count, place, talk)
    finally:
        with suppress(RuntimeError):  # of a group that has lost a member
            dist.destroy_process_group()


def has_lost_one(error: BaseException) -> bool:
    """Whether an exception says that another process of the training is gone."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        isinstance(error, getattr(dist, "DistError", ())) or any(word in text for word in _LOST)
    )
