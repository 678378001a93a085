"""The numbers of a registration as a table in the scene."""

from __future__ import annotations

from typing import Any

import vtk
from DeepRegistrationLib.commands.tables import quality_rows
from DeepRegistrationScene.quality_table import COLUMNS, fill_table, table_rows

QUALITY: dict[str, Any] = {
    "similarity": {"before": {"ncc": 0.61, "nmi": 1.1}, "after": {"ncc": 0.93, "nmi": 1.3}},
    "regularity": {
        "folds_percent": 0.0125,
        "folds_percent_central": 0.0,
        "determinant_min": -0.4,
        "determinant_max": 2.5,
        "log_determinant_sd": 0.2,
    },
    "inverse_consistency": {"mean_mm": 0.05, "max_mm": 0.6},
    "landmarks": {
        "fitted": {
            "before": {"mean_mm": 8.0, "max_mm": 9.0, "each_mm": {"L1": 7.0, "L2": 9.0}},
            "after": {"mean_mm": 0.75, "max_mm": 1.2, "each_mm": {"L1": 0.3, "L2": 1.2}},
        },
        "held_out": None,
    },
    "labels": {
        "before": {"dice_mean": 0.5, "hd95_mean_mm": None, "dice": {"1": 0.4, "2": 0.6}, "hd95_mm": {}},
        "after": {
            "dice_mean": 0.85,
            "hd95_mean_mm": 2.0,
            "dice": {"1": 0.8, "2": 0.9},
            "hd95_mm": {"1": 2.0},
        },
    },
    "moving_space": {
        "regularity": {"folds_percent": 0.025},
        "labels": {"after": {"dice_mean": 0.79, "hd95_mean_mm": None, "dice": {"1": 0.79}, "hd95_mm": {}}},
        "landmarks": {"fitted": {"after": {"mean_mm": 0.8, "max_mm": 1.3, "each_mm": {"L2": 1.3}}}},
    },
    "seconds": {"total": 12.34, "deform": 8.0},
    "peak_memory_mb": 512.4,
    "device": "cpu",
    "device_type": "cpu",
    "threads": 2,
    "parameters": {
        "method": "dio",
        "representation": "diffeomorphic",
        "similarity_used": "lncc",
        "linear": "none",
    },
}


def read_table(node) -> list[tuple[str, ...]]:
    rows, columns = range(node.GetNumberOfRows()), range(node.GetNumberOfColumns())
    return [tuple(node.GetCellText(row, column) for column in columns) for row in rows]


def test_rows_are_the_command_lines_and_more() -> None:
    rows = {row[0]: row[1:] for row in table_rows(QUALITY, {"1": "prostate"})}
    for row in quality_rows(QUALITY)[1:]:
        name = row[0][0].upper() + row[0][1:]
        assert rows[name] == tuple(cell or "-" for cell in row[1:])
    assert rows["Dice, prostate"] == ("0.400", "0.800", "0.790")
    assert rows["Dice, label 2"] == ("0.600", "0.900", "-")
    assert rows["95 % Hausdorff (mm), prostate"] == ("-", "2.00", "-")
    assert rows["Landmark L2 (mm)"] == ("9.00", "1.20", "1.30")
    assert rows["Folds (% of voxels)"] == ("-", "0.0125", "0.0250")
    assert rows["Time (s)"] == ("-", "12.3", "-") and rows["Device"] == ("-", "cpu, 2 threads", "-")
    assert rows["Method"] == ("-", "dio", "-") and rows["Peak memory (MB)"] == ("-", "512", "-")


def test_label_names_may_come_with_the_numbers() -> None:
    named = {row[0] for row in table_rows({**QUALITY, "label_names": {"2": "bladder"}})}
    assert {"Dice, bladder", "Dice, label 1"} <= named


def test_a_table_is_filled_and_filled_again(scene) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", "quality")
    assert fill_table(node, QUALITY) is node
    assert read_table(node) == table_rows(QUALITY)
    table = node.GetTable()
    assert (
        tuple(table.GetColumnName(k) for k in range(4)) == COLUMNS and node.GetUseColumnTitleAsColumnHeader()
    )
    few = {"regularity": QUALITY["regularity"]}
    fill_table(node, few)
    assert read_table(node) == table_rows(few) and 0 < len(read_table(node)) < 6


def test_a_table_is_told_of_once(scene) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", "quality")
    told: list[str] = []
    node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: told.append("modified"))
    fill_table(node, QUALITY)
    assert told.count("modified") == 1
