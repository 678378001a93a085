"""Voxels read on another lattice, whatever transforms a volume lies under."""

from __future__ import annotations

import vtk
from DeepRegistrationLib.background import filling_value
from DeepRegistrationLib.frame import Frame
from vtk.util.numpy_support import vtk_to_numpy

from .geometry import FLIP, Node, frame_of_lattice, to_numpy, to_vtk


def resampled(
    image: Node, own: Frame, frame: Frame, pull_back: Node | None = None, nearest: bool = False
) -> Node:
    """Read an image at the places that a lattice's points are mapped to.

    As SimpleITK resamples: linear between voxels, constant over the outer half of a border voxel. Beyond
    that the value is the image's background (see `filling_value`); 0 for nearest neighbour.

    Args:
        image: vtkImageData; only its values count, not its geometry.
        own: where its voxels are.
        frame: the lattice to fill.
        pull_back: vtkAbstractTransform (RAS) from points of the lattice to points of the image; None: the
            identity.
        nearest: no mixing of values, for labels.

    Returns:
        vtkImageData of the image's scalar type, without geometry.
    """
    bare = vtk.vtkImageData()
    bare.ShallowCopy(image)
    bare.SetExtent(*(n for size in own.size for n in (0, size - 1)))
    bare.SetOrigin(0, 0, 0)
    bare.SetSpacing(1, 1, 1)
    bare.SetDirectionMatrix(1, 0, 0, 0, 1, 0, 0, 0, 1)
    way = vtk.vtkGeneralTransform()
    way.PostMultiply()
    way.Concatenate(to_vtk(FLIP @ frame.index_to_world))
    if pull_back is not None:
        way.Concatenate(pull_back)
    way.Concatenate(to_vtk(own.world_to_index @ FLIP))
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(bare)
    reslice.SetResliceTransform(way)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputExtent(*(n for size in frame.size for n in (0, size - 1)))
    if nearest:
        reslice.SetInterpolationModeToNearestNeighbor()
    else:
        reslice.SetInterpolationModeToLinear()
        if image.GetNumberOfScalarComponents() == 1:
            values = vtk_to_numpy(image.GetPointData().GetScalars())
            reslice.SetBackgroundLevel(filling_value(values.reshape(own.shape)))
    reslice.Update()
    return reslice.GetOutput()


def resampled_as_seen(volume: Node, frame: Frame, nearest: bool = False) -> Node:
    """A volume node's voxels on a lattice of the world, the node lying under any transforms, deformable too.

    Returns:
        vtkImageData without geometry; the node's own where nothing has to be done.
    """
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    pull_back = None
    if volume.GetParentTransformNode() is not None:
        pull_back = vtk.vtkGeneralTransform()
        volume.GetParentTransformNode().GetTransformFromWorld(pull_back)
    image = volume.GetImageData()
    own = frame_of_lattice(to_numpy(matrix), image.GetExtent())
    if pull_back is None and own.same_lattice(frame):
        return image
    return resampled(image, own, frame, pull_back, nearest)
