"""Events of widgets that send no signal: turns of the wheel, and changes of size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer


class ResizeWatch(qt.QObject):
    """Calls `answer()` whenever a widget has another size. Keep it as long as it is to listen."""

    def __init__(self, widget: Any, answer: Callable[[], None]) -> None:
        qt.QObject.__init__(self)
        self._answer = answer
        widget.installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        if event.type() == qt.QEvent.Resize:
            self._answer()
        return False


class WheelGuard(qt.QObject):
    """Lets the wheel scroll the panel, and never change what is chosen in what it happens to pass over.

    Args:
        widget: in which all combo boxes, spin boxes and sliders are guarded, now, as long as this is kept.
    """

    def __init__(self, widget: Any) -> None:
        qt.QObject.__init__(self)
        for child in slicer.util.findChildren(widget):
            if isinstance(child, (qt.QComboBox, qt.QAbstractSpinBox, qt.QSlider)):
                child.installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        if event.type() != qt.QEvent.Wheel:
            return False
        event.ignore()  # so that whatever the widget lies in gets it
        return True
