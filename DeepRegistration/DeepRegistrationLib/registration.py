"""The result of a registration: both maps, the warped image, and the numbers to judge them by."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .atomic import write_text
from .background import filling_value
from .errors import OutputError
from .field import Field
from .folder_lock import alone
from .frame import Frame, Volume
from .interpolation import sample
from .io import write_volume
from .jacobian import determinant_slabs
from .staging import staged
from .transform_files import write_displacement_slabs, write_linear
from .transforms import LinearTransform, Transform
from .written_map import WrittenMap

OUTPUTS = ("forward.h5", "inverse.h5", "warped.nii.gz", "quality.json")
FEATURE_OUTPUTS = ("features_fixed.nii.gz", "features_moving.nii.gz")


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
        linear: the linear part of `forward`, which holds where its field ends; None: nothing does.
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
    linear: LinearTransform | None = None

    @property
    def linear_only(self) -> bool:
        """Whether both maps are linear, and are written as matrices."""
        return isinstance(self.forward, LinearTransform)

    @property
    def written(self) -> tuple[WrittenMap, WrittenMap]:
        """Both maps as their files are read, between the voxels of the fields and outside of them."""
        back = None if self.linear is None else self.linear.inverse()
        return WrittenMap(self.forward_field, self.linear), WrittenMap(self.inverse_field, back)

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
            writers = self._writers()
            with alone(directory), staged(directory, list(writers)) as hidden:
                for write, path in zip(writers.values(), hidden, strict=True):
                    write(path)
        except BaseException:
            if created:
                with suppress(OSError):
                    directory.rmdir()
            raise

    def _writers(self) -> dict[str, Callable[[Path], None]]:
        """What writes each output file."""
        back = None if self.linear is None else self.linear.inverse()
        writers: list[Callable[[Path], None]] = [
            lambda path: self._write_map(self.forward, self.forward_field, self.linear, path),
            lambda path: self._write_map(self.inverse, self.inverse_field, back, path),
            lambda path: write_volume(self.warped, path),
            lambda path: write_text(path, json.dumps(self.quality, indent=2) + "\n"),
        ]
        named = dict(zip(OUTPUTS, writers, strict=True))
        if self.features is not None:
            pairs = zip(FEATURE_OUTPUTS, self.features, strict=True)
            named |= {name: partial(write_volume, Volume(v.data.float(), v.frame)) for name, v in pairs}
        return named

    @staticmethod
    def _write_map(transform: Transform, field: Field, linear: LinearTransform | None, path: Path) -> None:
        if isinstance(transform, LinearTransform):
            write_linear(transform.matrix.numpy(), path)
        else:
            matrix = None if linear is None else linear.matrix.numpy()
            if matrix is not None and np.allclose(matrix, np.eye(len(matrix)), rtol=0, atol=1e-9):
                matrix = None
            write_displacement_slabs(field.mm_slabs(), field.frame, path, matrix)


def warped_volume(moving: Volume, field: Field | WrittenMap, frame: Frame) -> Volume:
    """A moving image resampled onto a frame through a field, as SimpleITK resamples it.

    Linear interpolation; outside the moving box the value is its background's, see `filling_value`.
    """
    fill = filling_value(moving.data[0].cpu().numpy())
    data = moving.data.new_empty(moving.channels, *frame.shape)
    for window, points in field.pulled(frame, moving.frame):
        points = points.to(data.device)
        outside = (points.abs() > 1).any(-1)
        data[:, window[0]] = sample(moving.data[None], points)[0].masked_fill_(outside, fill)
    return Volume(data, frame)
