"""Segmentations and label maps as labels and masks on the voxels of an image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import slicer
import vtk
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame

from .geometry import FLIP, Node, frame_of_lattice, frame_of_volume, to_numpy, to_vtk, world_matrix
from .volumes import Voxels, read_volume, scalars


class MatchedSegments(NamedTuple):
    """Segments of two segmentations that belong together.

    Attributes:
        fixed, moving: identifiers, in one order; None where the node is a label map volume.
        names: what labels 1, 2, ... are called; empty where no segmentation says so.
    """

    fixed: tuple[str, ...] | None
    moving: tuple[str, ...] | None
    names: tuple[str, ...]


def is_segmentation(node: Node | None) -> bool:
    return node is not None and node.IsA("vtkMRMLSegmentationNode")


def read_labels(
    node: Node | None,
    reference: Node | Frame | None = None,
    segment_ids: Sequence[str] | None = None,
    results: Collection[Node] = (),
) -> Voxels:
    """A label map volume node or a segmentation node as labels (z, y, x), int32 or, for large values, int64.

    Args:
        node: a volume node of whole numbers, or a segmentation node.
        reference: whose voxels to use, by nearest neighbour; needed for a segmentation, and the node's
            own voxels otherwise.
        segment_ids: the segments that become labels 1, 2, ... in this order; all of them by default.
            Where segments overlap the later one wins.
        results: as in `geometry.world_matrix`.

    Raises:
        InputError: unusable nodes (as `volumes.read_volume`), values that are not whole numbers, no
            reference for a segmentation, missing or empty segments.
    """
    frame = reference if reference is None or isinstance(reference, Frame) else frame_of_volume(reference)
    if is_segmentation(node):
        if frame is None:
            raise InputError("A segmentation needs an image on whose voxels it is to be drawn.")
        return _labels_from_segmentation(node, frame, segment_ids, results)
    array, own = read_volume(node, results)
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise InputError(f"{node.GetName()} is not a label map: some of its values are not whole numbers.")
    fits = np.can_cast(array.dtype, np.int32) or np.abs(array.astype(np.int64)).max(initial=0) < 1 << 31
    array = array.astype(np.int32 if fits else np.int64)
    return Voxels(array, own) if frame is None else Voxels(_nearest(array, own, frame), frame)


def read_mask(
    node: Node | None,
    reference: Node | Frame | None = None,
    segment_ids: Sequence[str] | None = None,
    results: Collection[Node] = (),
) -> Voxels:
    """Where a label map or segmentation is not zero, as bool (z, y, x); arguments as `read_labels`.

    Raises:
        InputError: as `read_labels`, or when nothing is selected.
    """
    labels, frame = read_labels(node, reference, segment_ids, results)
    mask = labels != 0
    if not mask.any():
        raise InputError(f"{node.GetName()} is an empty mask: it selects no voxel of the image.")
    return Voxels(mask, frame)


def match_segments(
    fixed: Node | None,
    moving: Node | None,
    fixed_ids: Sequence[str] | None = None,
    moving_ids: Sequence[str] | None = None,
) -> MatchedSegments:
    """The selected segments that two segmentations share by name, in the fixed one's order.

    One segment on each side is a pair whatever the names are. Label map volumes keep their own values.

    Raises:
        InputError: no segments of the same name, or identifiers that are not there.
    """
    tables = [
        _names(node, ids) if is_segmentation(node) else None
        for node, ids in ((fixed, fixed_ids), (moving, moving_ids))
    ]
    if tables[0] is None or tables[1] is None:
        chosen = [None if table is None else tuple(table.values()) for table in tables]
        only = tables[0] or tables[1] or {}
        return MatchedSegments(*chosen, tuple(only))
    shared = [name for name in tables[0] if name in tables[1]]
    if not shared and len(tables[0]) == len(tables[1]) == 1:
        return MatchedSegments(tuple(tables[0].values()), tuple(tables[1].values()), tuple(tables[0]))
    if not shared:
        raise InputError("The two segmentations have no segment of the same name.")
    return MatchedSegments(
        tuple(tables[0][name] for name in shared), tuple(tables[1][name] for name in shared), tuple(shared)
    )


def _names(node: Node, ids: Sequence[str] | None) -> dict[str, str]:
    """Name to identifier of the chosen segments (None or none: all)."""
    segmentation = node.GetSegmentation()
    result = {}
    for segment_id in ids or segmentation.GetSegmentIDs():
        result.setdefault(_segment(node, segment_id).GetName(), segment_id)
    if not result:
        raise InputError(f"The segmentation {node.GetName()} has no segments.")
    return result


def _segment(node: Node, segment_id: str) -> Node:
    segment = node.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        raise InputError(f"The segmentation {node.GetName()} has no segment {segment_id}.")
    return segment


def _nearest(array: np.ndarray, own: Frame, frame: Frame) -> np.ndarray:
    """An array (z, y, x) on its own frame read at another's voxels, 0 outside; (*frame.shape)."""
    if own.same_lattice(frame):
        return array
    inside, place = _places(own, frame)
    result = np.zeros(frame.shape, array.dtype)
    result[inside] = array.reshape(-1)[place]
    return result


