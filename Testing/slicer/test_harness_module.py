"""A small scripted module runs on the stand-ins as its users would meet it; its faults are caught."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import slicer

MODULE = """
import logging

import qt
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin


class Tiny(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Tiny")
        parent.categories = ["Registration"]
        parent.helpText = "Counts nodes."


class TinyWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.ended = self.entered = 0

    def enter(self):
        self.entered += 1

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/Tiny.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = TinyLogic()
        self.ui.applyButton.connect("clicked(bool)", self.apply)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.closed)

    def closed(self, caller, event):
        self.ui.answer.text = ""

    def apply(self):
        with slicer.util.tryWithErrorDisplay(_("Failed."), waitCursor=True):
            node = self.ui.selector.currentNode()
            self.ui.answer.text = self.logic.describe(node)
        self.ui.applyButton.enabled = False

    def cleanup(self):
        self.ended += 1
        self.removeObservers()


class TinyLogic(ScriptedLoadableModuleLogic):
    def describe(self, node):
        if node is None:
            raise ValueError("no node")
        self.getParameterNode().SetParameter("last", node.GetID())
        return node.GetName()


class TinyTest(ScriptedLoadableModuleTest):
    def runTest(self):
        self.assertIsNotNone(TinyLogic().getParameterNode())
        self.delayDisplay("passed")
"""

UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0">
 <class>Tiny</class>
 <widget class="qMRMLWidget" name="Tiny">
  <layout class="QVBoxLayout" name="verticalLayout">
   <item>
    <widget class="ctkCollapsibleButton" name="box">
     <property name="text"><string>Box</string></property>
     <layout class="QFormLayout" name="form">
      <item row="0" column="1">
       <widget class="qMRMLNodeComboBox" name="selector">
        <property name="nodeTypes"><stringlist><string>vtkMRMLTableNode</string></stringlist></property>
        <property name="noneEnabled"><bool>true</bool></property>
       </widget>
      </item>
      <item row="1" column="1">
       <widget class="QPushButton" name="applyButton">
        <property name="text"><string>Apply</string></property>
       </widget>
      </item>
      <item row="2" column="1"><widget class="QLabel" name="answer"/></item>
     </layout>
    </widget>
   </item>
  </layout>
 </widget>
 <connections>
  <connection>
   <sender>Tiny</sender>
   <signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
   <receiver>selector</receiver>
   <slot>setMRMLScene(vtkMRMLScene*)</slot>
  </connection>
 </connections>
</ui>
"""


def write(folder: Path, code: tuple[str, str] = ("", ""), ui: tuple[str, str] = ("", "")) -> Path:
    """The module in `folder`, with one replacement in its code and one in its panel."""
    assert code[0] in MODULE and ui[0] in UI
    (folder / "Resources" / "UI").mkdir(parents=True)
    (folder / "Resources" / "UI" / "Tiny.ui").write_text(UI.replace(*ui) if ui[0] else UI)
    (folder / "Tiny.py").write_text(MODULE.replace(*code) if code[0] else MODULE)
    return folder / "Tiny.py"


def drive(session, qtbot, path: Path):
    """Open the panel, choose a node, click; returns the panel."""
    import qt

    node = session.scene.AddNewNodeByClass("vtkMRMLTableNode", "a table")
    panel = session.open_panel(path)
    panel.ui.selector.setCurrentNode(node)
    qtbot.mouseClick(panel.ui.applyButton, qt.Qt.LeftButton)
    return panel


def test_a_module_runs_unchanged(slicer_session, qtbot, tmp_path):
    panel = drive(slicer_session, qtbot, write(tmp_path))
    assert panel.ui.answer.text == "a table" and not panel.ui.applyButton.enabled
    assert slicer_session.module.title == "Tiny" and slicer.modules.TinyWidget is panel
    assert slicer.util.getModuleLogic("Tiny") is panel.logic
    node = panel.logic.getParameterNode()
    assert node.GetParameter("last") and panel.logic.getParameterNode() is node
    slicer.mrmlScene.Clear(False)
    assert panel.ui.answer.text == "" and panel.ui.selector.currentNode() is None
    slicer_session.module.python_classes.TinyTest().runTest()
    assert slicer_session.messages.texts == ["passed"]


def test_reload_makes_a_new_panel_and_ends_the_old(slicer_session, qtbot, tmp_path):
    panel = drive(slicer_session, qtbot, write(tmp_path))
    panel.onReload()
    fresh = slicer_session.module.widgetRepresentation().self()
    assert fresh is not panel and panel.ended == 1
    assert slicer.modules.TinyWidget is fresh
    assert (panel.entered, fresh.entered) == (1, 0)  # the application enters at the user's next visit
    assert fresh.ui.selector.nodeCount() == 1
    slicer_session.close()
    assert (panel.ended, fresh.ended) == (1, 1)


