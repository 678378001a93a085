"""The panel as a whole: its parts, the scene they show, and the clock that looks after a run.

The parts know the widgets, the parameters and the logic; only this file knows when they are to look.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import qt
import slicer
import vtk
from DeepRegistrationLib.errors import InputError
from DeepRegistrationScene.choices import Choices, Outputs, check, choices_from
from slicer.i18n import tr as _

from .environment import EnvironmentSection
from .inspection import InspectionSection
from .landmarks import LandmarkSection
from .many import ManySection
from .memory import MemorySection
from .method import MethodSection
from .observers import Observers
from .others import OthersSection
from .outputs import OutputSection
from .refine import RefineSection
from .result import ResultSection
from .run import RunSection
from .section import Section
from .structures import StructureSection
from .volumes import VolumeSection

POLL_MS = 30


class Panel:
    """Binds the widgets of the .ui file to a parameter node and a logic.

    Attributes:
        ui: the widgets by name.
        logic: does the work.
        parameters: of the scene as it is now; None between scenes.
        observers: what the panel and its parts hear of the scene by.
        listening: whether a changed widget means that the user changed it.
    """

    def __init__(self, ui: Any, logic: Any) -> None:
        self.observers = Observers()
        self.ui, self.logic, self.parameters = ui, logic, None
        self._showing = self._polling = False
        self._leaving = 0  # nodes that are on their way out of the scene
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL_MS)
        self.timer.connect("timeout()", self.poll)
        self._later = qt.QTimer()  # once a removal is over, and everybody has heard of it
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.connect("timeout()", self.update)
        self.volumes = VolumeSection(self)
        self.method = MethodSection(self)
        self.landmarks = LandmarkSection(self)
        self.structures = StructureSection(self)
        self.outputs = OutputSection(self)
        self.memory = MemorySection(self)
        self.run = RunSection(self)
        self.result = ResultSection(self)
        self.inspection = InspectionSection(self)
        self.others = OthersSection(self)
        self.refine = RefineSection(self)
        self.many = ManySection(self)
        self.environment = EnvironmentSection(self)
        scene = slicer.mrmlScene
        # before the selectors, which then choose a neighbour of the removed node that nobody chose
        self.observers.add(scene, scene.NodeAboutToBeRemovedEvent, self._node_leaves, priority=1000.0)
        self.observers.add(scene, scene.NodeRemovedEvent, self._node_left, priority=-1000.0)
        self.observers.add(scene, scene.NodeAddedEvent, self._node_came)

    @property
    def sections(self) -> tuple[Section, ...]:
        """The parts, from top to bottom."""
        return (
            self.volumes,
            self.method,
            self.landmarks,
            self.structures,
            self.outputs,
            self.memory,
            self.run,
            self.result,
            self.inspection,
            self.others,
            self.refine,
            self.many,
            self.environment,
        )

    @property
    def listening(self) -> bool:
        busy = self._showing or self._leaving or slicer.mrmlScene.IsBatchProcessing()
        return self.parameters is not None and not busy

    # Scenes come and go

    def open(self, parameters: Any) -> None:
        """Show a scene's parameters from now on, and follow them."""
        if self.parameters is not None:
            if self.parameters.node is parameters.node:
                self.update()
                return
            self.close()
        self.parameters, self._leaving = parameters, 0
        self.observers.add(parameters.node, vtk.vtkCommand.ModifiedEvent, self._parameters_changed)
        self.update()

    def close(self) -> None:
        """Between scenes: follow nothing."""
        if self.parameters is None:
            return
        for section in self.sections:
            section.close()
        self.observers.remove(self.parameters.node, vtk.vtkCommand.ModifiedEvent, self._parameters_changed)
        self.parameters = None

    def shut_down(self) -> None:
        """For good."""
        self.timer.stop()
        self._later.stop()
        self.close()
        self.observers.clear()

    def _parameters_changed(self, caller: Any = None, event: Any = None) -> None:
        if self.parameters is None or slicer.mrmlScene.IsBatchProcessing():
            return
        if self._polling:  # a result is being put into the scene; one thing at a time
            self.update_soon()
        else:
            self.update()

    def _node_leaves(self, caller: Any, event: Any) -> None:
        self._leaving += 1

    def _node_left(self, caller: Any, event: Any) -> None:
        self._leaving = max(0, self._leaving - 1)
        self._node_came(caller, event)

    def _node_came(self, caller: Any, event: Any) -> None:
        if self.parameters is not None and not slicer.mrmlScene.IsBatchProcessing():
            self.update_soon()

    # Showing

    def update(self) -> None:
        """Show everything as it is now."""
        if self.parameters is None or self._showing:
            return
        if self._leaving:
            self.update_soon()
            return
        with self._deaf():
            for section in self.sections:
                section.update()

    def update_soon(self) -> None:
        """Show everything once what goes on now is over."""
        self._later.start()

    @contextmanager
    def _deaf(self) -> Iterator[None]:
        """What widgets say inside was not said by the user."""
        self._showing = True
        try:
            yield
        finally:
            self._showing = False

    def problem(self) -> str | None:
        """Why a registration cannot be started now, in a sentence."""
        if self.parameters is None:
            return _("There is no scene.")
        for section in self.sections:
            reason = section.problem()
            if reason is not None:
                return reason
        try:
            check(choices_from(self.parameters))
        except InputError as error:
            return str(error)
        return None

    def results(self) -> tuple[Any, ...]:
        """The transforms that already are the result for the two volumes; see `Choices.results`."""
        p = self.parameters
        if p.fixed is None or p.moving is None:
            return ()
        return Choices(p.fixed, p.moving, outputs=Outputs(p.forward or True, p.inverse or True)).results

    def quality(self) -> dict[str, Any] | None:
        """The numbers of the last run that the scene has."""
        return self.logic.quality(self.parameters)

    # Runs

    def start_clock(self) -> None:
        """Look after the worker until it has nothing more to say."""
        self.timer.start()

    def poll(self) -> None:
        """Take what the worker has said."""
        self._polling = True
        try:
            self.logic.poll()
        finally:
            self._polling = False
        if not self.logic.isRunning():
            self.timer.stop()

    def run_ended(self, succeeded: bool) -> None:
        """A registration or refinement is over."""
        if succeeded:
            self.result.reveal()
            self.inspection.run_ended()
        self.update_soon()
        self.refine.run_ended(succeeded)

    def landmarks_moved(self) -> None:
        """Landmarks have come, gone or moved, and rest."""
        if self.parameters is not None:
            with self._deaf():
                self.run.update()
                self.refine.update()
            self.refine.landmarks_moved()

    # The module is shown and left

    def enter(self) -> None:
        self.environment.ask_once()
        if self.parameters is not None:
            self.inspection.pause(False)

    def exit(self) -> None:
        """A run goes on, and so does refining by itself; only what would distract stops."""
        self.inspection.pause(True)
