"""Memory kept between the passes: the inversion layer against scaling and squaring.

    python inversion_memory.py [--sizes 32,64,96,128] [--threads 2] [--device cpu]

Table 17 of Honkamaa and Marttinen (SITReg, MELBA 2024, arXiv 2303.10211) in our terms: a displacement at the
bound of its control points is inverted, and the same field, taken as a stationary velocity, is integrated by
seven squarings, at the same size. Counted is every distinct tensor that autograd keeps for the way back,
the input itself among them, in megabytes and in fields (d numbers per voxel, 4 bytes each). On a GPU the
peak above what was there before is printed too. Seconds are of one pass, forward and backward.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from DeepRegistrationLib.allocator import use_large_heap
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.inversion_layer import inverse_displacement, solve_inverse
from DeepRegistrationLib.methods.sitreg.extraction import bounded_spline
from DeepRegistrationLib.transforms.stationary_velocity import exponential
from torch import Tensor

RATE = 4
HEAD = (
    "size",
    "layer",
    "kept, MB",
    "kept, fields",
    "peak, MB",
    "forward s",
    "backward s",
    "iterations or squarings",
)


def kept_bytes(function: Callable[[Tensor], Tensor], u: Tensor) -> tuple[int, float, float, int]:
    """Bytes kept between the passes, seconds of each, and the peak on a GPU (0 elsewhere)."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    on_gpu = u.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    begin = _now(u)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function(u)
    middle = _now(u)
    result.backward(torch.ones_like(result))
    end = _now(u)
    peak = torch.cuda.max_memory_allocated() - before if on_gpu else 0
    return sum(storages.values()), middle - begin, end - middle, peak


def _now(u: Tensor) -> float:
    if u.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def rows(size: int, device: str) -> list[list[str]]:
    """Both layers at one size."""
    shape = (size,) * 3
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(1, 3, *(-(-n // RATE) for n in shape), generator=generator) * 2 - 1
    u = bounded_spline(raw.atanh(), RATE, shape).to(device)
    frame = Frame.regular(shape)
    layers = {
        "inversion layer": (inverse_displacement, solve_inverse(u).iterations),
        "scaling and squaring": (lambda v: exponential(v[0], frame)[None], 7),
    }
    table = []
    for name, (function, count) in layers.items():
        kept, forward, backward, peak = kept_bytes(function, u.clone().requires_grad_())
        fields = kept / (u.numel() * u.element_size())
        table.append(
            [
                f"{size}^3",
                name,
                f"{kept / 2**20:.1f}",
                f"{fields:.1f}",
                f"{peak / 2**20:.1f}" if peak else "-",
                f"{forward:.2f}",
                f"{backward:.2f}",
                str(count),
            ]
        )
    return table


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="32,64,96,128", help="voxels a side; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    arguments = parser.parse_args()
    use_large_heap()
    torch.set_num_threads(arguments.threads)
    table = [list(HEAD), ["---"] * len(HEAD)]
    for size in map(int, arguments.sizes.split(",")):
        table += rows(size, arguments.device)
    print("\n".join("| " + " | ".join(row) + " |" for row in table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
