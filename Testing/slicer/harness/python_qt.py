"""PythonQt's rules over PySide6: the module `qt` as Slicer's Python sees it.

PySide6 gives every getter as a method; PythonQt gives every declared Qt property as a plain attribute, and
that difference alone hides most mistakes. `enforce_rules` changes attribute access on all of PySide6's object
classes, for the whole process:

* reading a property gives its value, so `label.text()` fails with "'str' object is not callable";
* writing an unknown attribute on a C++ object raises (a Python subclass may keep attributes of its own);
* `name` is another word for `objectName`, `className()` is there;
* `connect("clicked(bool)", f)` by signature, with the arguments trimmed to what `f` takes; an unknown signal
  raises; `disconnect` is its counterpart; `button.clicked.connect(f)` stays.

A stand-in of a C++ class says so with `cpp_class = True` in its body, and lists the C++ signatures of its
signals and slots in `cpp_signals` and `cpp_slots`, since its Python declaration cannot name MRML types.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any

from PySide6 import QtCore, QtGui, QtNetwork, QtSvg, QtTest, QtUiTools, QtWidgets

LIBRARIES = (QtCore, QtGui, QtWidgets, QtNetwork, QtSvg, QtUiTools)
PYSIDE_ONLY = {"QEnum", "QFlag", "QMetaMethod"}

_read_property = QtCore.QObject.property
_write_property = QtCore.QObject.setProperty
_method_type = QtCore.QMetaMethod.MethodType


class UnknownSignalError(ValueError):
    """A signal that its sender does not have."""


class UnknownSlotError(ValueError):
    """A slot that its receiver does not have."""


def normalized(signature: str) -> str:
    """The signature as Qt compares them: no spaces, no `const &`."""
    return bytes(QtCore.QMetaObject.normalizedSignature(signature).data()).decode()


@functools.cache
def _native_signatures(kind: type, wanted: Any) -> frozenset[str]:
    meta = kind.staticMetaObject
    methods = [meta.method(i) for i in range(meta.methodCount())]
    names = {bytes(m.methodSignature().data()).decode() for m in methods if m.methodType() == wanted}
    return frozenset(name for name in names if "PyObject" not in name)


@functools.cache
def signatures(kind: type, what: str) -> frozenset[str]:
    """Every signature that connections may name; `what` is "signal" or "slot"."""
    wanted = _method_type.Signal if what == "signal" else _method_type.Slot
    declared = {normalized(s) for base in kind.__mro__ for s in vars(base).get(f"cpp_{what}s", ())}
    return _native_signatures(kind, wanted) | declared


@functools.cache
def _properties(kind: type) -> frozenset[str]:
    """Native properties of a class that no Python class in front of them overrides."""
    meta = kind.staticMetaObject
    names = {meta.property(i).name() for i in range(meta.propertyCount())}
    python = [vars(base) for base in kind.__mro__ if not _is_native(base)]
    return frozenset(name for name in names if not any(name in space for space in python))


def has_property(kind: type, name: str) -> bool:
    return kind.staticMetaObject.indexOfProperty(name) >= 0


def _is_native(kind: type) -> bool:
    return kind.__module__.split(".")[0] in ("PySide6", "Shiboken", "shiboken6") or kind is object


def _is_cpp(kind: type) -> bool:
    return _is_native(kind) or "cpp_class" in vars(kind)


def positional_capacity(function: Callable, offered: int) -> int:
    """How many of the offered arguments a slot takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a C++ method that says nothing of itself
        return offered
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return offered
    return min(offered, sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters))


def _parameter_count(signature: str) -> int:
    inside = signature[signature.index("(") + 1 : -1]
    return inside.count(",") + 1 if inside else 0


def connect(sender: QtCore.QObject, signal: str, receiver: Any, slot: Any = None, *more: Any) -> Any:
    """`sender.connect(signal, callable)` or `sender.connect(signal, receiver, "slot(types)")`."""
    if isinstance(signal, QtCore.QObject):  # PySide's own call, inside `QTimer.singleShot`
        return QtCore.QObject.connect(signal, receiver, slot, *more)
    wanted = normalized(signal)
    if wanted not in signatures(type(sender), "signal"):
        raise UnknownSignalError(f"{type(sender).__name__} has no signal {signal}")
    count = _parameter_count(wanted)
    target = receiver
    if slot is not None:
        if normalized(slot) not in signatures(type(receiver), "slot") | signatures(type(receiver), "signal"):
            raise UnknownSlotError(f"{type(receiver).__name__} has no slot {slot}")
        member = getattr(receiver, slot.split("(")[0])
        target = getattr(member, "emit", member)
        count = min(count, _parameter_count(normalized(slot)))
    if not callable(target):
        raise TypeError(f"connect: {target!r} is not callable")
    count = positional_capacity(target, count)

    def call(*arguments: Any) -> None:
        target(*arguments[:count])

    if wanted in _native_signatures(type(sender), _method_type.Signal):
        made = QtCore.QObject.connect(sender, f"2{wanted}", call)
    else:
        made = getattr(sender, wanted.split("(")[0]).connect(call)
    vars(sender).setdefault("_connections", []).append((wanted, receiver, slot, made))
    return True


