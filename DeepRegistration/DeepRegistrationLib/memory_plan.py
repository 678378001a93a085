"""How fine a registration is computed and written, given the memory there is."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from . import resources
from .inputs import Inputs
from .memory import LEAST_VOXELS, PROGRAM, Request, coarser_sentence, fitting, usable
from .options import Options
from .presets import preset_by_name


class MemoryPlan:
    """The options' fineness, made coarser where memory asks for it.

    Attributes:
        preset: that of the options, with a coarser working grid where need be.
        output_spacing: that of the options, or a coarser one.
        told: what was made coarser, in sentences for the user.
        numbers: estimated and available megabytes, for the quality.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self.preset = preset_by_name(options.preset)
        self.output_spacing = options.output_spacing
        self.told: list[str] = []
        self.numbers: dict[str, Any] = {}

    def request(self, inputs: Inputs) -> Request:
        """The run, as far as its memory goes."""
        return Request.of(
            inputs.fixed.frame,
            inputs.moving.frame,
            self._options,
            output_spacing=self.output_spacing,
            labels=len(inputs.label_values),
            masks=sum(mask is not None for mask in (inputs.fixed_mask, inputs.moving_mask)),
            most_voxels=self.preset.finest_voxels,
        )

    def fit(self, inputs: Inputs) -> None:
        """Coarsen what has to be, before anything is computed.

        Raises:
            ResourceError: nothing would help.
        """
        available = resources.available_memory()
        request, self.told = fitting(self.request(inputs), usable(available), loaded=True)
        self.preset = replace(self.preset, finest_voxels=request.voxels_allowed)
        self.output_spacing = request.output_spacing
        self.numbers = {
            "estimated_mb": round((request.estimate().peak + PROGRAM) / 1e6),
            "available_mb": None if available is None else round(available / 1e6),
        }

    def coarser(self, inputs: Inputs) -> bool:
        """A quarter of the working grid's voxels, after memory ran out; False where that is too few."""
        voxels = prod(self.request(inputs).working_size) // 4
        if voxels < LEAST_VOXELS:
            return False
        wanted = MemoryPlan(self._options).request(inputs).working_size
        self.preset = replace(self.preset, finest_voxels=voxels)
        self.told = [coarser_sentence(wanted, self.request(inputs).working_size)]
        return True
