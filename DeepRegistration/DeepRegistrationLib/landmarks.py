"""Landmarks: named points in LPS mm, and which of them belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .landmark_files import read_points, write_points
from .landmark_pairing import Listed, Pairing, pairing


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Named points.

    Attributes:
        points: (N, d) float64, LPS mm, components (x, y, z); d is 2 or 3.
        labels: N names, not necessarily different.
        places: of the points in the list they come from, 0 for the first; None: 0 to N - 1.
        left_out: name and reason of each point of that list that is not used.
        named: whether the labels are names; otherwise they only count the points.

    Raises:
        InputError: when the points have another shape or are not finite numbers.
    """

    points: Tensor
    labels: tuple[str, ...]
    places: tuple[int, ...] | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    named: bool = True

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] not in (2, 3):
            raise InputError("Landmarks must be a list of points with two or three coordinates each.")
        if len(self.labels) != len(self.points):
            raise InputError(f"There are {len(self.points)} landmarks but {len(self.labels)} landmark names.")
        bad = [
            name
            for name, fine in zip(self.labels, self.points.isfinite().all(1).tolist(), strict=True)
            if not fine
        ]
        if bad:
            raise InputError(f"The coordinates of landmark {bad[0]} are not finite numbers.")

    def __len__(self) -> int:
        return len(self.points)

    @property
    def listed(self) -> Listed:
        """What decides which point belongs to which of another list."""
        places = tuple(range(len(self))) if self.places is None else self.places
        return Listed(self.labels, places, self.left_out, self.named)


LandmarkSource = Landmarks | str | Path | Tensor | np.ndarray | Sequence[Sequence[float]]


def as_landmarks(source: LandmarkSource) -> Landmarks:
    """Landmarks from a file, or from N points of d coordinates (LPS mm), then named "1" to "N".

    Raises:
        InputError: an unusable file, ragged, non-numeric or non-finite points.
    """
    if isinstance(source, Landmarks):
        return source
    if isinstance(source, str | Path):
        return read_landmarks(source)
    if isinstance(source, Tensor):
        points = source.detach().cpu().double()
    else:
        try:
            points = torch.from_numpy(np.array(source, dtype=np.float64))
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError("Landmarks must be points with the same number of coordinates each.") from error
    return Landmarks(
        points, tuple(str(k + 1) for k in range(len(points))) if points.ndim else (), named=False
    )


def read_landmarks(path: str | Path) -> Landmarks:
    """Read Slicer markups (.mrk.json, .fcsv) or a table (.csv); see landmark_files.py for the formats.

    Coordinates come out in LPS whatever the file holds; points that are not placed or are deselected are
    left out, and named in `Landmarks.left_out`.

    Raises:
        InputError: a missing or unreadable file, another format, unknown coordinates or units, no point.
    """
    path = Path(path)
    found = read_points(path)
    if not found.points:
        which = " that is placed and selected" if found.left_out else ""
        raise InputError(f"{path} has no landmarks{which} in it.")
    try:
        points = torch.tensor(found.points, dtype=torch.float64)
        return Landmarks(points, found.labels, found.places, found.left_out, found.named)
    except InputError as error:
        raise InputError(f"{path} cannot be used. {error}") from error


def write_landmarks(landmarks: Landmarks, path: str | Path) -> None:
    """Write .mrk.json, .fcsv or .csv in LPS, whole or not at all; every digit is kept.

    Raises:
        OutputError: another extension, 2-D points in a Slicer format, or the file could not be written.
    """
    write_points(landmarks.points.tolist(), landmarks.labels, Path(path))


def pair_landmarks(fixed: LandmarkSource, moving: LandmarkSource) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Match the landmarks of two images, by the rule of landmark_pairing.py: by the names both lists share,
    and by order where they share none.

    Returns:
        Fixed and moving points, each (N, d) float64, LPS mm, in the order of the fixed list, and the
        names of the fixed ones, made unique.

    Raises:
        InputError: no pair, names that do not tell which belong together, 2-D against 3-D points, or an
            unusable list.
    """
    fixed, moving = as_landmarks(fixed), as_landmarks(moving)
    found = _paired(fixed, moving)
    rows = ([pair[side] for pair in found.rows] for side in (0, 1))
    return fixed.points[next(rows)], moving.points[next(rows)], found.names


def unused_landmarks(fixed: LandmarkSource, moving: LandmarkSource) -> list[str]:
    """Sentences for the user on what `pair_landmarks` leaves out, and where it pairs by order names that
    differ; errors as there."""
    return list(_paired(as_landmarks(fixed), as_landmarks(moving)).sentences)


def _paired(fixed: Landmarks, moving: Landmarks) -> Pairing:
    if not len(fixed) and not len(moving):
        raise InputError("There are no landmarks.")
    if fixed.points.shape[1] != moving.points.shape[1]:
        raise InputError("The landmarks of one image are 2-D and those of the other 3-D.")
    found = pairing(fixed.listed, moving.listed)
    if not found.rows:
        raise InputError(" ".join(["None of the landmarks has a partner.", *found.sentences]))
    return found
