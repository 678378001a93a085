"""A slice view rendered without a window: real slice logic, real displayable managers.

Needs OpenGL without a display: `VTK_DEFAULT_OPENGL_WINDOW=vtkEGLRenderWindow` in the environment before the
first picture, and on Debian the packages `libegl1` and `libgl1-mesa-dri`; no graphics card. Nothing is
rendered before `picture`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

MANAGERS = (
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
)


ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}


class SliceView:
    """One slice view ("Red", "Yellow" or "Green") of a scene.

    `logic` is the real `vtkMRMLSliceLogic`; choose what is shown through its composite and slice nodes.
    """

    def __init__(self, scene: Any, name: str, application_logic: Any) -> None:
        self.application_logic = application_logic
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        self.logic.SetMRMLScene(scene)
        self.logic.AddSliceNode(name).SetOrientation(ORIENTATIONS[name])
        self._window: Any = None

    def _open(self) -> None:
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
        self._window = vtk.vtkRenderWindow()
        self._window.OffScreenRenderingOn()
        self._window.SetMultiSamples(0)
        self._renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()  # the managers expect one to be there
        self._interactor.SetRenderWindow(self._window)
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._mapper.SetInputConnection(self.logic.GetImageDataConnection())
        self._image = vtk.vtkActor2D()
        self._image.SetMapper(self._mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(self._image)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(self._renderer)
        self._managers = [getattr(slicer, name)() for name in MANAGERS]
        for manager in self._managers:
            manager.SetMRMLApplicationLogic(self.application_logic)
            self._group.AddDisplayableManager(manager)
        self._group.SetMRMLDisplayableNode(self.logic.GetSliceNode())

    def picture(self, width: int = 400, height: int = 400, fit: bool = True) -> np.ndarray:
        """What the view shows now, (height, width, 3) uint8, first row on top."""
        if self._window is None:
            self._open()
        self._window.SetSize(width, height)
        self.logic.ResizeSliceNode(width, height)
        if fit:
            self.logic.FitSliceToBackground()
        self.logic.UpdatePipeline()
        self._window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.SetInputBufferTypeToRGB()
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        shape = image.GetDimensions()[1], image.GetDimensions()[0], 3
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)[::-1].copy()

    def millimetres_per_pixel(self) -> tuple[float, float]:
        """Across and down."""
        size, field = self.logic.GetSliceNode().GetDimensions(), self.logic.GetSliceNode().GetFieldOfView()
        return field[0] / size[0], field[1] / size[1]

    def close(self) -> None:
        """Let go of the scene."""
        if self._window is not None:
            self._group.SetMRMLDisplayableNode(None)
            self._group.SetRenderer(None)
            self._window.RemoveRenderer(self._renderer)
            self._window.Finalize()
            self._window = None
        self.logic.SetMRMLScene(None)


def save_picture(picture: np.ndarray, path: Path) -> None:
    """Write a (height, width, 3) uint8 picture as PNG."""
    from PySide6.QtGui import QImage

    height, width = picture.shape[:2]
    data = np.ascontiguousarray(picture)
    if not QImage(data.data, width, height, 3 * width, QImage.Format_RGB888).save(str(path)):
        raise OSError(f"cannot write {path}")
