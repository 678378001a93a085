"""Nodes as arrays and back on a real scene: geometry, directions and signs against SimpleITK."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from DeepRegistrationLib.errors import InputError, OutputError
from DeepRegistrationLib.frame import Frame
from DeepRegistrationScene import changes as changes_module
from DeepRegistrationScene import volumes
from DeepRegistrationScene.geometry import frame_of_volume, world_matrix
from DeepRegistrationScene.segments import match_segments, read_labels, read_mask
from DeepRegistrationScene.transform_nodes import (
    grid_frame,
    matrix_of_displacement,
    read_displacement,
    read_matrix,
    transform_to_node,
    transformed,
)
from DeepRegistrationScene.volumes import read_volume, volume_to_node
from scene_support import (
    RAS,
    assert_agree,
    contents,
    frame,
    itk,
    itk_field,
    linear_node,
    markups_node,
    matrix,
    nodes,
    placement,
    points_of,
    segmentation_node,
    shown,
    volume_node,
)

PACKAGES = Path(__file__).parents[2] / "DeepRegistration"

FIXED = frame((30, 26, 22), (2.0, 2.2, 2.8), (-30.0, 25.0, -28.0), (0.3, 1.0, 0.2), 17, flip=1)
MOVING = frame((34, 24, 28), (1.7, 2.9, 2.1), (-26.0, -38.0, -25.0), (1.0, -0.2, 0.6), -23)


def picture(where: Frame, seed: int = 0) -> np.ndarray:
    """Smooth blobs in world space."""
    random = np.random.default_rng(seed)
    waves, phase = 0.12 * random.normal(size=(3, 9)), random.uniform(0, 6, 9)
    return (100 * np.cos(points_of(where) @ waves + phase).sum(-1)).astype(np.float32)


def bend(where: Frame) -> np.ndarray:
    """A different displacement along every axis, up to 6 mm, with every sign that matters."""
    x, y, z = np.moveaxis(points_of(where), -1, 0)
    mm = [3 + 2.5 * np.sin(y / 17), -2 + 2 * np.cos(z / 14), 1.5 * np.sin((x + y) / 19)]
    return np.stack(mm, -1).astype(np.float32)


def image_node(scene, where: Frame, seed: int = 0, name: str = "image"):
    return volume_node(scene, picture(where, seed), where, name=name)


def test_the_packages_need_no_torch() -> None:
    """Every module is imported in a process that has no torch."""
    names = [
        path.stem for path in (PACKAGES / "DeepRegistrationScene").glob("*.py") if path.stem != "__init__"
    ]
    assert len(names) > 10
    program = "; ".join([
        "import importlib, sys",
        "sys.modules['torch'] = None",
        f"[importlib.import_module('DeepRegistrationScene.' + name) for name in {names!r}]",
    ])  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGES, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_volume_geometry(scene) -> None:
    node = image_node(scene, MOVING)
    read = read_volume(node)
    assert read.frame.same_lattice(MOVING, 1e-9)
    assert np.array_equal(read.array, picture(MOVING))


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64])
def test_voxel_types(scene, dtype: type) -> None:
    array = (np.abs(picture(FIXED)) % 200).astype(dtype)
    read = read_volume(volume_node(scene, array, FIXED)).array
    assert read.dtype == dtype and np.array_equal(read, array)


def test_parent_transforms_become_geometry(scene) -> None:
    node = image_node(scene, MOVING)
    inner = linear_node(scene, placement(31, (5, -7, 9), 1.1), node)
    shear = np.eye(4)
    shear[0, 1] = 0.3
    linear_node(scene, shear, inner)
    read = frame_of_volume(node)
    assert node.GetParentTransformNode() is inner
    node.HardenTransform()
    to_ras = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(to_ras)
    for index in ((0, 0, 0), (33, 0, 0), (0, 23, 27), (5, 6, 7)):
        expected = np.asarray(to_ras.MultiplyPoint((*index, 1)))
        assert np.allclose(read.index_to_world @ (*index, 1), RAS @ expected, atol=1e-6)


def test_the_world_begins_at_a_result(scene) -> None:
    """What hangs under the result of a run is read as if it did not, whatever lies above."""
    node = image_node(scene, MOVING)
    inner = linear_node(scene, placement(31, (5, -7, 9)), node)
    grid = transform_to_node(bend(FIXED), FIXED, "result")
    inner.SetAndObserveTransformNodeID(grid.GetID())
    outer = linear_node(scene, placement(3, (1, 1, 1)))
    grid.SetAndObserveTransformNodeID(outer.GetID())
    assert np.allclose(world_matrix(node, [grid]), placement(31, (5, -7, 9)))
    with pytest.raises(InputError, match="deformable transform result"):
        world_matrix(node)


def test_unusable_volumes(scene) -> None:
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
    with pytest.raises(InputError, match="nothing is empty"):
        read_volume(empty)
    for wrong in (None, scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")):
        with pytest.raises(InputError):
            read_volume(wrong)
    colour = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colour")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colour.SetAndObserveImageData(image)
    with pytest.raises(InputError, match="3 values"):
        read_volume(colour)
    bent = image_node(scene, MOVING)
    grid = transform_to_node(bend(FIXED), FIXED, "bent by this")
    bent.SetAndObserveTransformNodeID(grid.GetID())
    with pytest.raises(InputError, match="deformable transform bent by this"):
        read_volume(bent)


@pytest.mark.parametrize("under_parents", [False, True])
def test_moving_image_under_the_grid_is_what_simpleitk_resamples(scene, under_parents: bool) -> None:
    fixed_node, moving_node = image_node(scene, FIXED, 1, "fixed"), image_node(scene, MOVING, 2, "moving")
    if under_parents:
        linear_node(scene, placement(9, (2, 3, -4)), fixed_node)
        linear_node(scene, placement(-12, (-3, 1, 2)), moving_node)
    fixed, moving = read_volume(fixed_node), read_volume(moving_node)
    field = bend(fixed.frame)
    node = transform_to_node(field, fixed.frame, "map", fixed=fixed_node, moving=moving_node)
    assert node.IsA("vtkMRMLGridTransformNode")
    expected = sitk.Resample(itk(*moving), itk(*fixed), itk_field(field, fixed.frame), sitk.sitkLinear, -1e9)
    if under_parents:
        moving_node.HardenTransform()
    moving_node.SetAndObserveTransformNodeID(node.GetID())
    assert_agree(shown(moving_node, fixed.frame), sitk.GetArrayFromImage(expected))
    roles = slicer.vtkMRMLTransformNode
    assert node.GetNodeReference(roles.GetMovingNodeReferenceRole()) is moving_node
    assert node.GetNodeReference(roles.GetFixedNodeReferenceRole()) is fixed_node


def test_hardening_the_moving_image(scene) -> None:
    """Slicer's own hardening resamples on the moving lattice: compared there."""
    node = image_node(scene, MOVING)
    whole = MOVING.resized(tuple(n + 2 for n in MOVING.size))
    grid = transform_to_node(bend(whole), whole, "map")
    node.SetAndObserveTransformNodeID(grid.GetID())
    node.HardenTransform()
    hardened = read_volume(node)
    expected = sitk.Resample(
        itk(picture(MOVING), MOVING), itk(*hardened), itk_field(bend(whole), whole), sitk.sitkLinear, -1e9
    )
    seen = hardened.array.copy()
    # beyond the field's box SimpleITK has no displacement; at the moving border Slicer fills with zero
    index = points_of(hardened.frame) @ whole.world_to_index[:3, :3].T + whole.world_to_index[:3, 3]
    inside = ((index >= 0) & (index <= np.asarray(whole.size) - 1)).all(-1)
    seen[~inside | (seen == 0)] = -1e9
    assert_agree(seen, sitk.GetArrayFromImage(expected))


