"""Many volumes: several moving volumes brought onto the fixed one, one after the other."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from DeepRegistrationLib.errors import InputError
from DeepRegistrationScene.made import made_before, made_nodes
from DeepRegistrationScene.many import ManyResult
from DeepRegistrationScene.many_table import NUMBERS, SENTENCE, VERDICT, VOLUME, rows_of
from DeepRegistrationScene.memory_estimate import many_request
from slicer.i18n import tr as _

from .section import Section, Watch
from .tables import cell, fill, fill_list, ticked
from .texts import show_text

_NOT_SCALAR = ("vtkMRMLLabelMapVolumeNode", "vtkMRMLVectorVolumeNode", "vtkMRMLTensorVolumeNode")
_SHOWN = (VOLUME, VERDICT, NUMBERS[0][0], NUMBERS[1][0])
"""Columns of the scene's table that the panel has room for."""
_DELAY_MS = 150
_TOLD = 5
"""How many failures are told in sentences; the table has all."""


class ManySection(Section):
    """A list to tick, a button, and what became of each. The list is made when somebody opens it."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self._text = ""
        self._watch = Watch(panel, panel.update, _DELAY_MS)
        ui.manyButton.connect("contentsCollapsed(bool)", self._opened)
        ui.manyList.connect("itemChanged(QListWidgetItem*)", self._ticked)
        ui.manyAllButton.connect("clicked(bool)", self._tick_all)
        ui.manyNoneButton.connect("clicked(bool)", self._tick_none)
        ui.manyRegisterButton.connect("clicked(bool)", self._clicked)
        ui.manyTable.connect("cellDoubleClicked(int,int)", self._show_pair)

    def update(self) -> None:
        if self.ui.manyButton.collapsed:
            return
        nodes = self._candidates()
        chosen = {node.GetID() for node in self.panel.parameters.many_moving}
        fill_list(self.ui.manyList, [(n.GetName(), n.GetID(), n.GetID() in chosen) for n in nodes])
        self._watch.follow([(node, vtk.vtkCommand.ModifiedEvent) for node in nodes])  # names, images
        self._show_button()
        self._show_memory()
        self._show_table()
        self.say(self._text)

    def say(self, text: str) -> None:
        """Where the volumes stand."""
        self._text = text
        show_text(self.ui.manyText, text)

    def run_ended(self) -> None:
        """Every volume is done, or given up."""
        self.ui.manyButton.collapsed = False
        self.panel.update_soon()
        self.panel.refine.run_ended(True)

    def close(self) -> None:
        self._watch.stop()
        self._text = ""

    def _opened(self, collapsed: bool) -> None:
        if not collapsed and self.panel.parameters is not None:
            self.panel.update()

    def _candidates(self) -> list[Any]:
        """The volumes of the scene that are not the fixed one, and not results."""
        p = self.panel.parameters
        own = [p.fixed, p.warped, p.jacobian, p.fixed_features, p.moving_features, *made_nodes()]
        return [
            node
            for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            if not (node.GetHideFromEditors() or node in own or any(map(node.IsA, _NOT_SCALAR)))
        ]

    def _clicked(self) -> None:
        self.panel.run.start_or_cancel("many")

    def _tick_all(self) -> None:
        self._tick(self._candidates())

    def _tick_none(self) -> None:
        self._tick([])

    def _ticked(self, item: Any = None) -> None:
        if self.panel.listening:
            self._tick([slicer.mrmlScene.GetNodeByID(node_id) for node_id in ticked(self.ui.manyList)])

    def _tick(self, nodes: list[Any]) -> None:
        if self.panel.listening:
            self.panel.parameters.many_moving = [node for node in nodes if node is not None]

    def _show_button(self) -> None:
        button, task = self.ui.manyRegisterButton, self.panel.run.task
        reason = self._reason()
        button.setText(_("Cancel") if task == "many" else _("Register all"))
        button.setEnabled(reason is None)
        if task == "many":
            tooltip = _("Stop; what is done stays, what is not leaves nothing.")
        else:
            tooltip = reason or _(
                "Register every ticked volume with the method, choices, outputs and fixed mask above. "
                "Landmarks, segmentations, the moving mask and the transform to start from belong to one "
                "pair and are not used. Each volume gets its own results, named after it; doing it again "
                "fills the same."
            )
        button.setToolTip(tooltip)

    def _reason(self) -> str | None:
        """Why the button does nothing now."""
        if self.panel.run.task is not None:
            return None if self.panel.run.task == "many" else _("Wait until the registration is done.")
        return (
            self.panel.method.problem()
            or self.panel.environment.problem()
            or (
                None if self.panel.environment.asking else self.panel.logic.manyProblem(self.panel.parameters)
            )
        )

    def _show_memory(self) -> None:
        text = ""
        if self.panel.run.task is None and self.panel.parameters.fixed is not None:
            try:
                text = self.panel.memory.in_words(*many_request(self.panel.parameters))
            except InputError:  # nothing is ticked, or what is will be reported as failed
                text = ""
        show_text(self.ui.manyMemoryText, text)

    def _show_table(self) -> None:
        rows = []
        for row in rows_of(self.panel.parameters.many_table):
            cells = [cell(row[name] or "-") for name in _SHOWN]
            for item in cells:
                item.setToolTip(row[SENTENCE])
            rows.append(cells)
        fill(self.ui.manyTable, rows)

    def _show_pair(self, row: int, column: int) -> None:
        """Choose a pair as the panel's own, so that its result can be inspected and refined."""
        p, name = self.panel.parameters, self.ui.manyTable.item(row, 0).text()
        if self.panel.run.task is not None or p.fixed is None:
            return
        for moving in self._candidates():
            made = made_before(p.fixed, moving) if moving.GetName() == name else {}
            if made:
                with p.batch():
                    p.moving, p.table = moving, None
                    for output in ("forward", "inverse", "warped", "jacobian"):
                        setattr(p, output, made.get(output))
                self.panel.result.reveal()
                return


def many_in_words(result: ManyResult, seconds: float) -> str:
    """How registering many volumes ended: how many were done, and why others were not."""
    done = [outcome for outcome in result.outcomes if outcome.nodes is not None]
    failed = [outcome for outcome in result.outcomes if outcome.nodes is None and outcome.tried]
    numbers = {"done": len(done), "all": len(result.outcomes), "seconds": seconds}
    if result.cancelled:
        text = _("Cancelled; {done} of {all} volumes are registered.").format(**numbers)
    else:
        text = _("Registered {done} of {all} volumes in {seconds:.1f} s.").format(**numbers)
    lines = [text, *(f"{outcome.name}: {outcome.error}" for outcome in failed[:_TOLD])]
    if len(failed) > _TOLD:
        lines.append(_("{count} more failed; the table says why.").format(count=len(failed) - _TOLD))
    return "\n".join(lines)
