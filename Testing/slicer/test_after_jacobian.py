"""Determinants against SimpleITK, formulas and the engine's fold count; and their colours."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import torch
import vtk
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.metrics import fold_statistics
from DeepRegistrationLib.registration import Registration
from DeepRegistrationScene.jacobian_volume import (
    FOLD_COLOUR,
    colour_node,
    colour_of,
    determinants,
    jacobian_volume,
    strongest_fold,
)
from DeepRegistrationScene.transform_nodes import transform_to_node
from scene_support import RAS, contents, frame, linear_node, nodes, placement, points_of, volume_node
from vtk.util.numpy_support import vtk_to_numpy

OBLIQUE = frame((26, 22, 18), (1.5, 2.0, 2.5), (-20.0, 15.0, -10.0), (0.3, 1.0, 0.2), 25, flip=1)
OTHER = frame((15, 17, 12), (2.5, 2.0, 3.0), (-14.0, -16.0, -9.0), (1.0, 0.1, 0.4), -14)


def waves(where, height: float = 2.0) -> np.ndarray:
    """A smooth displacement (z, y, x, 3), LPS mm."""
    p = points_of(where) - where.centre
    return height * np.stack([
        np.sin(p[..., 1] / 7 + 1) + np.cos(p[..., 2] / 9),
        np.sin(p[..., 0] / 8) * np.cos(p[..., 2] / 6),
        np.sin((p[..., 0] + p[..., 1]) / 9),
    ], -1)  # fmt: skip


def values_of(node) -> np.ndarray:
    image = node.GetImageData()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def test_oblique_field_agrees_with_simpleitk(scene) -> None:
    field = waves(OBLIQUE, 3.5)
    node = transform_to_node(field, OBLIQUE, "bend")
    values = values_of(jacobian_volume(node))
    # SimpleITK takes derivatives along the image's axes; so give it the vectors in those axes
    turn = np.asarray(OBLIQUE.direction)
    vectors = sitk.GetImageFromArray(field @ turn, isVector=True)
    vectors.SetSpacing(OBLIQUE.spacing)
    expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(vectors))
    assert values.min() > 0.2 and np.ptp(values) > 0.5
    inner = (slice(1, -1),) * 3
    assert np.abs(values - expected)[inner].max() < 1e-4


def test_volume_lies_where_the_transform_does(scene) -> None:
    volume = jacobian_volume(transform_to_node(waves(OBLIQUE), OBLIQUE, "bend"))
    to_ras = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(to_ras)
    found = np.array([[to_ras.GetElement(r, c) for c in range(4)] for r in range(4)])
    assert np.allclose(found, RAS @ OBLIQUE.index_to_world, atol=1e-9)
    assert volume.GetName() == "bend Jacobian"


@pytest.mark.parametrize("where", [OBLIQUE, OTHER])
def test_affine_field_has_its_determinant_everywhere(where) -> None:
    matrix = placement(10, (3.0, -2.0, 1.0))[:3, :3] @ np.diag([1.3, 0.7, 1.1])
    field = points_of(where) @ (matrix - np.eye(3)).T
    assert np.abs(determinants(field, where) - 1.3 * 0.7 * 1.1).max() < 1e-5
    mirror = points_of(where) @ (np.diag([-1.0, 1.0, 1.0]) - np.eye(3)).T
    assert np.allclose(determinants(mirror, where), -1)


def test_slabs_join(monkeypatch: pytest.MonkeyPatch) -> None:
    field = waves(OBLIQUE, 6.0)
    whole = determinants(field, OBLIQUE)
    monkeypatch.setattr("DeepRegistrationScene.jacobian_volume._SLAB", 1)
    assert np.array_equal(determinants(field, OBLIQUE), whole)


def test_single_slice_counts_as_not_deformed_across() -> None:
    flat = frame((12, 10, 1), (1.0, 1.0, 4.0), (0.0, 0.0, 0.0), (0, 0, 1), 0)
    field = points_of(flat) * (0.5, 0.0, 0.0)
    assert np.allclose(determinants(field, flat), 1.5)


def test_folds_are_those_of_the_quality_numbers() -> None:
    rng = np.random.default_rng(3)
    field = rng.normal(0, 0.9, (*OBLIQUE.shape, 3)).astype(np.float32)
    values = determinants(field, OBLIQUE)
    statistics = fold_statistics(Field.from_mm(torch.from_numpy(field), OBLIQUE))
    assert 1 < statistics["folds_percent"] < 90
    assert 100 * (values <= 0).mean() == pytest.approx(statistics["folds_percent"], abs=0.02)
    assert values.min() == pytest.approx(statistics["determinant_min"], rel=1e-3)


def test_the_engine_hands_over_the_same() -> None:
    drawn = np.random.default_rng(5).normal(0, 0.7, (*OBLIQUE.shape, 3))
    for field in (waves(OBLIQUE), drawn):
        values = determinants(field, OBLIQUE)
        result = Registration(
            None, None, Field.from_mm(torch.from_numpy(field).float(), OBLIQUE), None, None, {}
        )
        assert np.abs(values - result.jacobian().data[0].numpy()).max() < 1e-3


def test_other_transforms_are_measured_on_a_reference(scene) -> None:
    reference = volume_node(scene, np.zeros(OTHER.shape, np.float32), OTHER)
    linear = linear_node(scene, np.diag([2.0, 1.0, 1.0, 1.0]))
    values = values_of(jacobian_volume(linear, reference))
    assert values.shape == OTHER.shape and np.allclose(values, 0.5, atol=1e-4)  # from fixed to moving points
    with pytest.raises(InputError, match="choose an image"):
        jacobian_volume(linear)
    with pytest.raises(InputError, match="choose one"):
        jacobian_volume(None)
    grid = transform_to_node(points_of(OBLIQUE) * 0.1, OBLIQUE, "grow")
    inside = values_of(jacobian_volume(grid, reference))[4:-4, 5:-5, 5:-5]
    assert np.abs(inside - 1.1**3).max() < 1e-3


def test_a_given_node_is_filled(scene) -> None:
    bend = transform_to_node(waves(OBLIQUE), OBLIQUE, "bend")
    given = volume_node(scene, np.zeros(OTHER.shape, np.float32), OTHER, name="mine")
    linear_node(scene, placement(5, (1, 2, 3)), given)
    assert jacobian_volume(bend, node=given) is given
    assert given.GetName() == "mine" and given.GetParentTransformNode() is None
    assert values_of(given).shape == OBLIQUE.shape
    before = contents(scene)
    labels = volume_node(scene, np.zeros(OTHER.shape, np.uint8), OTHER, kind="LabelMap")
    with pytest.raises(InputError, match="scalar volume"):
        jacobian_volume(bend, node=labels)
    scene.RemoveNode(labels)
    assert contents(scene) == before


def test_the_strongest_fold_is_found_in_the_world(scene) -> None:
    field = np.zeros((*OBLIQUE.shape, 3))
    field[9, 12, 14] = np.asarray(OBLIQUE.direction)[:, 0] * 4.0  # past its neighbour along x
    volume = jacobian_volume(transform_to_node(field, OBLIQUE, "fold"))
    value, place = strongest_fold(volume)
    lps = OBLIQUE.index_to_world @ [14, 12, 9, 1]
    assert value == pytest.approx(1 - 4 / 1.5, abs=1e-4)
    assert np.linalg.norm(place - RAS[:3, :3] @ lps[:3]) <= 1.5 + 1e-6


def test_colours() -> None:
    assert colour_of(1.0) == (1.0, 1.0, 1.0)
    for value in (0.5, 0.7, 0.9):
        red, _, blue = colour_of(value)
        opposite = colour_of(1 / value)
        assert blue > red and opposite[0] > opposite[2]
    assert colour_of(0.0) == colour_of(-3.0) == FOLD_COLOUR
    assert all(np.linalg.norm(np.subtract(colour_of(v), FOLD_COLOUR)) > 0.3 for v in np.linspace(0.01, 3, 99))


def test_the_scene_shows_them(scene) -> None:
    field = np.zeros((*OBLIQUE.shape, 3))
    field[9, 12, 14] = np.asarray(OBLIQUE.direction)[:, 0] * 4.0
    bend = transform_to_node(field, OBLIQUE, "fold")
    volume = jacobian_volume(bend)
    display = volume.GetDisplayNode()
    assert display.GetColorNode() is colour_node() and not display.GetAutoWindowLevel()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.0, 2.0)
    before = len(nodes(scene))
    jacobian_volume(bend, node=volume)
    assert len(nodes(scene)) == before  # colours are made once
    display.SetInputImageDataConnection(volume.GetImageDataConnection())
    output = display.GetOutputImageDataConnection()
    output.GetProducer().Update()
    shown = output.GetProducer().GetOutputDataObject(output.GetIndex())
    pixels = vtk_to_numpy(shown.GetPointData().GetScalars()).reshape(*OBLIQUE.shape, -1)[..., :3] / 255
    values = values_of(volume)
    assert np.abs(pixels[values <= 0] - FOLD_COLOUR).max() < 0.01
    assert np.abs(pixels[np.abs(values - 1) < 1e-4] - 1).max() < 0.02
    assert slicer.mrmlScene is scene
