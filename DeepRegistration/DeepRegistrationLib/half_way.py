"""Half-way between two images: the frame where they are compared, and the pair of maps that leads from it.

With a linear map A from fixed to moving points, half-way points come from the fixed image's by A^(1/2), and
go to the moving image's by A^(1/2) again; exchanging the images, and A with its inverse, exchanges the two
ways. The deformation is a pair of maps of the half-way frame: forward = A^(1/2) o b o a^-1 o A^(1/2), with b
towards the moving and a towards the fixed image (Avants et al., Medical Image Analysis 12, 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from .field import Field
from .frame import Frame
from .transforms import FieldTransform, LinearTransform, Representation, Transform
from .transforms.linear import LinearRepresentation

_LARGEST_TURN = 170.0
"""Degrees of rotation beyond which a map has no half that could be told from its opposite."""

_ROUNDS = 60
"""Of the iteration for a matrix' square root, which converges quadratically."""


@dataclass(frozen=True)
class Halves:
    """The linear ways from the half-way frame to both images, LPS mm: forward = to_moving o to_fixed^-1."""

    to_fixed: LinearTransform
    to_moving: LinearTransform

    @classmethod
    def of(cls, linear: LinearTransform, fixed: Frame, moving: Frame) -> Halves:
        """The square root of a map from fixed to moving points, and its inverse.

        Of a map that turns by nearly 180 degrees (or mirrors) there is none: then the frame is one of the
        images', that whose axes are nearer to the world's.
        """
        root = square_root(linear)
        identity = LinearTransform.identity(linear.dimension)
        if root is not None:
            return cls(root.inverse(), root)
        if _obliqueness(moving) < _obliqueness(fixed):
            return cls(linear.inverse(), identity)
        return cls(identity, linear)


def square_root(linear: LinearTransform) -> LinearTransform | None:
    """The linear map that, twice, is the one given (Denman and Beavers 1976); None where it turns too far."""
    matrix = linear.matrix
    eigenvalues = torch.linalg.eigvals(matrix[:-1, :-1])
    if bool((eigenvalues.angle().abs() > np.radians(_LARGEST_TURN)).any()):
        return None
    if torch.equal(matrix, torch.eye(len(matrix), dtype=matrix.dtype)):
        return linear
    root, inverse = matrix, torch.eye(len(matrix), dtype=matrix.dtype)
    for _ in range(_ROUNDS):
        root, inverse = (root + torch.linalg.inv(inverse)) / 2, (inverse + torch.linalg.inv(root)) / 2
    root[-1] = matrix[-1]
    return LinearTransform(root)


def half_way_frame(
    halves: Halves,
    frames: tuple[Frame, Frame],
    boxes: tuple[Frame, Frame],
) -> Frame:
    """The lattice half-way on which two images are compared.

    Its axes lie between those of the two images, in the world's order; its voxels are as fine as the finer
    image's along each; its box is where the images overlap, as far as there is a subject in either.
    Exchanging the images gives the same lattice. Where the two have one lattice and the linear map is the
    identity, the voxels are the images' own.

    Args:
        halves: the linear ways to the images.
        frames: the fixed and the moving image's whole frames.
        boxes: the parts of them that hold the subject.
    """
    ways = [halves.to_fixed.inverse().matrix.numpy(), halves.to_moving.inverse().matrix.numpy()]
    axes = _axes([way[:-1, :-1] @ np.asarray(f.direction) for way, f in zip(ways, frames, strict=True)])
    spacing = _spacing(axes, ways, frames)
    whole, subject = (
        [_bounds(axes, way, frame) for way, frame in zip(ways, sides, strict=True)]
        for sides in (frames, boxes)
    )
    low = np.minimum(subject[0][0], subject[1][0])
    high = np.maximum(subject[0][1], subject[1][1])
    common = np.maximum(whole[0][0], whole[1][0]), np.minimum(whole[0][1], whole[1][1])
    if (common[1] - common[0] > 2 * spacing).all():  # else they hardly overlap, and all is kept
        inner = np.maximum(low, common[0]), np.minimum(high, common[1])
        if (inner[1] - inner[0] > 2 * spacing).all():
            low, high = inner
    # whole voxels, counted from between the corners of the two images
    zero = (whole[0][0] + whole[1][0]) / 2
    first = np.floor((low - zero) / spacing + 1e-3)
    size = np.maximum(1, np.ceil((high - zero) / spacing - 1e-3) - first).astype(int)
    origin = axes @ (zero + (first + 0.5) * spacing)
    return Frame(
        tuple(size.tolist()),
        tuple(spacing.tolist()),
        tuple(origin.tolist()),
        tuple(map(tuple, axes.tolist())),
    )


def _axes(directions: Sequence[np.ndarray]) -> np.ndarray:
    """Orthonormal axes between two sets of axes (columns), each as near as can be to a world axis."""
    d = len(directions[0])
    first, second = (_orthonormal(direction) for direction in directions)
    between = _orthonormal(first + second @ _matching(second, first))
    axes = between @ _matching(between, np.eye(d))
    return np.where(np.abs(axes - np.round(axes)) < 1e-9, np.round(axes), axes)