def disconnect(sender: QtCore.QObject, signal: str, receiver: Any = None, slot: str | None = None) -> bool:
    """Undo `connect`; without a receiver, everything connected to the signal by signature."""
    wanted = normalized(signal)
    if wanted not in signatures(type(sender), "signal"):
        raise UnknownSignalError(f"{type(sender).__name__} has no signal {signal}")
    kept, gone = [], []
    for entry in vars(sender).get("_connections", []):
        same = entry[0] == wanted and (receiver is None or (entry[1] == receiver and entry[2] == slot))
        (gone if same else kept).append(entry)
    for entry in gone:
        QtCore.QObject.disconnect(entry[3])
    vars(sender)["_connections"] = kept
    return bool(gone)


class _SizeHint:
    """A size worked out when it is used: Shiboken, looking for a Python override, reads these names too."""

    def __init__(self, widget: Any, getter: Callable[[Any], QtCore.QSize]) -> None:
        self._widget, self._getter = widget, getter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._getter(self._widget), name)


_SIZE_HINTS = ("sizeHint", "minimumSizeHint")
_METHODS = {
    "connect": connect,
    "disconnect": disconnect,
    "className": lambda self: type(self).staticMetaObject.className(),
}


def _patch(kind: type) -> None:
    plain_read, plain_write = kind.__getattribute__, kind.__mro__[-2].__setattr__  # Shiboken's root class

    def read(self: QtCore.QObject, name: str) -> Any:
        if name.startswith("_") or name == "staticMetaObject":
            return plain_read(self, name)
        if name in _METHODS:
            return types.MethodType(_METHODS[name], self)
        own = type(self)
        if name == "name" and not has_property(own, "name"):
            name = "objectName"
        if name in _properties(own):
            if name in _SIZE_HINTS:
                return _SizeHint(self, getattr(own, name))
            return _read_property(self, name)
        try:
            return plain_read(self, name)
        except AttributeError:
            if name.encode() in self.dynamicPropertyNames():
                return _read_property(self, name)
            raise AttributeError(f"{own.__name__} has no attribute named '{name}'") from None

    def write(self: QtCore.QObject, name: str, value: Any) -> None:
        own = type(self)
        if isinstance(value, QtCore.SignalInstance):  # PySide keeps its signal objects this way
            plain_write(self, name, value)
            return
        if name == "name" and not has_property(own, "name"):
            name = "objectName"
        if name in _properties(own) or isinstance(getattr(own, name, None), QtCore.Property):
            meta = own.staticMetaObject
            if not meta.property(meta.indexOfProperty(name)).isWritable():
                raise AttributeError(f"property '{name}' of {own.__name__} is not writable")
            setter = getattr(own, f"set{name[0].upper()}{name[1:]}", None)
            if setter is not None:
                setter(self, value)
            elif not _write_property(self, name, value):
                raise ValueError(f"property '{name}' of {own.__name__} does not take {value!r}")
        elif name.startswith("_") or not _is_cpp(own):
            plain_write(self, name, value)
        elif name.encode() in self.dynamicPropertyNames():
            _write_property(self, name, value)
        elif hasattr(own, name):
            raise AttributeError(f"'{name}' of {own.__name__} cannot be overwritten")
        else:
            raise AttributeError(f"attribute '{name}' does not exist on {own.__name__} (write)")

    if "__getattribute__" in vars(kind):
        kind.__getattribute__ = read
    kind.__setattr__ = write


def _classes(libraries: Iterable[types.ModuleType]) -> Iterable[type]:
    for library in libraries:
        for name in dir(library):
            member = getattr(library, name)
            if isinstance(member, type) and issubclass(member, QtCore.QObject):
                yield member


@functools.cache
def enforce_rules() -> None:
    """Change attribute access on PySide6's object classes, once, for the whole process."""
    for kind in set(_classes((*LIBRARIES, QtTest))):
        _patch(kind)


def make_qt(**replaced: Any) -> types.ModuleType:
    """The module `qt`: every Q class of every library in one flat namespace, and nothing that is PySide's."""
    module = types.ModuleType("qt", "Qt as PythonQt shows it, over PySide6.")

    def lookup(name: str) -> Any:
        if name.startswith("Q") and name not in PYSIDE_ONLY:
            for library in LIBRARIES:
                if hasattr(library, name):
                    return getattr(library, name)
        raise AttributeError(f"module 'qt' has no attribute '{name}'")

    module.__getattr__ = lookup
    vars(module).update(replaced)
    return module
