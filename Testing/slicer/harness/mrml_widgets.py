"""Stand-ins of the qMRML widgets, over a real scene."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import shiboken6
import slicer
import vtk
from PySide6.QtCore import Property, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QVBoxLayout, QWidget

from .ctk_widgets import ctkCollapsibleButton, stored


class Observations:
    """VTK observers that end with their Qt owner, and do not keep it alive."""

    def __init__(self, owner: QWidget) -> None:
        self.held: list[tuple[Any, int]] = []
        held = self.held
        owner.destroyed.connect(lambda *_: _release(held))

    def add(self, subject: Any, event: Any, method: Callable) -> None:
        weak = weakref.WeakMethod(method)

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def call(caller: Any, event: str, data: Any = None) -> None:
            bound = weak()
            if bound is not None and shiboken6.isValid(bound.__self__):
                bound(caller, data)

        self.held.append((subject, subject.AddObserver(event, call)))

    def clear(self) -> None:
        _release(self.held)

    def release(self, subject: Any) -> None:
        for entry in [entry for entry in self.held if entry[0] is subject]:
            subject.RemoveObserver(entry[1])
            self.held.remove(entry)


def _release(held: list[tuple[Any, int]]) -> None:
    for subject, tag in held:
        subject.RemoveObserver(tag)
    held.clear()


class _SceneKeeper:
    """The scene of a widget, and the signal that hands it to the widgets inside."""

    _scene: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self._scene_changed()
            self.mrmlSceneChanged.emit(scene)

    def _scene_changed(self) -> None:
        pass


class qMRMLWidget(_SceneKeeper, QWidget):
    cpp_class = True
    cpp_signals = ("mrmlSceneChanged(vtkMRMLScene*)",)
    cpp_slots = ("setMRMLScene(vtkMRMLScene*)",)
    mrmlSceneChanged = Signal(object)


class qMRMLCollapsibleButton(_SceneKeeper, ctkCollapsibleButton):
    cpp_class = True
    cpp_signals = ("mrmlSceneChanged(vtkMRMLScene*)",)
    cpp_slots = ("setMRMLScene(vtkMRMLScene*)",)
    mrmlSceneChanged = Signal(object)


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The frame that the application gives a module's Python widget class as `parent`."""

    cpp_class = True

    def __init__(self, python_class: type | None = None) -> None:
        super().__init__()
        self.setLayout(QVBoxLayout())
        self._python_class, self._instance = python_class, None

    def self(self) -> Any:
        return self._instance

    def setup(self) -> None:
        self._instance = self._python_class(self)
        self._instance.setup()

    def enter(self) -> None:
        self._instance.enter()

    def exit(self) -> None:
        self._instance.exit()

    def reload(self) -> None:
        module = __import__(self._python_class.__module__)
        self._python_class = getattr(module, self._python_class.__name__)
        self.setup()  # and no more: the application enters a module when its user does
        setattr(slicer.modules, self._python_class.__name__, self._instance)


