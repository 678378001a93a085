"""Slicer's own self test of the module, as the application runs it."""

from __future__ import annotations

import os
import unittest

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import slicer
from harness.fixtures import MODULE_FILE


def outcome(session):
    module = session.load_module(MODULE_FILE)
    result = unittest.TestResult()
    module.python_classes.DeepRegistrationTest("runTest").run(result)
    assert result.testsRun == 1 and not result.failures and not result.errors, result.failures + result.errors
    return result


def test_it_passes(slicer_session):
    assert outcome(slicer_session).skipped == []
    assert slicer_session.messages.texts[-1] == "Test passed."
    assert len(slicer.util.getNodesByClass("vtkMRMLGridTransformNode")) == 2


def test_without_torch_it_is_left_out_with_a_sentence(slicer_session, monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert len(outcome(slicer_session).skipped) == 1
    assert "PyTorch" in slicer_session.messages.texts[-1]


def test_the_module_describes_itself(slicer_session):
    module = slicer_session.load_module(MODULE_FILE)
    assert module.title and module.helpText and module.categories == ["Registration"]
    assert not module.icon.isNull()
    assert any(source.category == "DeepRegistration" for source in slicer_session.samples.values())
