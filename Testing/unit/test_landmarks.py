"""Landmarks: coordinates always in LPS, names kept, partners found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib import cli
from DeepRegistrationLib.errors import InputError, OutputError
from DeepRegistrationLib.landmarks import (
    Landmarks,
    as_landmarks,
    pair_landmarks,
    read_landmarks,
    unused_landmarks,
    write_landmarks,
)

POINTS = torch.tensor(
    [[1.5, -2.25, 3.0], [0.1, 1 / 3, -1e-7], [-120.5, 88.125, 1234.0625]], dtype=torch.float64
)
LANDMARKS = Landmarks(POINTS, ("nose", 'left "eye", inner', "Größe"))


def _markups(tmp_path: Path, system: object, **point: object) -> Path:
    points = [
        {"id": "1", "label": "a", "position": [1, 2, 3], "positionStatus": "defined"},
        {"id": "2", "label": "b", "position": [9, 9, 9], "positionStatus": "undefined"},
        {"id": "3", "label": "c", "position": [4.5, 5.5, 6.5], **point},
    ]
    markup = {"type": "Fiducial", "coordinateUnits": "mm", "controlPoints": points}
    if system is not None:
        markup["coordinateSystem"] = system
    path = tmp_path / "points.mrk.json"
    path.write_text(json.dumps({"markups": [markup]}))
    return path


@pytest.mark.parametrize("extension", [".mrk.json", ".fcsv", ".csv"])
def test_round_trip_keeps_every_digit(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"points{extension}"
    write_landmarks(LANDMARKS, path)
    back = read_landmarks(path)
    assert torch.equal(back.points, POINTS) and back.points.dtype == torch.float64
    assert back.labels == LANDMARKS.labels
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("system", "sign"), [("LPS", 1), ("lps", 1), ("1", 1), (1, 1), (None, 1), ("RAS", -1), ("0", -1), (0, -1)]
)
def test_markups_coordinate_systems(tmp_path: Path, system: object, sign: int) -> None:
    landmarks = read_landmarks(_markups(tmp_path, system))
    assert landmarks.points.tolist() == [[sign * 1, sign * 2, 3], [sign * 4.5, sign * 5.5, 6.5]]
    assert landmarks.labels == ("a", "c")


@pytest.mark.parametrize("status", ["preview", "missing", "undefined"])
def test_markups_without_a_position_are_left_out(tmp_path: Path, status: str) -> None:
    assert read_landmarks(_markups(tmp_path, "LPS", positionStatus=status)).labels == ("a",)
    assert read_landmarks(_markups(tmp_path, "LPS", position=None)).labels == ("a",)


def test_markups_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="coordinate system IJK"):
        read_landmarks(_markups(tmp_path, "IJK"))
    path = _markups(tmp_path, "LPS")
    path.write_text(path.read_text().replace('"mm"', '"cm"'))
    with pytest.raises(InputError, match="cm; millimetres"):
        read_landmarks(path)


FCSV_ROWS = """vtkMRMLMarkupsFiducialNode_0,1,2,3,0,0,0,1,1,1,0,F-1,,vtkMRMLScalarVolumeNode1
vtkMRMLMarkupsFiducialNode_1,4.5,5.5,6.5,0,0,0,1,1,1,0,"F,2",text,
"""
FCSV_COLUMNS = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"


@pytest.mark.parametrize(
    ("header", "sign"),
    [
        ("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n" + FCSV_COLUMNS, 1),
        ("# Markups fiducial file version = 4.11\n# CoordinateSystem = 1\n" + FCSV_COLUMNS, 1),
        ("# Markups fiducial file version = 4.10\n# CoordinateSystem = 0\n" + FCSV_COLUMNS, -1),
        ("# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n" + FCSV_COLUMNS, -1),
        ("# Markups fiducial file version = 4.5\n" + FCSV_COLUMNS, -1),
        ("", -1),
    ],
)
def test_fcsv_coordinate_systems(tmp_path: Path, header: str, sign: int) -> None:
    path = tmp_path / "points.fcsv"
    path.write_text(header + FCSV_ROWS)
    landmarks = read_landmarks(path)
    assert landmarks.points.tolist() == [[sign * 1, sign * 2, 3], [sign * 4.5, sign * 5.5, 6.5]]
    assert landmarks.labels == ("F-1", "F,2")


def test_fcsv_columns_and_status(tmp_path: Path) -> None:
    path = tmp_path / "points.fcsv"
    path.write_text("# CoordinateSystem = LPS\n# columns = label,x,y,z,sel,vis\nP1,1,2,3,1,1\n")
    assert read_landmarks(path).labels == ("P1",)
    assert read_landmarks(path).points.tolist() == [[1, 2, 3]]
    rows = "1,1,2,3,0,0,0,1,1,1,0,here,,,2,0\n2,9,9,9,0,0,0,1,1,1,0,nowhere,,,0,0\n"
    path.write_text("# CoordinateSystem = LPS\n" + FCSV_COLUMNS + rows)
    assert read_landmarks(path).labels == ("here",)
    path.write_text("# CoordinateSystem = IJK\n" + FCSV_COLUMNS + rows)
    with pytest.raises(InputError, match="coordinate system"):
        read_landmarks(path)


@pytest.mark.parametrize(
    ("text", "points", "labels"),
    [
        ("1,2,3\n4,5,6\n", [[1, 2, 3], [4, 5, 6]], ("1", "2")),
        ("a,1,2,3\nb,4,5,6\n", [[1, 2, 3], [4, 5, 6]], ("a", "b")),
        ("1,2\n3,4\n", [[1, 2], [3, 4]], ("1", "2")),
        ("x,y,z\n1,2,3\n", [[1, 2, 3]], ("1",)),
        ("\ufeffLabel;X;Y;Z\np;1;2;3\n", [[1, 2, 3]], ("p",)),
        ("z\ty\tname\tx\n3\t2\tp\t1\n", [[1, 2, 3]], ("p",)),
        ("x_ras,y_ras,z_ras\n1,2,3\n", [[-1, -2, 3]], ("1",)),
        ("x_lps,y_lps,z_lps,label\n1,2,3,q\n", [[1, 2, 3]], ("q",)),
        ("label,r,a,s\np,1,2,3\n", [[-1, -2, 3]], ("p",)),
        ("# a comment\nx,y\n1,2\n\n3,4\n", [[1, 2], [3, 4]], ("1", "2")),
        (
            '"label","l","p","s","defined","selected","visible","locked","description"\n'
            '"P,0",-0.1,-0.5,0,1,1,1,0,""\n"u",9,9,9,0,1,1,0,""\n',
            [[-0.1, -0.5, 0]],
            ("P,0",),
        ),
    ],
)
def test_csv_layouts(tmp_path: Path, text: str, points: list[list[float]], labels: tuple[str, ...]) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text, encoding="utf-8")
    landmarks = read_landmarks(path)
    assert landmarks.points.tolist() == points and landmarks.labels == labels


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.csv", "", "no landmarks"),
        ("a.csv", "x,y,z\n", "no landmarks"),
        ("a.csv", "1,2,3,4\n", "first line that names"),
        ("a.csv", "u,v,w\n1,2,3\n", "must name its columns"),
        ("a.csv", "x,y,z,r,a,s\n1,2,3,4,5,6\n", "must name its columns"),
        ("a.csv", "x,y,z\n1,2\n", "damaged"),
        ("a.csv", "x,y,z\n1,2,three\n", "damaged"),
        ("a.csv", "x,y,z,label\n1,2,3,good\n1,nan,3,bad\n", "landmark bad are not finite"),
        ("a.fcsv", "hello\n", "damaged"),
        ("a.mrk.json", "{", "damaged"),
        ("a.mrk.json", "[1]", "damaged"),
        ("a.mrk.json", '{"markups": [{"controlPoints": [{"position": [1, 2]}]}]}', "damaged"),
        ("a.mrk.json", '{"markups": []}', "no landmarks"),
        ("a.vtk", "1,2,3", r"\.mrk\.json, \.fcsv and \.csv"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, text: str, match: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=match) as caught:
        read_landmarks(path)
    assert str(path) in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_landmarks(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x81" * 20)
    with pytest.raises(InputError, match="damaged"):
        read_landmarks(tmp_path / "b.csv")


def test_two_d_landmarks_are_for_tables_only(tmp_path: Path) -> None:
    landmarks = as_landmarks([[1.0, 2.0], [3.0, 4.5]])
    write_landmarks(landmarks, tmp_path / "a.csv")
    assert torch.equal(read_landmarks(tmp_path / "a.csv").points, landmarks.points)
    with pytest.raises(OutputError, match=r"only be saved as \.csv"):
        write_landmarks(landmarks, tmp_path / "a.mrk.json")
    with pytest.raises(OutputError, match=r"saved as \.mrk\.json"):
        write_landmarks(landmarks, tmp_path / "a.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    "kind", [torch.tensor, np.array, list, lambda p: torch.tensor(p, requires_grad=True)]
)
def test_arrays_become_landmarks(kind) -> None:
    landmarks = as_landmarks(kind([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    assert landmarks.points.dtype == torch.float64 and not landmarks.points.requires_grad
    assert landmarks.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert landmarks.labels == ("1", "2") and len(landmarks) == 2
    assert as_landmarks(landmarks) is landmarks


@pytest.mark.parametrize(
    "points",
    [
        [[1, 2, 3, 4]],
        [1, 2, 3],
        [[1, 2], [1, 2, 3]],
        [["a", "b", "c"]],
        [[1, 2, np.inf]],
        5.0,
        [],
        torch.tensor(1.0),
    ],
)
def test_arrays_that_are_no_landmarks(points) -> None:
    with pytest.raises(InputError):
        as_landmarks(points)


def test_pairing_by_name_whatever_the_order() -> None:
    order = [2, 0, 1]
    moved = Landmarks(POINTS[order] + 7, tuple(LANDMARKS.labels[k] for k in order))
    fixed, moving, labels = pair_landmarks(LANDMARKS, moved)
    assert torch.equal(moving, fixed + 7) and labels == LANDMARKS.labels


def test_pairing_by_the_names_that_both_lists_share() -> None:
    """Not by order, which shifts every pair by one."""
    fixed, moving = Landmarks(POINTS, ("A", "B", "C")), Landmarks(POINTS + 1, ("B", "C", "D"))
    on_fixed, on_moving, names = pair_landmarks(fixed, moving)
    assert names == ("B", "C")
    assert torch.equal(on_fixed, POINTS[1:]) and torch.equal(on_moving, POINTS[:2] + 1)
    assert unused_landmarks(fixed, moving) == [
        "Landmarks that are not used: A (no partner) on the fixed image; D (no partner) on the moving image."
    ]
    # lists of different lengths, too
    assert pair_landmarks(fixed, Landmarks(POINTS[:1], ("C",)))[2] == ("C",)


@pytest.mark.parametrize("labels", [("a", "b", "c"), ("1", "2", "3"), ("x", "x", "x"), ("", "", "")])
def test_pairing_by_order_where_no_name_is_shared(labels: tuple[str, ...]) -> None:
    moved = Landmarks(POINTS.flip(0), labels)
    fixed, moving, names = pair_landmarks(LANDMARKS, moved)
    assert torch.equal(fixed, POINTS) and torch.equal(moving, POINTS.flip(0)) and names == LANDMARKS.labels
    told = unused_landmarks(LANDMARKS, moved)
    assert ["paired by their order" in text for text in told] == [True] * (labels[0] in ("a", "x"))


def test_lists_without_names_have_to_be_equally_long(tmp_path: Path) -> None:
    """Which point is missing, nobody knows."""
    for name, points in (("f.csv", "1,2,3\n4,5,6\n7,8,9\n"), ("m.csv", "4,5,6\n7,8,9\n")):
        (tmp_path / name).write_text(points)
    with pytest.raises(InputError, match="3 landmarks on the fixed image but 2 on the moving"):
        pair_landmarks(tmp_path / "f.csv", tmp_path / "m.csv")
    with pytest.raises(InputError, match="3 landmarks on the fixed image but 2 on the moving"):
        pair_landmarks(POINTS, POINTS[:2])


def test_numbered_lists_are_paired_by_place_whatever_their_lengths() -> None:
    fixed, moving = Landmarks(POINTS, ("F-1", "F-2", "F-3")), Landmarks(POINTS[:2], ("M_1", "M_2"))
    assert pair_landmarks(fixed, moving)[2] == ("F-1", "F-2")
    assert "F-3 (no partner) on the fixed image" in unused_landmarks(fixed, moving)[0]


def test_a_name_that_stands_for_several_points() -> None:
    """It pairs nothing, unless it stands at the same places of both lists."""
    twice = Landmarks(POINTS, ("p", "p", "q"))
    fixed, moving, names = pair_landmarks(twice, Landmarks(POINTS + 1, ("p", "p", "r")))
    assert torch.equal(moving, fixed + 1) and names == ("p (1)", "p (2)", "q")
    for labels in (("p", "q", "r"), ("q", "p", "p")):
        with pytest.raises(InputError, match="called p"):
            pair_landmarks(twice, Landmarks(POINTS, labels))


def _with_points(path: Path, rows: list[tuple[str, float, dict[str, object]]]) -> Path:
    points = [{"label": name, "position": [x, 0, 0], **state} for name, x, state in rows]
    path.write_text(json.dumps({"markups": [{"controlPoints": points}]}))
    return path


def _rows(kind: str, states: list[str]) -> str:
    """A file of three points, each "", "undefined" or "deselected"."""
    lines = []
    for k, state in enumerate(states):
        defined, selected = int(state != "undefined"), int(state != "deselected")
        if kind == "fcsv":
            lines.append(f"{k},{k},0,0,0,0,0,1,1,{selected},0,,,,{2 * defined},0")
        else:
            lines.append(f"{k},0,0,{defined},{selected}")
    header = "# CoordinateSystem = LPS" if kind == "fcsv" else "l,p,s,defined,selected"
    return "\n".join([header, *lines]) + "\n"


NOT_PLACED = {"positionStatus": "undefined"}


def test_points_that_are_not_placed_take_no_other_points_place(tmp_path: Path) -> None:
    """B is missing in one list and C in the other; what is left is A and D, not A and C against A and B."""
    fixed = _with_points(tmp_path / "f.mrk.json", [("F-1", 1, {}), ("F-2", 2, NOT_PLACED), ("F-3", 3, {})])
    moving = _with_points(tmp_path / "m.mrk.json", [("M-1", 1, {}), ("M-2", 2, {}), ("M-3", 3, NOT_PLACED)])
    on_fixed, on_moving, names = pair_landmarks(fixed, moving)
    assert torch.equal(on_fixed, on_moving) and names == ("F-1",)
    assert unused_landmarks(fixed, moving) == [
        "Landmarks that are not used: F-3 (no partner), F-2 (not placed) on the fixed image; "
        "M-2 (no partner), M-3 (not placed) on the moving image."
    ]


@pytest.mark.parametrize("kind", ["fcsv", "csv"])
@pytest.mark.parametrize("state", ["undefined", "deselected"])
def test_points_without_names_keep_their_number(tmp_path: Path, kind: str, state: str) -> None:
    fixed, moving = tmp_path / f"f.{kind}", tmp_path / f"m.{kind}"
    fixed.write_text(_rows(kind, ["", state, ""]))
    moving.write_text(_rows(kind, ["", "", ""]))
    on_fixed, on_moving, names = pair_landmarks(fixed, moving)
    assert torch.equal(on_fixed, on_moving) and names == ("1", "3")


def test_deselected_points_are_not_used(tmp_path: Path) -> None:
    fixed = _with_points(tmp_path / "f.mrk.json", [("a", 1, {"selected": False}), ("b", 2, {})])
    moving = _with_points(tmp_path / "m.mrk.json", [("a", 1, {"selected": True}), ("b", 2, {})])
    assert pair_landmarks(fixed, moving)[2] == ("b",)
    assert "a (deselected) on the fixed image; a (no partner)" in unused_landmarks(fixed, moving)[0]
    _with_points(fixed, [("a", 1, {"selected": False})])
    with pytest.raises(InputError, match="placed and selected"):
        read_landmarks(fixed)


def test_pairing_from_files(tmp_path: Path) -> None:
    write_landmarks(LANDMARKS, tmp_path / "a.fcsv")
    fixed, moving, _ = pair_landmarks(tmp_path / "a.fcsv", str(tmp_path / "a.fcsv"))
    assert torch.equal(fixed, moving)


def test_pairs_that_cannot_be() -> None:
    with pytest.raises(InputError, match="3 landmarks on the fixed image but 2 on the moving"):
        pair_landmarks(LANDMARKS, POINTS[:2])
    with pytest.raises(InputError, match="None of the landmarks has a partner"):
        pair_landmarks(torch.zeros(0, 3), POINTS)
    with pytest.raises(InputError, match="no landmarks"):
        pair_landmarks(torch.zeros(0, 3), torch.zeros(0, 3))
    with pytest.raises(InputError, match="2-D"):
        pair_landmarks(POINTS, POINTS[:, :2])


def test_commands_say_which_points_they_do_not_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transform = tmp_path / "t.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 0.0, 0.0)), str(transform))
    fixed = _with_points(tmp_path / "f.mrk.json", [("a", 1, {}), ("b", 2, {"selected": False}), ("c", 3, {})])
    moving = _with_points(tmp_path / "m.mrk.json", [("c", 4, {}), ("b", 3, {}), ("d", 9, {})])
    lists = ["--fixed-landmarks", str(fixed), "--moving-landmarks", str(moving)]
    assert cli.main(["evaluate", "--transform", str(transform), *lists, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["landmarks"]["given"]["after"]["each_mm"] == {"c": 0.0}
    told = "a (no partner), b (deselected) on the fixed image; b (no partner), d (no partner) on the moving"
    assert told in numbers["warnings"][0]
    output = tmp_path / "o.csv"
    assert (
        cli.main(["apply", "--transform", str(transform), "--input", str(fixed), "--output", str(output)])
        == 0
    )
    assert "not used: b (deselected)" in capsys.readouterr().err
    assert read_landmarks(output).labels == ("a", "c")
