"""Landmark pairs: choosing the lists, placing points, and how far apart each pair is."""

from __future__ import annotations

from typing import Any

import numpy as np
import qt
import slicer
import vtk
from DeepRegistrationLib.errors import InputError
from DeepRegistrationScene.landmark_pairs import LandmarkPairs, pair_landmarks
from DeepRegistrationScene.transform_nodes import transformed
from slicer.i18n import tr as _

from .binding import NodeChoice
from .section import Section, Watch
from .tables import cell, fill
from .texts import show_text

_DELAY_MS = 120
"""A point that is dragged moves a hundred times; it is looked at when it rests."""
_HELD_OUT = 3


class LandmarkSection(Section):
    """The two point lists, and the table of their pairs."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self.bindings = [
            NodeChoice(panel, ui.fixedLandmarksSelector, "fixed_landmarks"),
            NodeChoice(panel, ui.movingLandmarksSelector, "moving_landmarks"),
        ]
        self._sides = (
            (ui.fixedPlaceButton, "fixed_landmarks", _("Fixed landmarks")),
            (ui.movingPlaceButton, "moving_landmarks", _("Moving landmarks")),
        )
        for button, name, title in self._sides:
            button.connect("clicked(bool)", lambda on, name=name, title=title: self._place(on, name, title))
        ui.landmarkTable.connect("itemChanged(QTableWidgetItem*)", self._ticked)
        self._watch = Watch(panel, self._settle, _DELAY_MS)
        self._placing = Watch(panel, self._show_buttons, 0)

    def update(self) -> None:
        super().update()
        lists = self.panel.parameters.fixed_landmarks, self.panel.parameters.moving_landmarks
        self._watch.follow([(node, event) for node in lists for event in _point_events()])
        logic = slicer.app.applicationLogic()
        selection, interaction = logic.GetSelectionNode(), logic.GetInteractionNode()
        self._placing.follow([(node, vtk.vtkCommand.ModifiedEvent) for node in (selection, interaction)])
        self._show_buttons()
        self._show_pairs()

    def close(self) -> None:
        self._watch.stop()
        self._placing.stop()

    def pairs(self) -> LandmarkPairs | None:
        """The pairs as they stand, or None where there are not two lists."""
        parameters = self.panel.parameters
        lists = parameters.fixed_landmarks, parameters.moving_landmarks
        if None in lists:
            return None
        return pair_landmarks(*lists, parameters.held_out, self.panel.results())

    def problem(self) -> str | None:
        lists = self.panel.parameters.fixed_landmarks, self.panel.parameters.moving_landmarks
        if lists[0] is not None and lists[0] is lists[1]:
            return _("The fixed and the moving landmarks are one list; choose two.")
        return None

    # The pairs

    def _show_pairs(self) -> None:
        rows, text = self._table()
        fill(self.ui.landmarkTable, rows)
        show_text(self.ui.landmarkText, text)

    def _table(self) -> tuple[list[tuple[Any, ...]], str]:
        """The rows of the table, and what there is to say below it."""
        try:
            pairs = None if self.problem() else self.pairs()
        except InputError as error:
            return [], str(error)
        if pairs is None:
            return [], self.problem() or ""
        before = np.linalg.norm(pairs.fixed - pairs.moving, axis=1)
        after = self._errors(pairs)
        rows = [
            (f"{p.number}: {p.name}", _mm(before[i]), _mm(after[i]) if after is not None else "",
             cell("", checked=p.held_out))
            for i, p in enumerate(pairs.pairs)
        ]  # fmt: skip
        return rows, "\n".join(self._sentences(pairs))

    def _errors(self, pairs: LandmarkPairs) -> np.ndarray | None:
        """Distances (mm) that the forward transform leaves, if there is one."""
        forward = self.panel.parameters.forward
        if forward is None or not len(pairs):
            return None
        pull_back = vtk.vtkGeneralTransform()
        forward.GetTransformFromWorld(pull_back)
        return np.linalg.norm(transformed(pull_back, pairs.fixed) - pairs.moving, axis=1)

    def _sentences(self, pairs: LandmarkPairs) -> list[str]:
        sentences = list(pairs.sentences)
        if not len(pairs):
            sentences.append(_("There are no pairs yet: place a point on each volume."))
        if len(pairs) and all(pairs.held_out):
            sentences.append(_("All pairs are held out: nothing is fitted to the landmarks."))
        return sentences

    def _ticked(self, item: Any) -> None:
        if item.column() != _HELD_OUT or not self.panel.listening:
            return
        pairs = self.pairs()
        if pairs is None or item.row() >= len(pairs):
            return
        name = pairs.names[item.row()]
        rest = [n for n in self.panel.parameters.held_out if n != name]
        on = item.checkState() == qt.Qt.Checked
        self.panel.parameters.held_out = [*rest, name] if on else rest

    def _settle(self) -> None:
        self._show_pairs()
        self.panel.landmarks_moved()

    # Placing points

    def _place(self, on: bool, name: str, title: str) -> None:
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        if not on:
            interaction.SetCurrentInteractionMode(interaction.ViewTransform)
            self._show_buttons()
            return
        node = getattr(self.panel.parameters, name)
        if node is None:
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", title)
            node.SetControlPointLabelFormat("%d")  # so that points placed in turn are pairs by name
            node.CreateDefaultDisplayNodes()
            setattr(self.panel.parameters, name, node)
        logic = slicer.modules.markups.logic()
        logic.SetActiveList(node)
        logic.StartPlaceMode(True)
        self._show_buttons()

    def _show_buttons(self) -> None:
        """The place button of the list that is being placed into is down; the panel hears of mode changes."""
        logic = slicer.app.applicationLogic()
        interaction, selection = logic.GetInteractionNode(), logic.GetSelectionNode()
        placing = interaction is not None and interaction.GetCurrentInteractionMode() == interaction.Place
        active = selection.GetActivePlaceNodeID() if placing and selection is not None else None
        for button, name, _title in self._sides:
            node = getattr(self.panel.parameters, name)
            button.setChecked(node is not None and node.GetID() == active)
            button.setToolTip(
                _("Click to stop placing points.")
                if button.checked
                else _("Click into the slices to place points.")
            )


def _mm(value: float) -> str:
    return _("{value:.1f} mm").format(value=value)


def _point_events() -> tuple[int, ...]:
    node = slicer.vtkMRMLMarkupsNode
    return (
        node.PointAddedEvent,
        node.PointRemovedEvent,
        node.PointModifiedEvent,
        node.PointPositionDefinedEvent,
        slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
    )
