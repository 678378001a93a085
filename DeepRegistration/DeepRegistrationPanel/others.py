"""Apply to others: carry along what belongs to one of the two volumes."""

from __future__ import annotations

from typing import Any

import slicer
from DeepRegistrationScene.apply_others import why_not
from DeepRegistrationScene.choices import Choices
from DeepRegistrationScene.results import RegistrationNodes
from slicer.i18n import tr as _

from .section import Section, failures_told
from .tables import fill_list, ticked
from .texts import show_text

_KINDS = (
    "vtkMRMLSegmentationNode",
    "vtkMRMLMarkupsNode",
    "vtkMRMLModelNode",
    "vtkMRMLVolumeNode",
)


class OthersSection(Section):
    """A list to tick, a direction and a button. The list is made when somebody opens it."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        ui.othersDirectionCombo.addItem(_("From the moving onto the fixed volume"))
        ui.othersDirectionCombo.addItem(_("From the fixed onto the moving volume"))
        ui.othersButton.connect("contentsCollapsed(bool)", self._opened)
        ui.othersDirectionCombo.connect("currentIndexChanged(int)", self._refill)
        ui.othersList.connect("itemChanged(QListWidgetItem*)", self._show_button)
        ui.othersApplyButton.connect("clicked(bool)", self._apply)

    def update(self) -> None:
        if not self.ui.othersButton.collapsed:
            self._refill()

    def _opened(self, collapsed: bool) -> None:
        if not collapsed and self.panel.parameters is not None:
            self._refill()

    def _backwards(self) -> bool:
        return self.ui.othersDirectionCombo.currentIndex == 1

    def _refill(self) -> None:
        if self.panel.parameters is None:
            return
        chosen = set(ticked(self.ui.othersList))
        nodes = self._candidates()
        fill_list(self.ui.othersList, [(n.GetName(), n.GetID(), n.GetID() in chosen) for n in nodes])
        self._show_button()

    def _candidates(self) -> list[Any]:
        """What can be carried and is not part of the registration itself."""
        p = self.panel.parameters
        own = [p.fixed, p.moving, p.warped, p.jacobian, p.fixed_features, p.moving_features]
        maps, reference = self._maps()
        if maps[0] is None or reference is None:
            return []
        results = [node for node in maps if node is not None]
        nodes = []
        for kind in _KINDS:
            for node in slicer.util.getNodesByClass(kind):
                hidden = node.GetHideFromEditors() or node in own
                if not hidden and why_not(node, results, reference) is None:
                    nodes.append(node)
        return nodes

    def _maps(self) -> tuple[tuple[Any, Any], Any]:
        p = self.panel.parameters
        return ((p.inverse, p.forward), p.moving) if self._backwards() else ((p.forward, p.inverse), p.fixed)

    def _show_button(self) -> None:
        p = self.panel.parameters
        if p is None:
            return
        (first, _second), _reference = self._maps()
        if first is None:
            reason = _("Register first: there is no transform for this direction.")
        elif not ticked(self.ui.othersList):
            reason = _("Tick what is to be carried along.")
        else:
            reason = None
        self.ui.othersApplyButton.setEnabled(reason is None)
        self.ui.othersApplyButton.setToolTip(
            reason or _("Make transformed copies; the originals stay as they are.")
        )

    def _apply(self) -> None:
        p = self.panel.parameters
        nodes = [slicer.mrmlScene.GetNodeByID(node_id) for node_id in ticked(self.ui.othersList)]
        registration = RegistrationNodes(
            forward=p.forward, inverse=p.inverse, choices=Choices(p.fixed, p.moving)
        )
        nothing = _("Nothing was carried along.")
        text, refused = nothing, []
        try:
            with failures_told(nothing, refused.append, wait_cursor=True):
                carried = self.panel.logic.applyToOthers(registration, nodes, inverse=self._backwards())
                text = _("Made {names}.").format(names=", ".join(item.node.GetName() for item in carried))
                fill_list(self.ui.othersList, [])  # nothing is ticked any more
        finally:
            show_text(self.ui.othersText, str(refused[0]) if refused else text)
            self._refill()
