"""Segmentations whose segments are brought to overlap, and masks that say where the volumes count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt
from DeepRegistrationLib.errors import InputError
from DeepRegistrationScene.segments import is_segmentation, match_segments
from slicer.i18n import tr as _

from .binding import NodeChoice
from .section import Section
from .tables import fill_list, ticked
from .texts import show_text

Entry = tuple[str, tuple[str, ...]]
"""What is read of a segment, and its identifier in each segmentation."""


class SegmentChoice:
    """A list of segments to tick, of which at least one counts; that all do is kept as none being named.

    Args:
        panel: gives the parameters.
        widget: the list.
        names: of the parameters that hold the identifiers, one for each segmentation that is listed.
    """

    def __init__(self, panel: Any, widget: Any, *names: str) -> None:
        self.panel, self.widget, self.names = panel, widget, names
        self._entries: list[Entry] = []
        widget.connect("itemChanged(QListWidgetItem*)", self._ticked)

    def show(self, entries: Sequence[Entry]) -> None:
        self._entries = list(entries)
        chosen = set(getattr(self.panel.parameters, self.names[0]))
        fill_list(
            self.widget,
            [(name, row, not chosen or ids[0] in chosen) for row, (name, ids) in enumerate(self._entries)],
        )

    def forget(self) -> None:
        """Which segments were chosen says nothing about another segmentation."""
        if self.panel.listening:
            self._store(())

    def _ticked(self, item: Any) -> None:
        if not self.panel.listening:
            return
        rows = ticked(self.widget)
        if rows:
            self._store(() if len(rows) == len(self._entries) else [self._entries[row][1] for row in rows])
        else:  # none chosen would mean all of them
            item.setCheckState(qt.Qt.Checked)

    def _store(self, chosen: Sequence[tuple[str, ...]]) -> None:
        with self.panel.parameters.batch() as parameters:
            for side, name in enumerate(self.names):
                setattr(parameters, name, [ids[side] for ids in chosen])


class StructureSection(Section):
    """Segmentations and masks."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self._structures = SegmentChoice(panel, ui.segmentList, "fixed_segments", "moving_segments")
        self._masks = {
            "fixed_mask": SegmentChoice(panel, ui.fixedMaskSegmentList, "fixed_mask_segments"),
            "moving_mask": SegmentChoice(panel, ui.movingMaskSegmentList, "moving_mask_segments"),
        }
        self.bindings = []
        for selector, name, segments in (
            (ui.fixedSegmentationSelector, "fixed_segmentation", self._structures),
            (ui.movingSegmentationSelector, "moving_segmentation", self._structures),
            (ui.fixedMaskSelector, "fixed_mask", self._masks["fixed_mask"]),
            (ui.movingMaskSelector, "moving_mask", self._masks["moving_mask"]),
        ):
            self.bindings.append(NodeChoice(panel, selector, name))
            selector.connect("currentNodeChanged(vtkMRMLNode*)", segments.forget)
        self._problem: str | None = None

    def update(self) -> None:
        super().update()
        text = self._show_structures()
        show_text(self.ui.segmentText, self._problem or text)
        for name, segments in self._masks.items():
            node = getattr(self.panel.parameters, name)
            entries = _segments(node) if is_segmentation(node) else []
            segments.show(entries if len(entries) > 1 else [])

    def problem(self) -> str | None:
        return self._problem

    def _show_structures(self) -> str:
        """List the segments that both segmentations have; what there is to say about them."""
        parameters = self.panel.parameters
        nodes = parameters.fixed_segmentation, parameters.moving_segmentation
        self._problem = None
        self._structures.show([])
        if (nodes[0] is None) != (nodes[1] is None):
            side = _("fixed") if nodes[0] is None else _("moving")
            self._problem = _("Choose a {side} segmentation too, or none at all.").format(side=side)
        if None in nodes:
            return ""
        if not all(map(is_segmentation, nodes)):
            return _("Structures of equal value belong together; segments count as 1, 2, ... in order.")
        try:
            matched = match_segments(*nodes)
        except InputError as error:
            self._problem = str(error)
            return ""
        ids = zip(matched.fixed, matched.moving, strict=True)
        self._structures.show(list(zip(matched.names, ids, strict=True)))
        alone = [
            name
            for node, paired in zip(nodes, (matched.fixed, matched.moving), strict=True)
            for name, (segment,) in _segments(node)
            if segment not in paired
        ]
        return (
            _("Without a partner of the same name: {names}.").format(names=", ".join(alone)) if alone else ""
        )


def _segments(node: Any) -> list[Entry]:
    """A segmentation's segments."""
    segmentation = node.GetSegmentation()
    return [(segmentation.GetSegment(i).GetName(), (i,)) for i in segmentation.GetSegmentIDs()]
