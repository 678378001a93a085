"""The two volumes, how they lie to each other, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import qt
import slicer
import vtk
from DeepRegistrationScene.overlap import overlap
from slicer.i18n import tr as _

from .binding import NodeChoice
from .events import ResizeWatch
from .pictures import pixmap
from .section import Section, Watch
from .texts import show_text

_DELAY_MS = 150
_NARROWEST, _WIDEST, _MARGINS = 280, 432, 20
"""Of the picture, and beside it, in units of the window."""
_PANELS = 3
"""In the picture, side by side."""


class VolumeSection(Section):
    """Fixed and moving volume."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.bindings = [
            NodeChoice(panel, self.ui.fixedSelector, "fixed"),
            NodeChoice(panel, self.ui.movingSelector, "moving"),
        ]
        self._watch = Watch(panel, self._settle, _DELAY_MS)
        self._resizes = ResizeWatch(self.ui.volumesButton, self._watch.touch)
        self._shown: tuple[Any, ...] | None = None
        self._unusable: str | None = None

    def update(self) -> None:
        super().update()
        volumes = self._volumes()
        self._watch.follow(
            [
                (volume, event)
                for volume in volumes
                for event in (
                    vtk.vtkCommand.ModifiedEvent,
                    slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
                    slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent,
                )
            ]
        )
        size = self._size()
        key = (*(_state(volume) for volume in volumes), size)
        if key != self._shown:
            self._show(volumes, *size)
            self._shown = key

    def problem(self) -> str | None:
        for volume, what in zip(self._volumes(), (_("fixed"), _("moving")), strict=True):
            if volume is None:
                return _("Choose a {what} volume.").format(what=what)
        return self._unusable

    def close(self) -> None:
        self._watch.stop()
        self._shown = None

    def _volumes(self) -> tuple[Any, Any]:
        return self.panel.parameters.fixed, self.panel.parameters.moving

    def _settle(self) -> None:
        self.panel.update()

    def _size(self) -> tuple[int, float]:
        """Screen pixels along each side of a panel of the picture, and those per unit of the window."""
        width = self.ui.volumesButton.width - _MARGINS
        ratio = self.ui.overlapPicture.devicePixelRatioF()
        return round(min(_WIDEST, max(_NARROWEST, width)) * ratio / _PANELS), ratio

    def _show(self, volumes: tuple[Any, Any], side: int, ratio: float) -> None:
        found = overlap(*volumes, self.panel.results(), side)
        self._unusable = None if found.usable or None in volumes else found.warnings[0]
        picture, ui = found.picture, self.ui
        ui.overlapPicture.setPixmap(qt.QPixmap() if picture is None else pixmap(picture, ratio))
        ui.overlapPicture.setVisible(picture is not None)
        ui.overlapLegend.setVisible(picture is not None)
        lines = list(found.warnings)
        if found.share is not None and not lines:
            lines = [
                _("{share} % of the smaller volume lies in the other.").format(share=round(100 * found.share))
            ]
        show_text(ui.volumesText, "\n".join(lines))


def _state(volume: Any) -> tuple[Any, ...] | None:
    """Something that differs when a volume would look different."""
    if volume is None:
        return None
    times, node = [], volume
    while node is not None:
        times.append((node.GetID(), node.GetMTime() if node is volume else node.GetTransformToWorldMTime()))
        node = node.GetParentTransformNode()
    image = volume.GetImageData()
    return (*times, None if image is None else image.GetMTime())
