"""Refine: update the transforms from where they stand, by a click or when a landmark has moved."""

from __future__ import annotations

from typing import Any

import qt
from DeepRegistrationLib.errors import InputError
from slicer.i18n import tr as _

from .binding import Tick
from .section import Section

_DELAY_MS = 400
"""A landmark that has rested this long is where it was meant to go."""


class RefineSection(Section):
    """The button, and the automatic way."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.bindings = [Tick(panel, self.ui.autoRefineCheck, "auto_refine")]
        self.ui.refineButton.connect("clicked(bool)", self._clicked)
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DELAY_MS)
        self._timer.connect("timeout()", self._rested)
        self._used: Any = None
        self._again = False

    def update(self) -> None:
        super().update()
        reason = self._reason()
        self.ui.refineButton.setEnabled(reason is None)
        self.ui.refineButton.setToolTip(
            reason
            or _("Update the same transforms with the landmarks, segmentations and masks as they are now.")
        )

    def close(self) -> None:
        self._timer.stop()
        self._used, self._again = None, False

    def landmarks_moved(self) -> None:
        """Perhaps start by itself; once what goes on now is over, if need be."""
        if self.panel.parameters.auto_refine and self._landmarks() != self._used:
            self._timer.start()

    def run_started(self) -> None:
        """Remember which landmarks the run knows."""
        self._used = self._landmarks()

    def run_ended(self, succeeded: bool) -> None:
        """Catch up with what moved meanwhile."""
        again, self._again = self._again, False
        if again and succeeded:
            self.landmarks_moved()

    def _clicked(self) -> None:
        self.panel.run.start("refine")

    def _rested(self) -> None:
        if self.panel.parameters is None or not self.panel.parameters.auto_refine:
            return
        if self.panel.run.task is not None:
            self._again = True
        elif self._reason() is None and self._landmarks() != self._used:
            self.panel.run.start("refine")

    def _reason(self) -> str | None:
        """Why there is nothing to refine now."""
        if self.panel.run.task is not None:
            return _("Wait until the registration is done.")
        if self.panel.parameters.forward is None:
            return _("Register first: there is no transform to refine.")
        if self.panel.environment.asking:
            return _("The computation process is starting.")
        return self.panel.problem() or self.panel.logic.refineProblem(self.panel.parameters)

    def _landmarks(self) -> Any:
        """What a run is told of the landmarks; None where there are none."""
        try:
            pairs = self.panel.landmarks.pairs()
        except InputError:
            return None
        return pairs.request() if pairs is not None and len(pairs) else None
