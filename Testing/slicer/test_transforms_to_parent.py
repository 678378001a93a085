"""Grid transforms to parent, as Slicer saves them: refused, and read once converted as the sentence says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slicer
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.transform_files import read_transform_file
from DeepRegistrationScene.transform_nodes import grid_transform
from scene_support import volume_node

FRAME = Frame.regular((12, 11, 10), 2.0)


def _saved(node, path: Path) -> Path:
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    return path


@pytest.mark.parametrize("extension", ["h5", "nrrd"])
def test_refused_as_saved_and_read_as_converted(scene, tmp_path: Path, extension: str) -> None:
    shift = np.zeros((*FRAME.shape, 3))
    shift[..., 0] = 3.0
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "to parent")
    node.SetAndObserveTransformToParent(grid_transform(shift, FRAME))
    with pytest.raises(InputError, match="section Convert"):
        read_transform_file(_saved(node, tmp_path / f"to.{extension}"))
    reference = volume_node(scene, np.zeros(FRAME.shape, np.float32), FRAME)
    logic = slicer.vtkSlicerTransformLogic()
    logic.SetMRMLScene(scene)
    converted = logic.ConvertToGridTransform(node, reference)
    logic.SetMRMLScene(None)
    transform = read_transform_file(_saved(converted, tmp_path / f"from.{extension}"))
    assert np.allclose(transform.TransformPoint((0.0, 0.0, 0.0)), (-3, 0, 0), atol=0.01)
