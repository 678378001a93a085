"""Volume nodes as arrays on frames, and back."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import vtk
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from .changes import changes, node_modified_once
from .geometry import FLIP, Node, frame_of_volume, to_vtk


class Voxels(NamedTuple):
    """An image without torch.

    Attributes:
        array: values, (z, y, x).
        frame: where they are, LPS mm.
    """

    array: np.ndarray
    frame: Frame


def read_volume(node: Node | None, results: Collection[Node] = ()) -> Voxels:
    """A view of a volume node's voxels in their own type, where the node lies in the world.

    The array is the node's memory: copy it before changing it.

    Raises:
        InputError: as `geometry.frame_of_volume`.
    """
    frame = frame_of_volume(node, results)
    return Voxels(scalars(node.GetImageData(), frame), frame)


def scalars(image: Node, frame: Frame) -> np.ndarray:
    """A view (z, y, x) of the values of VTK image data."""
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(frame.shape)


def check_holds_volume(node: Node | None) -> None:
    """Raise InputError unless an image can be stored in the node (None: a new one is made)."""
    if node is not None and not node.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError(f"The image cannot be stored in {node.GetName()}; choose a volume.")


def image_data(array: np.ndarray) -> Node:
    """An array (z, y, x) or (components, z, y, x) as VTK image data of its own.

    Without geometry, which Slicer keeps in the node.

    Raises:
        InputError: the image is not 3-D.
    """
    if array.ndim not in (3, 4):
        raise InputError("Only 3-D images can be shown in Slicer.")
    if array.dtype == bool:
        array = array.view(np.uint8)
    components = 1 if array.ndim == 3 else len(array)
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(array.shape[-3:]))
    image.AllocateScalars(get_vtk_array_type(array.dtype), components)
    values = vtk_to_numpy(image.GetPointData().GetScalars())
    if array.ndim == 3:
        values.reshape(array.shape)[:] = array
    else:
        values.reshape(*array.shape[1:], components)[:] = np.moveaxis(array, 0, -1)
    return image


def fill_volume(node: Node, image: Node, frame: Frame) -> Node:
    """Let a volume node show image data on a frame, outside any parent transform."""
    with node_modified_once(node):
        node.SetAndObserveTransformNodeID(None)
        node.SetIJKToRASMatrix(to_vtk(FLIP @ frame.index_to_world))
        node.SetAndObserveImageData(image)
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    return node


def volume_to_node(
    array: np.ndarray,
    frame: Frame,
    name: str,
    node: Node | None = None,
    labels: bool = False,
    scene: Node | None = None,
) -> Node:
    """Put an array into the scene as a scalar, label map or (with several components) vector volume.

    Args:
        array: (z, y, x), or (components, z, y, x).
        frame: where its voxels are.
        name: the node's name.
        node: a volume node to fill instead of making a new one; taken out of its parent transform.
        labels: make a label map volume node.
        scene: where to add; `slicer.mrmlScene` by default.

    Raises:
        InputError: `node` is not a volume node, or the image not 3-D.
        OutputError: the scene refused the node. On any failure the scene is left as it was.
    """
    check_holds_volume(node)
    image = image_data(array)
    if tuple(array.shape[-3:]) != frame.shape:
        raise InputError("The image's voxels and its geometry do not have the same size.")
    kind = "LabelMap" if labels else "Vector" if array.ndim == 4 else "Scalar"
    with changes(scene) as change:
        node = change.add(f"vtkMRML{kind}VolumeNode", name) if node is None else change.keep(node)
        return fill_volume(node, image, frame)