def test_an_error_in_a_slot_is_shown_to_the_user_and_fails_the_test(slicer_session, qtbot, tmp_path):
    panel = slicer_session.open_panel(write(tmp_path))
    with qtbot.captureExceptions() as caught:
        panel.ui.applyButton.click()
    assert [str(error) for _, error, _ in caught] == ["no node"]
    assert slicer_session.messages.texts == ["Failed.\n\nno node"]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (('"clicked(bool)"', '"cliked(bool)"'), "no signal cliked"),
        (("ui.applyButton.connect", "ui.aplyButton.connect"), "aplyButton"),
        (("parent.helpText", "parent.helpTxt"), "helpTxt"),
        (("slicer.mrmlScene.EndCloseEvent", "slicer.mrmlScene.EndClosedEvent"), "EndClosedEvent"),
        (("from slicer.i18n import tr", "from slicer.i18n import trr"), "trr"),
    ],
)
def test_a_typo_at_set_up_raises(slicer_session, qtbot, tmp_path, code, sentence):
    with pytest.raises(Exception, match=sentence):
        slicer_session.open_panel(write(tmp_path, code))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (("applyButton.enabled", "applyButton.enabld"), "enabld"),
        (("selector.currentNode()", "selector.currentNodeID()"), "not callable"),
        (("widget.setMRMLScene(slicer.mrmlScene)", "pass"), "no node"),
    ],
)
def test_a_fault_in_a_slot_fails_the_test(slicer_session, qtbot, tmp_path, code, sentence):
    with qtbot.captureExceptions() as caught:
        panel = drive(slicer_session, qtbot, write(tmp_path, code))
    assert len(caught) == 1 and sentence in str(caught[0][1])
    if sentence == "no node":
        assert panel.ui.selector.nodeCount() == 0


@pytest.mark.parametrize(
    ("ui", "sentence"),
    [
        (('class="qMRMLNodeComboBox"', 'class="qMRMLNodeCombo"'), "qMRMLNodeCombo"),
        (('name="noneEnabled"', 'name="noneEnabld"'), "noneEnabld"),
        (("<slot>setMRMLScene", "<slot>setMRMLScen"), "no slot"),
        (("<signal>mrmlSceneChanged", "<signal>mrmlScenChanged"), "no signal"),
        (("<receiver>selector", "<receiver>selectr"), "selectr"),
        (('name="nodeTypes"><stringlist><string>', 'name="nodeTypes" stdset="0"><stringlist><string>'), None),
    ],
)
def test_a_fault_in_the_panel_file_raises(slicer_session, qtbot, tmp_path, ui, sentence):
    path = write(tmp_path, ui=ui)
    if sentence is None:
        assert drive(slicer_session, qtbot, path).ui.answer.text == "a table"
    else:
        with pytest.raises(Exception, match=sentence):
            slicer_session.open_panel(path)


def test_a_missing_connection_leaves_the_list_empty(slicer_session, qtbot, tmp_path):
    start, end = UI.index(" <connections>"), UI.index("</ui>")
    with qtbot.captureExceptions() as caught:
        panel = drive(slicer_session, qtbot, write(tmp_path, ui=(UI[start:end], "")))
    assert [str(error) for _, error, _ in caught] == ["no node"]
    assert panel.ui.selector.nodeCount() == 0


@pytest.mark.parametrize("extension", [True, False])
def test_torch_is_there_or_not_as_the_test_says(slicer_session, extension):
    slicer_session.set_torch(extension=extension, installed=False, install=lambda **options: options)
    if not extension:
        with pytest.raises(ModuleNotFoundError):
            import PyTorchUtils
        return
    import PyTorchUtils

    logic = PyTorchUtils.PyTorchUtilsLogic()
    assert logic.torchInstalled() is False
    assert logic.installTorch(askConfirmation=True)["askConfirmation"]
    assert slicer_session.torch.requests[0]["askConfirmation"]


def test_sample_data_is_registered_and_made(slicer_session):
    import SampleData

    logic = SampleData.SampleDataLogic()
    made = []
    logic.registerCustomSampleDataSource(
        category="Tiny",
        sampleName="TinyPair",
        uris=[],
        fileNames=[],
        customDownloader=lambda source: made.append(source.sampleName),
    )
    SampleData.press("TinyPair")
    assert made == ["TinyPair"] and slicer_session.samples["TinyPair"].category == "Tiny"
    assert logic.downloadSamples("TinyPair") == [] and made == ["TinyPair"]
    with pytest.raises(ValueError, match="same length"):
        logic.registerCustomSampleDataSource(sampleName="Odd", uris=[], fileNames=["one"])
    with pytest.raises(TypeError, match="sampleNme"):
        logic.registerCustomSampleDataSource(category="Tiny", sampleNme="TinyPair")
