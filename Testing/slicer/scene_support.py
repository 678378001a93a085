"""A real scene for one test, and what the tests put into it; nothing here uses the code that is tested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from DeepRegistrationLib.frame import Frame
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_LOGICS = {
    "Colors": "vtkMRMLColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
}


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[slicer.vtkMRMLScene]:
    """A scene of its own with Slicer's node classes, which can be saved; VTK errors fail the test."""
    messages = vtk.vtkStringOutputWindow()
    previous = vtk.vtkOutputWindow.GetInstance()
    vtk.vtkOutputWindow.SetInstance(messages)
    scene = slicer.vtkMRMLScene()
    monkeypatch.setattr(slicer, "mrmlScene", scene, raising=False)
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logics = [application]
    for name, class_name in _LOGICS.items():
        logic = getattr(slicer, class_name)()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name, logic)
        logics.append(logic)
    # without these a scene cannot be read from an MRB file
    files = slicer.vtkMRMLRemoteIOLogic()
    cache = tmp_path / "cache"
    cache.mkdir()
    files.GetCacheManager().SetRemoteCacheDirectory(str(cache))
    files.SetMRMLScene(scene)
    files.AddDataIOToScene()
    yield scene
    errors = messages.GetOutput()
    for logic in reversed(logics):
        logic.SetMRMLScene(None)
    scene.Clear(True)
    files.RemoveDataIOFromScene()
    # a scene that Python's garbage collector takes would call observers that are half collected, and crash
    scene.RemoveAllObservers()
    vtk.vtkOutputWindow.SetInstance(previous)
    assert "ERROR" not in errors.upper(), errors


def frame(
    size: tuple, spacing: tuple, origin: tuple, axis: tuple, degrees: float, flip: int | None = None
) -> Frame:
    """An oblique frame; `flip` reverses one image axis, which makes it left-handed."""
    turn = sitk.VersorTransform(axis, np.radians(degrees)).GetMatrix()
    direction = np.asarray(turn).reshape(3, 3)
    if flip is not None:
        direction = direction @ np.diag([-1.0 if a == flip else 1.0 for a in range(3)])
    return Frame(size, spacing, origin, tuple(map(tuple, direction.tolist())))


def points_of(where: Frame) -> np.ndarray:
    """World position of every voxel centre, (z, y, x, 3), LPS mm."""
    index = np.stack(np.meshgrid(*map(np.arange, where.shape), indexing="ij")[::-1], -1)
    return index @ where.index_to_world[:3, :3].T + where.index_to_world[:3, 3]


def matrix(array: np.ndarray) -> vtk.vtkMatrix4x4:
    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(array, float).ravel().tolist())
    return result


def volume_node(scene, array: np.ndarray, where: Frame, kind: str = "Scalar", name: str = "image"):
    """A volume node with an array (z, y, x) on a frame."""
    image = vtk.vtkImageData()
    image.SetDimensions(*where.size)
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=1))
    node = scene.AddNewNodeByClass(f"vtkMRML{kind}VolumeNode", name)
    directions = np.diag([-1.0, -1.0, 1.0]) @ np.asarray(where.direction)
    node.SetIJKToRASDirections(*directions.ravel().tolist())
    node.SetSpacing(*where.spacing)
    node.SetOrigin(-where.origin[0], -where.origin[1], where.origin[2])
    node.SetAndObserveImageData(image)
    return node


def placement(degrees: float, shift: tuple, stretch: float = 1.0) -> np.ndarray:
    """(4, 4): a turn, a stretch and a shift."""
    result = np.eye(4)
    turn = sitk.VersorTransform((0.2, 0.5, 1.0), np.radians(degrees)).GetMatrix()
    result[:3, :3] = stretch * np.asarray(turn).reshape(3, 3)
    result[:3, 3] = shift
    return result


def linear_node(scene, ras: np.ndarray, child=None):
    """A linear transform node, and a node put under it."""
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "placement")
    node.SetMatrixTransformToParent(matrix(ras))
    if child is not None:
        child.SetAndObserveTransformNodeID(node.GetID())
    return node


def markups_node(scene, points: np.ndarray, labels: tuple[str, ...] = (), name: str = "points"):
    """A point list with points (N, 3) in LPS mm."""
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for k, (x, y, z) in enumerate(np.asarray(points).tolist()):
        node.AddControlPoint(-x, -y, z, labels[k] if labels else f"{name}-{k + 1}")
    return node


