"""What the computation runs on; the offer to install what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import qt
import slicer
from DeepRegistrationLib.errors import NotAvailableError, RegistrationError
from DeepRegistrationScene.environment import (
    OFFLINE,
    UNKNOWN,
    EnvironmentState,
    install_torch,
    state_from,
    state_from_failure,
)
from slicer.i18n import tr as _

from .section import Section
from .texts import breakable, show_text
from .weights import weights_in_words


class EnvironmentSection(Section):
    """Asks the worker what it finds, never this process: a broken torch may end the process that loads it.

    Attributes:
        state: what is known.
        weights: the trained weights that come with each method, in words, once the worker has read them.
        asking: whether the worker has been asked and has not answered yet.
        installing: whether PyTorch is being installed, or the user asked whether to.
    """

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.state: EnvironmentState = UNKNOWN
        self.weights: dict[str, list[str]] = {}
        self.asking = self.installing = False
        self._note = ""
        self.ui.installButton.connect("clicked(bool)", self._install)
        self.ui.checkButton.connect("clicked(bool)", self.ask)
        self.ui.offlineText.setText(breakable(OFFLINE))

    def update(self) -> None:
        ui, state = self.ui, self.state
        lines = list(state.lines)
        if self.installing:
            lines = [_("PyTorch is being installed; this takes some minutes...")]
        elif self.asking:
            lines = [_("Looking for PyTorch...")]
        show_text(ui.environmentText, "\n".join([*lines, *filter(None, [self._note])]))
        ui.installButton.setVisible(state.offer_install and not self.asking)
        ui.installButton.setEnabled(not self.installing)
        ui.offlineText.setVisible(state.offer_install and not self.asking)
        busy = self.asking or self.installing or self.panel.run.task is not None
        ui.checkButton.setEnabled(not busy)
        ui.checkButton.setToolTip(
            _("Wait until the computation process is free.")
            if busy
            else _("Ask the computation process once more.")
        )

    def problem(self) -> str | None:
        """A machine on which nothing can be computed; as long as nobody has looked, there is hope."""
        if self.installing:
            return _("PyTorch is being installed.")
        if self.state.ready is False:
            return self.state.lines[0] + " " + _("See Environment, at the bottom.")
        return None

    def ask_once(self) -> None:
        """Ask, unless it is known or being asked."""
        if self.state.ready is None and not self.asking and self.panel.run.task is None:
            self.ask()

    def ask(self) -> None:
        """Ask the worker; the answer comes through the panel's clock."""
        if self.panel.logic.isRunning():
            return
        self.asking, self._note = True, ""
        try:
            self.panel.logic.environment(
                wait=False, finished=self._answered, failed=self._failed, log=self.panel.run.log
            )
        except RegistrationError as error:
            self._failed(error)
        self.panel.start_clock()
        self.panel.update()

    def _answered(self, result: dict[str, Any]) -> None:
        self._know(state_from(result))

    def _failed(self, error: RegistrationError) -> None:
        self._know(state_from_failure(str(error)))

    def _know(self, state: EnvironmentState) -> None:
        self.state = state
        if state.ready is False:
            self.ui.environmentButton.collapsed = False
            self._done()
            return
        try:
            self.panel.logic.methods(
                wait=False, finished=self._know_methods, failed=lambda error: self._done()
            )
        except RegistrationError:
            self._done()

    def _know_methods(self, result: dict[str, Any]) -> None:
        self.weights = {m["name"]: weights_in_words(m["weights"] or {}) for m in result["methods"]}
        self._done()

    def _done(self) -> None:
        """The worker is free."""
        self.asking = False
        self.panel.update()
        self.panel.run.environment_answered()

    def _install(self) -> None:
        """Once at a time: the installer lets the application process its events, more clicks among them."""
        if self.installing:
            return
        self._note, self.installing = "", True
        try:
            self._note = install_torch(slicer.util.confirmYesNoDisplay, self._wait)
        except NotAvailableError as error:
            self._note = str(error)
        finally:
            self.installing = False
        note = self._note
        self.panel.logic.close()  # a worker that has once failed to load torch would go on failing
        self.ask()
        self._note = note
        self.panel.update()

    @contextmanager
    def _wait(self) -> Iterator[None]:
        """While the installation goes on."""
        self.panel.update()
        slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            yield
        finally:
            slicer.app.restoreOverrideCursor()