def test_fields_go_out_and_come_back(scene) -> None:
    """On the own lattice bit by bit, elsewhere as SimpleITK interpolates, under parents, and as inverses."""
    field = bend(FIXED)
    node = transform_to_node(field, FIXED, "map")
    assert grid_frame(node).same_lattice(FIXED, 1e-9)
    assert np.array_equal(read_displacement(node, FIXED), field)
    inner = frame((9, 8, 7), (2.1, 1.7, 1.9), (-9.0, -8.0, -7.0), (1.0, 1.0, 0.3), 40)
    points = points_of(inner).reshape(-1, 3)
    transform = itk_field(field, FIXED)
    there = np.array([transform.TransformPoint(p) for p in points.tolist()])
    assert np.abs(read_displacement(node, inner).reshape(-1, 3) + points - there).max() < 1e-4
    # the same map set to parent: its inverse is what moves points to the world
    back = scene.AddNewNodeByClass("vtkMRMLTransformNode", "back")
    back.SetAndObserveTransformToParent(node.GetTransformFromParent())
    assert grid_frame(back) is None
    undone = points + read_displacement(back, inner).reshape(-1, 3)
    again = np.array([transform.TransformPoint(p) for p in undone.tolist()])
    assert np.abs(again - points).max() < 0.02
    # under a parent: world points first go through the parent
    ras = placement(11, (2, -1, 3))
    linear_node(scene, ras, node)
    into = points @ (RAS @ np.linalg.inv(ras) @ RAS)[:3, :3].T + (RAS @ np.linalg.inv(ras) @ RAS)[:3, 3]
    expected = np.array([transform.TransformPoint(p) for p in into.tolist()])
    assert np.abs(read_displacement(node, inner).reshape(-1, 3) + points - expected).max() < 1e-3


