"""Two images of one procedural head, the second bent, turned and on a lattice of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..field import Field
from ..filters import gaussian_smooth
from ..frame import Frame, Volume, apply_matrix
from ..interpolation import sample
from ..transforms.base import FieldTransform, Transform
from .anatomy import Anatomy
from .shapes import Waves

_SQUARINGS = 6


@dataclass(frozen=True)
class DemoPair:
    """A registration problem whose answer is known.

    Attributes:
        fixed, moving: images (1, *S) float32 on different lattices, with their own noise, brightness
            and coil shading.
        fixed_labels, moving_labels: (1, *S) int32 on the images' lattices; see `label_names.LABEL_NAMES`.
        fixed_landmarks, moving_landmarks: the same anatomical points in both, (N, 3) float64, LPS mm.
        landmark_names: what they are, N names.
        truth: the exact pull-back map (fixed to moving points) the moving image was made with.
    """

    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    fixed_landmarks: Tensor
    moving_landmarks: Tensor
    landmark_names: tuple[str, ...]
    truth: Transform


def demo_pair(
    seed: int = 0,
    spacing: float = 2.0,
    contrast: str = "t1",
    peak_mm: float = 12.0,
    angle_degrees: float = 6.0,
    shift_mm: float = 5.0,
) -> DemoPair:
    """Make a pair.

    The head is defined in the fixed image's space; the moving image at y shows the head at
    truth^-1(y), so neither image is an interpolation of the other.

    Args:
        seed: same seed, same pair.
        spacing: millimetres between the fixed image's voxels; the box is always 192 x 224 x 192 mm.
        contrast: the moving image's contrast, ``t1`` like the fixed image or ``t2``.
        peak_mm: largest displacement of the smooth deformation.
        angle_degrees, shift_mm: the turn and the shift that follow it.

    Raises:
        InputError: for an unknown contrast or a spacing that leaves no voxels.
    """
    generator = torch.Generator().manual_seed(seed)
    box = Frame.regular((96, 112, 96), 2.0)
    fixed_frame = box.with_spacing(float(spacing))
    moving_frame = _moving_frame(spacing)
    anatomy = Anatomy(generator)
    truth = _truth(box, peak_mm, angle_degrees, shift_mm, generator)

    seen = fixed_frame.points(dtype=torch.float32)
    fixed, fixed_labels = _acquire(anatomy, fixed_frame, seen, "t1", generator)
    seen = truth.inverse().map(moving_frame.points(dtype=torch.float32))
    moving, moving_labels = _acquire(anatomy, moving_frame, seen, contrast, generator)
    landmarks = anatomy.landmarks()
    return DemoPair(
        fixed=fixed,
        moving=moving,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        fixed_landmarks=landmarks,
        moving_landmarks=truth.map(landmarks),
        landmark_names=anatomy.landmark_names,
        truth=truth,
    )


def _moving_frame(spacing: float) -> Frame:
    """An oblique lattice with thicker slices than the fixed image's, somewhat off its centre."""
    steps = (0.95 * spacing, 0.95 * spacing, 1.3 * spacing)
    extent = (190.0, 220.0, 192.0)
    size = tuple(max(1, round(e / s)) for e, s in zip(extent, steps, strict=True))
    direction = _rotation((0.5, -0.3, 0.8), math.radians(11))
    centre = np.asarray([3.0, -4.0, 2.0])
    middle = (np.asarray(size) - 1) / 2 * np.asarray(steps)
    origin = centre - direction @ middle
    return Frame(size, steps, tuple(map(float, origin)), tuple(map(tuple, direction.tolist())))


def _truth(
    frame: Frame, peak_mm: float, angle_degrees: float, shift_mm: float, generator: torch.Generator
) -> FieldTransform:
    """Turn and shift after exp(v), v smooth, still at the border and `peak_mm` long where it is longest."""
    coarse = frame.with_spacing(4.0)
    coordinates = tuple(c.reshape(-1) for c in coarse.points(dtype=torch.float32).unbind(-1))
    components = [Waves(110.0, 10, generator)(coordinates).reshape(coarse.shape) for _ in range(3)]
    still = (1 - coarse.grid().abs().clamp(0.72, 1).sub(0.72).div(0.28) ** 2).square().prod(-1, keepdim=True)
    velocity = Field.from_mm(torch.stack(components, -1) * still, coarse).displacement
    for _ in range(3):  # the exponential is about as long as its velocity; make it exactly so
        velocity *= peak_mm / float(Field(_exponential(velocity), coarse).magnitude_mm().max())
    bend = _exponential(Field(velocity, coarse).resampled(frame).displacement)
    points = frame.points(dtype=torch.float32)
    bent = Field(bend, frame).map(points)

    matrix = np.eye(4)
    matrix[:3, :3] = _rotation(_unit(generator), math.radians(angle_degrees))
    matrix[:3, 3] = shift_mm * np.asarray(_unit(generator))
    return FieldTransform(Field.from_mm(apply_matrix(matrix, bent) - points, frame))


def _exponential(velocity: Tensor) -> Tensor:
    """The flow of a stationary velocity (*S, d) for one unit of time, by scaling and squaring."""
    grid = Frame.regular(tuple(reversed(velocity.shape[:-1]))).grid()
    u = velocity / 2**_SQUARINGS
    for _ in range(_SQUARINGS):
        u = u + sample(u.movedim(-1, 0)[None], grid + u)[0].movedim(0, -1)
    return u


def _acquire(
    anatomy: Anatomy, frame: Frame, points: Tensor, contrast: str, generator: torch.Generator
) -> tuple[Volume, Volume]:
    """What a scanner with its own gain, shading and noise records of the head seen at `points`."""
    rendering = anatomy.render(points, contrast)
    shading = Waves(260.0, 6, generator)
    where = tuple(c.reshape(-1) for c in frame.points(dtype=torch.float32).unbind(-1))
    image = rendering.intensity * (1 + 0.09 * shading(where)).clamp_min(0.5)
    noise = 0.022 * torch.randn(2, image.numel(), generator=generator)
    image = ((image + noise[0]) ** 2 + noise[1] ** 2).sqrt()  # a magnitude image's noise is Rician
    gain = 700 + 300 * float(torch.rand((), generator=generator))
    blurred = gaussian_smooth(image.reshape(1, *frame.shape), (0.35,) * 3, border="replicate")
    return Volume(blurred * gain, frame), Volume(rendering.labels.reshape(1, *frame.shape), frame)


def _unit(generator: torch.Generator) -> tuple[float, ...]:
    direction = torch.randn(3, generator=generator, dtype=torch.float64)
    return tuple((direction / direction.norm()).tolist())


def _rotation(axis: tuple[float, ...], angle: float) -> np.ndarray:
    """Rotation by `angle` radians about `axis` (Rodrigues)."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.asarray([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
