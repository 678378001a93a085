"""Looking at a result in the slice views: deformed grid, comparison, Jacobian, and jumps to where to look."""

from __future__ import annotations

from typing import Any

import numpy as np
import qt
import slicer
from DeepRegistrationLib.errors import InputError, RegistrationError
from DeepRegistrationLib.verdict import worst_landmark
from DeepRegistrationScene.geometry import FLIP
from DeepRegistrationScene.inspection import Inspection, jump, show_grid
from DeepRegistrationScene.jacobian_volume import strongest_fold
from DeepRegistrationScene.transform_nodes import grid_frame
from slicer.i18n import tr as _

from .binding import Choice, Tick
from .section import Section

COMPARISONS = {
    "none": _("Nothing"),
    "blend": _("Blend"),
    "checkerboard": _("Checkerboard"),
    "flicker": _("Flicker"),
}
_AMOUNTS = {
    "blend": (_("Opacity:"), 0.0, 1.0, 0.01, 2, 0.5),
    "checkerboard": (_("Squares:"), 2.0, 24.0, 1.0, 0, 9.0),
    "flicker": (_("Per second:"), 0.5, 5.0, 0.5, 1, 2.0),
    "jacobian": (_("Opacity:"), 0.0, 1.0, 0.01, 2, 0.55),
}
"""Of the slider: what it sets, lowest, highest, step, decimals, where it starts."""


