"""`deepregistration register`: align two images and write the result."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError
from ..pipeline import register
from ..registration import FEATURE_OUTPUTS, OUTPUTS
from .files import check_folder, results
from .progress import shown_progress
from .tables import quality_rows, table


def run(options: argparse.Namespace) -> None:
    """Register, save, and say how it went unless asked to be quiet."""
    folder = Path(options.out)
    check_folder(folder)
    if options.threads is not None:
        if options.threads < 1:
            raise InputError("--threads must be at least 1.")
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
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
            progress=progress,
        )
        written = OUTPUTS if registration.features is None else (*OUTPUTS, *FEATURE_OUTPUTS)
        with results(folder, written):
            registration.save(folder)
    if options.quiet:
        return
    for warning in registration.quality["warnings"]:
        print(f"deepregistration: warning: {warning}", file=sys.stderr)
    if not options.json_progress:
        print(table(quality_rows(registration.quality)))
        print(f"\n{registration.quality['seconds']['total']:.1f} s; {', '.join(written)} are in {folder}")
