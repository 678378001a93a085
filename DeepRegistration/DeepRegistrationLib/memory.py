"""How much memory a registration will take, and what it does where there is less: arithmetic, without torch.

A run has four parts that can be its fullest: the images are prepared, the deformation is computed on the
working grid, maps and warped image are resampled onto the images' grids, and the maps are written. Each
takes so many bytes for a voxel of the lattices concerned. Those of the working grid were measured, as
growth of the resident set (``Testing/benchmarks/memory.py``); the others count arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, Protocol

from .errors import ResourceError
from .sizes import FINEST_VOXELS, Size, finest_size, spaced_size

PROGRAM = 450_000_000
"""Bytes of a process with torch and SimpleITK loaded, before it has done anything."""

SLACK = 5_000_000
"""Bytes of small things."""

_SLAB, _SLAB_BYTES = 1 << 20, 100
"""Voxels of large images that are worked on at a time, and bytes for each."""

_KEPT = 0.5
"""Share of the working grid's memory that is not used again for the files; measured on cubes."""

_USABLE = 0.92
"""Share of the free memory that a run plans with."""

LINEAR = ("rigid", "affine")

_FLOAT = 4
_SIMILARITY = {
    "mse": 75,
    "ncc": 85,
    "lncc": 110,
    "adaptive-ncc": 200,
    "mind": 575,
    "nmi": 100,
    "mind-nmi": 600,
}
"""Bytes a working voxel takes by similarity, gradient included."""

_REPRESENTATION = {
    "free-form": 102,
    "b-spline": 215,
    "stationary-velocity": 123,
    "geodesic": 1040,
    "diffeomorphic": 141,
    "neural-field": 384,
}
"""Bytes a working voxel takes by representation, the optimiser's memory of gradients included."""

_LOOK = {
    "dio": (500_000, 16, 330),
    "sitreg": (885_000, 1, 1240),
    "svf-r2net": (512_000, 16, 480),
    "nsvf-r2net": (512_000, 16, 480),
}
"""Of the finest look that a network takes at a pair where no solver follows, with the weights that come with
the program: at most so many voxels, sides that are multiples of this (and two of them at least), bytes a
voxel. Methods not named take no more than the solver would."""

_EDGES = 36
"""Bytes a voxel of an image takes while its gradient magnitude is computed (preset accurate)."""

LEAST_VOXELS = 30_000
"""A working grid coarser than this is not worth computing."""

_COARSER_OUTPUT = 1.15

_finest_size = lru_cache(256)(finest_size)  # asked for again and again while a run is made to fit


CHOSEN = ("representation", "similarity", "preset", "method", "output_spacing")
"""Options of `pipeline.register` that the memory depends on."""


