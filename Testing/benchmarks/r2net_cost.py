"""Time and memory of one training step against size: residual blocks against scaling and squaring.

    python r2net_cost.py [--sizes 64,96,112,128] [--threads 2] [--repeats 3] [--device cpu]

The cost table in the appendix of Joshi and Hong (MIDL 2022). A step is the prediction for one pair of n^3
voxels, the loss of the configuration "paper" (a drawn velocity, divergence, folds), its gradient and Adam's
update. SVF and NSVF are the method; in the third network of each size the blocks give way to seven squarings
at full resolution, U-Net and loss staying what they are (the paper's VoxelMorph). Each row is measured in a
fresh process.

Prints a Markdown table: seconds of a step (the median; not of the first), megabytes by which the step raised
the process' peak (on a GPU torch's peak), megabytes that autograd keeps between the passes, each distinct
storage counted once, and the same without the U-Net and loss, for the integrator alone; then the paper's
seconds and gigabytes on a Titan X.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median

import torch
from DeepRegistrationLib.allocator import use_large_heap
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.methods.maps import FieldMap
from DeepRegistrationLib.methods.r2net.loss import PairLoss
from DeepRegistrationLib.methods.r2net.network import CONFIGURATIONS, R2Net
from DeepRegistrationLib.training.base import Batch
from DeepRegistrationLib.transforms.stationary_velocity import exponential
from torch import Tensor, nn

NAMES = {"svf": "SVF-R2Net", "nsvf": "NSVF-R2Net", "squaring": "scaling and squaring"}
R2NET = {
    64: "0.170 / 0.9", 96: "0.432 / 1.4", 112: "0.651 / 2.4", 128: "0.915 / 4.5", 144: "1 / 4.5",
    192: "3 / 8.5", 224: "4 / 11.8",
}  # fmt: skip
VOXELMORPH = {
    64: "0.113 / 1.4", 96: "0.298 / 2.4", 112: "0.419 / 4.4", 128: "0.6 / 8.5", 144: "0.907 / 8.5",
    192: "does not fit", 224: "does not fit",
}  # fmt: skip
PUBLISHED = {"svf": R2NET, "nsvf": R2NET, "squaring": VOXELMORPH}
"""Seconds / gigabytes; NSVF was within 3 per cent of SVF."""

HEAD = (
    "size",
    "integrator",
    "step s",
    "peak MB",
    "kept MB",
    "kept by the integrator MB",
    "published s / GB",
)


@dataclass(frozen=True)
class Row:
    """Seconds and bytes of a step."""

    seconds: float
    peak: float
    kept: int
    integrator: int


class Squared(R2Net):
    """The same network with a stationary velocity that is integrated at full resolution."""

    def __init__(self) -> None:
        super().__init__(CONFIGURATIONS["paper"], 3, shared=True)
        self.flow = nn.Identity()

    def displaced(self, velocity: Tensor, watch: Callable[[], None] | None = None) -> FieldMap:
        voxel = 2 / velocity.new_tensor(velocity.shape[:1:-1])
        frame = Frame.regular(tuple(velocity.shape[:1:-1]))
        return FieldMap(torch.stack([exponential(v.movedim(0, -1) * voxel, frame) for v in velocity]))


class Kept:
    """Counts what autograd keeps for the way back, each storage once."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        return sum(self._storages.values())


def measure(kind: str, size: int, repeats: int, device: str) -> Row:
    """One network at one size, in this process."""
    torch.manual_seed(0)
    network = Squared() if kind == "squaring" else R2Net(CONFIGURATIONS["paper"], 3, shared=kind == "svf")
    network.to(device).train()
    loss, optimiser = PairLoss.of(network.configuration), torch.optim.Adam(network.parameters(), lr=1e-4)

    def step(batch: Batch) -> float:
        begin = time.perf_counter()
        optimiser.zero_grad()
        loss(network, batch)["loss"].backward()
        optimiser.step()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    step(pair(16, device))  # loads what torch loads at the first step
    batch = pair(size, device)
    before = peak(device)
    laps = [step(batch) for _ in range(1 + repeats)]
    used = peak(device) - before
    whole, integrator = Kept(), Kept()
    with torch.autograd.graph.saved_tensors_hooks(whole, lambda tensor: tensor):
        terms = loss(network, batch)
    del terms
    velocity = torch.randn(1, 3, *(size,) * 3, device=device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(integrator, lambda tensor: tensor):
        found = network.displaced(velocity)
    del found
    return Row(median(laps[1:]), used, whole.bytes, integrator.bytes)


def pair(size: int, device: str) -> Batch:
    """Two noisy images of n^3 voxels."""
    images = torch.rand(2, 1, 1, *(size,) * 3, generator=torch.Generator().manual_seed(0)).to(device)
    return Batch(images[0], images[1], None, None, None, None, (1.0,) * 3)


def peak(device: str) -> float:
    """Peak memory so far, bytes: of the process, or of torch on a GPU since the last call."""
    if device != "cpu":
        value = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return value
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def child(arguments: argparse.Namespace, kind: str, size: int) -> Row | None:
    """`measure` in a fresh process; None where it did not come to an end."""
    command = [sys.executable, __file__, "--child", kind, str(size), "--device", arguments.device]
    command += ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
    variables = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True)
    return Row(**json.loads(done.stdout)) if done.returncode == 0 else None


def main() -> int:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="64,96,112,128", help="voxels a side; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="steps timed; default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--child", nargs=2, metavar=("KIND", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        use_large_heap()
        torch.set_num_threads(arguments.threads)
        kind, size = arguments.child
        print(json.dumps(asdict(measure(kind, int(size), arguments.repeats, arguments.device))))
        return 0
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|", flush=True)
    for size in map(int, arguments.sizes.split(",")):
        for kind, name in NAMES.items():
            row = child(arguments, kind, size)
            numbers = ["does not fit"] + [""] * 3
            if row is not None:
                megabytes = [f"{value / 2**20:.0f}" for value in (row.peak, row.kept, row.integrator)]
                numbers = [f"{row.seconds:.2f}", *megabytes]
            published = PUBLISHED[kind].get(size, "")
            print("| " + " | ".join([f"{size}^3", name, *numbers, published]) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
