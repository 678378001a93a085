"""How hard to work: from a preset's name and a representation to the solver's settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .errors import InputError
from .frame import Frame
from .objectives import SIMILARITIES, LocalNCC, Similarity, similarity_by_name
from .sizes import FINEST_VOXELS, finest_size
from .solver import Scale, Settings


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

_CROSS_CONTRAST_STIFFNESS = (4.0, 4.0, 4.0)
"""Measures across contrasts are noisier, and are followed less far."""

_SETTINGS = {
    "rigid": Settings(warp_sigma=0, gradient_sigma=0, rate=0.3),
    "affine": Settings(warp_sigma=0, gradient_sigma=0, rate=0.3),
    "free-form": Settings(rate=0.5, gradient_sigma=1.5, warp_sigma=0.6),
    "b-spline": Settings(rate=0.4, gradient_sigma=0, warp_sigma=0),
    "stationary-velocity": Settings(rate=0.3, gradient_sigma=1.0, warp_sigma=0.5),
    "geodesic": Settings(rate=0.05, gradient_sigma=0, warp_sigma=0),
    "diffeomorphic": Settings(rate=0.5, gradient_sigma=1.0, warp_sigma=0.4),
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


def settings_for(preset: Preset, representation: str, similarity: str) -> Settings:
    """The solver's settings for a representation and a similarity, by their names."""
    across = SIMILARITIES[similarity].across_contrasts
    stiffnesses = _CROSS_CONTRAST_STIFFNESS if across else preset.stiffness
    scales = tuple(
        Scale(factor, n, stiffness)
        for factor, n, stiffness in zip((4, 2, 1), preset.iterations, stiffnesses, strict=True)
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
