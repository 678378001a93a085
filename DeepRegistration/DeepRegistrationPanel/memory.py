"""How much memory the registration will need, before it is started."""

from __future__ import annotations

from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.free_memory import available_memory
from DeepRegistrationLib.memory import Request
from DeepRegistrationScene.memory_estimate import memory_in_words, pair_request, results_size, wanted_from

from .section import Section
from .texts import show_text


class MemorySection(Section):
    """A line beside the button that starts."""

    def update(self) -> None:
        parameters, text = self.panel.parameters, ""
        there = parameters.fixed is not None and parameters.moving is not None
        if there and self.panel.run.task is None:
            try:
                request = pair_request(parameters, self.panel.results())
                text = self.in_words(request, results_size(request, wanted_from(parameters)))
            except InputError:  # said where the volumes are chosen
                text = ""
        show_text(self.ui.memoryText, text)

    def in_words(self, request: Request, results: int) -> str:
        """What a run and its results, in bytes, need of the memory that is free now."""
        loaded = self.panel.logic.runner.client.state != "off"
        return memory_in_words(request, available_memory(), loaded, results)
