"""One widget and one parameter, kept the same: the user's choices go to the scene, the scene's to the widget.

A binding never remembers a value: it reads and writes the parameter node the panel has at that moment, so
that scenes come and go without it noticing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer


class Binding:
    """A widget bound to the property `name` of the panel's parameters."""

    def __init__(self, panel: Any, widget: Any, name: str) -> None:
        self.panel, self.widget, self.name = panel, widget, name

    def store(self, value: Any) -> None:
        """Write what the user chose; a widget that the panel itself is changing says nothing new."""
        if self.panel.listening:
            setattr(self.panel.parameters, self.name, value)

    def show(self) -> None:
        """Bring the widget to what the parameters say."""
        self.display(getattr(self.panel.parameters, self.name))

    def display(self, value: Any) -> None:
        """Bring the widget to a value."""
        raise NotImplementedError


class NodeChoice(Binding):
    """A node selector."""

    def __init__(self, panel: Any, widget: Any, name: str) -> None:
        super().__init__(panel, widget, name)
        widget.connect("currentNodeChanged(vtkMRMLNode*)", self.store)

    def display(self, value: Any) -> None:
        self.widget.setCurrentNode(value)


class Choice(Binding):
    """A combo box of choices, by value, with what is read of each."""

    def __init__(self, panel: Any, widget: Any, name: str, titles: Mapping[str, str]) -> None:
        super().__init__(panel, widget, name)
        self.values = list(titles)
        for value, title in titles.items():
            widget.addItem(title, value)
        widget.connect("currentIndexChanged(int)", self._chosen)

    def _chosen(self, index: int) -> None:
        if 0 <= index < len(self.values):
            self.store(self.values[index])

    def display(self, value: str) -> None:
        self.widget.setCurrentIndex(self.values.index(value) if value in self.values else -1)


class Tick(Binding):
    """A check box."""

    def __init__(self, panel: Any, widget: Any, name: str) -> None:
        super().__init__(panel, widget, name)
        widget.connect("toggled(bool)", self.store)

    def display(self, value: bool) -> None:
        self.widget.setChecked(value)


class Number(Binding):
    """A spin box; its lowest value stands for "not given" (None)."""

    def __init__(self, panel: Any, widget: Any, name: str) -> None:
        super().__init__(panel, widget, name)
        widget.connect("valueChanged(double)", self._changed)

    def _changed(self, value: float) -> None:
        self.store(value if value > self.widget.minimum else None)

    def display(self, value: float | None) -> None:
        self.widget.setValue(self.widget.minimum if value is None else value)


class FileChoice(Binding):
    """A line for a file's path; empty stands for none.

    The widget's own `currentPathChanged` tells only of names that exist and fit its filter, and never of an
    empty line; so the line inside it is listened to: what it shows is what is used, or said to be of no use.
    """

    def __init__(self, panel: Any, widget: Any, name: str) -> None:
        super().__init__(panel, widget, name)
        for line in slicer.util.findChildren(widget, className="QLineEdit"):
            line.connect("textChanged(QString)", self._changed)

    def _changed(self, text: str) -> None:
        self.store(text.strip())

    def display(self, value: str) -> None:
        if self.widget.currentPath.strip() != value:  # setting the same would put the cursor at the end
            self.widget.setCurrentPath(value)