def _places(own: Frame, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Which voxels of `frame` lie in `own` (*frame.shape), and the flat index of the one nearest to each."""
    matrix = own.world_to_index @ frame.index_to_world
    axes = np.ogrid[tuple(slice(n) for n in frame.shape)][::-1]  # i, j, k, each along its own array axis
    inside = np.ones(frame.shape, bool)
    place = np.zeros(frame.shape, np.int64)
    for axis, size, stride in zip(
        range(3), own.size, (1, own.size[0], own.size[0] * own.size[1]), strict=True
    ):
        row = matrix[axis]
        index = np.rint(row[0] * axes[0] + (row[1] * axes[1] + (row[2] * axes[2] + row[3])))
        inside &= (index >= 0) & (index < size)
        place += index.astype(np.int64) * stride
    return inside, place[inside]


def _labels_from_segmentation(
    node: Node, frame: Frame, segment_ids: Sequence[str] | None, results: Collection[Node]
) -> Voxels:
    ids = list(node.GetSegmentation().GetSegmentIDs() if segment_ids is None else segment_ids)
    if not ids:
        raise InputError(f"The segmentation {node.GetName()} has no segments.")
    place = world_matrix(node, results)
    binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    labels = np.zeros(frame.shape, np.int32)
    resampled: dict[Node, np.ndarray] = {}  # several segments may share one image, each with its own value
    for label, segment_id in enumerate(ids, start=1):
        segment = _segment(node, segment_id)
        image, value = segment.GetRepresentation(binary), segment.GetLabelValue()
        if image is None:
            image, value = _drawn(segment, frame, place), 1
        if image is None or image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
            raise InputError(f"The segment {segment.GetName()} of {node.GetName()} is empty.")
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        own = frame_of_lattice(place @ to_numpy(matrix), image.GetExtent())
        array = scalars(image, own)
        if not (array == value).any():
            raise InputError(f"The segment {segment.GetName()} of {node.GetName()} is empty.")
        if image not in resampled:
            resampled[image] = _nearest(array, own, frame)
        labels[resampled[image] == value] = label
    return Voxels(labels, frame)


def _drawn(segment: Node, frame: Frame, place: np.ndarray) -> Node | None:
    """A surface segment as an image of ones on the voxels of `frame`; the segment stays as it is."""
    names = slicer.vtkSegmentationConverter
    surface = segment.GetRepresentation(names.GetSegmentationClosedSurfaceRepresentationName())
    if surface is None:
        return None
    binary = names.GetSegmentationBinaryLabelmapRepresentationName()
    to_segment = np.linalg.inv(place) @ FLIP @ frame.index_to_world
    geometry = slicer.vtkOrientedImageData()
    geometry.SetExtent(*(n for size in frame.size for n in (0, size - 1)))
    geometry.SetImageToWorldMatrix(to_vtk(to_segment))
    copy = slicer.vtkSegmentation()
    copy.SetSourceRepresentationName(names.GetSegmentationClosedSurfaceRepresentationName())
    part = slicer.vtkSegment()
    part.AddRepresentation(names.GetSegmentationClosedSurfaceRepresentationName(), surface)
    copy.AddSegment(part, "part")
    copy.SetConversionParameter(
        names.GetReferenceImageGeometryParameterName(), names.SerializeImageGeometry(geometry)
    )
    return part.GetRepresentation(binary) if copy.CreateRepresentation(binary) else None
