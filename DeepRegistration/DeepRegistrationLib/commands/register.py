"""`deepregistration register`: align two images and write the result."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

import SimpleITK as sitk

from .. import resources
from ..allocator import map_large_blocks
from ..batch.rows import FILES
from ..errors import InputError
from ..inputs import check_output_spacing
from ..io import read_frame, read_labels
from ..memory import PROGRAM, Request, fitting, in_voxels, in_words, usable
from ..options import Options
from ..overwriting import check_overwriting
from ..pipeline import register
from ..registration import FEATURE_OUTPUTS, OUTPUTS
from ..thread_count import check_threads
from .files import check_folder, results
from .progress import shown_progress
from .tables import quality_rows, table
from .told import tell

_LARGE = 40_000_000
"""Image files of more bytes are worked on with memory in mind rather than time."""


def run(options: argparse.Namespace) -> None:
    """Register, save, and say how it went unless asked to be quiet."""
    folder = Path(options.out)
    names = (*OUTPUTS, *FEATURE_OUTPUTS) if options.features else OUTPUTS
    check_folder(folder, names)
    check_threads(options.threads, "--threads")
    check_overwriting([folder / name for name in names], {key: getattr(options, key) for key in FILES})
    if options.dry_run:
        dry_run(options)
        return
    if options.threads is not None:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    if max(_bytes(options.fixed), _bytes(options.moving)) > _LARGE:
        map_large_blocks()
    with shown_progress(options.quiet, options.json_progress) as progress:
        registration = register(
            options.fixed,
            options.moving,
            method=options.method,
            representation=options.representation,
            similarity=options.similarity,
            preset=options.preset,
            linear=options.linear,
            fixed_landmarks=options.fixed_landmarks,
            moving_landmarks=options.moving_landmarks,
            fixed_labels=options.fixed_labels,
            moving_labels=options.moving_labels,
            fixed_mask=options.fixed_mask,
            moving_mask=options.moving_mask,
            initial=options.initial,
            device=options.device,
            threads=options.threads,
            seed=options.seed,
            output_spacing=options.output_spacing,
            weights=options.weights,
            features=options.features,
            symmetric=options.symmetric,
            landmark_weight=options.landmark_weight,
            label_weight=options.label_weight,
            stiffness=options.stiffness,
            regularity=options.regularity,
            progress=progress,
        )
        written = OUTPUTS if registration.features is None else (*OUTPUTS, *FEATURE_OUTPUTS)
        with results(folder, written):
            registration.save(folder)
    tell(registration.quality, grave_only=options.quiet)
    if options.quiet:
        return
    if not options.json_progress:
        print(table(quality_rows(registration.quality)))
        print(f"\n{registration.quality['seconds']['total']:.1f} s; {', '.join(written)} are in {folder}")


def _bytes(path: str) -> int:
    """Of a file, or of a folder's files; 0 where there is none."""
    found = Path(path)
    with suppress(OSError):
        return sum(file.stat().st_size for file in (found.iterdir() if found.is_dir() else [found]))
    return 0


def dry_run(options: argparse.Namespace) -> None:
    """Print what a run would compute, need and write; nothing is written.

    Raises:
        InputError, ResourceError: as the run would.
    """
    request = planned(options)
    available = resources.available_memory()
    found, told = fitting(request, usable(available))
    files = found.file_sizes()
    free = "unknown" if available is None else in_words(available)
    rows = [
        ("fixed image", in_voxels(request.fixed_size)),
        ("moving image", in_voxels(request.moving_size)),
        ("working grid, at most", "none" if found.linear else in_voxels(found.working_size)),
        ("memory needed, about", in_words(found.estimate().peak + PROGRAM)),
        ("memory available", free),
        *(
            (name, ("up to " if name.endswith(".gz") else "") + in_words(size))
            for name, size in files.items()
        ),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    for sentence in told:
        print(f"{sentence}")
    print("Nothing was written.")


def planned(options: argparse.Namespace) -> Request:
    """A run's request for memory, from its arguments; of the images only headers are kept.

    Raises:
        InputError: options or files that cannot be used.
    """
    Options(
        options.method,
        options.representation,
        options.similarity,
        options.preset,
        options.linear,
        options.seed,
        options.output_spacing,
    ).check()
    fixed, moving = read_frame(options.fixed), read_frame(options.moving)
    if fixed.dimension != moving.dimension:
        raise InputError(
            f"The fixed image is {fixed.dimension}-D and the moving image {moving.dimension}-D; both must "
            "have the same number of axes."
        )
    for role, frame in (("fixed", fixed), ("moving", moving)):
        check_output_spacing(frame, options.output_spacing, role)
    labels = 0
    if options.fixed_labels and options.moving_labels:
        values = (
            set(read_labels(path).data.unique().tolist())
            for path in (options.fixed_labels, options.moving_labels)
        )
        labels = len(set.intersection(*values) - {0})
    return Request.of(
        fixed,
        moving,
        options,
        labels=labels,
        masks=sum(bool(mask) for mask in (options.fixed_mask, options.moving_mask)),
    )
