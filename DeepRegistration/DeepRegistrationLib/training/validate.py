"""How well a network does on pairs it has not seen: overlap before and after, folds."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor, nn

from ..field import Field
from ..frame import Frame
from ..interpolation import sample
from ..metrics import fold_statistics
from .base import Batch, TrainingTask
from .source import PairSource

_PAIRS = {2: 16, 3: 4}
"""Held-out pairs looked at, by dimension: a 3-D one takes as long as many 2-D ones."""

_OF_SOME = ("dice_before", "dice_after", "error_before", "error_after")
"""What is measured where there are labels, or a known map."""


def validate(
    task: TrainingTask,
    network: nn.Module,
    source: PairSource,
    device: torch.device | str = "cpu",
    pairs: int | None = None,
) -> dict[str, Any]:
    """Means over held-out pairs.

    Args:
        task: knows how to predict.
        network: left in the mode it was in.
        source: of the pairs; empty when it keeps none for validation.
        device: where the network is.
        pairs: how many at most.

    Returns:
        ``pairs``, how many; ``mse_before`` and ``mse_after`` of the images; ``dice_before`` and
        ``dice_after``, means over pairs and labels, where there are labels; ``error_before`` and
        ``error_after``, distance to the true map, voxels, where it is known; ``folds_percent`` (see
        `metrics.FOLDS_MEASURED`); ``determinant_min``. Empty without held-out pairs.
    """
    limit = _PAIRS[source.dimension] if pairs is None else pairs
    count = min(source.held_out_count, limit)
    if count == 0:
        return {}
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            rows = [_measured(task, network, source.held_out(k).to(device)) for k in range(count)]
    finally:
        network.train(training)
    result: dict[str, Any] = {"pairs": count}
    for name in ("mse_before", "mse_after", *_OF_SOME, "folds_percent"):
        values = [row[name] for row in rows if name in row]
        if values:
            result[name] = statistics.fmean(values)
    result["determinant_min"] = min(row["determinant_min"] for row in rows)
    return result


def _measured(task: TrainingTask, network: nn.Module, batch: Batch) -> dict[str, float]:
    displacement = task.displacement(network, batch).float()
    shape = displacement.shape[1:-1]
    frame = Frame.regular(tuple(reversed(shape)), batch.spacing)
    points = frame.grid(displacement.device) + displacement[0]
    folds = fold_statistics(Field(displacement[0], frame))
    row = {name: folds[name] for name in ("folds_percent", "determinant_min")}
    row["mse_before"] = float((batch.moving - batch.fixed).square().mean())
    row["mse_after"] = float((sample(batch.moving, points) - batch.fixed).square().mean())
    if batch.displacement is not None:
        voxel = 2 / displacement.new_tensor(shape[::-1])
        missing = (displacement - batch.displacement) / voxel
        row["error_before"] = float((batch.displacement / voxel).norm(dim=-1).mean())
        row["error_after"] = float(missing.norm(dim=-1).mean())
    if batch.fixed_labels is not None and batch.moving_labels is not None:
        row["dice_before"] = overlap(batch.moving_labels, batch.fixed_labels)
        warped = sample(batch.moving_labels, points, mode="nearest")
        row["dice_after"] = overlap(warped, batch.fixed_labels)
    return row


def overlap(a: Tensor, b: Tensor) -> float:
    """Mean Dice over the channels of one-hot labels (1, L, *S); channels empty in both are left out."""
    a, b = a > 0.5, b > 0.5
    axes = tuple(range(2, a.ndim))
    both, total = (a & b).sum(axes).double(), (a.sum(axes) + b.sum(axes)).double()
    there = total > 0
    return float((2 * both[there] / total[there]).mean()) if bool(there.any()) else 1.0