def test_linear_maps_are_told_from_deformations(scene) -> None:
    pull_back = placement(20, (6, -3, 8), 1.05)
    node = transform_to_node(pull_back, None, "linear")
    assert np.allclose(read_matrix(node), pull_back)
    grid = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "grid")
    transform_to_node(pull_back, FIXED, "linear", node=grid)
    assert read_matrix(grid) is None
    fitted = matrix_of_displacement(read_displacement(grid, FIXED), FIXED)
    assert np.abs(fitted - pull_back).max() < 1e-3
    assert matrix_of_displacement(bend(FIXED), FIXED) is None


def test_a_node_filled_again_tells_who_shows_it(scene) -> None:
    node = transform_to_node(bend(FIXED), FIXED, "map")
    volume = image_node(scene, MOVING)
    volume.SetAndObserveTransformNodeID(node.GetID())
    before = shown(volume, FIXED)
    heard: list[str] = []
    event = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
    node.AddObserver(event, lambda *_: heard.append("node"))
    volume.AddObserver(event, lambda *_: heard.append("volume"))
    assert transform_to_node(0.5 * bend(FIXED), FIXED, "map", node=node) is node
    assert {"node", "volume"} <= set(heard)
    assert not np.allclose(shown(volume, FIXED), before)


def test_markups_follow_the_nodes(scene) -> None:
    field = bend(FIXED)
    points = points_of(FIXED)[4:-4:6, 4:-4:6, 4:-4:6].reshape(-1, 3)
    transform = itk_field(field, FIXED)
    moved = np.array([transform.TransformPoint(p) for p in points.tolist()])
    forward = transform_to_node(field, FIXED, "moving to fixed")
    markups = markups_node(scene, moved)
    markups.SetAndObserveTransformNodeID(forward.GetID())
    seen = []
    for k in range(len(points)):
        position = [0.0, 0.0, 0.0]
        markups.GetNthControlPointPositionWorld(k, position)
        seen.append(RAS[:3, :3] @ position)
    assert np.linalg.norm(np.array(seen) - points, axis=1).max() < 1e-3


def test_single_slice_and_sheared_grids(scene) -> None:
    slab = Frame((12, 10, 1), (2.0, 2.0, 4.0), (-10.0, -9.0, 3.0), FIXED.direction)
    shear = ((1, 0.3, 0), (0, 0.95, 0.1), (0, 0, 0.99))
    sheared = Frame((12, 10, 8), (2.0, 2.0, 3.0), (-10.0, -9.0, 3.0), shear)
    for where in (slab, sheared):
        node = transform_to_node(bend(where), where, "map")
        points = points_of(where).reshape(-1, 3)[1:-1:7]
        expected = points + bend(where).reshape(-1, 3)[1:-1:7]
        assert np.abs(transformed(node.GetTransformFromParent(), points) - expected).max() < 1e-4


