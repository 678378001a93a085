"""A picture of training pairs, a row for each pair, and how long they take to make.

    python Testing/benchmarks/contact_sheet.py sheet.png --data 'generated:anatomy?size=64' --dimension 3

Works for folders of training images, too. The columns are the fixed image, the moving one, the moving one
brought onto the fixed one by the true map (where it is known), and the labels of both; of 3-D images the
middle slice across each axis. Seconds are processor seconds of one thread, so a busy machine does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from DeepRegistrationLib.demo.font import text_mask
from DeepRegistrationLib.interpolation import read_at, voxel_centres
from DeepRegistrationLib.training import Batch
from DeepRegistrationLib.training.data import open_data
from torch import Tensor

_GAP, _HEADER = 3, 22
_COLOURS = np.random.default_rng(3).uniform(0.25, 1.0, (64, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="the picture, .png")
    parser.add_argument("--data", default="generated:anatomy", metavar="SPEC", help="as in `train --data`")
    parser.add_argument("--dimension", type=int, choices=(2, 3))
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zoom", type=int, default=2, help="picture dots per voxel")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = open_data(options.data, options.dimension)
    rows, seconds = [], []
    for step in range(options.pairs):
        begun = time.thread_time()
        batch = source.batch(1, options.seed, step)
        seconds.append(time.thread_time() - begun)
        rows.append(_cells(batch))
    sitk.WriteImage(sitk.GetImageFromArray(_page(rows, options.zoom), isVector=True), str(options.out))
    middle, shape = statistics.median(seconds), " x ".join(map(str, source.shape))
    print(f"{shape}: {1000 * middle:.0f} ms per pair (median), at most {1000 * max(seconds):.0f} ms")


def _cells(batch: Batch) -> list[tuple[str, np.ndarray]]:
    """The captioned pictures of a pair, each (height, width, 3) in 0 to 1."""
    columns = {"fixed": _grey(batch.fixed), "moving": _grey(batch.moving)}
    if batch.displacement is not None:
        points = voxel_centres(batch.fixed.shape[2:], batch.displacement) + batch.displacement
        columns["truth"] = _grey(read_at(batch.moving, points))
    if batch.fixed_labels is not None and batch.moving_labels is not None:
        columns["labels f"] = _coloured(batch.fixed_labels)
        columns["labels m"] = _coloured(batch.moving_labels)
    return [(name, view) for name, volume in columns.items() for view in _slices(volume)]


def _grey(image: Tensor) -> np.ndarray:
    return image[0, 0].cpu().numpy()[..., None].repeat(3, -1)


def _coloured(labels: Tensor) -> np.ndarray:
    number = (labels[0] * torch.arange(1, labels.shape[1] + 1).view(-1, *(1,) * (labels.ndim - 2))).sum(0)
    return np.concatenate([np.zeros((1, 3)), _COLOURS])[number.long().numpy()]


def _slices(volume: np.ndarray) -> list[np.ndarray]:
    """A 2-D picture as it is; the middle slices of a 3-D one, the head's end up."""
    if volume.ndim == 3:
        return [volume]
    z, y, x = (n // 2 for n in volume.shape[:3])
    return [volume[z], volume[::-1, y], volume[::-1, :, x]]


def _page(rows: list[list[tuple[str, np.ndarray]]], zoom: int) -> np.ndarray:
    cells = [[view.repeat(zoom, 0).repeat(zoom, 1) for _, view in row] for row in rows]
    height = max(cell.shape[0] for row in cells for cell in row) + _GAP
    width = max(cell.shape[1] for row in cells for cell in row) + _GAP
    page = np.full((_HEADER + height * len(rows), width * len(rows[0]), 3), 0.15)
    for k, (name, _) in enumerate(rows[0]):
        mask = text_mask(name)[:, : width - _GAP]
        page[4 : 4 + mask.shape[0], k * width : k * width + mask.shape[1]][mask] = 1
    for r, row in enumerate(cells):
        for k, cell in enumerate(row):
            top, left = _HEADER + r * height, k * width
            page[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return np.rint(page.clip(0, 1) * 255).astype(np.uint8)


if __name__ == "__main__":
    main()