class InspectionSection(Section):
    """Shows the result, and puts the views back as they were."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self.bindings = [
            Tick(panel, ui.gridCheck, "grid_shown"),
            Tick(panel, ui.jacobianOverlayCheck, "jacobian_shown"),
            Choice(panel, ui.compareCombo, "comparison", COMPARISONS),
        ]
        ui.jacobianOverlayCheck.connect("toggled(bool)", self._jacobian_ticked)
        ui.compareSlider.connect("valueChanged(double)", self._amount_changed)
        ui.jumpLandmarkButton.connect("clicked(bool)", self._jump_to_landmark)
        ui.jumpFoldButton.connect("clicked(bool)", self._jump_to_fold)
        self._views = Inspection()
        self._amounts = {mode: amount[-1] for mode, amount in _AMOUNTS.items()}
        self._slider = "none"
        self._shown: tuple[Any, ...] = ("none",)
        self._grid: Any = None
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._views.flick)

    def update(self) -> None:
        super().update()
        self._show_enabled()
        self._show_grid()
        mode = self._mode()
        self._show_slider(mode)
        self.ui.jacobianText.setVisible(mode == "jacobian")
        p = self.panel.parameters
        second = p.jacobian if mode == "jacobian" else p.warped
        wanted = (mode, p.fixed, second) if mode != "none" else ("none",)
        if wanted != self._shown:
            self._shown = wanted
            self._apply()

    def close(self) -> None:
        self._timer.stop()
        self._views.end()
        self._shown, self._grid = ("none",), None

    def pause(self, paused: bool) -> None:
        """Nothing blinks while the user is in another module."""
        if paused:
            self._timer.stop()
        elif self._views.mode == "flicker":
            self._timer.start()

    def run_ended(self) -> None:
        """The images may be other ones now."""
        self._views.refresh()

    def _mode(self) -> str:
        """What the views are to show; a choice that cannot be shown now is no choice."""
        p = self.panel.parameters
        if p.jacobian_shown:
            return "jacobian" if p.jacobian is not None and p.fixed is not None else "none"
        return p.comparison if p.warped is not None and p.fixed is not None else "none"

    # Widgets

    def _show_enabled(self) -> None:
        p, ui = self.panel.parameters, self.ui
        transform = None if p.forward is not None else _("Register first: there is no transform to look at.")
        compare = None
        if p.warped is None or p.fixed is None:
            compare = _("Register with a warped volume among the outputs first.")
        elif p.jacobian_shown:
            compare = _("Untick growth and shrinkage first.")
        quality = self.panel.quality() or {}
        landmark = None if worst_landmark(quality) else _("There are no landmark errors yet.")
        fold = transform
        if fold is None and (quality.get("regularity") or {}).get("folds_percent") == 0:
            fold = _("There is no fold.")
        for widget, reason, tooltip in (
            (ui.gridCheck, transform, _("Draw the deformed grid over the slices.")),
            (
                ui.jacobianOverlayCheck,
                transform,
                _("Colour the fixed volume by local change of volume (Jacobian determinant)."),
            ),
            (ui.compareCombo, compare, _("How the fixed and the warped volume are shown together.")),
            (
                ui.compareSlider,
                None if self._mode() != "none" else _("Nothing is compared now."),
                _("How much of it is seen: opacity, number of squares, or changes a second."),
            ),
            (ui.jumpLandmarkButton, landmark, _("Centre the views on the landmark with the largest error.")),
            (ui.jumpFoldButton, fold, _("Centre the views on the place where the map folds most.")),
        ):
            widget.setEnabled(reason is None)
            widget.setToolTip(reason or tooltip)

    def _show_slider(self, mode: str) -> None:
        if mode == self._slider or mode == "none":
            return
        title, low, high, step, decimals, _start = _AMOUNTS[mode]
        self.ui.compareAmountLabel.setText(title)
        slider = self.ui.compareSlider
        slider.decimals = decimals
        slider.minimum, slider.maximum, slider.singleStep = low, high, step
        slider.value = self._amounts[mode]
        self._slider = mode

    def _amount_changed(self, value: float) -> None:
        if self.panel.listening and self._mode() != "none":
            self._amounts[self._mode()] = value
            self._apply()

    # Views

    def _show_grid(self) -> None:
        p = self.panel.parameters
        wanted = p.forward if p.grid_shown else None
        if wanted is self._grid:
            return
        if self._grid is not None and slicer.mrmlScene.IsNodePresent(self._grid):
            show_grid(self._grid, False)
        if wanted is not None:
            show_grid(wanted, True, p.fixed)
        self._grid = wanted

    def _apply(self) -> None:
        """Let the views show what is wanted."""
        p, mode = self.panel.parameters, self._mode()
        self._timer.stop()
        amount = self._amounts.get(mode, 0.0)
        try:
            if mode == "none":
                self._views.end()
            elif mode == "jacobian":
                self._views.jacobian(p.fixed, p.jacobian, amount)
            elif mode == "blend":
                self._views.blend(p.fixed, p.warped, amount)
            elif mode == "checkerboard":
                self._views.checkerboard(p.fixed, p.warped, round(amount))
            elif mode == "flicker":
                self._views.flicker(p.fixed, p.warped)
                self._timer.setInterval(round(1000 / amount))
                self._timer.start()
        except RegistrationError as error:
            self.panel.run.log(str(error))

    # Jumps

    def _jacobian(self) -> Any:
        """The Jacobian volume of the forward transform, made if there is none, and kept up from then on."""
        p = self.panel.parameters
        if p.jacobian is None:
            reference = p.fixed if grid_frame(p.forward) is None else None
            volume = self.panel.logic.jacobianVolume(p.forward, reference=reference)
            with p.batch():
                p.jacobian, p.want_jacobian = volume, True
        return p.jacobian

    def _jacobian_ticked(self, on: bool) -> None:
        p = self.panel.parameters
        if on and self.panel.listening and p.forward is not None:
            message = _("Growth and shrinkage could not be shown.")
            try:
                with slicer.util.tryWithErrorDisplay(message, waitCursor=True):
                    self._jacobian()
            except Exception:  # has been shown, and is raised again for Python's console
                p.jacobian_shown = False
                raise

    def _jump_to_landmark(self) -> None:
        worst = worst_landmark(self.panel.quality() or {})
        try:
            pairs = self.panel.landmarks.pairs()
        except InputError:  # which the table's text says
            pairs = None
        for pair in pairs.pairs if pairs is not None and worst is not None else ():
            if pair.name == worst[0]:
                jump(FLIP[:3, :3] @ np.array(pair.fixed.position))

    def _jump_to_fold(self) -> None:
        with slicer.util.tryWithErrorDisplay(_("The strongest fold could not be found."), waitCursor=True):
            _determinant, position = strongest_fold(self._jacobian())
            jump(position)
