"""What a registration leaves in the scene: each output made, filled again, or left out."""

from __future__ import annotations

from typing import Any

from DeepRegistrationLib.errors import InputError
from DeepRegistrationScene.choices import LINEAR_REPRESENTATIONS
from DeepRegistrationScene.geometry import frame_of_volume
from slicer.i18n import tr as _

from .binding import NodeChoice, Number, Tick
from .section import Section

OUTPUTS = ("forward", "inverse", "warped", "jacobian")
_BYTES_PER_VECTOR = 24
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
        text = self._sizes()
        self.ui.outputSizeText.setText(text)
        self.ui.outputSizeText.setVisible(bool(text))

    def _sizes(self) -> str:
        """How large the transforms' files will be."""
        parameters = self.panel.parameters
        if parameters.representation in LINEAR_REPRESENTATIONS:
            return _("The transforms are matrices: their files are tiny.")
        sizes = []
        for name, volume in (("forward", parameters.fixed), ("inverse", parameters.moving)):
            if getattr(parameters, f"want_{name}"):
                try:
                    sizes.append(self._bytes(volume))
                except InputError:
                    return ""
        if not sizes:
            return ""
        text = _("Saved as files, the transforms take about {size}.").format(size=_in_words(sum(sizes)))
        if sum(sizes) > _LARGE:
            text += " " + _("A coarser grid spacing makes them smaller.")
        return text

    def _bytes(self, volume: Any) -> int:
        frame = frame_of_volume(volume, self.panel.results())
        spacing = self.panel.parameters.output_spacing
        return _BYTES_PER_VECTOR * (frame if spacing is None else frame.with_spacing(spacing)).voxels


def _in_words(size: float) -> str:
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.0f} {unit}"
    return f"{size / 1000:.1f} GB"
