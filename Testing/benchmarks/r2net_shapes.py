"""R2Net on triangles and circles: 2-D trainings of both forms in minutes on two cores.

    python r2net_shapes.py [--out r2net_shapes] [--steps 1500] [--configurations small,paper] [--threads 2]

Trains SVF-R2Net (one block for all steps) and NSVF-R2Net (a block for each) on generated pairs, from images
alone, with the loss of the configuration; all see the same pairs in the same order, and Adam's rate is that
of ``--rate``. "small" is what the extension trains, "paper" the published recipe (Joshi and Hong, MIDL
2022). Prints a Markdown table of held-out pairs: Dice before and after, folds, smallest determinant, by how
many voxels the blocks change the initial velocity at most (3.5 is the bound), and the largest gain of the
blocks' first convolutions as operators (power iteration). Writes ``curves.png`` and ``pair_*.png`` (the
first held-out pair).
"""

from __future__ import annotations

import sys

import torch
from DeepRegistrationLib.methods.r2net.network import R2Net
from DeepRegistrationLib.methods.r2net.training import NSVF_TASK, SVF_TASK
from DeepRegistrationLib.training.data import PairSource
from shapes_report import (
    HELD_OUT_HEAD,
    PAIRS,
    draw_pair,
    draw_trainings,
    held_out_cells,
    prepared,
    print_table,
    shapes_parser,
    train,
)
from torch import nn

NAMES = {SVF_TASK: "SVF-R2Net", NSVF_TASK: "NSVF-R2Net"}
HEAD = (
    "form",
    "configuration",
    "weights",
    *HELD_OUT_HEAD,
    "blocks change, voxels",
    "largest gain",
    "training s",
)
ROUNDS = 100


@torch.no_grad()
def change(network: R2Net, source: PairSource) -> float:
    """Most that the blocks change a component of the initial velocity of held-out pairs, voxels."""
    most = 0.0
    for index in range(PAIRS):
        batch = source.held_out(index)
        velocity = network.initial(batch.moving, batch.fixed).mean
        most = max(most, float((network.flow(velocity) - velocity).abs().max()))
    return most


def gain(network: R2Net, shape: tuple[int, ...]) -> float:
    """Largest operator norm among the blocks' first convolutions on images of `shape`."""
    return max(operator_norm(block.first, shape) for block in network.flow.blocks)


def operator_norm(convolution: nn.Module, shape: tuple[int, ...]) -> float:
    """By power iteration; the transpose comes from autograd."""
    values = torch.randn(1, len(shape), *shape, generator=torch.Generator().manual_seed(0))
    for _ in range(ROUNDS):
        values = (values / values.norm()).requires_grad_()
        out = convolution(values)
        values = torch.autograd.grad(out, values, out.detach())[0]
    return float(values.norm()) ** 0.5


def main() -> int:
    """Train them, print the table, write the pictures."""
    parser = shapes_parser(__doc__, "r2net_shapes", steps=1500)
    parser.set_defaults(rate=2e-3)
    parser.add_argument("--configurations", default="small", help="comma-separated; default: %(default)s")
    arguments = parser.parse_args()
    source = prepared(arguments)
    trainings, rows = {}, []
    for configuration in arguments.configurations.split(","):
        for task, form in NAMES.items():
            name = f"{form}, {configuration}"
            torch.manual_seed(arguments.seed)
            network = task.network(configuration, 2)
            found = trainings[name] = train(name, task, network, task.loss, source, arguments)
            rows.append(
                [
                    form,
                    configuration,
                    str(sum(p.numel() for p in network.parameters())),
                    *held_out_cells(found.held_out),
                    f"{change(network, source):.2f}",
                    f"{gain(network, source.shape):.2f}",
                    f"{found.seconds:.0f}",
                ]
            )
            draw_pair(arguments.out / f"pair_{task.method}_{configuration}.png", task, network, source)
    draw_trainings(arguments.out / "curves.png", trainings, {"similarity": "mean squared error"})
    print_table(HEAD, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
