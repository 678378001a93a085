"""Every method can be chosen in the panel and runs, with and without trained weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import slicer
from DeepRegistrationLib.catalogue import METHODS
from harness.fixtures import MODULE_FILE
from panel_support import User, make_pair

SHIPPED = MODULE_FILE.parent / "Resources" / "Weights"


@pytest.fixture
def user(panel, qtbot, slicer_session):
    user = User(panel, qtbot)
    user.choose_pair(make_pair(slicer_session.scene))
    user.wait_for_answer()
    return user


def test_each_runs(user):
    """One after another in one worker, into the same nodes; a network that is missing is said."""
    ui, p = user.ui, user.panel.parameters
    forward = None
    for name, text in METHODS.items():
        user.choose(ui.methodCombo, text.title)
        user.register()
        assert ui.runText.text.startswith("Registered in"), (name, ui.runText.text)
        quality = user.panel.quality()
        assert quality["parameters"]["method"] == name
        assert quality["similarity"]["after"]["ncc"] > quality["similarity"]["before"]["ncc"]
        assert forward is None or p.forward is forward
        forward = p.forward
        there = (SHIPPED / f"{name}-3d.pt").is_file()
        if name == "classical":
            assert "needs no trained weights" in ui.methodText.text
            assert "trained weights" not in ui.verdictText.text
            continue
        assert ("no trained weights" in ui.verdictText.text) == (not there), ui.verdictText.text
        if not there:
            assert "No trained weights come with it" in ui.methodText.text


@pytest.fixture(scope="module", params=["dio", "svf-r2net"])
def weights(request, tmp_path_factory) -> tuple[str, Path]:
    """A method, and what two steps of training have made of its network."""
    folder = tmp_path_factory.mktemp(request.param)
    method = ("--method", request.param, "--config", "small", "--steps", "2", "--device", "cpu")
    data = ("--data", "generated:shapes?size=16", "--dimension", "3")
    subprocess.run(
        [sys.executable, "-m", "DeepRegistrationLib", "train", *method, *data, "--out", str(folder / "run")],
        check=True,
        capture_output=True,
        timeout=400,
        env={**os.environ, "PYTHONPATH": str(MODULE_FILE.parent)},
    )
    return request.param, folder / "run" / "weights.pt"


def test_trained_weights_are_used(user, weights):
    """From the file dialog to the quality numbers; feature pictures come in colours."""
    name, path = weights
    ui, p = user.ui, user.panel.parameters
    user.choose(ui.methodCombo, METHODS[name].title)
    ui.weightsPath.setCurrentPath(str(path))
    assert "the file chosen below" in ui.methodText.text
    if name == "dio":
        user.click(ui.featuresCheck)
    user.register()
    assert ui.runText.text.startswith("Registered in"), ui.runText.text
    assert "no trained weights" not in ui.verdictText.text
    assert str(path) in str(user.panel.quality()["parameters"]["weights"])
    if name == "dio":
        for node, like in ((p.fixed_features, p.fixed), (p.moving_features, p.moving)):
            assert node.GetImageData().GetNumberOfScalarComponents() == 3
            assert node.GetImageData().GetScalarTypeAsString() == "unsigned char"
            assert slicer.util.arrayFromVolume(node).std() > 5 and node.GetName() != like.GetName()
            display = node.GetDisplayNode()
            assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 255)
    other = next(title for key, title in ((k, t.title) for k, t in METHODS.items()) if key != name)
    user.choose(ui.methodCombo, other)
    user.register()
    assert "Registered" not in ui.runText.text and ui.runText.text.endswith("."), ui.runText.text


def test_a_weights_file_can_be_cleared_again(user, tmp_path):
    """By the key that deletes, letter by letter or all at once; what the line shows is what is used."""
    from PySide6.QtCore import Qt

    ui, p = user.ui, user.panel.parameters
    path = tmp_path / "w.pt"
    path.write_text("")
    line = slicer.util.findChildren(ui.weightsPath, className="QLineEdit")[0]
    ui.weightsPath.setCurrentPath(str(path))
    assert p.weights == str(path) and "the file chosen below" in ui.methodText.text
    user.bot.keyClick(line, Qt.Key_Backspace)
    assert p.weights == str(path)[:-1] and "does not exist" in ui.registerButton.toolTip
    for _ in range(len(p.weights)):
        user.bot.keyClick(line, Qt.Key_Backspace)
    assert ui.weightsPath.currentPath == "" and p.weights == ""
    assert "the file chosen below" not in ui.methodText.text
    ui.weightsPath.setCurrentPath(str(path))
    line.clear()
    assert p.weights == "" and ui.weightsPath.currentPath == ""


def test_typing_in_the_middle_of_a_path_stays_there(user, tmp_path):
    from PySide6.QtCore import Qt

    line = slicer.util.findChildren(user.ui.weightsPath, className="QLineEdit")[0]
    user.ui.weightsPath.setCurrentPath("/somewhere/w.pt")
    line.setCursorPosition(3)
    user.bot.keyClick(line, Qt.Key_X)
    assert user.panel.parameters.weights == "/soxmewhere/w.pt" and line.cursorPosition == 4
