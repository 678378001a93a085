"""Pictures of widgets, with letters in them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtGui import QFont, QFontDatabase, QImage, QPainter
from PySide6.QtWidgets import QApplication


def ensure_fonts() -> None:
    """Make sure that letters can be drawn: the system's fonts, else the one that matplotlib brings along."""
    if _draws_letters():
        return
    found = find_spec("matplotlib")
    if found is None:
        raise RuntimeError("no font: install one on the system, or matplotlib in this environment")
    font = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    if QFontDatabase.addApplicationFont(str(font)) < 0:
        raise RuntimeError(f"the font {font} cannot be loaded")
    QApplication.setFont(QFont("DejaVu Sans", 9))
    if not _draws_letters():
        raise RuntimeError(f"the font {font} draws nothing")


def _draws_letters() -> bool:
    canvas = QImage(60, 30, QImage.Format_Grayscale8)
    canvas.fill(255)
    painter = QPainter(canvas)
    painter.drawText(5, 20, "R")
    painter.end()
    letter = np.frombuffer(canvas.constBits(), np.uint8).copy()
    canvas.fill(255)
    painter = QPainter(canvas)
    painter.drawText(5, 20, "I")  # without a font every letter is the same box, or nothing
    painter.end()
    return bool((letter < 128).any() and (letter != np.frombuffer(canvas.constBits(), np.uint8)).any())


def grab(widget: Any, path: Path | None = None, width: int | None = None) -> np.ndarray:
    """The widget as (height, width, 3) uint8, as tall as it needs to be; also written to `path` (PNG)."""
    ensure_fonts()
    if width is not None:
        widget.setFixedWidth(width)
        QApplication.processEvents()
        layout = widget.layout()
        tall = layout.hasHeightForWidth() if layout is not None else False
        widget.resize(width, layout.totalHeightForWidth(width) if tall else widget.sizeHint.height())
    widget.ensurePolished()
    QApplication.processEvents()
    image = widget.grab().toImage().convertToFormat(QImage.Format_RGB888)
    if path is not None and not image.save(str(path)):
        raise OSError(f"cannot write {path}")
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()
