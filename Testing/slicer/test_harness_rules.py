"""The stand-in of qt keeps PythonQt's rules; what they forbid raises."""

from __future__ import annotations

import gc

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import slicer
from PySide6 import QtCore


@pytest.fixture
def qt(slicer_session):
    import qt

    return qt


def test_properties_are_attributes_to_read_and_write(qt, qtbot):
    label, box, spin, combo = qt.QLabel("one"), qt.QCheckBox(), qt.QDoubleSpinBox(), qt.QComboBox()
    for widget in (label, box, spin, combo):
        qtbot.addWidget(widget)
    assert label.text == "one"
    label.text = "two"
    box.enabled, box.checked, spin.value = False, True, 4.5
    combo.addItem("first", {"of": "mine"})
    combo.addItem("second")
    assert (label.text, box.enabled, box.checked, spin.value) == ("two", False, True, 4.5)
    assert (combo.count, combo.currentIndex, combo.currentText) == (2, 0, "first")
    assert combo.currentData == {"of": "mine"}
    combo.currentIndex = 1
    assert combo.currentText == "second"
    label.alignment = qt.Qt.AlignRight
    assert label.alignment == qt.Qt.AlignRight
    label.name = "mine"
    assert label.objectName == "mine" and label.className() == "QLabel"


def test_a_property_is_no_method(qt, qtbot):
    label, combo, box = qt.QLabel("one"), qt.QComboBox(), qt.QCheckBox()
    for widget in (label, combo, box):
        qtbot.addWidget(widget)
    for property_as_method in (lambda: label.text(), lambda: combo.count(), lambda: combo.currentIndex()):
        with pytest.raises(TypeError, match="not callable"):
            property_as_method()
    assert box.isChecked() is False  # a getter of another name stays one


def test_unknown_attributes_raise_except_on_a_python_subclass(qt, qtbot):
    button = qt.QPushButton()
    qtbot.addWidget(button)
    with pytest.raises(AttributeError, match="enabld"):
        button.enabld = True
    with pytest.raises(AttributeError, match="txt"):
        print(button.txt)
    with pytest.raises(AttributeError, match="not writable"):
        button.width = 4
    with pytest.raises(AttributeError, match="overwritten"):
        button.setText = None
    with pytest.raises(AttributeError):
        qt.Signal  # noqa: B018

    class Own(qt.QWidget):
        pass

    own = Own()
    qtbot.addWidget(own)
    own.colour = "red"
    assert own.colour == "red"
    button.setProperty("dynamic", 3)
    assert button.dynamic == 3


def test_connections_by_signature_trim_their_arguments(qt, qtbot):
    button, seen = qt.QPushButton(), []
    qtbot.addWidget(button)
    button.setCheckable(True)

    def none():
        seen.append("none")

    button.connect("clicked(bool)", lambda checked: seen.append(checked))
    button.connect("clicked(bool)", none)
    button.connect("clicked()", lambda *all_of_them: seen.append(all_of_them))
    button.clicked.connect(lambda: seen.append("signal"))
    qtbot.mouseClick(button, qt.Qt.LeftButton)
    assert seen == [True, "none", (), "signal"]
    assert button.disconnect("clicked(bool)", none)
    assert not button.disconnect("clicked(bool)", none)
    seen.clear()
    button.click()
    assert "none" not in seen and False in seen
    with pytest.raises(ValueError, match="cliked"):
        button.connect("cliked(bool)", none)
    with pytest.raises(ValueError, match="no signal"):
        button.connect("clicked(int)", none)
    with pytest.raises(ValueError, match="no slot"):
        button.connect("clicked(bool)", button, "setEnabld(bool)")
    with pytest.raises(AttributeError):
        button.cliked.connect(none)
    other = qt.QPushButton()
    qtbot.addWidget(other)
    button.connect("toggled(bool)", other, "setDisabled(bool)")
    button.click()
    assert other.enabled is not button.checked


def test_timers(qt, qtbot):
    timer, beats, once = qt.QTimer(), [], []
    timer.interval = 1
    timer.connect("timeout()", lambda: beats.append(1))
    timer.start()
    qt.QTimer.singleShot(0, lambda: once.append(1))
    qtbot.waitUntil(lambda: len(beats) > 2 and once == [1])
    assert timer.active
    timer.stop()
    assert timer.interval == 1 and not timer.active


def test_exceptions_in_slots_and_timers_fail_the_test(qt, qtbot):
    def fail():
        raise RuntimeError("in a slot")

    button = qt.QPushButton()
    qtbot.addWidget(button)
    button.connect("clicked()", fail)
    with qtbot.captureExceptions() as caught:
        button.click()
        qt.QTimer.singleShot(0, fail)
        qtbot.wait(20)
    assert [str(error) for _, error, _ in caught] == ["in a slot", "in a slot"]


def test_errors_that_vtk_reports_are_seen(slicer_session):
    assert not slicer_session.vtk_errors()
    slicer.mrmlScene.GetNthNodeByClass(-1, None)
    assert "ERROR" in slicer_session.vtk_errors()
    slicer_session.forget_vtk_errors()


