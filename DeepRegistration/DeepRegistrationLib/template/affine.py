"""Affine maps from one space to many images, freed of the shape of the image they began with."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch

from ..frame import Frame
from ..transforms import LinearTransform


def mean_stretch(maps: Sequence[LinearTransform]) -> np.ndarray:
    """The mean of what affine maps stretch, (d, d), symmetric and positive.

    Each map's linear part is a rotation after a stretch (polar decomposition); the mean of the stretches is
    exp(mean log) (Arsigny et al.: Geometric means in a novel vector space structure on symmetric
    positive-definite matrices. SIAM J. Matrix Anal. Appl. 29, 2007).
    """
    logarithms = []
    for one in maps:
        linear = one.matrix[:-1, :-1].numpy()
        squares, axes = np.linalg.eigh(linear.T @ linear)
        logarithms.append((axes * (0.5 * np.log(squares))) @ axes.T)
    values, axes = np.linalg.eigh(np.mean(logarithms, 0))
    return (axes * np.exp(values)) @ axes.T


def centred(maps: Sequence[LinearTransform], frame: Frame) -> tuple[list[LinearTransform], Frame]:
    """The same maps from a space that has the mean shape, in the pose of the one they came from.

    Args:
        maps: points of `frame` to the images' points, LPS mm.
        frame: of the image (or average) that was registered.

    Returns:
        Maps whose stretches have the mean 1, from the points of the frame that is returned: the box of mean
        shape about the same centre, with the same voxels.
    """
    stretch, d = mean_stretch(maps), frame.dimension
    back = np.eye(d + 1)
    back[:d, :d] = np.linalg.inv(stretch)
    back[:d, d] = frame.centre - back[:d, :d] @ frame.centre
    shrink = LinearTransform(torch.from_numpy(back))
    sides = np.linalg.norm(stretch @ np.asarray(frame.direction), axis=0)
    size = tuple(max(1, ceil(n * side - 1e-6)) for n, side in zip(frame.size, sides, strict=True))
    half = (np.asarray(size) - 1) / 2 * np.asarray(frame.spacing)
    origin = frame.centre - np.asarray(frame.direction) @ half
    moved = [LinearTransform(one.matrix @ shrink.matrix) for one in maps]
    return moved, Frame(size, frame.spacing, tuple(map(float, origin)), frame.direction)