def segmentation_node(scene, where: Frame, masks: dict[str, np.ndarray]):
    """A segmentation with a segment for each named mask (z, y, x)."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "parts")
    for name, mask in masks.items():
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(*where.size)
        image.GetPointData().SetScalars(numpy_to_vtk(mask.astype(np.uint8).ravel(), deep=1))
        image.SetImageToWorldMatrix(matrix(RAS @ where.index_to_world))
        node.AddSegmentFromBinaryLabelmapRepresentation(image, name)
    return node


def itk(array: np.ndarray, where: Frame, vectors: bool = False) -> sitk.Image:
    """An array on a frame as SimpleITK has it."""
    image = sitk.GetImageFromArray(array, isVector=vectors)
    image.SetSpacing(where.spacing)
    image.SetOrigin(where.origin)
    image.SetDirection(np.asarray(where.direction).ravel().tolist())
    return image


def itk_field(displacement: np.ndarray, where: Frame) -> sitk.Transform:
    """A displacement (z, y, x, 3), LPS mm, as SimpleITK has it."""
    return sitk.DisplacementFieldTransform(itk(displacement.astype(np.float64), where, vectors=True))


def shown(node, where: Frame) -> np.ndarray:
    """What the scene shows of a volume, parent transforms and all, at the voxels of a frame."""
    to_node = vtk.vtkGeneralTransform()
    if node.GetParentTransformNode() is not None:
        node.GetParentTransformNode().GetTransformFromWorld(to_node)
    to_index = vtk.vtkMatrix4x4()
    node.GetRASToIJKMatrix(to_index)
    chain = vtk.vtkGeneralTransform()  # last concatenated is applied first
    for part in (to_index, to_node, matrix(RAS @ where.index_to_world)):
        chain.Concatenate(part)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(node.GetImageData())
    reslice.SetResliceTransform(chain)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(*(n for size in where.size for n in (0, size - 1)))
    reslice.SetInterpolationModeToLinear()
    reslice.SetOutputScalarType(vtk.VTK_FLOAT)
    reslice.SetBackgroundLevel(-1e9)
    reslice.Update()
    return vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars()).reshape(where.shape)


def assert_agree(seen: np.ndarray, expected: np.ndarray, least: float = 0.3) -> None:
    """To a thousandth of the intensity range, wherever both are inside the moving image."""
    inside = (seen > -1e8) & (expected > -1e8)
    assert inside.mean() > least
    assert float(np.abs(seen - expected)[inside].max()) < 1e-3 * float(np.ptp(expected[inside]))


def nodes(scene) -> list[str]:
    """Identifiers of everything in the scene."""
    return [scene.GetNthNode(k).GetID() for k in range(scene.GetNumberOfNodes())]


def contents(scene) -> list[tuple]:
    """What the scene holds, in a form that tells whether anything was changed."""
    state = []
    for k in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(k)
        roles: list[str] = []
        node.GetNodeReferenceRoles(roles)
        state.append((
            node.GetID(),
            node.GetName(),
            tuple((name, node.GetAttribute(name)) for name in sorted(node.GetAttributeNames())),
            tuple((r, node.GetNodeReferenceID(r)) for r in sorted(roles) if node.GetNodeReferenceID(r)),
            _data(node),
        ))  # fmt: skip
    return state


def _data(node) -> tuple:
    """Numbers where there are few, else which object holds them: images are replaced, not changed."""
    if node.IsA("vtkMRMLTableNode"):
        rows, columns = range(node.GetNumberOfRows()), range(node.GetNumberOfColumns())
        return tuple(node.GetCellText(row, column) for row in rows for column in columns)
    if node.IsA("vtkMRMLScriptedModuleNode"):
        return tuple((name, node.GetParameter(name)) for name in node.GetParameterNames())
    if node.IsA("vtkMRMLTransformNode"):
        place, to_parent = node.GetTransformNodeID(), vtk.vtkMatrix4x4()
        if node.IsLinear():
            node.GetMatrixTransformToParent(to_parent)
            return place, *(to_parent.GetElement(row, column) for row in range(4) for column in range(4))
        return place, node.GetTransformFromParent().__this__
    if node.IsA("vtkMRMLVolumeNode"):
        image, to_ras = node.GetImageData(), vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(to_ras)
        numbers = tuple(to_ras.GetElement(row, column) for row in range(4) for column in range(4))
        return node.GetTransformNodeID(), None if image is None else image.__this__, numbers
    return ()