def test_node_combo_box(slicer_session, qtbot):
    scene, seen = slicer_session.scene, []
    combo = slicer.qMRMLNodeComboBox()
    qtbot.addWidget(combo)
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: seen.append(node and node.GetName()))
    first = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "first")
    assert combo.nodeCount() == 0 and combo.currentNode() is None
    combo.setMRMLScene(scene)
    second = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "second")
    third = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "third")
    scene.AddNewNodeByClass("vtkMRMLTableNode", "table")
    assert combo.nodeCount() == 3 and combo.currentNode() is None and seen == []
    combo.setCurrentNode(second)
    assert combo.currentNode() is second and combo.currentNodeID == second.GetID()
    scene.RemoveNode(second)
    assert combo.currentNode() is third and seen == ["second", "third"]
    combo.noneEnabled = True
    assert combo.currentNode() is third
    scene.RemoveNode(third)
    combo.setCurrentNode(None)
    assert combo.currentNode() is None and combo.nodeCount() == 1
    combo.showChildNodeTypes = False
    combo.addAttribute("vtkMRMLScalarVolumeNode", "kind", "mine")
    assert combo.nodeCount() == 0
    first.SetAttribute("kind", "mine")
    combo.baseName = "made"
    made = combo.addNode()
    assert combo.currentNode() is made and (made.GetName(), made.GetAttribute("kind")) == ("made", "mine")
    with pytest.raises(AttributeError):
        combo.noneEnabld = True
    with pytest.raises(ValueError, match="no signal"):
        combo.connect("currentNodeChanged(vtkMRMLNod*)", print)


def test_observers_of_a_stand_in_end_with_it(slicer_session, qtbot):
    event = slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent
    scene = slicer.vtkMRMLScene()
    held, owned = slicer.qMRMLNodeComboBox(), slicer.qMRMLNodeComboBox()
    for combo in (held, owned):
        combo.nodeTypes = ["vtkMRMLTableNode"]
        combo.setMRMLScene(scene)
    assert scene.HasObserver(event)
    held.deleteLater()
    QtCore.QCoreApplication.sendPostedEvents(held, QtCore.QEvent.DeferredDelete)
    del owned, combo
    gc.collect()
    assert not scene.HasObserver(event)
    scene.AddNewNodeByClass("vtkMRMLTableNode")


def test_sliders_paths_and_collapsing(slicer_session, qtbot, tmp_path):
    import ctk
    import qt

    slider, path, fold = ctk.ctkSliderWidget(), ctk.ctkPathLineEdit(), ctk.ctkCollapsibleButton()
    for widget in (slider, path, fold):
        qtbot.addWidget(widget)
    seen = []
    slider.connect("valueChanged(double)", seen.append)
    path.connect("currentPathChanged(QString)", seen.append)
    fold.connect("contentsCollapsed(bool)", seen.append)
    slider.minimum, slider.maximum, slider.singleStep, slider.decimals = 0, 1, 0.25, 2
    slider.value = 0.5
    file = tmp_path / "weights.pt"
    file.write_text("")
    path.currentPath = str(file)
    inside, hidden = qt.QLabel("inside"), qt.QLabel("hidden")
    layout = qt.QVBoxLayout(fold)
    layout.addWidget(inside)
    layout.addWidget(hidden)
    hidden.hide()
    fold.text = "Volumes"
    fold.show()
    assert inside.visible and not fold.collapsed
    qtbot.mouseClick(fold, qt.Qt.LeftButton, pos=qt.QPoint(20, 8))
    assert not inside.visible and fold.collapsed
    inside.setVisible(True)
    assert not inside.visible
    fold.collapsed = False
    assert inside.visible and not hidden.visible
    fold.collapsed = True
    inside.setVisible(False)
    hidden.setVisible(True)
    fold.collapsed = False
    assert hidden.visible and not inside.visible
    assert seen == [0.5, str(file), True, False, True, False]


def test_a_path_line_tells_only_of_acceptable_paths(slicer_session, tmp_path):
    """As ctk's own: `currentPathChanged` tells nothing of text that cannot be used, or is gone."""
    import ctk

    line, told = ctk.ctkPathLineEdit(), []
    line.nameFilters = ["Weights (*.pt)"]
    line.connect("currentPathChanged(QString)", lambda path: told.append(path))
    line.connect("validInputChanged(bool)", lambda valid: told.append(valid))
    (tmp_path / "w.pt").write_text("")
    (tmp_path / "w.txt").write_text("")
    line.setCurrentPath(str(tmp_path / "w.pt"))
    assert told == [str(tmp_path / "w.pt"), True]
    for text in (str(tmp_path / "w.txt"), str(tmp_path / "none.pt"), ""):
        line.setCurrentPath(text)
    assert told == [str(tmp_path / "w.pt"), True, False]


def test_a_path_line_is_as_wide_as_its_first_text(slicer_session):
    import ctk

    long = "/somewhere/" * 20
    lines = [ctk.ctkPathLineEdit() for _ in range(3)]
    lines[1].setCurrentPath(long)
    lines[2].minimumContentsLength = 10
    lines[2].setCurrentPath(long)
    empty, wide, kept = (line.minimumSizeHint().width() for line in lines)
    assert empty < 150 and wide > 600 and kept < 250
