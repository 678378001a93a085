"""Looking at a result in the slice views: deformed grid, comparisons of two images, Jacobian, jumps.

Works on slice composite nodes, which exist with and without views. No timers: a flicker changes when told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import slicer
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame

from .changes import changes, nodes_of_class
from .geometry import Node, frame_of_volume
from .resampling import resampled_as_seen
from .volumes import fill_volume, image_data, scalars

CHECKERBOARD = "DeepRegistration checkerboard"
"""Name of the volume in which a checkerboard is shown; it is taken away again."""

_SQUARES = 9
"""Squares along the longest side of a checkerboard."""
_GRID_LINES = 24
"""Lines along the longest side of a deformed grid."""


def show_grid(transform: Node, visible: bool = True, reference: Node | None = None) -> None:
    """Show in the slice views how a transform bends a square grid of what lies under it, or no longer.

    Args:
        transform: a transform node.
        visible: whether to show it.
        reference: volume node whose size the grid's spacing fits; without it the spacing stays.
    """
    if not visible:
        if transform.GetDisplayNode() is not None:
            transform.GetDisplayNode().SetVisibility(False)
        return
    transform.CreateDefaultDisplayNodes()
    display = transform.GetDisplayNode()
    state = display.StartModify()
    if reference is not None:
        spacing = grid_spacing(frame_of_volume(reference))
        display.SetGridSpacingMm(spacing)
        display.SetGridResolutionMm(spacing / 4)
        display.SetAndObserveRegionNode(reference)
    display.SetGridScalePercent(100)
    display.SetGridShowNonWarped(False)
    display.SetVisualizationMode(display.VIS_MODE_GRID)
    display.SetVisibility(True)
    display.SetVisibility2D(True)
    display.SetVisibility3D(False)
    display.EndModify(state)


def grid_spacing(frame: Frame) -> float:
    """Millimetres between grid lines: 1, 2 or 5 times a power of ten, some two dozen lines a side."""
    raw = float(frame.extent.max()) / _GRID_LINES
    power = 10.0 ** np.floor(np.log10(raw))
    return float(power * min((1, 2, 5, 10), key=lambda step: abs(np.log(step * power / raw))))


def jump(position: Sequence[float], scene: Node | None = None) -> None:
    """Centre all slice views on a world point, RAS mm, and put the crosshair there."""
    scene = slicer.mrmlScene if scene is None else scene
    r, a, s = (float(x) for x in position)
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, r, a, s, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairRAS(r, a, s)


@dataclass(frozen=True)
class _Layers:
    """What a slice view showed."""

    background: str | None
    foreground: str | None
    opacity: float
    compositing: int

    @classmethod
    def of(cls, view: Node) -> _Layers:
        return cls(
            view.GetBackgroundVolumeID(),
            view.GetForegroundVolumeID(),
            view.GetForegroundOpacity(),
            view.GetCompositing(),
        )

    def show_in(self, view: Node) -> None:
        known = [
            i if i and view.GetScene().GetNodeByID(i) else None for i in (self.background, self.foreground)
        ]
        _set_layers(view, *known, self.opacity, self.compositing)


def _set_layers(
    view: Node, background: str | None, foreground: str | None, opacity: float, compositing: int
) -> None:
    """Set a slice view's layers, which it draws once."""
    state = view.StartModify()
    view.SetBackgroundVolumeID(background)
    view.SetForegroundVolumeID(foreground)
    view.SetForegroundOpacity(opacity)
    view.SetCompositing(compositing)
    view.EndModify(state)


