"""The result of a registration: both maps, the warped image, and the numbers to judge them by."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .atomic import write_text
from .errors import OutputError
from .field import Field
from .frame import Frame, Volume, apply_matrix
from .interpolation import sample
from .io import write_volume
from .jacobian import determinant_slabs
from .transform_files import linear_to_sitk, write_displacement, write_transform
from .transforms import LinearTransform, Transform

OUTPUTS = ("forward.h5", "inverse.h5", "warped.nii.gz", "quality.json")
FEATURE_OUTPUTS = ("features_fixed.nii.gz", "features_moving.nii.gz")


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A hidden name beside `target`, moved there when all goes well, removed otherwise."""
    hidden = target.with_name(f".{uuid.uuid4().hex[:12]}-{target.name}")
    try:
        yield hidden
        os.replace(hidden, target)
    except OutputError as error:
        raise OutputError(str(error).replace(str(hidden), str(target))) from error
    finally:
        hidden.unlink(missing_ok=True)


@dataclass(frozen=True)
class Registration:
    """What `register` returns.

    Attributes:
        forward: fixed points to moving points, LPS mm; resamples the moving image onto the fixed one.
        inverse: moving points to fixed points.
        forward_field: `forward` on the fixed image's box, or at the output spacing asked for.
        inverse_field: `inverse` on the moving image's box.
        warped: the moving image on the fixed lattice, its own intensities.
        quality: numbers, as written to quality.json.
        features: feature images of the fixed and of the moving image, (C, *S) each on a frame of its own,
            where they were asked for and the method has some.
    """

    forward: Transform
    inverse: Transform
    forward_field: Field
    inverse_field: Field
    warped: Volume
    quality: dict[str, Any]
    features: tuple[Volume, Volume] | None = None

    @property
    def linear_only(self) -> bool:
        """Whether both maps are linear, and are written as matrices."""
        return isinstance(self.forward, LinearTransform)

    def jacobian(self, frame: Frame | None = None) -> Volume:
        """Jacobian determinant of the forward map at every voxel of a frame, (1, *S) float32, unitless.

        Below 1 the fixed image's tissue is larger than the moving one's, at or below 0 the map folds. By
        central differences; where the smallest of the 2^d determinants by one-sided differences is zero or
        less, which is how the folds of `quality` are counted, that one.

        Args:
            frame: where; by default the forward field's own.
        """
        field = self.forward_field
        if frame is not None and frame != field.frame:
            field = self.forward.field(frame, field.displacement.device)
        rows = [
            torch.where(slab.smallest <= 0, slab.smallest, slab.central)
            for slab in determinant_slabs(field.displacement)
        ]
        return Volume(torch.cat(rows)[None], field.frame)

    def save(self, directory: str | Path) -> None:
        """Write forward.h5, inverse.h5, warped.nii.gz, quality.json and, where there are some, the features
        (features_fixed.nii.gz, features_moving.nii.gz; float32, a component a channel), all or none.

        Raises:
            OutputError: something could not be written; what was in the folder before is untouched.
        """
        directory = Path(directory)
        created = not directory.exists()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"The folder {directory} cannot be created: {error.strerror}.") from error
        try:
            with ExitStack() as stack:
                for name, write in self._writers().items():
                    write(stack.enter_context(_staged(directory / name)))
        except BaseException:
            if created:
                with suppress(OSError):
                    directory.rmdir()
            raise

    def _writers(self) -> dict[str, Callable[[Path], None]]:
        """What writes each output file."""
        writers: list[Callable[[Path], None]] = [
            lambda path: self._write_map(self.forward, self.forward_field, path),
            lambda path: self._write_map(self.inverse, self.inverse_field, path),
            lambda path: write_volume(self.warped, path),
            lambda path: write_text(path, json.dumps(self.quality, indent=2) + "\n"),
        ]
        named = dict(zip(OUTPUTS, writers, strict=True))
        if self.features is not None:
            pairs = zip(FEATURE_OUTPUTS, self.features, strict=True)
            named |= {name: partial(write_volume, Volume(v.data.float(), v.frame)) for name, v in pairs}
        return named

    @staticmethod
    def _write_map(transform: Transform, field: Field, path: Path) -> None:
        if isinstance(transform, LinearTransform):
            write_transform(linear_to_sitk(transform.matrix.cpu().numpy()), path)
        else:
            write_displacement(field.mm().cpu(), field.frame, path)


def warped_volume(moving: Volume, field: Field, frame: Frame) -> Volume:
    """A moving image resampled onto a frame through a field, as SimpleITK resamples it.

    Linear interpolation; outside the moving box the value is 0, or the image's minimum if that is lower.
    """
    device = moving.data.device
    matrix = moving.frame.world_to_normalised @ frame.normalised_to_world
    points = apply_matrix(matrix, frame.grid(device).add_(field.resampled(frame).displacement.to(device)))
    fill = min(0.0, float(moving.data.min()))
    data = sample(moving.data[None], points)[0]
    outside = (points.abs() > 1).any(-1)
    return Volume(data.masked_fill_(outside, fill), frame)
