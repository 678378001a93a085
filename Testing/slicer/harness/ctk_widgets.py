"""Stand-ins of the ctk widgets that the panel may use: the properties and signals of the real ones."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

from PySide6.QtCore import Property, QEvent, QSize, Qt, Signal
from PySide6.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGroupBox,
    QHBoxLayout,
    QMessageBox,
    QPushButton,
    QSlider,
    QStyle,
    QStyleOptionButton,
    QStylePainter,
    QTextBrowser,
    QToolButton,
    QWidget,
)


def stored(kind: Any, default: Any, changed: str = "") -> Property:
    """A property that keeps what it is given; `changed` names a method called after a change."""
    key = object()

    def read(self: Any) -> Any:
        return vars(self).get("_stored", {}).get(key, default)

    def write(self: Any, value: Any) -> None:
        if value != read(self):
            vars(self).setdefault("_stored", {})[key] = value
            if changed:
                getattr(self, changed)()

    return Property(kind, read, write)


class _Folding:
    """Children are hidden while folded, whatever they are told, and come back unless told to stay hidden.

    Qt marks what a program shows or hides; the mark is taken off what folding hides, so that the two differ.
    """

    _folded = False

    def _fold(self, folded: bool) -> None:
        self._folded = folded
        for child in self.children():
            if isinstance(child, QWidget) and not child.isWindow():
                self._settle(child)
        self.setMaximumHeight(self._header().height() if folded else 16777215)
        self.updateGeometry()

    def _settle(self, child: QWidget) -> None:
        if not (child.isHidden() and child.testAttribute(Qt.WA_WState_ExplicitShowHide)):
            child.setVisible(not self._folded)
            child.setAttribute(Qt.WA_WState_ExplicitShowHide, False)

    def childEvent(self, event: Any) -> None:
        child = event.child()
        if event.type() == QEvent.ChildPolished and isinstance(child, QWidget):
            child.installEventFilter(self)
            if self._folded:
                self._settle(child)

    def eventFilter(self, child: Any, event: Any) -> bool:
        if self._folded and event.type() == QEvent.ShowToParent:
            child.hide()
            child.setAttribute(Qt.WA_WState_ExplicitShowHide, False)
        return False

    def _header(self) -> QSize:
        return QSize(60, self.fontMetrics().height() + 10)

    def hasHeightForWidth(self) -> bool:
        return not self._folded and self.layout() is not None and self.layout().hasHeightForWidth()

    def sizeHint(self) -> QSize:
        return self._header() if self._folded or self.layout() is None else self.layout().totalSizeHint()

    def minimumSizeHint(self) -> QSize:
        return self._header() if self._folded or self.layout() is None else self.layout().totalMinimumSize()


class ctkCollapsibleButton(_Folding, QAbstractButton):
    cpp_class = True
    cpp_signals = ("contentsCollapsed(bool)",)
    contentsCollapsed = Signal(bool)
    flat = stored(bool, False)
    contentsLineWidth = stored(int, 1)
    contentsMidLineWidth = stored(int, 0)
    collapsedHeight = stored(int, 10)

    def __init__(self, parent: Any = None, second: QWidget | None = None) -> None:
        super().__init__(second if isinstance(parent, str) else parent)
        self.setCheckable(True)
        self.setChecked(True)
        self.setText(parent if isinstance(parent, str) else "")
        self.setContentsMargins(0, self._header().height(), 0, 0)
        self.toggled.connect(self._on_toggled)

    def setCollapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = Property(bool, lambda self: self._folded, setCollapsed)

    def _on_toggled(self, opened: bool) -> None:
        self._fold(not opened)
        self.contentsCollapsed.emit(not opened)

    def hitButton(self, position: Any) -> bool:
        return position.y() <= self._header().height()

    def paintEvent(self, event: Any) -> None:
        painter = QStylePainter(self)
        option = QStyleOptionButton()
        option.initFrom(self)
        option.rect.setHeight(self._header().height())
        painter.drawControl(QStyle.CE_PushButtonBevel, option)
        arrow = QStyle.PE_IndicatorArrowRight if self._folded else QStyle.PE_IndicatorArrowDown
        option.rect.setWidth(option.rect.height())
        painter.drawPrimitive(arrow, option)
        inside = self.rect.adjusted(self._header().height(), 0, -4, 0)
        inside.setHeight(self._header().height())
        painter.drawText(inside, int(Qt.AlignLeft | Qt.AlignVCenter), self.text)


class ctkCollapsibleGroupBox(_Folding, QGroupBox):
    cpp_class = True

    def __init__(self, parent: Any = None, second: QWidget | None = None) -> None:
        super().__init__(second if isinstance(parent, str) else parent)
        self.setTitle(parent if isinstance(parent, str) else "")
        self.setCheckable(True)
        self.toggled.connect(self._on_toggled)

    def _on_toggled(self, opened: bool) -> None:
        self._fold(not opened)

    def setCollapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = Property(bool, lambda self: self._folded, setCollapsed)


class ctkDoubleSpinBox(QDoubleSpinBox):
    cpp_class = True


class ctkSliderWidget(QWidget):
    cpp_class = True
    cpp_signals = ("valueChanged(double)", "valueIsChanging(double)")
    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    tracking = stored(bool, True)
    tickInterval = stored(float, 0.0)
    pageStep = stored(float, 10.0)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider, self._box = QSlider(Qt.Horizontal, self), QDoubleSpinBox(self)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._box.setRange(0.0, 99.0)
        self._fit()
        self._box.valueChanged.connect(self._on_box)
        self._slider.valueChanged.connect(self._on_slider)

    def _fit(self) -> None:
        steps = round((self._box.maximum - self._box.minimum) / max(self._box.singleStep, 1e-9))
        self._slider.blockSignals(True)
        self._slider.setRange(0, max(steps, 0))
        self._slider.setValue(self._position(self._box.value))
        self._slider.blockSignals(False)

    def _position(self, value: float) -> int:
        return round((value - self._box.minimum) / max(self._box.singleStep, 1e-9))

    def _on_box(self, value: float) -> None:
        self._slider.blockSignals(True)
        self._slider.setValue(self._position(value))
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    def _on_slider(self, position: int) -> None:
        self._box.setValue(self._box.minimum + position * self._box.singleStep)

    def _through(kind: Any, name: str, fit: bool = False) -> Property:
        def read(self: Any) -> Any:
            return getattr(self._box, name)

        def write(self: Any, value: Any) -> None:
            setattr(self._box, name, value)
            if fit:
                self._fit()

        return Property(kind, read, write)

    value = _through(float, "value")
    minimum = _through(float, "minimum", fit=True)
    maximum = _through(float, "maximum", fit=True)
    singleStep = _through(float, "singleStep", fit=True)
    decimals = _through(int, "decimals")
    prefix = _through(str, "prefix")
    suffix = _through(str, "suffix")
    spinBoxVisible = Property(
        bool, lambda self: not self._box.isHidden(), lambda self, on: self._box.setVisible(on)
    )

    def setValue(self, value: float) -> None:
        self._box.setValue(value)

    def reset(self) -> None:
        self._box.setValue(min(max(0.0, self.minimum), self.maximum))


class ctkComboBox(QComboBox):
    cpp_class = True
    defaultText = stored(str, "")
    forceDefault = stored(bool, False)
    scrollWheelEffect = stored(int, 2)


class ctkPathLineEdit(QWidget):
    """Tells of a new path only where it is acceptable: an existing name that fits the filter, never none.

    Of a path that is not acceptable any more, `validInputChanged` tells. The width is fitted to the text that
    is there when somebody asks first, unless a minimum length says otherwise.
    """

    cpp_class = True
    cpp_signals = ("currentPathChanged(QString)", "validInputChanged(bool)")
    Files, Dirs, Readable, Writable = 2, 1, 16, 32
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    filters = stored(int, 0)
    nameFilters = stored("QStringList", [])
    settingKey = stored(str, "")
    label = stored(str, "")
    showHistoryButton = stored(bool, True)
    minimumContentsLength = stored(int, 0)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._box, self._button = QComboBox(self), QToolButton(self)
        self._box.setEditable(True)
        self._box.setInsertPolicy(QComboBox.NoInsert)
        self._line, self._valid, self._hint = self._box.lineEdit(), False, None
        self._button.setText("...")
        self._button.clicked.connect(self.browse)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        layout.addWidget(self._button)
        self._line.textChanged.connect(self._text_changed)

    def _acceptable(self, text: str) -> bool:
        patterns = [p for f in self.nameFilters for p in f.rpartition("(")[2].rstrip(")").split()]
        fits = not patterns or any(fnmatch.fnmatch(Path(text).name, p) for p in patterns)
        return bool(text) and fits and Path(text).exists()

    def _text_changed(self, text: str) -> None:
        before, self._valid = self._valid, self._acceptable(text)
        if self._valid:
            self.currentPathChanged.emit(text)
        if self._valid != before:
            self.validInputChanged.emit(self._valid)

    def minimumSizeHint(self) -> QSize:
        if self._hint is None:
            metrics, text = self._line.fontMetrics(), self._line.text
            width = metrics.boundingRect(text).width() + 8 if text else 7 * metrics.horizontalAdvance("x")
            if self.minimumContentsLength:
                width = self.minimumContentsLength * metrics.horizontalAdvance("X")
            height = self._box.minimumSizeHint.height()
            self._hint = QSize(width + 30 + self._button.minimumSizeHint.width(), height)
        return self._hint

    def setCurrentPath(self, path: str) -> None:
        self._line.setText(path)

    currentPath = Property(str, lambda self: self._line.text, setCurrentPath)

    def browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self)
        if path:
            self.setCurrentPath(path)

    def addCurrentPathToHistory(self) -> None:
        pass


class ctkMenuButton(QPushButton):
    cpp_class = True


class ctkMessageBox(QMessageBox):
    cpp_class = True
    dontShowAgainSettingsKey = stored(str, "")
    dontShowAgainVisible = stored(bool, False)


class ctkFittedTextBrowser(QTextBrowser):
    cpp_class = True
    collapsed = stored(bool, True)
    collapsible = stored(bool, False)


CLASSES = {name: kind for name, kind in vars().copy().items() if name.startswith("ctk")}
