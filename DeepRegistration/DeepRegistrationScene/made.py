"""Marks on the nodes that registering many volumes has made: which pair they belong to, and as what."""

from __future__ import annotations

from collections.abc import Iterator

import slicer

from .changes import nodes_of_class
from .geometry import Node

MADE = "DeepRegistration.Many"
"""Attribute of such a node: which output it is."""

FIXED, MOVING = "DeepRegistration.Fixed", "DeepRegistration.Moving"
"""References of such a node to its pair."""

_CLASSES = ("vtkMRMLTransformNode", "vtkMRMLVolumeNode")


def mark(node: Node, output: str, fixed: Node, moving: Node) -> None:
    """Note what a node is."""
    node.SetAttribute(MADE, output)
    node.SetNodeReferenceID(FIXED, fixed.GetID())
    node.SetNodeReferenceID(MOVING, moving.GetID())


def made_nodes() -> Iterator[Node]:
    """Every node of the scene with such marks."""
    for name in _CLASSES:
        for node in nodes_of_class(slicer.mrmlScene, name):
            if node.GetAttribute(MADE):
                yield node


def made_before(fixed: Node, moving: Node) -> dict[str, Node]:
    """What an earlier run left in the scene for a pair, by output."""
    found: dict[str, Node] = {}
    for node in made_nodes():
        if node.GetNodeReference(FIXED) is fixed and node.GetNodeReference(MOVING) is moving:
            found.setdefault(node.GetAttribute(MADE), node)  # a copy of one comes later
    return found