class qMRMLNodeComboBox(_SceneKeeper, QWidget):
    """Empty until it has a scene; never selects by itself; a node that goes gives way to its neighbour."""

    cpp_class = True
    cpp_signals = (
        "mrmlSceneChanged(vtkMRMLScene*)",
        "currentNodeChanged(vtkMRMLNode*)",
        "currentNodeChanged(bool)",
        "currentNodeIDChanged(QString)",
        "currentNodeRenamed(QString)",
        "nodeActivated(vtkMRMLNode*)",
        "nodeAdded(vtkMRMLNode*)",
        "nodeAddedByUser(vtkMRMLNode*)",
        "nodeAboutToBeRemoved(vtkMRMLNode*)",
    )
    cpp_slots = (
        "setMRMLScene(vtkMRMLScene*)",
        "setCurrentNode(vtkMRMLNode*)",
        "setCurrentNodeID(QString)",
        "setCurrentNodeIndex(int)",
        "removeCurrentNode()",
        "renameCurrentNode()",
        "addNode()",
    )
    mrmlSceneChanged = Signal(object)
    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    currentNodeRenamed = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAboutToBeRemoved = Signal(object)

    nodeTypes = stored("QStringList", [], "_refill")
    hideChildNodeTypes = stored("QStringList", [], "_refill")
    showHidden = stored(bool, False, "_refill")
    showChildNodeTypes = stored(bool, True, "_refill")
    noneEnabled = stored(bool, False, "_refill")
    noneDisplay = stored(str, "None", "_refill")
    addEnabled = stored(bool, True)
    removeEnabled = stored(bool, True)
    editEnabled = stored(bool, False)
    renameEnabled = stored(bool, False)
    selectNodeUponCreation = stored(bool, True)
    baseName = stored(str, "")
    interactionNodeSingletonTag = stored(str, "")

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._combo = QComboBox(self)
        self._combo.setSizeAdjustPolicy(QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self._combo.setMinimumContentsLength(8)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self._observations = Observations(self)
        self._attributes: list[tuple[str, str, str | None]] = []
        self._announced: str | None = None
        self._combo.currentIndexChanged.connect(self._announce)
        self._combo.activated.connect(self._activated)

    # -- what is in the list

    def _fits(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        if any(node.IsA(name) for name in self.hideChildNodeTypes):
            return False
        for name in filter(None, self.nodeTypes):
            if node.IsA(name) if self.showChildNodeTypes else node.GetClassName() == name:
                wanted = [(key, value) for kind, key, value in self._attributes if kind == name]
                if all(_attribute_fits(node, key, value) for key, value in wanted):
                    return True
        return False

    def _refill(self) -> None:
        kept = self._announced
        self._combo.blockSignals(True)
        self._combo.clear()
        self._observations.clear()
        if self._scene is not None:
            if self.noneEnabled:
                self._combo.addItem(self.noneDisplay, None)
            nodes = [self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes())]
            for node in filter(self._fits, nodes):
                self._insert(node)
            events = slicer.vtkMRMLScene
            self._observations.add(self._scene, events.NodeAddedEvent, self._on_added)
            self._observations.add(self._scene, events.NodeAboutToBeRemovedEvent, self._on_removed)
        self._combo.setCurrentIndex(self._index(kept))
        self._combo.blockSignals(False)
        self._announce()

    _scene_changed = _refill

    def _insert(self, node: Any) -> None:
        self._combo.addItem(node.GetName() or "", node.GetID())
        self._observations.add(node, vtk.vtkCommand.ModifiedEvent, self._on_modified)

    def _on_added(self, scene: Any, node: Any) -> None:
        if self._fits(node):
            self._combo.blockSignals(True)  # a Qt combo box would select its first item by itself
            before = self._combo.currentIndex
            self._insert(node)
            self._combo.setCurrentIndex(before)
            self._combo.blockSignals(False)
            self.nodeAdded.emit(node)

    def _on_removed(self, scene: Any, node: Any) -> None:
        row = self._combo.findData(node.GetID())
        if row >= 0:
            self._observations.release(node)
            self.nodeAboutToBeRemoved.emit(node)
            self._combo.removeItem(row)

    def _on_modified(self, node: Any, _: Any) -> None:
        row = self._combo.findData(node.GetID())
        if row >= 0 and self._combo.itemText(row) != node.GetName():
            self._combo.setItemText(row, node.GetName())
            if row == self._combo.currentIndex:
                self.currentNodeRenamed.emit(node.GetName())

    # -- which one is chosen

    def _activated(self, row: int) -> None:
        self.nodeActivated.emit(self.currentNode())

    def _announce(self, *_: Any) -> None:
        chosen = self._combo.currentData
        if chosen != self._announced:
            self._announced = chosen
            self.currentNodeChanged.emit(self.currentNode())
            self.currentNodeIDChanged.emit(chosen or "")

    def _index(self, node_id: str | None) -> int:
        found = self._combo.findData(node_id) if node_id else -1
        return found if found >= 0 else (0 if self.noneEnabled and self._combo.count else -1)

    def currentNode(self) -> Any:
        chosen = self._combo.currentData
        return self._scene.GetNodeByID(chosen) if self._scene is not None and chosen else None

    def setCurrentNode(self, node: Any) -> None:
        if node is not None and not isinstance(node, (str, slicer.vtkMRMLNode)):
            raise ValueError(f"setCurrentNode: not a node: {node!r}")
        self.setCurrentNodeID(node if isinstance(node, str) else node.GetID() if node else "")

    def setCurrentNodeID(self, node_id: str | None) -> None:
        self._combo.setCurrentIndex(self._index(node_id))

    def setCurrentNodeIndex(self, index: int) -> None:
        self._combo.setCurrentIndex(index + 1 if self.noneEnabled else index)

    currentNodeID = Property(str, lambda self: self._combo.currentData or "", setCurrentNodeID)

    def nodeCount(self) -> int:
        return self._combo.count - bool(self.noneEnabled and self._combo.count)

    def nodeFromIndex(self, index: int) -> Any:
        return self._scene.GetNodeByID(self._combo.itemData(index + bool(self.noneEnabled)))

    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        self._attributes.append((node_type, name, None if value is None else str(value)))
        self._refill()

    # -- what its menu does

    def addNode(self, node_type: str = "") -> Any:
        """Create new: the node is selected, then announced."""
        kind = node_type or self.nodeTypes[0]
        base = self.baseName or kind.removeprefix("vtkMRML").removesuffix("Node")
        node = self._scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        node.SetName(self._scene.GenerateUniqueName(base))
        for wanted, name, value in self._attributes:
            if wanted == kind:
                node.SetAttribute(name, value or "")
        node = self._scene.AddNode(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        if self.currentNode() is not None:
            self._scene.RemoveNode(self.currentNode())


def _attribute_fits(node: Any, name: str, value: str | None) -> bool:
    found = node.GetAttribute(name)
    return found is not None if value is None else found == value


CLASSES = {name: kind for name, kind in vars().copy().items() if name.startswith(("qMRML", "qSlicer"))}