def test_linear_results_are_linear_nodes(scene) -> None:
    pull_back = placement(20, (6, -3, 8), 1.05)
    node = transform_to_node(pull_back, None, "linear")
    assert node.IsA("vtkMRMLLinearTransformNode")
    moving_node = image_node(scene, MOVING, 2)
    moving = read_volume(moving_node)
    moving_node.SetAndObserveTransformNodeID(node.GetID())
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(pull_back[:3, :3].ravel().tolist())
    affine.SetTranslation(pull_back[:3, 3].tolist())
    expected = sitk.Resample(itk(*moving), itk(picture(FIXED), FIXED), affine, sitk.sitkLinear, -1e9)
    assert_agree(shown(moving_node, FIXED), sitk.GetArrayFromImage(expected))
    to_parent = vtk.vtkMatrix4x4()
    node.GetMatrixTransformToParent(to_parent)
    back = np.array([[to_parent.GetElement(r, c) for c in range(4)] for r in range(4)])
    assert np.allclose(RAS @ back @ RAS @ pull_back, np.eye(4), atol=1e-9)


def test_a_grid_node_takes_a_linear_map_too(scene) -> None:
    grid = transform_to_node(bend(FIXED), FIXED, "grid")
    image = image_node(scene, MOVING)
    image.SetAndObserveTransformNodeID(grid.GetID())
    linear_node(scene, placement(3, (1, 2, 3)), grid)
    before = nodes(scene)
    pull_back = placement(20, (6, -3, 8))
    assert transform_to_node(pull_back, FIXED, "other", node=grid) is grid
    assert nodes(scene) == before and grid.GetName() == "grid" and image.GetParentTransformNode() is grid
    assert grid.GetParentTransformNode() is None
    centre = FIXED.centre[None]
    expected = centre @ pull_back[:3, :3].T + pull_back[:3, 3]
    assert np.allclose(transformed(grid.GetTransformFromParent(), centre), expected, atol=1e-4)


def test_nodes_that_cannot_take_a_result(scene) -> None:
    linear, spline = (scene.AddNewNodeByClass(f"vtkMRML{k}TransformNode", k) for k in ("Linear", "BSpline"))
    image = image_node(scene, FIXED)
    before = contents(scene)
    for wrong in (linear, spline, image):
        with pytest.raises(InputError):
            transform_to_node(bend(FIXED), FIXED, "map", node=wrong)
    with pytest.raises(InputError):
        volume_to_node(picture(FIXED), FIXED, "image", node=linear)
    with pytest.raises(InputError):
        transform_to_node(np.zeros((4, 4, 2), np.float32), Frame.regular((4, 4)), "map")
    with pytest.raises(InputError):
        volume_to_node(np.zeros((4, 4)), Frame.regular((4, 4)), "image")
    assert contents(scene) == before


