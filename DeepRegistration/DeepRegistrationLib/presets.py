"""How hard to work: from a preset's name and a representation to the solver's settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .errors import InputError
from .frame import Frame
from .objectives import SIMILARITIES, LocalNCC, Similarity, similarity_by_name
from .sizes import FINEST_VOXELS, SMALLEST, finest_size
from .solver import Scale, Settings, scale_frame


@dataclass(frozen=True)
class Preset:
    """One compromise between time and accuracy.

    Attributes:
        finest_voxels: the finest scale has at most about this many voxels; larger images are coarsened.
        iterations: at four, two and one times the finest scale's voxel.
        radius: of the local correlation's window, voxels.
        stiffness: times the representation's smoothing, at the same scales. Coarse scales are kept
            stiffer: what they see of fine structure is aliased.
        gradient_share: weight of a channel of gradient magnitudes beside the intensities.
        instance_steps: by which a method with a trained predictor adapts it to the pair.
        scratch_steps: by which a method fits networks to the pair that nothing has trained.
    """

    finest_voxels: int
    iterations: tuple[int, int, int]
    radius: int
    stiffness: tuple[float, float, float] = (3.0, 2.0, 1.25)
    gradient_share: float = 0.0
    instance_steps: int = 0
    scratch_steps: int = 0

    @property
    def refines(self) -> bool:
        """Whether the solver goes on from what a method predicts."""
        return any(self.iterations)


PRESETS = {
    "prediction": Preset(FINEST_VOXELS["prediction"], (0, 0, 0), 7),
    "fast": Preset(FINEST_VOXELS["fast"], (40, 20, 8), 7),
    "balanced": Preset(FINEST_VOXELS["balanced"], (100, 60, 14), 7, scratch_steps=25),
    "accurate": Preset(FINEST_VOXELS["accurate"], (150, 100, 25), 8, (2.0, 1.5, 1.0), 0.1, 50, 100),
}

_FACTORS = (4, 2, 1)
"""Voxels of the finest scale per voxel of each, along a side."""

_AFTER_A_START = 4
"""By this the coarsest scale's iterations are divided where a start has done their work. On slabs and heads
of different people every method then ends where the solver alone ends with all of them."""

_CROSS_CONTRAST_STIFFNESS = (4.0, 4.0, 4.0)
"""Measures across contrasts are noisier, and are followed less far."""

_SETTINGS = {
    "rigid": Settings(warp_sigma=0, gradient_sigma=0, rate=0.3),
    "affine": Settings(warp_sigma=0, gradient_sigma=0, rate=0.3),
    "free-form": Settings(rate=0.5, gradient_sigma=1.5, warp_sigma=0.6),
    "b-spline": Settings(rate=0.4, gradient_sigma=0, warp_sigma=0),
    "stationary-velocity": Settings(rate=0.3, gradient_sigma=1.0, warp_sigma=0.5),
    "geodesic": Settings(rate=0.05, gradient_sigma=0, warp_sigma=0),
    "diffeomorphic": Settings(rate=0.5, gradient_sigma=1.0, warp_sigma=0.4, tolerance=3e-4),
    "neural-field": Settings(rate=1.0, gradient_sigma=0, warp_sigma=0),
}
"""What suits each representation; scales and iterations come from the preset."""


def preset_by_name(name: str) -> Preset:
    """The preset of that name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in PRESETS:
        raise InputError(f"There is no preset '{name}'; choose {', '.join(PRESETS)}.")
    return PRESETS[name]


def finest_frame(preset: Preset, frame: Frame) -> Frame:
    """The working frame, coarsened where it has more voxels than the preset wants to move."""
    return frame.resized(finest_size(frame.size, frame.spacing, preset.finest_voxels))


def start_frame(preset: Preset, frame: Frame) -> Frame:
    """Where a map to start from is read: the lattice the solver begins on; the finest, where none follows."""
    finest = finest_frame(preset, frame)
    return scale_frame(finest, _FACTORS[0], SMALLEST) if preset.refines else finest


def settings_for(preset: Preset, representation: str, similarity: str, started: bool = False) -> Settings:
    """The solver's settings for a representation and a similarity, by their names.

    Args:
        started: whether it begins from a deformation that all it looks at agrees with. Measures across
            contrasts tell too little of that to be spared any work.
    """
    across = SIMILARITIES[similarity].across_contrasts
    stiffnesses = _CROSS_CONTRAST_STIFFNESS if across else preset.stiffness
    first, *others = preset.iterations
    iterations = (first // _AFTER_A_START if started and not across else first, *others)
    scales = tuple(
        Scale(factor, n, stiffness)
        for factor, n, stiffness in zip(_FACTORS, iterations, stiffnesses, strict=True)
    )
    return replace(_SETTINGS[representation], scales=scales)


def similarity_for(name: str, preset: Preset) -> Similarity:
    """The similarity of that name, as a preset wants it; intensities are in [0, 1]."""
    if name == "lncc":
        return LocalNCC(preset.radius, gradient="centre")
    if name in ("nmi", "mind-nmi"):
        return similarity_by_name(name, warped_range=(0.0, 1.0), fixed_range=(0.0, 1.0))
    return similarity_by_name(name)


SIMILARITY_NAMES = ("auto", *SIMILARITIES)
