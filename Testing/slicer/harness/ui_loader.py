"""A QUiLoader that refuses what Qt's own passes over in silence.

An unknown class, a property that its class does not have, a connection whose sender, signal, receiver or slot
does not exist: each raises. Connections are made by the same rule as Python's, so that those between
stand-ins, whose signatures name MRML types, hold as in the application.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from .python_qt import connect, has_property

DYNAMIC_PROPERTIES = {"SlicerParameterName"}  # read by name at run time; no class declares them


class UiError(RuntimeError):
    """A .ui file that the application would load only in part."""


def make_loader(stand_ins: dict[str, type]) -> type[QtUiTools.QUiLoader]:
    """The class `qt.QUiLoader`, which knows Qt's own widgets and the stand-ins."""

    def widget_class(name: str) -> type:
        if name in stand_ins:
            return stand_ins[name]
        kind = getattr(QtWidgets, "QFrame" if name == "Line" else name, None)
        if kind is None:
            raise UiError(f"unknown widget class {name}")
        return kind

    class QUiLoader(QtUiTools.QUiLoader):
        cpp_class = True

        def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
            if class_name not in stand_ins:
                return super().createWidget(class_name, parent, name)
            widget = stand_ins[class_name](parent)
            widget.setObjectName(name)
            return widget

        def load(self, device: QtCore.QIODevice, parent: Any = None) -> Any:
            root = ElementTree.fromstring(bytes(device.readAll().data()))
            for element in root.iter("widget"):
                kind = widget_class(element.get("class"))
                for entry in element.findall("property"):
                    name = entry.get("name")
                    known = has_property(kind, name) or name in DYNAMIC_PROPERTIES
                    if not known and element.get("class") != "Line" and name != "buddy":
                        raise UiError(f"{element.get('name')}: {element.get('class')} has no property {name}")
            connections = [
                [entry.findtext(tag) for tag in ("sender", "signal", "receiver", "slot")]
                for entry in root.iter("connection")
            ]
            for entry in root.findall("connections"):
                root.remove(entry)
            buffer = QtCore.QBuffer()
            buffer.setData(ElementTree.tostring(root))
            buffer.open(QtCore.QIODevice.ReadOnly)
            widget = super().load(buffer, parent)
            if widget is None:
                raise UiError("the file has no widget")
            for sender, signal, receiver, slot in connections:
                connect(_find(widget, sender), signal, _find(widget, receiver), slot)
            return widget

    return QUiLoader


def _find(top: QtCore.QObject, name: str) -> QtCore.QObject:
    found = top if top.objectName == name else top.findChild(QtCore.QObject, name)
    if found is None:
        raise UiError(f"a connection names {name}, which is not there")
    return found