class Lattice(Protocol):
    """What is asked of a `frame.Frame` here."""

    @property
    def size(self) -> Size: ...

    @property
    def spacing(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Estimate:
    """Bytes at the fullest moment of each part of a run, beyond `PROGRAM`.

    Attributes:
        preparing: images as they are and normalised.
        deforming: the working grid beside the images.
        resampling: both maps and the warped image beside the images.
        writing: one of the maps as the file holds it, beside the images, both maps, and what of the working
            grid's memory is in pieces too small for a file's.
        images: of these, the bytes of the images as they are.
    """

    preparing: int
    deforming: int
    resampling: int
    writing: int
    images: int

    @property
    def peak(self) -> int:
        return max(self.preparing, self.deforming, self.resampling, self.writing)


@dataclass(frozen=True)
class Request:
    """A run, as far as its memory goes. Sizes (voxels) and spacings (mm) are in (x, y, z) order.

    Attributes:
        fixed_size, fixed_spacing, moving_size, moving_spacing: of the images.
        representation, similarity, preset, method: as for `pipeline.register`.
        output_spacing: of the written maps, mm; None is the images' own.
        labels: how many structures the prompts hold.
        masks: how many masks.
        most_voxels: of the working grid; None is the preset's.
    """

    fixed_size: Size
    fixed_spacing: tuple[float, ...]
    moving_size: Size
    moving_spacing: tuple[float, ...]
    representation: str = "diffeomorphic"
    similarity: str = "auto"
    preset: str = "balanced"
    method: str = "dio"
    output_spacing: float | None = None
    labels: int = 0
    masks: int = 0
    most_voxels: int | None = None

    @classmethod
    def of(cls, fixed: Lattice, moving: Lattice, options: Any = None, **more: Any) -> Request:
        """The request of two images' frames.

        Args:
            fixed, moving: the frames.
            options: whatever has attributes, or a mapping that has keys, of the names in `CHOSEN`.
            **more: the other attributes.
        """
        known = options if isinstance(options, Mapping) else getattr(options, "__dict__", {})
        chosen = {name: known[name] for name in CHOSEN if name in known}
        frames = (fixed.size, fixed.spacing, moving.size, moving.spacing)
        return cls(*frames, **{**chosen, **more})

    @property
    def linear(self) -> bool:
        return self.representation in LINEAR

    @property
    def working_size(self) -> Size:
        """Voxels of the finest grid the deformation is computed on, if the subject fills the image."""
        return _finest_size(self.fixed_size, self.fixed_spacing, self.voxels_allowed)

    @property
    def voxels_allowed(self) -> int:
        return FINEST_VOXELS[self.preset] if self.most_voxels is None else self.most_voxels

    @property
    def output_sizes(self) -> tuple[Size, Size]:
        """Voxels of the forward and of the inverse map."""
        wanted = None if self.linear else self.output_spacing
        return (
            spaced_size(self.fixed_size, self.fixed_spacing, wanted),
            spaced_size(self.moving_size, self.moving_spacing, wanted),
        )

    def file_sizes(self) -> dict[str, int]:
        """Bytes of the files that are written; the warped image, which is compressed, takes at most this."""
        d = len(self.fixed_size)
        maps = [10_000 if self.linear else 8 * d * prod(size) + 10_000 for size in self.output_sizes]
        return {
            "forward.h5": maps[0],
            "inverse.h5": maps[1],
            "warped.nii.gz": _FLOAT * prod(self.fixed_size),
            "quality.json": 10_000,
        }

    def estimate(self) -> Estimate:
        """The bytes each part of the run takes."""
        d = len(self.fixed_size)
        fixed, moving = prod(self.fixed_size), prod(self.moving_size)
        vector = _FLOAT * d
        own = _FLOAT * (fixed + moving)
        prompts = (1 + self.labels) * own * (self.labels > 0) + self.masks * own // 2
        held = 2 * own + prompts
        larger = max(fixed, moving)
        working = self._working_bytes() * prod(self.working_size)
        kept = 0 if self.preset == "prediction" else int(_KEPT * working)
        edges = _EDGES * larger if self.preset == "accurate" else 0
        shown = own if self.preset == "accurate" else 0
        slab = _SLAB_BYTES * min(larger, _SLAB)
        maps = vector * sum(prod(size) for size in self.output_sizes)
        double = 0 if self.linear else 4 * vector * max(prod(size) for size in self.output_sizes)
        return Estimate(
            preparing=held + max(2 * _FLOAT * larger, edges) + SLACK,
            deforming=held + shown + max(working, self._look_bytes()) + 2 * _FLOAT * larger + SLACK,
            # a field that is repaired is there twice, beside a mask of what has changed
            resampling=held + shown + maps + (vector + 3 * _FLOAT) * larger + slab + SLACK,
            writing=held + shown + maps + _FLOAT * fixed + double + kept + SLACK,
            images=own,
        )

    def _look_bytes(self) -> int:
        """Bytes of a network's finest look, where that is all there is."""
        if self.preset != "prediction" or self.method not in _LOOK:
            return 0
        most, stride, each = _LOOK[self.method]
        volume = prod(n * s for n, s in zip(self.fixed_size, self.fixed_spacing, strict=True))
        side = max(min(self.fixed_spacing), (volume / most) ** (1 / len(self.fixed_size)))
        size = spaced_size(self.fixed_size, self.fixed_spacing, side)
        return each * prod(max(min(2, stride), -(-n // stride)) * stride for n in size)

    def _working_bytes(self) -> int:
        """Bytes a voxel of the working grid takes."""
        if self.linear:
            return 40
        similarity = "lncc" if self.similarity == "auto" else self.similarity
        channels = 2 if self.preset == "accurate" and similarity == "lncc" else 1
        labels = 8 * _FLOAT * self.labels
        return channels * _SIMILARITY[similarity] + _REPRESENTATION[self.representation] + labels


def fitting(request: Request, available: int | None, loaded: bool = False) -> tuple[Request, list[str]]:
    """The run made to fit: first the working grid is coarsened, then the grid of the written maps.

    Args:
        request: what was asked for.
        available: bytes that are free; None where nobody knows, and then all is as asked.
        loaded: whether the images are in memory already.

    Returns:
        The request that fits, and a sentence for the user for each thing that was made coarser.

    Raises:
        ResourceError: not even that would do.
    """

    def needed(wanted: Request) -> int:
        estimate = wanted.estimate()
        return estimate.peak - loaded * estimate.images

    def computing(wanted: Request) -> int:
        estimate = wanted.estimate()
        return max(estimate.preparing, estimate.deforming) - loaded * estimate.images

    if available is None or needed(request) <= available:
        return request, []
    found, told = request, []
    while computing(found) > available and prod(found.working_size) > LEAST_VOXELS:
        found = replace(found, most_voxels=int(0.8 * prod(found.working_size)))
    if found != request:
        told.append(coarser_sentence(request.working_size, found.working_size))
    steps = 0
    while needed(found) > available and computing(found) <= available and not found.linear and steps < 20:
        spacing = found.output_spacing or min(*found.fixed_spacing, *found.moving_spacing)
        found, steps = replace(found, output_spacing=round(_COARSER_OUTPUT * spacing, 3)), steps + 1
    if needed(found) > available:
        raise ResourceError(too_large_sentence(needed(request), available))
    if found.output_spacing != request.output_spacing:
        told.append(
            f"There is not enough free memory to write the maps at the spacing of the images, so they are "
            f"written at {found.output_spacing:.2g} mm."
        )
    return found, told


def usable(available: int | None) -> int | None:
    """What of the free memory a run plans with: estimates err, and others need some."""
    return None if available is None else int(_USABLE * available)


def coarser_sentence(wanted: Size, found: Size) -> str:
    """What the user is told of a working grid that was made coarser."""
    return (
        f"There was not enough free memory to deform {in_voxels(wanted)}, so the deformation was computed on "
        f"{in_voxels(found)}: fine detail may be aligned less well."
    )


def too_large_sentence(needed: int, available: int | None = None) -> str:
    """What the user is told where nothing helps."""
    there = "" if available is None else f", but only {available / 1e9:.1f} GB are free"
    return (
        f"These images need about {needed / 1e9:.1f} GB of memory{there}. "
        "Use a larger output spacing, a coarser preset or smaller images."
    )


def in_voxels(size: Size) -> str:
    return f"{' x '.join(map(str, size))} voxels"


def in_words(size: float) -> str:
    """A number of bytes."""
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.0f} {unit}"
    return f"{size / 1000:.1f} GB"
