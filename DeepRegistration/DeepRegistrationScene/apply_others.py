"""Carry what belongs to one image onto the other: volumes, label maps, segmentations, markups, models.

Images are read backwards through `forward`, which is exact. Points go the other way, through `inverse`,
the engine's own map: Slicer's iterative inverse of `forward` would fail where that folds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from DeepRegistrationLib.errors import InputError

from .changes import Changes, changes
from .geometry import (
    FLIP,
    Node,
    frame_of_lattice,
    frame_of_volume,
    lies_under,
    to_numpy,
    to_vtk,
    world_matrix,
)
from .resampling import resampled
from .volumes import fill_volume

_VOLUMES = ("vtkMRMLScalarVolumeNode", "vtkMRMLLabelMapVolumeNode", "vtkMRMLVectorVolumeNode")


@dataclass(frozen=True)
class Carried:
    """One thing that was carried along.

    Attributes:
        original: the node that was asked for.
        node: the new node on the other image, or `original` itself if it was put under the transform.
        helper: a linear transform node made to keep the place that `original`'s own parent transform
            gives it, or None.
        previous: ID of the transform `original` lay under before it was put under the transform, or None.
    """

    original: Node
    node: Node
    helper: Node | None = None
    previous: str | None = None


def apply_to_others(
    forward: Node,
    inverse: Node | None,
    nodes: Sequence[Node],
    fixed: Node,
    harden: bool = True,
    scene: Node | None = None,
) -> list[Carried]:
    """Carry nodes of the moving image onto the fixed one.

    The other way round, nodes of the fixed image go onto the moving one with `inverse` as `forward`,
    `forward` as `inverse` and the moving image as `fixed`.

    Args:
        forward: transform node that moves the moving image onto the fixed one.
        inverse: transform node of the opposite map; without it points go through Slicer's inverse of
            `forward`, which is right only where `forward` does not fold.
        nodes: volumes, label maps, segmentations, markups of any kind, and models. They may lie under
            linear transforms, and copies are also made of what lies under `forward` already.
        fixed: volume node whose voxels volumes and binary segments get.
        harden: make copies, named "... on <fixed>", and leave the originals alone. Otherwise the nodes
            themselves are put under `forward`, from where `take_back` fetches them.
        scene: where to add; `slicer.mrmlScene` by default.

    Returns:
        What was carried, in the order of `nodes`.

    Raises:
        InputError: a node that cannot be carried; then none is.
        OutputError: the scene refused a node. On any failure the scene is left as it was.
    """
    if forward is None:
        raise InputError("There is no transform to carry anything along; register first.")
    nodes = list(dict.fromkeys(nodes))
    if not nodes:
        raise InputError("Choose what to carry along.")
    results = [node for node in (forward, inverse) if node is not None]
    for node in results:
        if not node.IsA("vtkMRMLTransformNode"):
            raise InputError(f"{node.GetName()} is not a transform.")
    reasons = [reason for reason in (why_not(node, results, fixed) for node in nodes) if reason]
    if reasons:
        raise InputError(" ".join(reasons))
    with _active_list_kept(forward.GetScene()), changes(scene) as change:
        if not harden:
            return _put_under(forward, nodes, change)
        carry = _Carrier(forward, inverse, fixed)
        return [Carried(node, carry(node, change)) for node in nodes]


def take_back(carried: Sequence[Carried]) -> None:
    """Undo `apply_to_others(..., harden=False)`: put the nodes back where they were."""
    for item in carried:
        if item.node is item.original and item.node.GetScene() is not None:
            item.node.SetAndObserveTransformNodeID(item.previous)
    for item in carried:
        if item.helper is not None and item.helper.GetScene() is not None:
            item.helper.GetScene().RemoveNode(item.helper)


def why_not(node: Node | None, results: Sequence[Node] = (), fixed: Node | None = None) -> str | None:
    """A sentence saying why a node cannot be carried, or None if it can.

    Args:
        node: what is to be carried.
        results: the transforms of the registration.
        fixed: the image onto which it is to be carried.
    """
    if node is None:
        return "One of the things to carry along does not exist."
    if node in results:
        return f"{node.GetName()} is the transform itself."
    if node is fixed:
        return f"{node.GetName()} is the image onto which the others are carried."
    reason = _unsuitable(node)
    if reason is None:
        try:
            world_matrix(node, results)
        except InputError as error:
            return str(error)
    return reason


def _unsuitable(node: Node) -> str | None:
    name = node.GetName()
    if node.IsA("vtkMRMLVolumeNode"):
        image = node.GetImageData()
        if image is None or image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
            return f"The volume {name} is empty: it has no voxels."
        vectors = node.IsA("vtkMRMLVectorVolumeNode") and (
            node.GetVoxelVectorType() == slicer.vtkMRMLVolumeNode.VoxelVectorTypeSpatial
        )
        if vectors or node.GetClassName() not in _VOLUMES:
            return (
                f"{name} cannot be carried along: its voxels hold directions or several images, "
                "which more would have to be done to than to move them."
            )
    elif node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        if segmentation is None or segmentation.GetNumberOfSegments() == 0:
            return f"The segmentation {name} has no segments."
        if segmentation.GetSourceRepresentationName() not in (_binary(), _closed_surface()):
            kind = segmentation.GetSourceRepresentationName().lower()
            return f"{name} cannot be carried along: its segments are stored as {kind}."
    elif node.IsA("vtkMRMLModelNode"):
        if node.GetMesh() is None or node.GetMesh().GetNumberOfPoints() == 0:
            return f"The model {name} is empty."
    elif not node.IsA("vtkMRMLMarkupsNode"):
        return f"{name} is neither a volume nor a segmentation, markup or model and cannot be carried along."
    return None


def _put_under(forward: Node, nodes: Sequence[Node], change: Changes) -> list[Carried]:
    """Put nodes under a transform, each parent of theirs replaced by a copy that lies under it too."""
    helpers: dict[str, Node] = {}
    carried = []
    for node in nodes:
        previous, parent = node.GetTransformNodeID(), node.GetParentTransformNode()
        if lies_under(node, forward):
            carried.append(Carried(node, node, None, previous))
            continue
        if parent is not None and previous not in helpers:
            helper = change.add(
                "vtkMRMLLinearTransformNode", f"{parent.GetName()} before {forward.GetName()}"
            )
            helper.SetMatrixTransformToParent(to_vtk(world_matrix(node)))
            helper.SetAndObserveTransformNodeID(forward.GetID())
            helpers[previous] = helper
        change.on_failure(lambda node=node, previous=previous: node.SetAndObserveTransformNodeID(previous))
        helper = helpers.get(previous)
        node.SetAndObserveTransformNodeID((helper or forward).GetID())
        carried.append(Carried(node, node, helper, previous))
    return carried


class _Carrier:
    """Makes copies on the fixed image."""

    def __init__(self, forward: Node, inverse: Node | None, fixed: Node) -> None:
        self.results = [node for node in (forward, inverse) if node is not None]
        self.fixed = fixed
        self.frame = frame_of_volume(fixed, self.results)
        self.pull_back = vtk.vtkGeneralTransform()
        forward.GetTransformFromWorld(self.pull_back)
        self.push = vtk.vtkGeneralTransform()
        if inverse is None:
            forward.GetTransformToWorld(self.push)
        else:
            inverse.GetTransformFromWorld(self.push)

    def __call__(self, node: Node, change: Changes) -> Node:
        copy = change.add(node.GetClassName(), f"{node.GetName()} on {self.fixed.GetName()}")
        place = world_matrix(node, self.results)
        if node.IsA("vtkMRMLVolumeNode"):
            self._volume(node, copy, place)
        elif node.IsA("vtkMRMLSegmentationNode"):
            self._segmentation(node, copy, place)
        else:
            name = copy.GetName()
            copy.CopyContent(node, True)
            copy.SetName(name)
            copy.ApplyTransform(self._way(place))
        _copy_display(node, copy)
        return copy

    def _way(self, place: np.ndarray) -> Node:
        """From a node's own points to those of the fixed image."""
        way = vtk.vtkGeneralTransform()
        way.PostMultiply()
        way.Concatenate(to_vtk(place))
        way.Concatenate(self.push)
        return way

    def _volume(self, node: Node, copy: Node, place: np.ndarray) -> None:
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        own = frame_of_lattice(place @ to_numpy(matrix), node.GetImageData().GetExtent())
        nearest = node.IsA("vtkMRMLLabelMapVolumeNode")
        if node.IsA("vtkMRMLVectorVolumeNode"):
            copy.SetVoxelVectorType(node.GetVoxelVectorType())
        copy.SetVoxelValueQuantity(node.GetVoxelValueQuantity())
        copy.SetVoxelValueUnits(node.GetVoxelValueUnits())
        image = resampled(node.GetImageData(), own, self.frame, self.pull_back, nearest)
        fill_volume(copy, image, self.frame)

    def _segmentation(self, node: Node, copy: Node, place: np.ndarray) -> None:
        source, target = node.GetSegmentation(), copy.GetSegmentation()
        kind = source.GetSourceRepresentationName()
        target.SetSourceRepresentationName(kind)
        copy.SetReferenceImageGeometryParameterFromVolumeNode(self.fixed)
        done: dict[str, Node] = {}  # segments that share an image go on sharing one
        for segment_id in source.GetSegmentIDs():
            segment, carried = source.GetSegment(segment_id), slicer.vtkSegment()
            carried.DeepCopyMetadata(segment)
            data = segment.GetRepresentation(kind)
            if data is not None:
                key = data.GetAddressAsString("")
                if key not in done:
                    done[key] = self._labels(data, place) if kind == _binary() else self._surface(data, place)
                carried.AddRepresentation(kind, done[key])
                carried.SetLabelValue(segment.GetLabelValue())
            target.AddSegment(carried, segment_id)

    def _labels(self, image: Node, place: np.ndarray) -> Node:
        result = slicer.vtkOrientedImageData()
        if image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
            result.DeepCopy(image)  # an empty segment stays one
            return result
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        own = frame_of_lattice(place @ to_numpy(matrix), image.GetExtent())
        result.ShallowCopy(resampled(image, own, self.frame, self.pull_back, nearest=True))
        result.SetImageToWorldMatrix(to_vtk(FLIP @ self.frame.index_to_world))
        return result

    def _surface(self, surface: Node, place: np.ndarray) -> Node:
        mover = vtk.vtkTransformPolyDataFilter()
        mover.SetInputData(surface)
        mover.SetTransform(self._way(place))
        mover.Update()
        return mover.GetOutput()


@contextmanager
def _active_list_kept(scene: Node) -> Iterator[None]:
    """Slicer lets the user's next click go into the newest markup; let it go where it would have gone."""
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    if selection is None:
        yield
        return
    class_name, active = selection.GetActivePlaceNodeClassName(), selection.GetActivePlaceNodeID()
    try:
        yield
    finally:
        selection.SetReferenceActivePlaceNodeClassName(class_name)
        selection.SetReferenceActivePlaceNodeID(active)


def _copy_display(node: Node, copy: Node) -> None:
    """Let a copy look like its original."""
    display = node.GetDisplayNode()
    if display is None:
        return
    copy.CreateDefaultDisplayNodes()
    own = copy.GetDisplayNode()
    if own is None or own.GetClassName() != display.GetClassName():
        return
    own.CopyContent(display, True)
    if display.GetColorNodeID():
        own.SetAndObserveColorNodeID(display.GetColorNodeID())


def _binary() -> str:
    return slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def _closed_surface() -> str:
    return slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
