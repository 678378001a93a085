"""What the user chose for a registration, by name."""

from __future__ import annotations

from dataclasses import dataclass

from .catalogue import STRENGTHS, SYMMETRIC
from .errors import InputError
from .linear_stage import STAGES
from .methods import method_by_name
from .presets import SIMILARITY_NAMES, preset_by_name
from .transforms import representation

_STRONGEST = 1000.0


@dataclass(frozen=True)
class Options:
    """What the user chose, by name; see `pipeline.register`."""

    method: str = "dio"
    representation: str = "diffeomorphic"
    similarity: str = "auto"
    preset: str = "balanced"
    linear: str = "affine"
    seed: int = 0
    output_spacing: float | None = None
    weights: str | None = None
    features: bool = False
    symmetric: str = "on"
    landmark_weight: float = 1.0
    label_weight: float = 1.0
    stiffness: float = 1.0
    regularity: float = 0.0

    def check(self) -> None:
        """Raise InputError for anything there is not."""
        method_by_name(self.method)
        representation(self.representation)
        preset_by_name(self.preset)
        if self.similarity not in SIMILARITY_NAMES:
            raise InputError(
                f"There is no similarity '{self.similarity}'; choose {', '.join(SIMILARITY_NAMES)}."
            )
        if self.linear not in STAGES:
            raise InputError(f"There is no linear stage '{self.linear}'; choose {', '.join(STAGES)}.")
        if self.output_spacing is not None and not 0 < self.output_spacing < 1000:
            raise InputError("The output spacing must be a positive number of millimetres.")

        if self.symmetric not in SYMMETRIC:
            raise InputError("Whether both images are moved, half-way each, is said by 'on' or 'off'.")
        for name in STRENGTHS:
            value, least = getattr(self, name), 1e-3 if name == "stiffness" else 0.0
            if not least <= value <= _STRONGEST:
                raise InputError(
                    f"The {name.replace('_', ' ')} must be a number from {least:g} to {_STRONGEST:g}."
                )

    @property
    def half_way(self) -> bool:
        """Whether both images are moved, to half-way between them."""
        return self.symmetric == "on"

    @property
    def linear_stage(self) -> str:
        """The linear stage that is run: a linear representation is one of its own."""
        return self.representation if self.representation in ("rigid", "affine") else self.linear
