"""Segmentations whose segments are brought to overlap, and masks that say where the volumes count."""

from __future__ import annotations

from typing import Any

import qt
from DeepRegistrationLib.errors import InputError
from DeepRegistrationScene.segments import is_segmentation, match_segments
from slicer.i18n import tr as _

from .binding import NodeChoice
from .section import Section
from .tables import fill_list, ticked


class StructureSection(Section):
    """Segmentations and masks."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self.bindings = [
            NodeChoice(panel, ui.fixedSegmentationSelector, "fixed_segmentation"),
            NodeChoice(panel, ui.movingSegmentationSelector, "moving_segmentation"),
            NodeChoice(panel, ui.fixedMaskSelector, "fixed_mask"),
            NodeChoice(panel, ui.movingMaskSelector, "moving_mask"),
        ]
        for selector in (ui.fixedSegmentationSelector, ui.movingSegmentationSelector):
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self._changed)
        ui.segmentList.connect("itemChanged(QListWidgetItem*)", self._ticked)
        self._ids: dict[str, tuple[str, str]] = {}
        self._problem: str | None = None

    def update(self) -> None:
        super().update()
        parameters, ui = self.panel.parameters, self.ui
        nodes = parameters.fixed_segmentation, parameters.moving_segmentation
        self._ids, self._problem, text = {}, None, ""
        if (nodes[0] is None) != (nodes[1] is None):
            side = _("fixed") if nodes[0] is None else _("moving")
            self._problem = _("Choose a {side} segmentation too, or none at all.").format(side=side)
        elif nodes[0] is not None and all(map(is_segmentation, nodes)):
            try:
                matched = match_segments(*nodes)
            except InputError as error:
                self._problem = str(error)
            else:
                self._ids = dict(
                    zip(matched.names, zip(matched.fixed, matched.moving, strict=True), strict=True)
                )
                alone = _alone(nodes, matched)
                if alone:
                    text = _("Without a partner of the same name: {names}.").format(names=", ".join(alone))
        chosen = set(parameters.fixed_segments) or {fixed for fixed, _moving in self._ids.values()}
        fill_list(ui.segmentList, [(name, name, ids[0] in chosen) for name, ids in self._ids.items()])
        ui.segmentText.setText(self._problem or text)
        ui.segmentText.setVisible(bool(self._problem or text))

    def problem(self) -> str | None:
        return self._problem

    def _changed(self) -> None:
        """Which segments were chosen says nothing about another segmentation."""
        if self.panel.listening:
            with self.panel.parameters.batch() as parameters:
                parameters.fixed_segments = parameters.moving_segments = ()

    def _ticked(self, item: Any) -> None:
        if not self.panel.listening:
            return
        names = ticked(self.ui.segmentList)
        if not names:  # none chosen would mean all of them
            item.setCheckState(qt.Qt.Checked)
            return
        parameters = self.panel.parameters
        everything = len(names) == len(self._ids)
        with parameters.batch():
            parameters.fixed_segments = () if everything else [self._ids[name][0] for name in names]
            parameters.moving_segments = () if everything else [self._ids[name][1] for name in names]


def _alone(nodes: tuple[Any, Any], matched: Any) -> list[str]:
    """Names of the segments that only one of the two has."""
    names = []
    for node, paired in zip(nodes, (matched.fixed, matched.moving), strict=True):
        segmentation = node.GetSegmentation()
        ids = [i for i in segmentation.GetSegmentIDs() if i not in paired]
        names += [segmentation.GetSegment(i).GetName() for i in ids]
    return names
