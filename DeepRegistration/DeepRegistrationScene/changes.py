"""All or nothing: changes to the scene that are taken back when something fails on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import slicer
from DeepRegistrationLib.errors import OutputError

from .geometry import Node


class Changes:
    """Nodes added and nodes changed, and the way back."""

    def __init__(self, scene: Node) -> None:
        self.scene = scene
        self._undo: list[Callable[[], object]] = []

    def add(self, class_name: str, name: str) -> Node:
        """A new node with a name of its own.

        Raises:
            OutputError: the scene refused it.
        """
        node = self.scene.AddNewNodeByClass(class_name, self.scene.GenerateUniqueName(name))
        if node is None:
            raise OutputError(f"Slicer could not create {name}.")
        self.on_failure(lambda: remove_node(self.scene, node))
        return node

    def keep(self, node: Node) -> Node:
        """Remember a node as it is (data shared, not copied) before it is changed."""
        before = node.CreateNodeInstance()
        before.UnRegister(None)
        table = node.IsA("vtkMRMLTableNode")  # is written in place, so that sharing would not keep it
        before.CopyContent(node, table)
        attributes = {name: node.GetAttribute(name) for name in node.GetAttributeNames()}
        roles: list[str] = []
        node.GetNodeReferenceRoles(roles)
        references = {role: node.GetNodeReferenceID(role) for role in roles}
        displayed = getattr(node, "GetDisplayNode", lambda: None)()

        def restore() -> None:
            with node_modified_once(node):
                node.CopyContent(before, table)
                for name in node.GetAttributeNames():
                    if name not in attributes:
                        node.RemoveAttribute(name)
                for name, value in attributes.items():
                    node.SetAttribute(name, value)
                now: list[str] = []
                node.GetNodeReferenceRoles(now)
                made = getattr(node, "GetDisplayNode", lambda: None)()
                for role in {*now, *references}:
                    node.SetNodeReferenceID(role, references.get(role))
                if displayed is None and made is not None:
                    self.scene.RemoveNode(made)

        self.on_failure(restore)
        return node

    def watch(self, class_name: str) -> None:
        """Nodes of this class that somebody adds on the way do not stay either."""

        def present() -> dict[str, Node]:
            return {node.GetID(): node for node in nodes_of_class(self.scene, class_name)}

        before = present()

        def restore() -> None:
            for name, node in present().items():
                if name not in before:
                    self.scene.RemoveNode(node)

        self.on_failure(restore)

    def on_failure(self, undo: Callable[[], object]) -> None:
        """Something to do, latest first, if the whole does not succeed."""
        self._undo.append(undo)

    def keep_all(self) -> None:
        """There is no way back any more; nothing is held for it either."""
        self._undo.clear()

    def take_back(self) -> None:
        while self._undo:
            self._undo.pop()()


@contextmanager
def changes(scene: Node | None = None) -> Iterator[Changes]:
    """Changes of a scene (`slicer.mrmlScene` by default) that an exception takes back, all of them."""
    done = Changes(slicer.mrmlScene if scene is None else scene)
    try:
        yield done
    except BaseException:
        done.take_back()
        raise
    done.keep_all()


@contextmanager
def node_modified_once(node: Node) -> Iterator[None]:
    """Observers hear of everything inside as one change."""
    state = node.StartModify()
    try:
        yield
    finally:
        node.EndModify(state)


def nodes_of_class(scene: Node, class_name: str) -> list[Node]:
    """Every node of a class, in the scene's order."""
    found = scene.GetNodesByClass(class_name)
    found.UnRegister(None)  # it was made for the caller, and the wrapper holds it once more
    return list(found)


def remove_node(scene: Node, node: Node) -> None:
    """Remove a node and how it is displayed."""
    display = getattr(node, "GetDisplayNode", lambda: None)()
    for part in (display, node):
        if part is not None:
            scene.RemoveNode(part)
