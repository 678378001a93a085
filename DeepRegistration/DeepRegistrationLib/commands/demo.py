"""`deepregistration demo`: the main job on a pair whose answer is known, with a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from ..demo.pair import DemoPair, demo_pair
from ..demo.picture import write_picture
from ..field import Field
from ..frame import Volume
from ..io import write_volume
from ..landmarks import Landmarks, write_landmarks
from ..pipeline import register
from ..prepare import resampled
from ..quality import label_numbers, warped_labels
from ..registration import OUTPUTS, Registration
from .evaluate import common_labels
from .files import check_folder, results
from .made_files import check_own, write_record
from .progress import shown_progress
from .tables import Row, quality_rows, table

PICTURE = "registration.png"
RECORD = "demo.json"
"""Which files the demo wrote; it replaces no others."""

PAIR_FILES = (
    "fixed.nii.gz",
    "moving.nii.gz",
    "fixed_labels.nii.gz",
    "moving_labels.nii.gz",
    "fixed_landmarks.mrk.json",
    "moving_landmarks.mrk.json",
)


def run(options: argparse.Namespace) -> None:
    """Make the pair, register it with the defaults, print the table, write everything."""
    folder = Path(options.out)
    names = PAIR_FILES if options.pair_only else (*PAIR_FILES, *OUTPUTS, PICTURE)
    check_folder(folder, (*names, RECORD))
    check_own(folder / RECORD, names)
    pair = demo_pair()
    if options.pair_only:
        with results(folder, (*names, RECORD)):
            save_pair(pair, folder)
            write_record(folder / RECORD, names)
        print(f"The pair is in {folder}.")
        return
    with shown_progress(quiet=False, json_lines=False) as progress:
        registration = register(
            pair.fixed,
            pair.moving,
            held_out_landmarks=(pair.fixed_landmarks, pair.moving_landmarks),
            progress=progress,
        )
    quality = {**registration.quality, **overlaps(pair, registration)}
    errors = known_errors(pair, registration.forward_field)
    with results(folder, (*names, RECORD)):
        registration.save(folder)
        save_pair(pair, folder)
        save_picture(pair, registration, folder / PICTURE, f"MEAN ERROR {errors['after'][0]:.2f} MM")
        write_record(folder / RECORD, names)
    print(table([*quality_rows(quality), *error_rows(errors)]))
    print(f"\n{quality['seconds']['total']:.1f} s; look at {folder / PICTURE}; all the rest is in {folder}")


def overlaps(pair: DemoPair, registration: Registration) -> dict[str, Any]:
    """Dice and surface distance of the structures, which the registration has not seen, both ways: what of
    the numbers they replace."""
    labels = pair.fixed_labels, pair.moving_labels
    there = overlap(*labels, registration.forward_field)
    back = overlap(*reversed(labels), registration.inverse_field)
    return {"labels": there, "moving_space": {**registration.quality["moving_space"], "labels": back}}


def overlap(fixed: Volume, moving: Volume, field: Field) -> dict[str, Any]:
    """The overlap of labels on the fixed lattice without and with a field."""
    values = common_labels(fixed.data, moving.data)
    maps = {"before": Field.identity(fixed.frame), "after": field}
    return {
        when: label_numbers(warped_labels(moving, by, fixed.frame), fixed, values)
        for when, by in maps.items()
    }


def known_errors(pair: DemoPair, field: Field) -> dict[str, tuple[float, float]]:
    """Mean and largest distance from the true map over the labelled voxels, mm, without and with `field`."""
    frame = pair.fixed.frame
    inside = pair.fixed_labels.data[0] > 0
    truth = pair.truth.field(frame).mm()[inside]
    found = field.resampled(frame).mm().cpu()[inside]
    return {"before": _extent(truth), "after": _extent(found - truth)}


def error_rows(errors: dict[str, tuple[float, float]]) -> list[Row]:
    """Table rows of `known_errors`."""
    return [
        (
            f"error against the truth, {name} (mm)",
            *(f"{errors[when][k]:.2f}" for when in ("before", "after")),
            "",
        )
        for k, name in enumerate(("mean", "largest"))
    ]


def save_pair(pair: DemoPair, folder: Path) -> None:
    """Write images, labels and landmarks under the names of `PAIR_FILES`."""
    for volume, name in zip((pair.fixed, pair.moving), PAIR_FILES[:2], strict=True):
        write_volume(volume, folder / name)
    for volume, name in zip((pair.fixed_labels, pair.moving_labels), PAIR_FILES[2:4], strict=True):
        write_volume(volume, folder / name, labels=True)
    for points, name in zip((pair.fixed_landmarks, pair.moving_landmarks), PAIR_FILES[4:], strict=True):
        write_landmarks(Landmarks(points, pair.landmark_names), folder / name)


def save_picture(pair: DemoPair, registration: Registration, path: Path, note: str) -> None:
    """The picture of slices, checkerboard, differences, grid and Jacobian."""
    before = resampled(pair.moving, pair.fixed.frame)
    forward = registration.forward_field
    field = Field(forward.displacement.cpu(), forward.frame)
    write_picture(path, pair.fixed, before, registration.warped, field, note=note)


def _extent(vectors: Tensor) -> tuple[float, float]:
    lengths = vectors.norm(dim=-1)
    return float(lengths.mean()), float(lengths.max())
