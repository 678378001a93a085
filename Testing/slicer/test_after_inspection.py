"""Slice views compare two images, show grid and Jacobian, and come back as they were; checked by pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import slicer
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame
from DeepRegistrationScene.inspection import (
    CHECKERBOARD,
    Inspection,
    grid_spacing,
    jump,
    show_grid,
)
from DeepRegistrationScene.jacobian_volume import FOLD_COLOUR, jacobian_volume
from DeepRegistrationScene.transform_nodes import transform_to_node
from scene_support import frame, linear_node, nodes, placement, points_of, volume_node
from vtk.util.numpy_support import vtk_to_numpy

WHERE = frame((60, 60, 40), (2.0, 2.0, 3.0), (-59.0, -59.0, -58.5), (0, 0, 1), 0)
SIZE = 200
"""Pixels of a view; with a field of view of as many mm, one pixel a mm."""


class View:
    """A slice view without a window."""

    def __init__(self, scene, name: str, orientation: str) -> None:
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLScene(scene)
        self.logic.AddSliceNode(name)
        self.slice, self.layers = self.logic.GetSliceNode(), self.logic.GetSliceCompositeNode()
        getattr(self.slice, f"SetOrientationTo{orientation}")()
        self.slice.SetDimensions(SIZE, SIZE, 1)
        self.slice.SetFieldOfView(SIZE, SIZE, 1)

    def picture(self) -> np.ndarray:
        """(height, width, 4), the first row at the bottom."""
        self.logic.UpdatePipeline()
        connection = self.logic.GetImageDataConnection()
        producer = connection.GetProducer()
        producer.Update()
        image = producer.GetOutputDataObject(connection.GetIndex())
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1).copy()


@pytest.fixture
def views(scene) -> Iterator[list[View]]:
    made = [
        View(scene, name, o) for name, o in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal"))
    ]
    yield made
    for view in made:
        view.logic.SetMRMLScene(None)


def ball(scene, name: str, centre: tuple, where: Frame = WHERE, bright: float = 100.0):
    values = bright * np.exp(-((np.linalg.norm(points_of(where) - centre, axis=-1) / 12) ** 2))
    node = volume_node(scene, values.astype(np.float32), where, name=name)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(0, bright)
    return node


def bright_spot(picture: np.ndarray) -> np.ndarray:
    """Centre of mass of the brightness, (column, row), pixels."""
    grey = picture[..., 0].astype(float)
    rows, columns = np.indices(grey.shape)
    return np.array([(grey * columns).sum(), (grey * rows).sum()]) / grey.sum()


def state_of(view: View) -> tuple:
    layers = view.layers
    return (
        layers.GetBackgroundVolumeID(),
        layers.GetForegroundVolumeID(),
        layers.GetForegroundOpacity(),
        layers.GetLabelVolumeID(),
        layers.GetCompositing(),
    )


def test_five_millimetres_move_the_picture_by_five(scene, views) -> None:
    fixed, moving = ball(scene, "fixed", (0, 0, 0)), ball(scene, "moving", (0, 0, 0))
    Inspection().blend(fixed, moving, 1.0)
    before = bright_spot(views[0].picture())
    # every fixed point takes what lies 5 mm to its left (LPS +x): the picture moves to the patient's right
    shift = np.broadcast_to(np.array([5.0, 3.0, 0.0]), (*WHERE.shape, 3))
    forward = transform_to_node(shift, WHERE, "shift")
    moving.SetAndObserveTransformNodeID(forward.GetID())
    moved = bright_spot(views[0].picture()) - before
    # axial, seen from the feet: the patient's right is on the left, the front is up
    assert moved == pytest.approx([-5, 3], abs=0.15)


def test_blend_and_flicker(scene, views) -> None:
    fixed, warped = ball(scene, "fixed", (-20, 0, 0)), ball(scene, "warped", (20, 0, 0))
    inspection = Inspection()
    inspection.blend(fixed, warped, 0.5)
    both = views[0].picture()[..., 0].astype(int)
    inspection.flicker(fixed, warped)
    first = views[0].picture()[..., 0].astype(int)
    inspection.flick()
    second = views[0].picture()[..., 0].astype(int)
    inspection.flick()
    again = views[0].picture()[..., 0].astype(int)
    assert np.array_equal(first, again)
    assert bright_spot(first[..., None])[0] < 90 < 110 < bright_spot(second[..., None])[0]
    assert np.abs(both - (first + second) / 2).max() <= 2
    assert inspection.mode == "flicker"
    inspection.blend(fixed, warped)
    inspection.flick()
    assert views[0].layers.GetForegroundOpacity() == 0.5  # only a flicker flicks


def test_checkerboard_shows_both_in_turn(scene, views) -> None:
    turned = frame((50, 64, 44), (2.2, 1.9, 2.8), (-50.0, -62.0, -60.0), (0, 1, 1), 0)
    fixed = volume_node(scene, np.full(WHERE.shape, 30, np.int16), WHERE, name="fixed")
    warped = volume_node(scene, np.full(turned.shape, -5.0, np.float32), turned, name="warped")
    for node, low, high in ((fixed, 0, 60), (warped, -7, -4.5)):
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(low, high)
    before = nodes(scene)
    inspection = Inspection()
    inspection.checkerboard(fixed, warped, squares=6)
    views[0].slice.SetSliceOffset(10)
    picture = views[0].picture()[..., 0]
    # 120 mm over 6 squares: 20 mm each, from LPS -60 (left and top); the view's middle is at 0
    assert set(np.unique(picture[50:150, 50:150])) >= {127, 204}  # a half and four fifths of 255
    for column, row in ((0, 0), (1, 0), (0, 1), (2, 1), (1, 1), (5, 3)):
        top, left = 160 - 20 * row, 40 + 20 * column
        patch = picture[top - 14 : top - 6, left + 6 : left + 14]
        # the slice at 10 mm goes through the fourth layer of cubes
        assert (patch == (127 if (column + row + 3) % 2 == 0 else 204)).all()
    own = [scene.GetNodeByID(i) for i in nodes(scene) if i not in before]
    volume = next(n for n in own if n.GetName().startswith(CHECKERBOARD))
    assert volume.GetHideFromEditors() and not volume.GetSaveWithScene()
    inspection.end()
    left = [i for i in nodes(scene) if i not in before]
    assert not any("Volume" in scene.GetNodeByID(i).GetClassName() for i in left)


def test_checkerboard_follows_transforms_and_changes(scene, views) -> None:
    fixed, moving = ball(scene, "fixed", (0, 0, 0)), ball(scene, "moving", (0, 0, 0))
    ras = placement(20, (4.0, -6.0, 5.0))
    for node in (fixed, moving):
        linear_node(scene, ras, node)
    inspection = Inspection()
    inspection.checkerboard(fixed, moving)
    same = views[0].picture()
    inspection.blend(fixed, moving, 0.0)
    # identical images in a checkerboard look like either of them
    assert np.abs(views[0].picture()[..., 0].astype(int) - same[..., 0]).max() <= 2 and same.max() > 200
    inspection.checkerboard(fixed, moving)
    moving.SetAndObserveTransformNodeID(None)
    inspection.refresh()
    assert np.abs(views[0].picture()[..., 0].astype(int) - same[..., 0]).max() > 50


def test_views_come_back(scene, views) -> None:
    fixed, warped, other = (ball(scene, n, (0, 0, 0)) for n in ("fixed", "warped", "other"))
    labels = volume_node(scene, np.ones(WHERE.shape, np.uint8), WHERE, kind="LabelMap", name="labels")
    views[0].layers.SetBackgroundVolumeID(other.GetID())
    views[0].layers.SetLabelVolumeID(labels.GetID())
    views[1].layers.SetForegroundVolumeID(warped.GetID())
    views[1].layers.SetForegroundOpacity(0.3)
    views[1].layers.SetCompositing(slicer.vtkMRMLSliceCompositeNode.Add)
    before = [state_of(v) for v in views]
    count = len(nodes(scene))
    inspection = Inspection()
    for mode in (inspection.blend, inspection.checkerboard, inspection.flicker, inspection.checkerboard):
        mode(fixed, warped)
        assert [state_of(v) for v in views] != before
        assert views[0].layers.GetLabelVolumeID() == labels.GetID()
    inspection.end()
    assert [state_of(v) for v in views] == before and inspection.mode == "none" and len(nodes(scene)) == count
    inspection.end()
    assert [state_of(v) for v in views] == before


def test_views_come_back_without_what_was_deleted(scene, views) -> None:
    fixed, warped, other = (ball(scene, n, (0, 0, 0)) for n in ("fixed", "warped", "other"))
    views[0].layers.SetBackgroundVolumeID(other.GetID())
    inspection = Inspection()
    inspection.checkerboard(fixed, warped)
    scene.RemoveNode(other)
    scene.RemoveNode(warped)
    inspection.refresh()
    inspection.end()
    assert views[0].layers.GetBackgroundVolumeID() is None
    with pytest.raises(InputError, match="register first"):
        inspection.blend(fixed, warped)
    with pytest.raises(InputError):
        inspection.checkerboard(fixed, None)


def test_end_after_the_scene_was_closed(scene, views) -> None:
    fixed, warped = ball(scene, "fixed", (0, 0, 0)), ball(scene, "warped", (0, 0, 0))
    inspection = Inspection()
    inspection.checkerboard(fixed, warped)
    scene.Clear(False)
    inspection.end()
    assert inspection.mode == "none"


def test_jacobian_over_the_image(scene, views) -> None:
    fixed = ball(scene, "fixed", (0, 0, 0))
    field = np.zeros((*WHERE.shape, 3))
    x = points_of(WHERE)[..., 0]
    field[..., 0] = np.where(x > 20, -0.5 * (x - 20), 0) + np.where(x < -20, -1.5 * (x + 20), 0)
    volume = jacobian_volume(transform_to_node(field, WHERE, "bend"))
    inspection = Inspection()
    inspection.jacobian(fixed, volume, opacity=1.0)
    row = views[0].picture()[100, :, :3] / 255
    left, middle, right = row[100 + 40], row[100], row[100 - 40]  # the patient's left is on the right
    assert left[2] > 0.6 and left[0] < 0.3  # half the volume: blue
    assert np.abs(middle - 1).max() < 0.02
    assert np.abs(right - FOLD_COLOUR).max() < 0.02
    assert inspection.mode == "jacobian"


def test_grid_on_and_off(scene) -> None:
    fixed = ball(scene, "fixed", (0, 0, 0))
    transform = transform_to_node(np.zeros((*WHERE.shape, 3)), WHERE, "bend")
    show_grid(transform, False)
    assert transform.GetDisplayNode() is None  # nothing is made to be hidden
    show_grid(transform, True, fixed)
    display = transform.GetDisplayNode()
    assert display.GetVisibility() and display.GetVisibility2D() and not display.GetVisibility3D()
    assert display.GetVisualizationMode() == display.VIS_MODE_GRID
    assert display.GetGridSpacingMm() == grid_spacing(WHERE) == 5.0
    count = len(nodes(scene))
    show_grid(transform, False)
    assert not display.GetVisibility()
    show_grid(transform, True, fixed)
    assert transform.GetDisplayNode() is display and len(nodes(scene)) == count


@pytest.mark.parametrize(("side", "spacing"), [(24, 1), (120, 5), (480, 20), (9, 0.5), (1200, 50)])
def test_grid_spacing(side: float, spacing: float) -> None:
    assert grid_spacing(Frame.regular((10, 8, 5), side / 10)) == pytest.approx(spacing)


def test_jump(scene, views) -> None:
    crosshair = scene.AddNode(slicer.vtkMRMLCrosshairNode())
    jump((12.0, -7.0, 20.0))
    for view in views:
        to_ras = view.slice.GetSliceToRAS()
        assert [to_ras.GetElement(r, 3) for r in range(3)] == pytest.approx([12, -7, 20])
    assert crosshair.GetCrosshairRAS() == (12, -7, 20)