def _matching(axes: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The signed permutation (d, d) of columns that brings axes nearest to target axes."""
    cosines = axes.T @ target
    d = len(axes)
    best = max(permutations(range(d)), key=lambda order: sum(abs(cosines[a, b]) for b, a in enumerate(order)))
    result = np.zeros((d, d))
    for b, a in enumerate(best):
        result[a, b] = 1.0 if cosines[a, b] >= 0 else -1.0
    return result


def _orthonormal(matrix: np.ndarray) -> np.ndarray:
    u, _, vh = np.linalg.svd(matrix)
    return u @ vh


def _spacing(axes: np.ndarray, ways: Sequence[np.ndarray], frames: Sequence[Frame]) -> np.ndarray:
    """Along each axis the finer of the two images' spacings, carried half-way."""
    found = []
    for way, frame in zip(ways, frames, strict=True):
        steps = way[:-1, :-1] @ np.asarray(frame.direction) * np.asarray(frame.spacing)
        shares = np.abs(axes.T @ steps)  # (axis, image axis), mm
        weights = (shares / shares.sum(0)) ** 2
        found.append((weights * np.linalg.norm(steps, axis=0)).sum(1) / weights.sum(1))
    spacing = np.minimum(*found)
    return np.where(np.abs(found[0] - found[1]) < 1e-6 * spacing, (found[0] + found[1]) / 2, spacing)


def _bounds(axes: np.ndarray, way: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest coordinates along the axes of a frame's box, carried half-way."""
    corners = frame.corners() @ way[:-1, :-1].T + way[:-1, -1]
    along = corners @ axes
    return along.min(0), along.max(0)


def _obliqueness(frame: Frame) -> float:
    direction = np.asarray(frame.direction)
    return float(np.abs(direction - np.eye(len(direction))).sum())


class HalfWay:
    """Two maps from a half-way frame that one set of parameters moves in opposite directions.

    What the solver needs of a representation, see `transforms.base.Representation`; its `displacement` is a
    pair: towards the moving and towards the fixed image.

    Attributes:
        model: the map towards the moving image.
    """

    def __init__(self, model: Representation) -> None:
        self.model = model

    @property
    def frame(self) -> Frame:
        return self.model.frame

    @property
    def dimension(self) -> int:
        return self.model.dimension

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def compositive(self) -> bool:
        return self.model.compositive

    def parameters(self) -> list[Tensor]:
        return self.model.parameters()

    def displacement(self) -> tuple[Tensor, Tensor]:
        """(*S, d) each, normalised units of `frame`: towards the moving and towards the fixed image."""
        return self.model.displacement(), self.model.partner().displacement()

    def resized(self, frame: Frame) -> HalfWay:
        return HalfWay(self.model.resized(frame))

    def smooth_gradients(self, gradients: list[Tensor], sigma: Sequence[float]) -> list[Tensor]:
        return self.model.smooth_gradients(gradients, sigma)

    def step(self, directions: list[Tensor], rate: float) -> None:
        """Either map makes half of the step."""
        self.model.step(directions, rate * self.model.half_way_rate)

    def smooth(self, sigma: Sequence[float]) -> None:
        self.model.smooth(sigma)

    def finish(self) -> None:
        self.model.finish()

    def fit(self, transform: FieldTransform) -> None:
        """Move the parameters to where the two maps are near id + w and id - w; `transform` is id + w.

        The parameters that fit -w are not always the opposite of those that fit w; half of what separates
        the two is, and serves both maps.
        """
        self.model.fit(transform)
        if not hasattr(self.model, "signed"):  # the neural field, whose weights do not all have a sign
            return
        other, stored = self.model.resized(self.model.frame), transform.stored
        other.fit(FieldTransform(Field(-stored.displacement, stored.frame)))
        with torch.no_grad():
            for one, opposite in zip(self.model.parameters(), other.parameters(), strict=True):
                one.sub_(opposite).div_(2)

    def maps(self) -> tuple[Transform, Transform]:
        """Towards the moving and towards the fixed image: fields, or matrices where they are linear."""
        partner = self.model.partner()
        if isinstance(self.model, LinearRepresentation) and isinstance(partner, LinearRepresentation):
            return self.model.linear(), partner.linear()
        with torch.no_grad():
            found = [Field(model.displacement().detach(), model.frame) for model in (self.model, partner)]
        return FieldTransform(found[0]), FieldTransform(found[1])


def half_displacement(towards_moving: Tensor, towards_fixed: Tensor, frame: Frame) -> Tensor:
    """The w of which two maps b and a are halves: b o a^-1 = (id + w) o (id - w)^-1.

    b and a lead from points p to the two images; half-way between lies q(p) = (a(p) + b(p)) / 2, and
    w(q(p)) = (b(p) - a(p)) / 2. Exchanging b and a changes w's sign.

    Args:
        towards_moving, towards_fixed: displacements of b and a (*S, d), normalised units of `frame`.
        frame: theirs.

    Returns:
        (*S, d), normalised units.
    """
    middle = Field((towards_moving + towards_fixed) / 2, frame)
    half = Field((towards_moving - towards_fixed) / 2, frame)
    if not bool(middle.displacement.any()):
        return half.displacement
    back, _ = middle.inverse()
    return half.at(frame.grid(back.displacement.device, back.displacement.dtype) + back.displacement)
