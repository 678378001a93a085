"""The sample pair: made in a process of its own, loaded whole, registered once with Sample Data."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import vtk
from DeepRegistrationLib.demo.label_names import LABEL_NAMES
from DeepRegistrationLib.demo.pair import demo_pair
from DeepRegistrationLib.errors import NotAvailableError
from DeepRegistrationScene.sample_data import CATEGORY, SAMPLE, register_sample_data, sample_pair
from scene_support import RAS, contents
from vtk.util.numpy_support import vtk_to_numpy

ICONS = Path(__file__).resolve().parents[2] / "DeepRegistration" / "Resources" / "Icons"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sample Data, which keeps sources of lists of one length."""
    sources: dict[str, list] = {}

    class SampleDataLogic:
        @staticmethod
        def sampleDataSourcesByCategory(category: str) -> list:
            return sources.get(category, [])

        @staticmethod
        def registerCustomSampleDataSource(
            category="Custom",
            sampleName=None,
            uris=None,
            fileNames=None,
            thumbnailFileName=None,
            customDownloader=None,
        ) -> None:
            assert len(uris) == len(fileNames)
            source = SimpleNamespace(
                sampleName=sampleName, thumbnailFileName=thumbnailFileName, customDownloader=customDownloader
            )
            sources.setdefault(category, []).append(source)

    monkeypatch.setitem(sys.modules, "SampleData", SimpleNamespace(SampleDataLogic=SampleDataLogic))
    return sources


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


def test_registered_once(scene, module) -> None:
    assert register_sample_data(ICONS) and register_sample_data(ICONS)
    (source,) = module[CATEGORY]
    assert source.sampleName == SAMPLE and Path(source.thumbnailFileName).is_file()


def test_without_the_module(scene, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "SampleData", None)
    assert register_sample_data(ICONS) is False


def test_a_failure_is_told(scene, module, monkeypatch) -> None:
    def fail(*_: Any) -> None:
        raise NotAvailableError("No torch.")

    monkeypatch.setattr("DeepRegistrationScene.sample_data._make", fail)
    told: list[str] = []
    register_sample_data(ICONS, told.append)
    assert module[CATEGORY][0].customDownloader(module[CATEGORY][0]) == [] and told == ["No torch."]
