"""Small things that every table and list of the panel needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import qt


def cell(text: str, checked: bool | None = None) -> Any:
    """A table cell to read; with a check box if `checked` says how it stands."""
    item = qt.QTableWidgetItem(text)
    item.setToolTip(text)  # where there is no room for all of it
    if checked is None:
        item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
    else:
        item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)
    return item


def fill(table: Any, rows: Sequence[Sequence[Any]]) -> None:
    """Show rows of texts or cells, twelve at a time; the first column takes what room there is."""
    blocked = table.blockSignals(True)
    table.setRowCount(len(rows))
    for r, row in enumerate(rows):
        for c, content in enumerate(row):
            table.setItem(r, c, cell(content) if isinstance(content, str) else content)
    table.blockSignals(blocked)
    table.verticalHeader().setDefaultSectionSize(table.fontMetrics().height() + 8)
    header = table.horizontalHeader()
    header.setStretchLastSection(False)
    for column in range(table.columnCount):
        header.setSectionResizeMode(
            column, qt.QHeaderView.ResizeToContents if column else qt.QHeaderView.Stretch
        )
    table.setHorizontalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOff)
    table.verticalHeader().setVisible(False)
    heights = sum(table.rowHeight(r) for r in range(min(len(rows), 12)))
    table.setFixedHeight(header.sizeHint.height() + heights + 2 * table.frameWidth)
    table.setVisible(bool(rows))


def fill_list(widget: Any, entries: Iterable[tuple[str, Any, bool]]) -> None:
    """Show (text, what it stands for, ticked) with check boxes; hidden when there are none."""
    blocked = widget.blockSignals(True)
    widget.clear()
    for text, data, ticked in entries:
        item = qt.QListWidgetItem(text)
        item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)
        item.setData(qt.Qt.UserRole, data)
        widget.addItem(item)
    widget.blockSignals(blocked)
    rows = min(widget.count, 8)
    widget.setFixedHeight(max(1, rows) * max(1, widget.sizeHintForRow(0)) + 2 * widget.frameWidth + 2)
    widget.setVisible(widget.count > 0)


def ticked(widget: Any) -> list[Any]:
    """What the ticked entries of a list stand for."""
    items = [widget.item(row) for row in range(widget.count)]
    return [item.data(qt.Qt.UserRole) for item in items if item.checkState() == qt.Qt.Checked]
