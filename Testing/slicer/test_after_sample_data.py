"""The sample pair: made in a process of its own, and loaded whole."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import vtk
from DeepRegistrationLib.demo.label_names import LABEL_NAMES
from DeepRegistrationLib.demo.pair import demo_pair
from DeepRegistrationLib.errors import NotAvailableError
from DeepRegistrationScene.sample_data import sample_pair
from scene_support import RAS, contents
from vtk.util.numpy_support import vtk_to_numpy

pytestmark = pytest.mark.skipif(os.name != "posix", reason="scripts of the shell stand for Python")


def test_the_pair_comes_whole(scene) -> None:
    nodes = sample_pair(sys.executable)
    pair = demo_pair()
    for side in ("fixed", "moving"):
        volume, expected = nodes[side], getattr(pair, side)
        array = vtk_to_numpy(volume.GetImageData().GetPointData().GetScalars()).reshape(expected.frame.shape)
        assert np.abs(array - expected.data[0].numpy()).max() < 1e-2 * float(expected.data.max())
        matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        there = matrix.MultiplyPoint((3, 4, 5, 1))
        assert np.allclose(there, RAS @ expected.frame.index_to_world @ [3, 4, 5, 1], atol=1e-3)
        markups, points = nodes[f"{side}_landmarks"], getattr(pair, f"{side}_landmarks").numpy()
        names = [markups.GetNthControlPointLabel(k) for k in range(markups.GetNumberOfControlPoints())]
        assert tuple(names) == pair.landmark_names
        found = np.array([markups.GetNthControlPointPositionWorld(k) for k in range(len(names))])
        assert np.abs(found * (-1, -1, 1) - points).max() < 1e-3
        segmentation = nodes[f"{side}_labels"].GetSegmentation()
        segments = [segmentation.GetNthSegment(k) for k in range(segmentation.GetNumberOfSegments())]
        assert [s.GetName() for s in segments] == list(LABEL_NAMES.values())
        image = segments[4].GetRepresentation("Binary labelmap")
        labels = vtk_to_numpy(image.GetPointData().GetScalars())
        mine = getattr(pair, f"{side}_labels").data.numpy()
        assert (labels == segments[4].GetLabelValue()).sum() == (mine == 5).sum() > 0


def test_without_torch_a_sentence_and_nothing_else(scene, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = contents(scene)
    with pytest.raises(NotAvailableError, match="PyTorch, which is not installed"):
        sample_pair(sys.executable)
    with pytest.raises(NotAvailableError, match="could not be made"):
        sample_pair(str(tmp_path / "no-python"))
    assert contents(scene) == before


def test_a_process_that_dies_is_told_as_what_it_is(scene, tmp_path: Path) -> None:
    """Also behind a launcher, which turns every death into code 1."""
    program = tmp_path / "python"
    for script, reason in (
        ("kill -9 $$", "want of memory"),
        ("echo 'error: [python-real] exit abnormally - Report the problem.' >&2; exit 1", "want of memory"),
        ("echo 'deepregistration: error: The disk is full.' >&2; exit 1", "made: The disk is full."),
        ("exit 5", "(code 5)"),
    ):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        with pytest.raises(NotAvailableError) as caught:
            sample_pair(str(program))
        assert str(caught.value).startswith("The sample images could not be made")
        assert reason in str(caught.value), caught.value


def test_somebody_hears_that_it_is_still_going_on(scene, tmp_path: Path) -> None:
    """And can end it: the process does not outlive the exception."""
    program, heard = tmp_path / "python", []
    program.write_text('#!/bin/sh\necho $$ > "$(dirname "$0")/pid"; exec sleep 60\n')
    program.chmod(0o755)

    def alive() -> None:
        heard.append(1)
        if (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().strip():
            raise NotAvailableError("Enough.")

    with pytest.raises(NotAvailableError, match="Enough"):
        sample_pair(str(program), alive=alive)
    assert heard
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
