"""How two images lie to each other, in numbers, words and a picture."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import vtk
from DeepRegistrationLib.frame import Frame
from DeepRegistrationScene.overlap import FIXED_COLOUR, MOVING_COLOUR, overlap
from DeepRegistrationScene.transform_nodes import transform_to_node
from scene_support import frame, linear_node, placement, points_of, volume_node


def ball(where: Frame, centre: tuple = (0.0, 0.0, 0.0), radius: float = 20.0) -> np.ndarray:
    return (np.linalg.norm(points_of(where) - centre, axis=-1) < radius).astype(np.int16) * 100


def cube(side: int, spacing: float, centre: tuple, axis: tuple = (0, 0, 1), degrees: float = 0) -> Frame:
    plain = frame((side,) * 3, (spacing,) * 3, (0, 0, 0), axis, degrees)
    middle = plain.centre
    return frame((side,) * 3, (spacing,) * 3, tuple(np.asarray(centre) - middle), axis, degrees)


def node_of(scene, where: Frame, name: str, **kwargs):
    return volume_node(scene, ball(where, tuple(where.centre)), where, name=name, **kwargs)


def test_share_of_boxes(scene) -> None:
    fixed = node_of(scene, cube(40, 2.0, (0, 0, 0)), "CT")
    half = node_of(scene, cube(40, 2.0, (40, 0, 0)), "MR")
    inside = node_of(scene, cube(20, 2.0, (5, 2, 0), (1, 2, 3), 30), "small")
    assert overlap(fixed, half).share == pytest.approx(0.5, abs=0.03)
    assert overlap(half, fixed).share == pytest.approx(0.5, abs=0.03)
    assert overlap(fixed, inside).share == overlap(inside, fixed).share == 1
    assert overlap(fixed, half).warnings == () and overlap(fixed, half).usable


def test_share_of_oblique_boxes_against_simpleitk(scene) -> None:
    a, b = cube(40, 2.0, (0, 0, 0), (1, 0, 0), 20), cube(30, 2.5, (25, -20, 10), (0, 1, 1), -35)
    filled = sitk.GetImageFromArray(np.ones(b.shape, np.uint8))
    filled.SetSpacing(b.spacing)
    filled.SetOrigin(b.origin)
    filled.SetDirection(np.ravel(b.direction).tolist())
    grid = sitk.Image(a.size, sitk.sitkUInt8)
    grid.SetSpacing(a.spacing)
    grid.SetOrigin(a.origin)
    grid.SetDirection(np.ravel(a.direction).tolist())
    both = sitk.GetArrayFromImage(sitk.Resample(filled, grid, sitk.Transform(), sitk.sitkNearestNeighbor))
    expected = both.sum() * 8.0 / min(np.prod(a.extent), np.prod(b.extent))
    found = overlap(node_of(scene, a, "a"), node_of(scene, b, "b")).share
    assert 0.1 < expected < 0.9 and found == pytest.approx(expected, abs=0.02)


def test_apart(scene) -> None:
    fixed = node_of(scene, cube(20, 2.0, (0, 0, 0)), "CT")
    moving = node_of(scene, cube(20, 2.0, (0, 300, 400)), "MR")
    found = overlap(fixed, moving)
    assert found.share == 0 and found.usable
    assert found.warnings[0].startswith("CT and MR do not overlap: their centres are 500 mm apart.")
    linear_node(scene, np.array([[1, 0, 0, 0], [0, 1, 0, 300], [0, 0, 1, -400], [0, 0, 0, 1.0]]), moving)
    assert overlap(fixed, moving).share == 1  # where it is seen is what counts


def test_little(scene) -> None:
    found = overlap(
        node_of(scene, cube(20, 2.0, (0, 0, 0)), "CT"), node_of(scene, cube(20, 2.0, (33, 0, 0)), "MR")
    )
    assert found.warnings[0].startswith("Only 18 %") and found.usable


def test_what_cannot_be_used(scene) -> None:
    where = cube(20, 2.0, (0, 0, 0))
    fixed = node_of(scene, where, "CT")
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    bent = node_of(scene, where, "bent")
    bend = transform_to_node(np.zeros((*where.shape, 3)), where, "bend")
    bent.SetAndObserveTransformNodeID(bend.GetID())
    colours = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "RGB")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colours.SetAndObserveImageData(image)
    for other, words in (
        (empty, "empty is empty"),
        (bent, "bent lies under the deformable transform bend"),
        (colours, "RGB has 3 values in each voxel"),
        (fixed, "The same volume is chosen twice"),
    ):
        found = overlap(fixed, other)
        assert (
            words in found.warnings[0] and not found.usable and found.share is None and found.picture is None
        )
    assert overlap(fixed, bent, (bend,)).usable  # a result of an earlier run


def test_choices_not_made_yet(scene) -> None:
    nothing = overlap(None, None)
    assert not nothing.usable and nothing.warnings == () and nothing.picture is None
    one = overlap(node_of(scene, cube(20, 2.0, (0, 0, 0)), "CT"), None)
    assert not one.usable and one.warnings == () and one.picture is not None


def test_suspicious_geometry(scene) -> None:
    fine = node_of(scene, cube(40, 2.0, (0, 0, 0)), "CT")
    slice_ = node_of(scene, frame((40, 40, 1), (2, 2, 2), (-40, -40, 0), (0, 0, 1), 0), "slice")
    assert any("slice is a single slice" in w for w in overlap(fine, slice_).warnings)
    thick = node_of(scene, frame((60, 60, 6), (1.1, 1.1, 11), (-30, -30, -30), (0, 0, 1), 0), "thick")
    assert any("10 times as long" in w for w in overlap(fine, thick).warnings)
    lost = node_of(scene, frame((60, 60, 60), (1, 1, 1), (0, 0, 0), (0, 0, 1), 0), "lost")
    assert any("geometry was lost" in w for w in overlap(fine, lost).warnings)
    large = node_of(scene, cube(40, 6.0, (0, 0, 0)), "large")
    assert any("large covers 27 times the volume of CT" in w for w in overlap(fine, large).warnings)
    flat = volume_node(scene, np.full((20, 20, 20), 7, np.int16), cube(20, 3.0, (0, 0, 0)), name="flat")
    assert any("All voxels of flat have the same value" in w for w in overlap(fine, flat).warnings)


def test_the_picture_shows_each_where_it_is(scene) -> None:
    fixed = volume_node(scene, ball(cube(50, 2.0, (0, 0, 0)), (-30, -20, 25), 9), cube(50, 2.0, (0, 0, 0)))
    moving = volume_node(scene, ball(cube(50, 2.0, (0, 0, 0)), (30, 20, -25), 9), cube(50, 2.0, (0, 0, 0)))
    picture = overlap(fixed, moving).picture
    assert picture.dtype == np.uint8 and picture.shape == (144, 432, 3)

    def centre(panel: int, colour: tuple) -> tuple[float, float]:
        part = picture[8:-8, 144 * panel + 8 : 144 * (panel + 1) - 8].astype(float)
        other = MOVING_COLOUR if colour is FIXED_COLOUR else FIXED_COLOUR
        weight = part @ np.subtract(colour, other)
        rows, columns = np.nonzero(weight > 0.6 * weight.max())
        return rows.mean() + 8, columns.mean() + 8

    step = 144 / 104  # pixels a millimetre: a box of 100 mm and a little around it
    # LPS (-30, -20, 25): right, front, top; the patient's right (and front) on the picture's left
    for panel, (x, y) in enumerate(((-30, -20), (-30, -25), (-20, -25))):
        row, column = centre(panel, FIXED_COLOUR)
        assert abs(column - (72 + step * x)) < 4 and abs(row - (72 + step * y)) < 4
        row, column = centre(panel, MOVING_COLOUR)
        assert abs(column - (72 - step * x)) < 4 and abs(row - (72 - step * y)) < 4


def test_oblique_boxes_are_drawn_within_the_picture(scene) -> None:
    a, b = cube(30, 2.0, (0, 0, 0), (1, 1, 0), 40), cube(30, 1.0, (60, 40, -20), (0, 1, 1), -35)
    picture = overlap(node_of(scene, a, "a"), node_of(scene, b, "b")).picture
    for colour in (FIXED_COLOUR, MOVING_COLOUR):
        exact = (picture == (np.array(colour) * 255).astype(np.uint8)).all(-1)
        for panel in range(3):
            assert exact[:, 144 * panel : 144 * (panel + 1)].sum() > 60


def test_placement_counts(scene) -> None:
    where = cube(30, 2.0, (0, 0, 0))
    fixed, moving = node_of(scene, where, "CT"), node_of(scene, where, "MR")
    linear_node(scene, placement(0, (30.0, 0.0, 0.0)), moving)
    assert overlap(fixed, moving).share == pytest.approx(0.5, abs=0.03)
