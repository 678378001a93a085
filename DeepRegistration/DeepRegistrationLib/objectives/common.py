"""What the objectives share: the measures' interface, checks, and values kept for a fixed image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from ..errors import InputError

T = TypeVar("T")


class Similarity(ABC):
    """A measure of how unlike two images are: lower is better, differentiable in `warped`.

    Class attributes:
        oriented: whether `prepare` gives descriptors of directions along the lattice, which compare only
            between lattices whose axes agree.
        across_contrasts: whether it is for images of different contrasts.
        pointwise: whether what was prepared compares at scattered points too, without neighbourhoods.
    """

    oriented: ClassVar[bool] = False
    across_contrasts: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, warped: Tensor, fixed: Tensor, weight: Tensor | None = None) -> Tensor:
        """Scalar from `warped`, `fixed` (1, C, *S) floating and `weight` (1, 1, *S) in [0, 1] or None.

        Constant images and a weight of zero give a finite value and a finite gradient.
        """

    def prepare(self, image: Tensor) -> Tensor:
        """What is to be warped and compared in the place of `image` (1, C, *S), which keeps its lattice."""
        return image

    def symmetric(self, a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
        """The measure of two images of which both are moved: differentiable in both, and the same, up to the
        images' order, when they are exchanged. Arguments as for a call."""
        one, other = self(a, b.detach(), weight), self(b, a.detach(), weight)
        # each has the gradient of its own first image; half of the value of both
        return one + other - (one + other).detach() / 2

    def at(self, spacing: Sequence[float]) -> Similarity:
        """The measure on a lattice of `spacing` mm, (x, y, z) order."""
        del spacing
        return self

    def under_masks(self) -> Similarity:
        """The measure for images of which masks leave a part: what has no weight is not looked at, where the
        measure can do so."""
        return self


class Cached(Generic[T]):
    """The value of a function of a tensor, kept while the same, unmodified tensor is passed."""

    def __init__(self, function: Callable[[Tensor], T]) -> None:
        self._function = function
        self._kept: tuple[Tensor, int, T] | None = None

    def __call__(self, tensor: Tensor) -> T:
        version = 0 if tensor.is_inference() else tensor._version
        if self._kept is None or self._kept[0] is not tensor or self._kept[1] != version:
            self._kept = (tensor, version, self._function(tensor.detach()))
        return self._kept[2]


def check_pair(warped: Tensor, fixed: Tensor, weight: Tensor | None) -> None:
    """Raise InputError unless both images are (1, C, *S) alike and the weight is (1, 1, *S)."""
    if warped.shape != fixed.shape or warped.ndim not in (4, 5) or warped.shape[0] != 1:
        raise InputError("The two images to compare do not have the same size.")
    if weight is not None and weight.shape != (1, 1, *warped.shape[2:]):
        raise InputError("The mask does not have the size of the images it weighs.")


def channel_volumes(image: Tensor) -> Tensor:
    """(1, C, *S) as (C, Z, Y, X); a 2-D image is one plane thick."""
    if image.ndim == 4:
        image = image[:, :, None]
    return image[0].contiguous()
