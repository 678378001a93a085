"""The numbers of the last registration and what they mean, read from the scene."""

from __future__ import annotations

from html import escape
from typing import Any

from DeepRegistrationLib.verdict import BAD, GOOD, LOOK, verdict
from DeepRegistrationScene.quality_table import table_rows
from DeepRegistrationScene.verdict_level import verdict_line
from slicer.i18n import tr as _

from .section import Section
from .tables import fill
from .texts import breakable

MARKS = {GOOD: ("#2e8b57", "✓"), LOOK: ("#c77700", "!"), BAD: ("#c0392b", "✗")}
"""Colour and sign of each level of finding."""


class ResultSection(Section):
    """The verdict in a line, what it rests on, and the table."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._shown: dict[str, Any] | None = None
        self._opened = False

    def update(self) -> None:
        ui, quality = self.ui, self.panel.quality()
        there = quality is not None or self.panel.parameters.forward is not None
        ui.resultButton.setEnabled(there)
        ui.resultButton.setToolTip("" if there else _("There is no result yet."))
        if not there:
            ui.resultButton.collapsed = True
        if quality == self._shown and self._opened:
            return
        self._shown, self._opened = quality, True
        if quality is None:  # of a transform from elsewhere, which can still be looked at
            ui.verdictText.setText(_("There are no numbers for this transform."))
            fill(ui.qualityTable, [])
        else:
            findings = verdict(quality)
            first = verdict_line(quality, findings)
            lines = [f"<b>{_marked(first.level, first.text)}</b>"]
            lines += [_marked(finding.level, finding.text) for finding in findings]
            ui.verdictText.setText("<br>".join(lines))
            fill(ui.qualityTable, [tuple(row) for row in table_rows(quality)])

    def reveal(self) -> None:
        """Open the section, for there is something new in it."""
        self.ui.resultButton.collapsed = False

    def close(self) -> None:
        self._opened = False


def _marked(level: str, text: str) -> str:
    colour, sign = MARKS[level]
    return f'<span style="color:{colour}"><b>{sign}</b></span> {escape(breakable(text))}'
