"""The stand-in application can be started, used and ended, again and again."""

from __future__ import annotations

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import numpy as np
import slicer


@pytest.mark.parametrize("turn", range(2))
def test_a_session_has_a_scene_views_and_logics(slicer_session, turn):
    assert slicer.mrmlScene is slicer_session.scene
    volume = slicer.util.addVolumeFromArray(np.arange(27.0).reshape(3, 3, 3), name="volume")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == volume.GetID()
    assert slicer.modules.volumes.logic().GetMRMLScene() is slicer.mrmlScene
    assert slicer.util.confirmOkCancelDisplay("Really?")
    slicer.util.errorDisplay("No.")
    assert slicer_session.messages.texts == ["Really?", "No."]
    with pytest.raises(AttributeError):
        slicer.modules.nosuchmodule  # noqa: B018


@pytest.mark.parametrize(
    ("name", "kind", "load"),
    [
        ("scene.mrb", None, "loadScene"),
        ("image.nrrd", "vtkMRMLScalarVolumeNode", "loadVolume"),
        ("labels.nii.gz", "vtkMRMLLabelMapVolumeNode", "loadLabelVolume"),
        ("matrix.h5", "vtkMRMLLinearTransformNode", "loadTransform"),
        ("points.mrk.json", "vtkMRMLMarkupsFiducialNode", "loadMarkups"),
    ],
)
def test_files_are_saved_and_loaded(slicer_session, tmp_path, name, kind, load):
    scene, path = slicer_session.scene, str(tmp_path / name)
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    if kind is None:
        slicer.util.addVolumeFromArray(array, name="kept")
        assert slicer.util.saveScene(path)
        scene.Clear(False)
        assert scene.GetFirstNodeByName("kept") is None
        slicer.util.loadScene(path)
        assert np.array_equal(slicer.util.array("kept"), array)
        return
    if "Volume" in kind:
        node = slicer.util.addVolumeFromArray(array, nodeClassName=kind)
    else:
        node = scene.AddNewNodeByClass(kind)
    if kind == "vtkMRMLMarkupsFiducialNode":
        node.AddControlPoint(1.0, 2.0, 3.0)
    assert slicer.util.saveNode(node, path)
    loaded = getattr(slicer.util, load)(path)
    assert loaded is not node and loaded.GetClassName() in (kind, "vtkMRMLTransformNode")
    if "Volume" in kind:
        assert np.array_equal(slicer.util.arrayFromVolume(loaded), array)
    elif kind == "vtkMRMLMarkupsFiducialNode":
        assert slicer.util.arrayFromMarkupsControlPoints(loaded).tolist() == [[1.0, 2.0, 3.0]]
