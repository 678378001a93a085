"""Method, representation, effort, and the choices most people leave alone, each with its explanation."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from DeepRegistrationLib import catalogue
from slicer.i18n import tr as _

from .advice import advice
from .binding import Choice, FileChoice, NodeChoice, Tick
from .engine_words import in_words
from .section import Section
from .texts import breakable
from .weights import shipped_weights

DEVICES = {"auto": _("Automatic"), "cpu": _("Processor"), "cuda": _("Graphics card (CUDA)")}


class MethodSection(Section):
    """What is computed, and how."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self.bindings = [
            Choice(panel, ui.methodCombo, "method", _titles(catalogue.METHODS)),
            Choice(panel, ui.representationCombo, "representation", _titles(catalogue.REPRESENTATIONS)),
            Choice(panel, ui.presetCombo, "preset", _titles(catalogue.PRESETS)),
            Choice(panel, ui.similarityCombo, "similarity", _titles(catalogue.SIMILARITIES)),
            Choice(panel, ui.linearCombo, "linear", _titles(catalogue.LINEAR_STAGES)),
            Choice(panel, ui.deviceCombo, "device", DEVICES),
            NodeChoice(panel, ui.initialSelector, "initial"),
            FileChoice(panel, ui.weightsPath, "weights"),
            Tick(panel, ui.featuresCheck, "want_features"),
        ]
        ui.adviceText.setText(advice())
        for combo, texts in (
            (ui.representationCombo, catalogue.REPRESENTATIONS),
            (ui.presetCombo, catalogue.PRESETS),
            (ui.similarityCombo, catalogue.SIMILARITIES),
            (ui.linearCombo, catalogue.LINEAR_STAGES),
        ):
            for index, text in enumerate(texts.values()):
                combo.setItemData(index, in_words(text.description), TOOLTIP_ROLE)

    def update(self) -> None:
        super().update()
        parameters, ui = self.panel.parameters, self.ui
        method = catalogue.METHODS.get(parameters.method)
        if method is not None:
            told = (
                escape(in_words(method.description), quote=False),
                f"<b>{_('Guarantee:')}</b> {escape(in_words(method.guarantee), quote=False)}",
                escape(breakable(self._weights(parameters.method)), quote=False),
            )
            ui.methodText.setText("".join(f'<p style="margin: 0 0 5px 0">{text}</p>' for text in told))
            ui.methodCombo.setToolTip(method.publication)
        ui.representationText.setText(_described(catalogue.REPRESENTATIONS, parameters.representation))
        ui.similarityText.setText(_described(catalogue.SIMILARITIES, parameters.similarity))

    def problem(self) -> str | None:
        parameters = self.panel.parameters
        method = catalogue.METHODS.get(parameters.method)
        if method is None:
            return _("There is no method '{name}'.").format(name=parameters.method)
        if parameters.weights and not Path(parameters.weights).is_file():
            return _("The weights file {path} does not exist.").format(path=parameters.weights)
        return None

    def _weights(self, name: str) -> str:
        """Whether trained weights are there for the method, and for what."""
        if not catalogue.METHODS[name].learns:
            return _("It needs no trained weights.")
        if self.panel.parameters.weights:
            return _("Trained weights: the file chosen below.")
        found = self.panel.environment.weights.get(name) or shipped_weights(name)
        if found:
            return _("Trained weights: {what}.").format(what="; ".join(found))
        return _("No trained weights come with it, so it works without what it would have learned.")


def _titles(texts: dict[str, Any]) -> dict[str, str]:
    return {name: in_words(text.title) for name, text in texts.items()}


def _described(texts: dict[str, catalogue.ChoiceText], name: str) -> str:
    return in_words(texts[name].description) if name in texts else ""


TOOLTIP_ROLE = 3
"""Qt.ToolTipRole, which PythonQt takes as a number."""