class Inspection:
    """A comparison of two images in the slice views, which come back as they were with `end`.

    Label layers, positions and zoom are left alone.

    Args:
        scene: whose slice views to use; `slicer.mrmlScene` by default.

    Attributes:
        mode: ``none``, ``blend``, ``checkerboard``, ``flicker`` or ``jacobian``.
    """

    def __init__(self, scene: Node | None = None) -> None:
        self.scene = slicer.mrmlScene if scene is None else scene
        self.mode = "none"
        self._before: dict[str, _Layers] = {}
        self._pair: tuple[str, str] | None = None
        self._squares = _SQUARES
        self._checkerboard: str | None = None

    def blend(self, fixed: Node, warped: Node, opacity: float = 0.5) -> None:
        """The warped image over the fixed one; opacity 0 shows the fixed, 1 the warped image."""
        self._show("blend", fixed, warped, opacity)

    def flicker(self, fixed: Node, warped: Node) -> None:
        """Begin a flicker with the fixed image; `flick` changes to the other one."""
        self._show("flicker", fixed, warped, 0.0)

    def flick(self) -> None:
        """Show the other image of a flicker; nothing happens in other modes."""
        if self.mode == "flicker":
            for view in self._views():
                view.SetForegroundOpacity(0.0 if view.GetForegroundOpacity() > 0.5 else 1.0)

    def checkerboard(self, fixed: Node, warped: Node, squares: int = _SQUARES) -> None:
        """Squares (cubes, in space) of the two images in turn, each with its own window and level.

        Args:
            fixed: may lie under linear transforms.
            warped: may lie under any; it is read on the fixed image's voxels.
            squares: along the fixed image's longest side.

        Raises:
            InputError: an image that is not there any more or has no voxels.
        """
        self._check(fixed, warped)
        frame = frame_of_volume(fixed)
        image = checkerboard_image(fixed, warped, frame, squares)
        with changes(self.scene) as change:
            node = self._known(self._checkerboard)
            if node is None:
                node = change.add("vtkMRMLScalarVolumeNode", CHECKERBOARD)
                node.SetHideFromEditors(True)
                node.SetSaveWithScene(False)
                node.SetSelectable(False)
            fill_volume(node, image, frame)
            display = node.GetDisplayNode()
            display.SetSaveWithScene(False)
            display.SetAutoWindowLevel(False)
            display.SetWindowLevelMinMax(0, 255)
            if fixed.GetDisplayNode() is not None and fixed.GetDisplayNode().GetColorNodeID():
                display.SetAndObserveColorNodeID(fixed.GetDisplayNode().GetColorNodeID())
        self._checkerboard, self._squares = node.GetID(), squares
        self._show("checkerboard", fixed, warped, 0.0, node)

    def jacobian(self, fixed: Node, volume: Node, opacity: float = 0.55) -> None:
        """A Jacobian volume (see `jacobian_volume`) over the fixed image."""
        self._show("jacobian", fixed, volume, opacity)

    def refresh(self) -> None:
        """Draw a checkerboard again after its images have changed; else the views follow by themselves."""
        pair = [self._known(i) for i in self._pair or ()]
        if self.mode == "checkerboard" and pair and None not in pair:
            self.checkerboard(*pair, squares=self._squares)

    def end(self) -> None:
        """Let the views show what they showed before, without nodes that are gone, and clear up."""
        for view in self._views():
            layers = self._before.get(view.GetID())
            if layers is not None:
                layers.show_in(view)
        self._before, self._pair, self.mode = {}, None, "none"
        self._remove_checkerboard()

    def _show(
        self, mode: str, fixed: Node, warped: Node, opacity: float, instead: Node | None = None
    ) -> None:
        """Put two images (or one instead of them) into the views."""
        self._check(fixed, warped)
        background, foreground = (fixed, warped) if instead is None else (instead, None)
        for view in self._views():
            self._before.setdefault(view.GetID(), _Layers.of(view))
            _set_layers(
                view,
                background.GetID(),
                None if foreground is None else foreground.GetID(),
                opacity,
                slicer.vtkMRMLSliceCompositeNode.Alpha,
            )
        self.mode, self._pair = mode, (fixed.GetID(), warped.GetID())
        if instead is None:
            self._remove_checkerboard()

    def _check(self, *images: Node | None) -> None:
        for node in images:
            if node is None or node.GetScene() is not self.scene or node.GetImageData() is None:
                raise InputError("There is no image to compare with; register first.")

    def _views(self) -> list[Node]:
        return nodes_of_class(self.scene, "vtkMRMLSliceCompositeNode")

    def _known(self, node_id: str | None) -> Node | None:
        return self.scene.GetNodeByID(node_id) if node_id else None

    def _remove_checkerboard(self) -> None:
        node, self._checkerboard = self._known(self._checkerboard), None
        if node is not None:
            display = node.GetDisplayNode()
            self.scene.RemoveNode(node)
            if display is not None:
                self.scene.RemoveNode(display)


def checkerboard_image(fixed: Node, warped: Node, frame: Frame, squares: int = _SQUARES) -> Node:
    """Two volume nodes in turn on a lattice of the world, as grey values 0 to 255 (vtkImageData, uint8).

    The cubes are of equal length in mm along the lattice's axes.
    """
    if squares < 1:
        raise InputError("A checkerboard needs at least one square.")
    side = float(frame.extent.max()) / squares
    i, j, k = (
        np.floor((np.arange(n) + 0.5) * step / side).astype(np.int64)
        for n, step in zip(frame.size, frame.spacing, strict=True)
    )
    odd = (i + j[:, None] + k[:, None, None]) % 2 == 1
    result = np.empty(frame.shape, np.uint8)
    for node, where in ((fixed, ~odd), (warped, odd)):
        values = scalars(resampled_as_seen(node, frame), frame)
        low, high = _window(node)
        factor = 255 / max(high - low, 1e-12)
        for grey, part, chosen in zip(
            result, values, where, strict=True
        ):  # a slice at a time stays in the cache
            scaled = (part - np.float32(low)) * np.float32(factor)
            np.copyto(grey, np.clip(scaled, 0, 255, out=scaled), where=chosen, casting="unsafe")
    return image_data(result)


def _window(node: Node) -> tuple[float, float]:
    """The values that a volume node shows black and white."""
    display = node.GetDisplayNode()
    if display is None:
        low, high = node.GetImageData().GetScalarRange()
        return low, high
    return display.GetWindowLevelMin(), display.GetWindowLevelMax()
