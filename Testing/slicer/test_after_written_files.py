"""Slicer reads the transforms that the engine writes: a field with its linear part after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.transform_files import write_displacement_slabs
from DeepRegistrationScene.geometry import FLIP
from DeepRegistrationScene.transform_nodes import lattice_points, read_displacement

FRAME = Frame((14, 12, 11), (2.0, 2.4, 2.8), (-14.0, 12.0, -15.0), ((0.8, 0.6, 0), (0.6, -0.8, 0), (0, 0, 1)))
RESIDUAL_MM = 2.0


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """The file of a map, and its linear part: a turn and a shift by 60 mm."""
    linear = np.eye(4)
    c, s = np.cos(0.4), np.sin(0.4)
    linear[:2, :2], linear[0, 3] = [[c, -s], [s, c]], 60.0
    points = lattice_points(FRAME)
    bent = points + RESIDUAL_MM / 2 * np.sin(points / 9 + 1)
    displacement = bent @ linear[:3, :3].T + linear[:3, 3] - points
    write_displacement_slabs([displacement], FRAME, tmp_path / "forward.h5", linear)
    return tmp_path / "forward.h5", linear


def loaded(scene, path: Path):
    node, storage = slicer.vtkMRMLTransformNode(), slicer.vtkMRMLTransformStorageNode()
    scene.AddNode(node)
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node


def test_inside_as_simpleitk_and_outside_with_the_linear_part(scene, written) -> None:
    path, linear = written
    node, transform = loaded(scene, path), sitk.ReadTransform(str(path))
    ras = node.GetTransformFromParent()
    flip = FLIP[:3, :3]
    voxels = lattice_points(FRAME).reshape(-1, 3)[::17]
    for point in voxels.tolist():
        found = flip @ np.array(ras.TransformPoint(*(flip @ point)))
        assert np.abs(found - transform.TransformPoint(point)).max() < 1e-3
    centre = np.asarray(FRAME.centre)
    for point in centre + (FRAME.corners() - centre) * 1.5:
        expected = linear[:3, :3] @ point + linear[:3, 3]
        found = flip @ np.array(ras.TransformPoint(*(flip @ point)))
        assert np.linalg.norm(found - expected) < RESIDUAL_MM  # what the border does besides goes on
        assert np.linalg.norm(transform.TransformPoint(point.tolist()) - expected) < 1e-6


def test_the_module_reads_such_a_node(scene, written) -> None:
    path, _ = written
    field = read_displacement(loaded(scene, path), FRAME)
    transform = sitk.ReadTransform(str(path))
    points = lattice_points(FRAME).reshape(-1, 3)[::17]
    expected = np.array([transform.TransformPoint(p) for p in points.tolist()]) - points
    assert np.abs(field.reshape(-1, 3)[::17] - expected).max() < 1e-3
