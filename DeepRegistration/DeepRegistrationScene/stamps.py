"""Whether something in the scene has changed since it was read."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from .choices import Choices, Sides
from .geometry import Node, to_numpy, world_matrix
from .segments import is_segmentation

Stamp = tuple[Any, ...]


def content_stamp(node: Node | None, results: tuple[Node, ...] = ()) -> Stamp:
    """Equal as long as a volume's or segmentation's voxels and place in the world are the same."""
    if node is None:
        return ()
    place = tuple(world_matrix(node, results).ravel().tolist())
    if is_segmentation(node):
        segmentation = node.GetSegmentation()
        name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        parts = []
        for segment_id in segmentation.GetSegmentIDs():
            segment = segmentation.GetSegment(segment_id)
            image = segment.GetRepresentation(name)
            parts.append((segment_id, segment.GetName(), segment.GetLabelValue(), _time(image)))
        return (node.GetID(), place, segmentation.GetMTime(), *parts)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return node.GetID(), place, tuple(to_numpy(matrix).ravel().tolist()), _time(node.GetImageData())


def choices_stamps(choices: Choices) -> dict[str, Stamp]:
    """Stamps of a run's images, labels and masks."""

    def stamp(nodes: Sides | None) -> Stamp:
        return tuple(content_stamp(node, choices.results) for node in nodes or ())

    return {
        "images": stamp((choices.fixed, choices.moving)),
        "labels": (stamp(choices.segmentations), choices.segments),
        "masks": (stamp(choices.masks), choices.mask_segments),
    }


def map_stamp(node: Node | None) -> Stamp:
    """Equal as long as a transform node holds the map that it was given, in the place it was given."""
    if node is None:
        return ()
    transform = node.GetTransformFromParent()
    time = None if transform is None else transform.GetMTime()
    return node.GetID(), node.GetTransformNodeID(), time


def _time(image: Node | None) -> int | None:
    if image is None:
        return None
    scalars = image.GetPointData().GetScalars()
    return max(image.GetMTime(), 0 if scalars is None else scalars.GetMTime())
