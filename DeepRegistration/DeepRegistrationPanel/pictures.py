"""Pictures for labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import qt
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy


def pixmap(picture: np.ndarray, ratio: float = 1.0) -> Any:
    """A Qt pixmap of a picture (height, width, 3) uint8, its first row on top.

    Args:
        picture: as many pixels as the screen is to show.
        ratio: pixels of the screen per unit of length in the window: 2 where letters are twice as fine.
    """
    height, columns, _ = picture.shape
    image = vtk.vtkImageData()
    image.SetDimensions(columns, height, 1)
    flat = np.ascontiguousarray(picture[::-1]).reshape(-1, 3)  # VTK's first row is the lowest
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    writer = vtk.vtkPNGWriter()
    writer.SetInputData(image)
    writer.WriteToMemoryOn()
    writer.Write()
    result = qt.QPixmap()
    result.loadFromData(qt.QByteArray(vtk_to_numpy(writer.GetResult()).tobytes()))
    result.setDevicePixelRatio(ratio)
    return result
