"""DeepRegistration: deformable registration with a choice of methods, transform representations and prompts.

This file is what Slicer loads. The panel's parts are in `DeepRegistrationPanel`, the work on nodes in
`DeepRegistrationScene`, the engine in `DeepRegistrationLib`, which runs in a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import slicer
from DeepRegistrationPanel.events import WheelGuard
from DeepRegistrationPanel.panel import Panel
from DeepRegistrationPanel.sample_data import register_sample_data as offer_sample_data
from DeepRegistrationScene.logic import SceneLogic
from DeepRegistrationScene.parameters import scene_parameters
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

_PACKAGES = ("DeepRegistrationPanel", "DeepRegistrationScene", "DeepRegistrationLib")


class DeepRegistration(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Deep Registration")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.dependencies = []
        self.parent.contributors = ["DeepRegistration contributors"]
        self.parent.helpText = _(
            "Brings a moving volume onto a fixed one by a smooth deformation. Choose the two volumes and "
            "press Register; landmarks, segmentations and masks help where intensities alone do not."
        )
        self.parent.acknowledgementText = _(
            "The methods' publications are named in the panel. Research software: not a medical device."
        )
        slicer.app.connect("startupCompleted()", register_sample_data)


def register_sample_data() -> None:
    """Offer the embedded example in the Sample Data module."""
    offer_sample_data(Path(__file__).parent / "Resources" / "Icons")


class DeepRegistrationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Loads the widgets and hands them, the scene and the logic to the panel."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: DeepRegistrationLogic | None = None
        self.panel: Panel | None = None
        self._entered = False

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        widgets = slicer.util.loadUI(self.resourcePath("UI/DeepRegistration.ui"))
        self.layout.addWidget(widgets)
        self.ui = slicer.util.childWidgetVariables(widgets)
        widgets.setMRMLScene(slicer.mrmlScene)
        self._wheel = WheelGuard(widgets)
        self.logic = DeepRegistrationLogic()
        self.panel = Panel(self.ui, self.logic)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._scene_closes)
        self.addObserver(scene, scene.EndCloseEvent, self._scene_is_there)
        self.addObserver(scene, scene.EndImportEvent, self._scene_is_there)
        self.addObserver(scene, scene.EndRestoreEvent, self._scene_is_there)
        slicer.app.connect("aboutToQuit()", self._quit)
        self._open()

    def cleanup(self) -> None:
        self.removeObservers()
        slicer.app.disconnect("aboutToQuit()", self._quit)
        if self.panel is not None:
            self.panel.shut_down()
            self.logic.close()
            self.panel = None

    def enter(self) -> None:
        self._entered = True
        self._open()
        self.panel.enter()

    def exit(self) -> None:
        self._entered = False
        if self.panel is not None:
            self.panel.exit()

    def onReload(self) -> Any:
        """For developers: the packages are read anew, too."""
        entered = self._entered
        for name in [name for name in sys.modules if name.split(".")[0] in _PACKAGES]:
            del sys.modules[name]
        module = ScriptedLoadableModuleWidget.onReload(self)
        if entered:  # the new panel is looked at as the old one was, but Slicer does not say so
            getattr(slicer.modules, f"{self.moduleName}Widget").enter()
        return module

    def _open(self) -> None:
        self.panel.open(scene_parameters())

    def _scene_closes(self, caller: Any, event: Any) -> None:
        self.panel.close()

    def _scene_is_there(self, caller: Any, event: Any) -> None:
        """A scene was closed, loaded or restored; one that nobody looks at is opened when somebody does."""
        if self._entered or self.panel.parameters is not None:
            self._open()

    def _quit(self) -> None:
        self.logic.close()


class DeepRegistrationLogic(ScriptedLoadableModuleLogic, SceneLogic):
    """`register`, `registerMany`, `refine`, `applyToOthers`, `jacobianVolume`, `quality`: see `SceneLogic`.

    No dialogs.
    """

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleLogic.__init__(self, parent)
        SceneLogic.__init__(self)


class DeepRegistrationTest(ScriptedLoadableModuleTest):
    """Slicer's self test: registers the sample data and looks at the result."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        self.setUp()
        self.test_sample_data()

    def test_sample_data(self) -> None:
        """The embedded example comes out aligned and without folds; its landmarks only measure."""
        logic = DeepRegistrationLogic()
        try:
            if not logic.environment()["works"]:
                self.delayDisplay(_("Left out: PyTorch is not there or does not work."))
                self.skipTest("PyTorch is not there or does not work.")
            self._register_sample_data(logic)
        finally:
            logic.close()
        self.delayDisplay(_("Test passed."))

    def _register_sample_data(self, logic: DeepRegistrationLogic) -> None:
        from DeepRegistrationScene.sample_data import sample_pair

        self.delayDisplay(_("Making the sample data"))
        pair = sample_pair()
        landmarks = pair["fixed_landmarks"], pair["moving_landmarks"]
        names = [
            landmarks[0].GetNthControlPointLabel(k) for k in range(landmarks[0].GetNumberOfControlPoints())
        ]
        self.delayDisplay(_("Registering"))
        nodes = logic.register(
            pair["fixed"], pair["moving"], landmarks=landmarks, heldOut=names, preset="fast"
        )
        quality = logic.quality(nodes)
        measured = quality["landmarks"]["held_out"]
        self.assertEqual(quality["regularity"]["folds_percent"], 0)
        self.assertLess(measured["after"]["mean_mm"], measured["before"]["mean_mm"] / 3)
        self.assertGreater(quality["similarity"]["after"]["ncc"], quality["similarity"]["before"]["ncc"])
        for point, there in ((nodes.forward, pair["moving"]), (nodes.inverse, pair["fixed"])):
            self.assertIsNotNone(point.GetTransformFromParent())
            role = slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole()
            self.assertIs(point.GetNodeReference(role), there)
