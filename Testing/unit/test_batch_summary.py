"""The summary of a batch: safe to open in a spreadsheet and to send, readable, not lost by one bad record."""

from __future__ import annotations

import csv
import html
import io
import re
from pathlib import Path
from typing import Any

import pytest
from batch_support import blobs
from DeepRegistrationLib.batch.entries import NUMBERS, Entry, ranked
from DeepRegistrationLib.batch.names import name_complaint
from DeepRegistrationLib.batch.page import without_folders, written_page
from DeepRegistrationLib.batch.rows import Row
from DeepRegistrationLib.batch.run import run_batch
from DeepRegistrationLib.batch.summary import TABLE, write_summary
from DeepRegistrationLib.errors import InputError

HOME = "/home/jane.doe/Mueller Hans/T1"


def quality(**numbers: float) -> dict[str, Any]:
    """What quality.json says, of columns of the table."""
    result: dict[str, Any] = {"parameters": {"similarity_used": "lncc"}}
    for column, value in numbers.items():
        *path, last = dict(NUMBERS)[column]
        place = result
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    return result


def whole(**numbers: float) -> dict[str, Any]:
    """The same with a number in every column, and what the verdict needs."""
    result = quality(**({name: -0.12345 for name, _ in NUMBERS} | numbers))
    for space in (result, result["moving_space"]):
        space["labels"]["after"]["dice"] = {"1": 0.5}
        space["labels"].setdefault("before", {"dice_mean": 0.5})
        space["similarity"].setdefault("before", {"ncc": 0.5, "nmi": 1.1})
    for when in ("before", "after"):
        result["landmarks"]["fitted"][when] |= {"max_mm": 1.0, "each_mm": {"a": 1.0}}
    return result


def entry(name: str, numbers: dict[str, Any] | None, sentence: str = "", **options: str) -> Entry:
    files = {"fixed": f"{HOME}/f.nii", "moving": f"{HOME}/m.nii", **options}
    state = "failed" if numbers is None else "done"
    return Entry(Row(2, name, files), state, sentence, Path(HOME) / "out" / name, numbers or {}, {})


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r\n@"])
def test_no_cell_is_a_formula(start: str, tmp_path: Path) -> None:
    told = f"{start}HYPERLINK(1)"
    warned = whole(ncc_after=-0.5) | {"warnings": [told]}
    rows = [entry(told, warned, fixed=told, moving=told), entry("b", None, told)]
    write_summary(rows, tmp_path)
    cells = {c for row in csv.reader(io.StringIO((tmp_path / TABLE).read_bytes().decode())) for c in row}
    assert f"'{told.strip()}" in cells and "-0.5" in cells
    words = [cell for cell in cells if not re.fullmatch(r"-[.\d]+", cell)]
    assert not any(cell.startswith(start.strip()) for cell in words)


@pytest.mark.parametrize("name", ["summary.csv", "Summary.HTML"])
def test_no_pair_is_called_like_the_summary(name: str, tmp_path: Path) -> None:
    assert name_complaint(name) == "the summary has that name"
    image = str(blobs(tmp_path / "a.nii.gz"))
    with pytest.raises(InputError, match="the summary has that name"):
        run_batch([Row(2, name, {"fixed": image, "moving": image})], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_record_without_numbers_leaves_the_others_ranked() -> None:
    good = [entry(str(k), quality(dice_after=k / 10, ncc_after=1 - k / 10)) for k in (7, 3, 5)]
    bad = [entry("unread", {}), entry("nan", quality(dice_after=float("nan"), ncc_after=0.9))]
    order, measure = ranked([*good, *bad, entry("failed", None)])
    assert measure == "Dice"
    assert [e.row.name for e in order] == ["failed", "unread", "nan", "3", "5", "7"]
    order, measure = ranked(
        [*(entry(str(k), quality(ncc_after=k / 10)) for k in (7, 3)), entry("unread", {})]
    )
    assert measure == "correlation" and [e.row.name for e in order] == ["unread", "3", "7"]


def test_the_page_says_no_folder(tmp_path: Path) -> None:
    sentence = f"{HOME}/f.nii is empty. /srv/patients/Mueller/x.h5 is damaged. 1/mm, and/or 3 / 4."
    told = whole() | {"warnings": [f"The labels {HOME}/../labels/f.nii are on another grid."]}
    failed = entry("b", None, sentence)
    log = f'File "/opt/lib/python3/x.py", line 3\n  {Path.home()}/a.py\n  {HOME}/out/b/forward.h5'
    failed = Entry(failed.row, "failed", sentence, failed.folder, {}, {}, log)
    page = html.unescape(written_page([entry("a", told), failed], [None, None], "order"))
    for private in ("jane", "Mueller", "/home", "/srv", "/opt", str(Path.home())):
        assert private not in page
    for kept in (
        "fixed f.nii",
        "f.nii is empty. x.h5 is damaged. 1/mm, and/or 3 / 4.",
        'File "x.py", line 3',
    ):
        assert kept in page


def test_paths_of_windows_too() -> None:
    assert without_folders(r"D:\scans\Mueller\f.nii is empty", ()) == "f.nii is empty"
    assert without_folders("see https://example.org/a/b", ()) == "see https://example.org/a/b"


def test_all_columns_of_the_page_fit_into_1500_pixels() -> None:
    """By the widest line of each column, at the share of the window that the table may take."""
    everything = whole(seconds=1234.5)
    page = written_page([entry("sub-02_ses-1_from-T1w_to-sub01T1w", everything)], [None], "Dice")
    share = re.search(r"grid-template-columns: fit-content\((\d+)%\)", page)
    padding = re.search(r"th, td \{ padding: \d+px (\d+)px", page)
    assert share is not None and padding is not None
    cells = [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page, re.DOTALL)]
    heads = re.findall(r"<th>(.*?)</th>", page)
    assert len(cells) == len(heads) == 8
    font = re.search(r"table \{.*font-size: (\d+)px", page)
    assert font is not None
    ems = 9.0  # the name breaks anywhere
    for head, cell in zip(heads[1:], cells[1:], strict=True):
        ems += 0.56 * max(len(part) for part in (*head.split(), *cell.split("\n")))  # of digits, at most
    assert ems * int(font[1]) + 2 * 8 * int(padding[1]) < 1500 * int(share[1]) / 100
