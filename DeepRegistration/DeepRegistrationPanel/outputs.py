"""What a registration leaves in the scene: each output made, filled again, or left out."""

from __future__ import annotations

from typing import Any

from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.memory import LINEAR, in_words
from DeepRegistrationScene.memory_estimate import pair_request
from slicer.i18n import tr as _

from .binding import NodeChoice, Number, Tick
from .section import Section
from .texts import show_text

OUTPUTS = ("forward", "inverse", "warped", "jacobian")
_LARGE = 1 << 30


class OutputSection(Section):
    """Outputs."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._rows = {
            name: (getattr(self.ui, f"{name}Check"), getattr(self.ui, f"{name}Selector")) for name in OUTPUTS
        }
        self.bindings = [
            *(Tick(panel, check, f"want_{name}") for name, (check, _selector) in self._rows.items()),
            *(NodeChoice(panel, selector, name) for name, (_check, selector) in self._rows.items()),
            Number(panel, self.ui.outputSpacing, "output_spacing"),
        ]

    def update(self) -> None:
        super().update()
        for check, selector in self._rows.values():
            selector.setEnabled(check.checked)
        show_text(self.ui.outputSizeText, self._sizes())

    def _sizes(self) -> str:
        """How large the transforms' files will be."""
        parameters = self.panel.parameters
        if parameters.representation in LINEAR:
            return _("The transforms are matrices: their files are tiny.")
        if parameters.fixed is None or parameters.moving is None:
            return ""
        try:
            sizes = pair_request(parameters, self.panel.results()).file_sizes()
        except InputError:
            return ""
        wanted = [name for name in ("forward", "inverse") if getattr(parameters, f"want_{name}")]
        if not wanted:
            return ""
        total = sum(sizes[f"{name}.h5"] for name in wanted)
        text = _("Saved as files, the transforms take about {size}.").format(size=in_words(total))
        if total > _LARGE:
            text += " " + _("A coarser grid spacing makes them smaller.")
        return text