def test_a_failure_leaves_no_node(scene, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(scene)

    def broken(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(volumes, "to_vtk", broken)
    with pytest.raises(MemoryError):
        volume_to_node(picture(FIXED), FIXED, "image")
    assert contents(scene) == before
    monkeypatch.undo()

    class Refusing:
        def GenerateUniqueName(self, name: str) -> str:
            return name

        def AddNewNodeByClass(self, *_: str) -> None:
            return None

    with pytest.raises(OutputError):
        transform_to_node(np.eye(4), None, "map", scene=Refusing())


@pytest.mark.parametrize("kind", ["grid", "linear", "volume", "table"])
def test_a_node_that_was_changed_is_put_back(scene, kind: str) -> None:
    parent = linear_node(scene, placement(5, (1, 2, 3)))
    if kind == "grid":
        node = transform_to_node(bend(FIXED), FIXED, "node")
    elif kind == "linear":
        node = linear_node(scene, placement(9, (4, 5, 6)))
    elif kind == "volume":
        node = image_node(scene, FIXED)
    else:
        node = scene.AddNewNodeByClass("vtkMRMLTableNode", "node")
        node.AddColumn().SetName("a")
        node.AddEmptyRow()
        node.SetCellText(0, 0, "before")
    node.SetAttribute("kept", "yes")
    node.SetNodeReferenceID("other", parent.GetID())
    if hasattr(node, "SetAndObserveTransformNodeID"):
        node.SetAndObserveTransformNodeID(parent.GetID())
    before, place = contents(scene), None if kind != "volume" else frame_of_volume(node)
    with pytest.raises(RuntimeError), changes_module.changes() as change:
        change.keep(node)
        node.SetAttribute("kept", "no")
        node.SetAttribute("new", "yes")
        node.SetNodeReferenceID("other", None)
        node.SetNodeReferenceID("more", parent.GetID())
        if kind in ("grid", "linear"):
            node.SetAndObserveTransformNodeID(None)
            node.SetAndObserveTransformFromParent(slicer.vtkOrientedGridTransform())
        elif kind == "volume":
            volumes.fill_volume(node, volumes.image_data(picture(MOVING)), MOVING)
        else:
            node.SetCellText(0, 0, "after")
            node.AddEmptyRow()
        change.add("vtkMRMLTableNode", "extra")
        raise RuntimeError
    assert contents(scene) == before
    if place is not None:
        assert frame_of_volume(node).same_lattice(place, 1e-9)
    if kind == "linear":
        to_parent = vtk.vtkMatrix4x4()
        node.GetMatrixTransformToParent(to_parent)
        assert np.allclose(matrix(placement(9, (4, 5, 6))).GetElement(0, 3), to_parent.GetElement(0, 3))


@pytest.mark.parametrize("labels", [False, True])
def test_volumes_go_out_and_come_back(scene, labels: bool) -> None:
    array = picture(FIXED)
    if labels:
        array = (array > 0).astype(np.int32) * 7
    node = volume_to_node(array, FIXED, "result", labels=labels)
    assert node.IsA("vtkMRMLLabelMapVolumeNode") == labels and node.GetDisplayNode() is not None
    back = read_labels(node) if labels else read_volume(node)
    assert np.array_equal(back.array, array) and back.frame.same_lattice(FIXED, 1e-9)
    linear_node(scene, placement(5, (1, 2, 3)), node)
    before = nodes(scene)
    again = volume_to_node(picture(MOVING), MOVING, "again", node=node)
    assert again is node and nodes(scene) == before and node.GetParentTransformNode() is None
    assert frame_of_volume(node).same_lattice(MOVING, 1e-9)


def test_several_components_become_a_vector_volume(scene) -> None:
    array = np.stack([picture(FIXED, k) for k in range(4)])
    node = volume_to_node(array, FIXED, "features")
    assert node.IsA("vtkMRMLVectorVolumeNode")
    for channel, (x, y, z) in ((0, (3, 4, 5)), (3, (29, 0, 21))):
        seen = node.GetImageData().GetScalarComponentAsDouble(x, y, z, channel)
        assert seen == array[channel, z, y, x]


def boxes(where: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of space told apart by world coordinates alone."""
    x, y, z = np.moveaxis(points_of(where), -1, 0)
    return (x > 2) & (y < 8) & (z > -8), (x < -3) & (z < 6)


def parts(scene, where: Frame, names: tuple[str, ...] = ("liver", "spleen")):
    return segmentation_node(scene, where, dict(zip(names, boxes(where), strict=True)))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def contained(points: np.ndarray, where: Frame) -> np.ndarray:
    index = points @ where.world_to_index[:3, :3].T + where.world_to_index[:3, 3]
    return ((index > -0.5) & (index < np.asarray(where.size) - 0.5)).all(-1)


def test_segments_become_labels_on_another_lattice(scene) -> None:
    fine = frame((60, 58, 62), (1.2, 1.2, 1.2), (-40.0, -38.0, -37.0), (0.1, 0.2, 1.0), 40)
    node = parts(scene, fine)
    read = read_labels(node, image_node(scene, FIXED))
    assert read.frame.same_lattice(FIXED, 1e-9) and read.array.dtype == np.int32
    covered = contained(points_of(FIXED), fine)
    for value, box in zip((1, 2), boxes(FIXED), strict=True):
        assert overlap((read.array == value) & covered, box & covered) > 0.93
    spleen = node.GetSegmentation().GetSegmentIdBySegmentName("spleen")
    only = read_labels(node, FIXED, [spleen])
    assert np.array_equal(only.array == 1, read.array == 2)
    assert np.array_equal(read_mask(node, FIXED).array, read.array != 0)
    linear_node(scene, placement(25, (4, 4, 4)), node)
    moved = read_labels(node, FIXED)
    world = RAS @ np.linalg.inv(placement(25, (4, 4, 4))) @ RAS
    p = points_of(FIXED) @ world[:3, :3].T + world[:3, 3]
    expected = (p[..., 0] > 2) & (p[..., 1] < 8) & (p[..., 2] > -8) & contained(p, fine)
    assert overlap(moved.array == 1, expected) > 0.93


def test_segments_that_share_an_image_or_have_only_a_surface(scene) -> None:
    node = parts(scene, FIXED)
    drawn = read_labels(node, FIXED)
    assert node.GetSegmentation().GetNumberOfLayers() in (1, 2)
    node.GetSegmentation().CollapseBinaryLabelmaps(True)
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    assert np.array_equal(read_labels(node, FIXED).array, drawn.array)
    node.CreateClosedSurfaceRepresentation()
    names = slicer.vtkSegmentationConverter
    surface, image = (
        names.GetSegmentationClosedSurfaceRepresentationName(),
        names.GetSegmentationBinaryLabelmapRepresentationName(),
    )
    node.GetSegmentation().SetSourceRepresentationName(surface)
    node.GetSegmentation().RemoveRepresentation(image)
    from_surface = read_labels(node, FIXED)
    for value in (1, 2):
        assert overlap(from_surface.array == value, drawn.array == value) > 0.9
    # elsewhere in the world, seen from a lattice that has moved along: the same labels
    place = placement(25, (140, 4, 4))
    linear_node(scene, place, node)
    moved = RAS @ place @ RAS @ FIXED.index_to_world
    direction = moved[:3, :3] / np.asarray(FIXED.spacing)
    there = Frame(
        FIXED.size, FIXED.spacing, tuple(moved[:3, 3].tolist()), tuple(map(tuple, direction.tolist()))
    )
    from_there = read_labels(node, there)
    assert (from_there.array != from_surface.array).mean() < 1e-3
    assert not node.GetSegmentation().ContainsRepresentation(image)


def test_unusable_labels(scene) -> None:
    node = parts(scene, FIXED)
    with pytest.raises(InputError, match="needs an image"):
        read_labels(node)
    with pytest.raises(InputError, match="no segment x"):
        read_labels(node, FIXED, ["x"])
    with pytest.raises(InputError, match="no segments"):
        read_labels(scene.AddNewNodeByClass("vtkMRMLSegmentationNode"), FIXED)
    node.GetSegmentation().AddEmptySegment("void", "void")
    with pytest.raises(InputError, match=r"void .* is empty"):
        read_labels(node, FIXED)
    with pytest.raises(InputError, match="whole numbers"):
        read_labels(image_node(scene, FIXED))
    blank = volume_node(scene, np.zeros(FIXED.shape, np.int16), FIXED)
    with pytest.raises(InputError, match="empty mask"):
        read_mask(blank)


def test_label_volumes_on_another_lattice(scene) -> None:
    labels = np.where(boxes(MOVING)[0], 300, 0).astype(np.int16)
    node = volume_node(scene, labels, MOVING, "LabelMap")
    assert np.array_equal(read_labels(node).array, labels)
    expected = sitk.GetArrayFromImage(
        sitk.Resample(
            itk(labels, MOVING), itk(picture(FIXED), FIXED), sitk.Transform(), sitk.sitkNearestNeighbor
        )
    )
    read = read_labels(node, image_node(scene, FIXED)).array
    assert (read != expected).mean() < 1e-3 and set(np.unique(read)) == {0, 300}


def test_segments_are_matched_by_name(scene) -> None:
    one, two = parts(scene, FIXED), parts(scene, FIXED, ("spleen", "liver"))
    matched = match_segments(one, two)
    assert matched.names == ("liver", "spleen")
    values = [read_labels(one, FIXED, matched.fixed).array, read_labels(two, FIXED, matched.moving).array]
    assert np.array_equal(values[0] == 1, values[1] == 2) and (values[0] == 1).any()
    spleen = one.GetSegmentation().GetSegmentIdBySegmentName("spleen")
    assert match_segments(one, two, [spleen]).names == ("spleen",)
    with pytest.raises(InputError, match="same name"):
        match_segments(one, parts(scene, FIXED, ("a", "b")))
    other = parts(scene, FIXED, ("a", "b"))
    a = other.GetSegmentation().GetSegmentIdBySegmentName("a")
    assert match_segments(one, other, [spleen], [a]) == ((spleen,), (a,), ("spleen",))
    labels = volume_node(scene, np.ones(FIXED.shape, np.int16), FIXED, "LabelMap")
    assert match_segments(labels, labels) == (None, None, ())
    with pytest.raises(InputError, match="no segment gone"):
        match_segments(one, two, ["gone"])
