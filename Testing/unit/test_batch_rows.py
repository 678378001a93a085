"""What a batch is to do: tables, patterns, names, and the sentences about what cannot work."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from DeepRegistrationLib import cli
from DeepRegistrationLib.batch.names import bids_name, file_names, name_complaint, pair_name
from DeepRegistrationLib.batch.rows import (
    CHOICES,
    OPTIONS,
    Row,
    check_rows,
    matched,
    read_table,
    rows_of_files,
)
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.pipeline import register
from DeepRegistrationLib.registration import FEATURE_OUTPUTS, OUTPUTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz", "a_labels.nii.gz", "b_labels.nii.gz", "c_labels.nii.gz"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def table(folder: Path, text: str, name: str = "pairs.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return path


def test_options_are_those_of_register() -> None:
    known = set(inspect.signature(register).parameters)
    assert known - set(OPTIONS) == {"progress", "cancel", "held_out_landmarks"}
    assert set(OPTIONS) <= known
    for key, choices in (("method", cli.METHODS), ("preset", cli.PRESETS), ("device", cli.DEVICES)):
        assert tuple(CHOICES[key]) == choices


def test_a_row_overrides_the_defaults_and_its_paths_are_the_tables(folder: Path) -> None:
    header = "fixed,moving,preset,seed,output-spacing,features"
    path = table(folder, f"{header}\na.nii.gz,b.nii.gz,fast,7,2.5,yes\na.nii.gz,c.nii.gz,,,,\n")
    first, second = read_table(path, {"preset": "accurate", "seed": 1, "mask": None})
    assert first.options == {
        "fixed": str(folder / "a.nii.gz"),
        "moving": str(folder / "b.nii.gz"),
        "preset": "fast",
        "seed": 7,
        "output_spacing": 2.5,
        "features": True,
        "threads": 1,
    }
    assert (first.number, first.name, second.name) == (2, "b_to-a", "c_to-a")
    assert (second.options["preset"], second.options["seed"]) == ("accurate", 1)
    check_rows([first, second])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("\ufefffixed;moving\r\na.nii.gz;b.nii.gz\r\n", "pairs.csv"),
        ("fixed\tmoving\na.nii.gz\tb.nii.gz\n", "pairs.tsv"),
        ('fixed,moving\n"a.nii.gz","b.nii.gz"\n\n,\n', "pairs.csv"),
    ],
)
def test_tables_as_spreadsheets_write_them(folder: Path, text: str, name: str) -> None:
    (row,) = read_table(table(folder, text, name), {})
    assert Path(row.options["moving"]).name == "b.nii.gz"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("fixed,moving,metod\na,b,dio\n", "column 'metod', which is no option"),
        ("fixed,moving,moving\na,b,c\n", "column 'moving' more than once"),
        ("one,two\n1,2\n", "column 'one'"),
        ("name\nx\n", "needs the columns 'fixed' and 'moving'"),
        ("", "needs the columns"),
        ("fixed,moving\n", "has no rows"),
        ("fixed,moving\na.nii.gz,\n", "Row 2 .*: there is no moving image"),
        (
            "fixed,moving,preset\na,b,fast\na,b,quick\n",
            "Row 3 .*: there is no preset 'quick'; choose prediction",
        ),
        ("fixed,moving,seed\na,b,1.5\n", "Row 2 .*: seed is '1.5', which is not a whole number"),
        ("fixed,moving,threads\na,b,0\n", r"threads must be at least 1\.$"),
        ("fixed,moving,threads\na,b,100000\n", r"threads must be at most \d+; this machine has \d+"),
        ("fixed,moving,output_spacing\na,b,nan\n", "output_spacing must be a positive number"),
        ("fixed,moving,features\na,b,perhaps\n", "features is 'perhaps'; write yes or no"),
        ("fixed,moving\na,b,c\n", "it has 3 cells, but there are 2 columns"),
        ('fixed,moving\n"a,b\n', "not a table that can be read"),
        ("fixed,moving,seed\n" + "a,b,x\n" * 7, "And 2 more"),
    ],
)
def test_tables_that_do_not_work(folder: Path, text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_table(table(folder, text), {})


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(InputError, match="not a text table in UTF-8"):
        read_table(tmp_path / "x.csv", {})
    with pytest.raises(InputError, match="does not exist"):
        read_table(tmp_path / "none.csv", {})


def test_what_can_be_known_before_is_said_before_with_the_row(folder: Path) -> None:
    text = (
        "name,fixed,moving,moving_labels\n"
        "x,a.nii.gz,b.nii.gz,\nX,a.nii.gz,c.nii.gz,\ny,a.nii.gz,gone.nii.gz,\n"
        "z,a.nii.gz,b.nii.gz,b_labels.nii.gz\n../up,a.nii.gz,b.nii.gz,\n"
    )
    with pytest.raises(InputError) as told:
        check_rows(read_table(table(folder, text), {}))
    sentence = str(told.value)
    assert "Row 3: its results would have the name 'X', as row 2's" in sentence
    assert f"Row 4: the moving {folder / 'gone.nii.gz'} does not exist" in sentence
    assert "Row 5: there is no fixed_labels, which moving_labels needs" in sentence
    assert "Row 6: '../up' cannot be the name of its results" in sentence


def test_one_fixed_many_moving_by_pattern(folder: Path) -> None:
    fixed, labels = str(folder / "a.nii.gz"), str(folder / "a_labels.nii.gz")
    defaults = {"moving_labels": str(folder / "*_labels.nii.gz"), "fixed_labels": labels, "preset": "fast"}
    with pytest.raises(InputError, match="No file matches"):  # only the star is special
        rows_of_files(fixed, [str(folder / "[bc]*.nii.gz")], defaults)
    (folder / "images").mkdir()
    for name in "abc":
        (folder / "images" / f"{name}1.nii.gz").write_bytes(b"x")
        (folder / f"{name}1_labels.nii.gz").write_bytes(b"x")
    rows = rows_of_files(fixed, [str(folder / "images" / "*.nii.gz")], defaults)
    assert [row.name for row in rows] == ["a1_to-a", "b1_to-a", "c1_to-a"]
    assert rows[1].options["moving_labels"] == str(folder / "b1_labels.nii.gz")
    assert rows[1].options["fixed_labels"] == labels
    check_rows(rows)


def test_one_fixed_and_a_folder_without_itself(folder: Path) -> None:
    rows = rows_of_files(str(folder / "b.nii.gz"), [str(folder)], {})
    assert [row.name for row in rows] == [f"{n}_to-b" for n in ("a", "a_labels", "b_labels", "c", "c_labels")]


def test_stars_have_to_match(folder: Path) -> None:
    with pytest.raises(InputError, match="has not as many stars"):
        rows_of_files("a", [str(folder / "*.nii.gz")], {"moving_labels": "*/*_labels.nii.gz"})
    with pytest.raises(InputError, match="needs one in the images' pattern"):
        rows_of_files("a", [str(folder / "b.nii.gz")], {"moving_labels": "*_labels.nii.gz"})
    fill = dict(matched([str(folder / "*_l*.nii.gz")]))[str(folder / "c_labels.nii.gz")]
    assert fill("x*/y*") == "xc/yabels"


def test_bids_entities_are_kept() -> None:
    fixed, moving = "/d/sub-01/anat/sub-01_T1w.nii.gz", "/d/sub-02/sub-02_ses-1_run-2_T1w.nii.gz"
    name = bids_name(moving)
    assert name is not None and name.suffix == "T1w"
    assert name.entities == (("sub", "02"), ("ses", "1"), ("run", "2"))
    assert pair_name(fixed, moving) == "sub-02_ses-1_run-2_from-T1w_to-sub01T1w"
    assert file_names(fixed, moving) == {
        "forward.h5": "sub-02_ses-1_run-2_from-T1w_to-sub01T1w_mode-image_xfm.h5",
        "inverse.h5": "sub-02_ses-1_run-2_from-sub01T1w_to-T1w_mode-image_xfm.h5",
        "warped.nii.gz": "sub-02_ses-1_run-2_space-sub01T1w_T1w.nii.gz",
        "quality.json": "sub-02_ses-1_run-2_from-T1w_to-sub01T1w_quality.json",
        "features_fixed.nii.gz": "sub-02_ses-1_run-2_space-sub01T1w_desc-features_T1w.nii.gz",
        "features_moving.nii.gz": "sub-02_ses-1_run-2_space-T1w_desc-features_T1w.nii.gz",
    }
    assert pair_name("sub-02_T2w.nii.gz", "sub-02_T1w.nii.gz") == "sub-02_from-T1w_to-T2w"
    assert pair_name("tpl-MNI152_res-01_T1w.nii.gz", "sub-02_T1w.nii") == "sub-02_from-T1w_to-MNI152"
    assert pair_name("my atlas.nrrd", "sub-02_T1w.nii") == "sub-02_from-T1w_to-myatlas"
    assert bids_name("brain-1_T1w.nii.gz") is None and bids_name("sub-02.nii.gz") is None
    assert list(file_names("a.nii", "b.nii").items()) == [(n, n) for n in (*OUTPUTS, *FEATURE_OUTPUTS)]


@pytest.mark.parametrize(
    "name", ["", ".x", "a/b", "a\\b", "a\nb", 'a"b', "x" * 121, "CON", "nul.txt", "end."]
)
def test_names_no_folder_can_have(name: str) -> None:
    assert name_complaint(name) is not None


@pytest.mark.parametrize("name", ["sub-01_T1w", "Müller 2", "b_to-a", "x" * 120])
def test_names_a_folder_can_have(name: str) -> None:
    assert name_complaint(name) is None


def test_odd_file_names_give_usable_names() -> None:
    for moving in ('/x/a "b"\n.nii.gz', "/x/....nii.gz", "/x/" + "m" * 200 + ".nii.gz", "/x/a:b?.mha"):
        name = pair_name("/y/f.nii.gz", moving)
        assert name_complaint(name) is None, name


def test_rows_compare_names_without_case() -> None:
    options = {"fixed": __file__, "moving": __file__}
    with pytest.raises(InputError, match="give it another name"):
        check_rows([Row(1, "Sub", options), Row(2, "sub", options)])
