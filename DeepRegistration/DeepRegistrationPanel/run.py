"""Register and Cancel, progress, and what was said on the way."""

from __future__ import annotations

import time
from typing import Any

from DeepRegistrationLib.errors import Cancelled, RegistrationError
from DeepRegistrationScene.many import ManyProgress
from slicer.i18n import tr as _

from .engine_words import stage_in_words
from .many import many_in_words
from .section import Section, failures_told
from .texts import show_text


class RunSection(Section):
    """The one run there can be: a registration, a refinement, or the registrations of many volumes.

    Attributes:
        task: "register", "refine" or "many" while one is going on or waits for the environment's answer.
    """

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.task: str | None = None
        self._waiting = False
        self._started = 0.0
        self._text, self._step = "", ("", "")
        self.ui.registerButton.connect("clicked(bool)", self._clicked)

    def update(self) -> None:
        ui = self.ui
        running = self.task is not None
        reason = None if running else self.panel.problem()
        ui.registerButton.setText(_("Cancel") if running else _("Register"))
        ui.registerButton.setEnabled(reason is None)
        if self.task == "many":
            tooltip = _("Stop; what is done stays, what is not leaves nothing.")
        elif running:
            tooltip = _("Stop; the scene stays as it was.")
        else:
            tooltip = reason or _("Bring the moving volume onto the fixed one.")
        ui.registerButton.setToolTip(tooltip)
        ui.progressBar.setVisible(running)
        self._say(self._text)

    def start(self, task: str) -> None:
        """Start a task; what keeps it from starting is said, not raised."""
        self.task, self._started = task, time.monotonic()
        self.ui.progressBar.setValue(0)
        self._say(_("Starting..."))
        self.log(f"--- {task}")
        if self.panel.environment.asking:  # the worker is still starting: its next job is this one
            self._waiting = True
        else:
            self.submit()
        self.panel.update()

    def submit(self) -> None:
        """Hand the run to the worker, as soon as it is free."""
        self._waiting = False
        logic, task = self.panel.logic, self.task
        begin = {
            "register": logic.registerFromParameters,
            "refine": logic.refine,
            "many": logic.registerManyFromParameters,
        }[task]
        self.panel.start_clock()
        not_started = _("The registration could not be started.")
        try:
            with failures_told(not_started, self._failed):
                begin(
                    self.panel.parameters,
                    wait=False,
                    progress=self._progressed,
                    finished=self._finished,
                    failed=self._failed,
                    log=self.log,
                )
                if task != "many":
                    self.panel.refine.run_started()
        except Exception as error:  # has been shown, and is raised again for Python's console
            self.log(repr(error))
            self._over(not_started)
            raise
        finally:
            if not logic.isRunning():
                self.task = None

    def environment_answered(self) -> None:
        """The worker has become free."""
        if self._waiting:
            self.submit()

    def log(self, text: str) -> None:
        """A line for the collapsible log."""
        self.ui.logText.appendPlainText(text.rstrip())

    def close(self) -> None:
        """A run of a scene that is gone is of no use."""
        if self.task is not None:
            self._cancel()

    def _clicked(self) -> None:
        self.start_or_cancel("register")

    def start_or_cancel(self, task: str) -> None:
        """What a button does that starts a task, and stops whatever is going on."""
        if self.task is None:
            self.start(task)
        else:
            self._cancel()
            self.panel.update()

    def _cancel(self) -> None:
        if self._waiting:
            self._waiting = False
            self._over(_("Cancelled."))
            return
        self.panel.logic.cancel()
        self._say(_("Cancelling..."))

    def _progressed(self, event: Any) -> None:
        self.ui.progressBar.setValue(round(100 * event.fraction))
        name = ""
        if isinstance(event, ManyProgress):
            name = _("{number} of {count}: {name}").format(**vars(event))
        if (name, event.stage) != self._step:
            self._step = name, event.stage
            self.log(f"{time.monotonic() - self._started:6.1f} s  {', '.join(filter(None, self._step))}")
        text = ", ".join(filter(None, (name, stage_in_words(event.stage))))
        if event.seconds_left is not None:
            text += ", " + _("about {seconds} s left").format(seconds=max(1, round(event.seconds_left)))
        self._say(text)

    def _finished(self, result: Any) -> None:
        seconds = time.monotonic() - self._started
        if self.task == "many":
            self._over(many_in_words(result, seconds))
            self.panel.many.run_ended()
            return
        done = _("Refined") if self.task == "refine" else _("Registered")
        self._over(_("{done} in {seconds:.1f} s.").format(done=done, seconds=seconds))
        self.panel.run_ended(True)

    def _failed(self, error: RegistrationError) -> None:
        self._over(_("Cancelled.") if isinstance(error, Cancelled) else str(error))
        self.panel.run_ended(False)

    def _over(self, text: str) -> None:
        self.log(text)
        self._say(text)
        self.task = None
        self.panel.update_soon()

    def _say(self, text: str) -> None:
        self._text = text
        show_text(self.ui.runText, text)
        if self.task == "many":
            self.panel.many.say(text)
