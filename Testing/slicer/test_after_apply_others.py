"""What is carried along ends where SimpleITK says; originals stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from DeepRegistrationLib.errors import InputError, OutputError
from DeepRegistrationScene.apply_others import apply_to_others, take_back, why_not
from DeepRegistrationScene.transform_nodes import transform_to_node
from scene_support import (
    RAS,
    contents,
    frame,
    itk,
    itk_field,
    linear_node,
    markups_node,
    nodes,
    placement,
    points_of,
    segmentation_node,
    volume_node,
)
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

FIXED = frame((30, 26, 22), (2.0, 2.2, 2.8), (-30.0, 25.0, -28.0), (0.3, 1.0, 0.2), 17, flip=1)
MOVING = frame((34, 24, 28), (1.7, 2.9, 2.1), (-26.0, -38.0, -25.0), (1.0, -0.2, 0.6), -23)


def bend(where, height: float, shift: tuple) -> np.ndarray:
    p = points_of(where)
    return (
        height * np.stack([np.sin(p[..., 1] / 11), np.cos(p[..., 2] / 13), np.sin(p[..., 0] / 12)], -1)
        + shift
    )


FORWARD, INVERSE = bend(FIXED, 3.0, (4.0, -3.0, 2.0)), bend(MOVING, -2.0, (-4.0, 3.0, -2.0))


def picture(where) -> np.ndarray:
    p = points_of(where)
    return (80 * np.sin(p[..., 0] / 6) + 60 * np.cos(p[..., 1] / 7) + 40 * np.sin(p[..., 2] / 5)).astype(
        np.float32
    )


def blobs(where) -> np.ndarray:
    p = points_of(where)
    return (1 + (p[..., 0] > 0) + 2 * (p[..., 1] > -3)).astype(np.int16) * (np.linalg.norm(p, axis=-1) < 24)


@pytest.fixture
def maps(scene):
    """Forward and inverse, which are no inverses of each other here, so that one sees which was used."""
    fixed = volume_node(scene, picture(FIXED), FIXED, name="CT")
    forward = transform_to_node(FORWARD, FIXED, "moving to fixed")
    inverse = transform_to_node(INVERSE, MOVING, "fixed to moving")
    return forward, inverse, fixed


def values_of(image) -> np.ndarray:
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def to_world(node) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


def mapped_back(points: np.ndarray) -> np.ndarray:
    """Moving points (RAS) through the inverse field, by SimpleITK; (RAS)."""
    field = itk_field(INVERSE, MOVING)
    lps = np.asarray(points) * (-1, -1, 1)
    return np.array([field.TransformPoint(p.tolist()) for p in lps]) * (-1, -1, 1)


@pytest.mark.parametrize("placed", [False, True])
def test_volumes_agree_with_simpleitk(scene, maps, placed: bool) -> None:
    array = picture(MOVING)
    node = volume_node(scene, array, MOVING, name="PET")
    where = MOVING
    if placed:
        ras = placement(12, (5.0, -4.0, 3.0))
        linear_node(scene, ras, node)
        moved = RAS @ ras @ RAS @ MOVING.index_to_world
        turn = moved[:3, :3] / np.asarray(MOVING.spacing)
        where = type(MOVING)(
            MOVING.size, MOVING.spacing, tuple(moved[:3, 3]), tuple(map(tuple, turn.tolist()))
        )
    before = contents(scene)
    (carried,) = apply_to_others(maps[0], maps[1], [node], maps[2])
    assert [state for state in contents(scene) if state[0] in {b[0] for b in before}] == before
    assert carried.original is node and carried.node.GetName() == "PET on CT"
    assert carried.node.GetParentTransformNode() is None
    assert np.allclose(to_world(carried.node), RAS @ FIXED.index_to_world, atol=1e-6)
    fill = float(array.min())
    expected = sitk.GetArrayFromImage(
        sitk.Resample(
            itk(array, where), itk(picture(FIXED), FIXED), itk_field(FORWARD, FIXED), sitk.sitkLinear, fill
        )
    )
    found = values_of(carried.node.GetImageData())
    assert (expected != fill).mean() > 0.3
    differ = np.abs(found - expected) > 1e-2
    assert differ.mean() < 1e-3  # but for voxels on the very edge of the image


def test_label_maps_keep_their_values(scene, maps) -> None:
    array = blobs(MOVING)
    node = volume_node(scene, array, MOVING, kind="LabelMap", name="organs")
    (carried,) = apply_to_others(maps[0], maps[1], [node], maps[2])
    assert carried.node.IsA("vtkMRMLLabelMapVolumeNode")
    found = values_of(carried.node.GetImageData())
    expected = sitk.GetArrayFromImage(
        sitk.Resample(
            itk(array, MOVING),
            itk(picture(FIXED), FIXED),
            itk_field(FORWARD, FIXED),
            sitk.sitkNearestNeighbor,
            0,
        )
    )
    assert set(np.unique(found)) == set(np.unique(expected)) == {0, 1, 2, 3, 4}
    assert (found == expected).mean() > 0.9999


def test_segments_keep_names_colours_and_shared_images(scene, maps) -> None:
    array = blobs(MOVING)
    node = segmentation_node(scene, MOVING, {"liver": array == 2, "spleen": array == 3, "both": array >= 2})
    node.GetSegmentation().GetNthSegment(0).SetColor(0.1, 0.2, 0.3)
    node.GetSegmentation().GetNthSegment(0).SetTag("Note", "mine")
    (carried,) = apply_to_others(maps[0], maps[1], [node], maps[2])
    segmentation = carried.node.GetSegmentation()
    assert [segmentation.GetNthSegment(k).GetName() for k in range(3)] == ["liver", "spleen", "both"]
    first = segmentation.GetNthSegment(0)
    assert first.GetColor() == pytest.approx((0.1, 0.2, 0.3))
    for k, mask in enumerate((array == 2, array == 3, array >= 2)):
        found = slicer.vtkOrientedImageData()
        segment_id = segmentation.GetNthSegmentID(k)
        carried.node.GetBinaryLabelmapRepresentation(segment_id, found)
        expected = sitk.GetArrayFromImage(
            sitk.Resample(
                itk(mask.astype(np.uint8), MOVING),
                itk(picture(FIXED), FIXED),
                itk_field(FORWARD, FIXED),
                sitk.sitkNearestNeighbor,
                0,
            )
        )
        # a segment's own image covers no more than it needs
        whole = np.zeros(FIXED.shape, np.uint8)
        low = found.GetExtent()[::2][::-1]
        part = values_of(found)
        whole[tuple(slice(a, a + n) for a, n in zip(low, part.shape, strict=True))] = part
        assert (whole == expected).mean() > 0.9999 and expected.any()


def test_shared_label_images_stay_shared(scene, maps) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "parts")
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*MOVING.size)
    image.GetPointData().SetScalars(numpy_to_vtk(blobs(MOVING).astype(np.uint8).ravel(), deep=1))
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy((RAS @ MOVING.index_to_world).ravel().tolist())
    image.SetImageToWorldMatrix(matrix)
    for value in (1, 2, 4):
        segment = slicer.vtkSegment()
        segment.SetName(f"part {value}")
        segment.AddRepresentation("Binary labelmap", image)
        segment.SetLabelValue(value)
        node.GetSegmentation().AddSegment(segment)
    (carried,) = apply_to_others(maps[0], maps[1], [node], maps[2])
    segmentation = carried.node.GetSegmentation()
    images = {segmentation.GetNthSegment(k).GetRepresentation("Binary labelmap").__this__ for k in range(3)}
    assert len(images) == 1
    assert [segmentation.GetNthSegment(k).GetLabelValue() for k in range(3)] == [1, 2, 4]


def test_surface_segments_go_through_the_inverse(scene, maps) -> None:
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(9)
    sphere.Update()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "planned")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "target")
    (carried,) = apply_to_others(maps[0], maps[1], [node], maps[2])
    surface = carried.node.GetSegmentation().GetNthSegment(0).GetRepresentation("Closed surface")
    found = vtk_to_numpy(surface.GetPoints().GetData())
    start = vtk_to_numpy(sphere.GetOutput().GetPoints().GetData())
    assert np.abs(found - mapped_back(start)).max() < 1e-3


def test_markups_go_through_the_inverse(scene, maps) -> None:
    rng = np.random.default_rng(1)
    lps = rng.uniform(-14, 14, (5, 3))
    node = markups_node(scene, lps, ("a", "b", "c", "d", "e"), name="marks")
    node.SetNthControlPointLocked(0, True)
    ras = placement(8, (2.0, 1.0, -2.0))
    linear_node(scene, ras, node)
    (carried,) = apply_to_others(maps[0], maps[1], [node], maps[2])
    copy = carried.node
    world = (np.c_[lps * (-1, -1, 1), np.ones(5)] @ ras.T)[:, :3]
    found = np.array([copy.GetNthControlPointPositionWorld(k) for k in range(5)])
    assert np.abs(found - mapped_back(world)).max() < 1e-4
    assert [copy.GetNthControlPointLabel(k) for k in range(5)] == list("abcde")
    assert copy.GetName() == "marks on CT" and copy.GetParentTransformNode() is None
    assert np.allclose(node.GetNthControlPointPosition(1), lps[1] * (-1, -1, 1))


@pytest.mark.parametrize("kind", ["Line", "Angle", "Curve", "ClosedCurve", "Plane", "ROI"])
def test_every_kind_of_markup(scene, maps, kind: str) -> None:
    node = scene.AddNewNodeByClass(f"vtkMRMLMarkups{kind}Node", kind)
    start = np.array([[3.0, 4.0, 5.0], [-6.0, 2.0, 1.0], [4.0, -9.0, 2.0]])
    if kind == "ROI":
        start = start[:1]
        node.SetCenter(*start[0])
        node.SetSize(10, 12, 14)
    elif kind == "Plane":
        start = start[:1]
        node.SetCenter(*start[0])
        node.SetNormal(0, 0, 1)
        node.SetSize(20, 20)
    else:
        start = start[: 2 if kind == "Line" else 3]
        for point in start:
            node.AddControlPoint(*point)
    (carried,) = apply_to_others(maps[0], maps[1], [node], maps[2])
    assert carried.node.GetClassName() == node.GetClassName()
    if kind in ("ROI", "Plane"):
        found = np.array([carried.node.GetCenterWorld()])
        assert np.abs(found - mapped_back(start)).max() < 0.5  # as far as a straight shape can follow a bend
        return
    found = np.array([carried.node.GetNthControlPointPositionWorld(k) for k in range(len(start))])
    assert np.abs(found - mapped_back(start)).max() < 1e-4


def test_the_users_next_click_goes_where_it_would_have_gone(scene, maps) -> None:
    node = markups_node(scene, np.array([[1.0, 2.0, 3.0]]))
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    assert selection.GetActivePlaceNodeID() == node.GetID()
    apply_to_others(maps[0], maps[1], [node], maps[2])
    assert selection.GetActivePlaceNodeID() == node.GetID()


def test_models_go_through_the_inverse(scene, maps) -> None:
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(11)
    sphere.Update()
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", "bone")
    node.SetAndObservePolyData(sphere.GetOutput())
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetColor(0.2, 0.4, 0.6)
    start = vtk_to_numpy(node.GetPolyData().GetPoints().GetData()).copy()
    (carried,) = apply_to_others(maps[0], maps[1], [node], maps[2])
    found = vtk_to_numpy(carried.node.GetPolyData().GetPoints().GetData())
    assert np.abs(found - mapped_back(start)).max() < 1e-3
    assert np.array_equal(vtk_to_numpy(node.GetPolyData().GetPoints().GetData()), start)
    assert carried.node.GetDisplayNode().GetColor() == pytest.approx((0.2, 0.4, 0.6))
    assert carried.node.GetDisplayNode() is not node.GetDisplayNode()


def test_without_an_inverse_slicers_own_is_used(scene, maps) -> None:
    node = markups_node(scene, np.array([[1.0, 2.0, 3.0]]))
    (carried,) = apply_to_others(maps[0], None, [node], maps[2])
    found = np.array(carried.node.GetNthControlPointPositionWorld(0)) * (-1, -1, 1)
    there = itk_field(FORWARD, FIXED).TransformPoint(found.tolist())
    assert np.linalg.norm(np.array(there) - (1.0, 2.0, 3.0)) < 1e-3


def test_roles_swapped(scene, maps) -> None:
    moving = volume_node(scene, picture(MOVING), MOVING, name="MR")
    node = markups_node(scene, np.array([[1.0, 2.0, 3.0]]), name="on fixed")
    (carried,) = apply_to_others(maps[1], maps[0], [node], moving)
    found = np.array(carried.node.GetNthControlPointPositionWorld(0)) * (-1, -1, 1)
    expected = itk_field(FORWARD, FIXED).TransformPoint((1.0, 2.0, 3.0))
    assert np.linalg.norm(found - expected) < 1e-4 and carried.node.GetName() == "on fixed on MR"


def test_what_is_shown_under_the_transform_is_carried_from_where_it_was(scene, maps) -> None:
    node = volume_node(scene, picture(MOVING), MOVING, name="PET")
    (plain,) = apply_to_others(maps[0], maps[1], [node], maps[2])
    node.SetAndObserveTransformNodeID(maps[0].GetID())
    (shown,) = apply_to_others(maps[0], maps[1], [node], maps[2])
    assert np.array_equal(*(values_of(c.node.GetImageData()) for c in (plain, shown)))


def test_put_under_and_taken_back(scene, maps) -> None:
    free = volume_node(scene, picture(MOVING), MOVING, name="free")
    placed = [markups_node(scene, np.array([[1.0, 2.0, 3.0]]), name=f"placed {k}") for k in range(2)]
    ras = placement(8, (2.0, 1.0, -2.0))
    parent = linear_node(scene, ras)
    for node in placed:
        node.SetAndObserveTransformNodeID(parent.GetID())
    before = contents(scene)
    places = [node.GetTransformNodeID() for node in (free, *placed)]
    carried = apply_to_others(maps[0], maps[1], [free, *placed], maps[2], harden=False)
    assert [c.node for c in carried] == [free, *placed]
    assert free.GetParentTransformNode() is maps[0]
    assert len(nodes(scene)) == len(before) + 1  # one helper for both
    world = (ras @ [-1.0, -2.0, 3.0, 1.0])[:3]
    back = maps[0].GetTransformFromParent().TransformPoint(placed[1].GetNthControlPointPositionWorld(0))
    assert np.abs(np.array(back) - world).max() < 1e-3
    assert parent.GetParentTransformNode() is None
    take_back(carried)
    assert [node.GetTransformNodeID() for node in (free, *placed)] == places and contents(scene) == before


def test_what_cannot_be_carried(scene, maps) -> None:
    forward, inverse, fixed = maps
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    tensors = scene.AddNewNodeByClass("vtkMRMLDiffusionTensorVolumeNode", "DTI")
    tensors.SetAndObserveImageData(volume_node(scene, picture(MOVING), MOVING).GetImageData())
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "table")
    bare = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "bare")
    model = scene.AddNewNodeByClass("vtkMRMLModelNode", "nothing")
    bent = volume_node(scene, picture(MOVING), MOVING, name="bent")
    bent.SetAndObserveTransformNodeID(transform_to_node(INVERSE, MOVING, "other").GetID())
    good = markups_node(scene, np.array([[1.0, 2.0, 3.0]]))
    for node, part in (
        (empty, "empty is empty"),
        (tensors, "DTI cannot be carried"),
        (table, "table is neither"),
        (bare, "no segments"),
        (model, "The model nothing is empty"),
        (bent, "bent lies under the deformable transform other"),
        (forward, "is the transform itself"),
        (fixed, "CT is the image onto which"),
        (None, "does not exist"),
    ):
        before = contents(scene)
        with pytest.raises(InputError, match=part):
            apply_to_others(forward, inverse, [good, node], fixed)
        assert contents(scene) == before
        assert part.strip("\\") in (why_not(node, (forward, inverse), fixed) or "")
    assert why_not(good, (forward, inverse), fixed) is None
    with pytest.raises(InputError, match="register first"):
        apply_to_others(None, None, [good], fixed)
    with pytest.raises(InputError, match="Choose what"):
        apply_to_others(forward, inverse, [], fixed)
    with pytest.raises(InputError, match="not a transform"):
        apply_to_others(good, inverse, [good], fixed)


def test_nothing_stays_when_the_scene_refuses(scene, maps) -> None:
    things = [markups_node(scene, np.array([[1.0, 2.0, 3.0]])), volume_node(scene, picture(MOVING), MOVING)]
    before = contents(scene)

    class Full:
        """A scene that takes markups but no image."""

        def __getattr__(self, name: str) -> object:
            return getattr(scene, name)

        def AddNewNodeByClass(self, class_name: str, name: str) -> object:
            return None if "Volume" in class_name else scene.AddNewNodeByClass(class_name, name)

    with pytest.raises(OutputError):
        apply_to_others(maps[0], maps[1], things, maps[2], scene=Full())
    assert contents(scene) == before
