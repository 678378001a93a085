"""The command line: names, files, tables, progress, exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib import cli
from DeepRegistrationLib.commands import demo
from DeepRegistrationLib.commands.progress import ProgressBar, json_reporter
from DeepRegistrationLib.demo.pair import demo_pair
from DeepRegistrationLib.errors import Cancelled, InputError, NotAvailableError, OutputError
from DeepRegistrationLib.landmarks import Landmarks, read_landmarks, write_landmarks
from DeepRegistrationLib.linear_stage import STAGES
from DeepRegistrationLib.methods import METHODS
from DeepRegistrationLib.presets import PRESETS, SIMILARITY_NAMES
from DeepRegistrationLib.progress import Progress
from DeepRegistrationLib.registration import OUTPUTS
from DeepRegistrationLib.transforms import REPRESENTATIONS

ROTATION = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)
FIXED_POINTS = torch.tensor(
    [[2.0, -3.0, 1.0], [-6.0, 4.0, 5.0], [7.0, 6.0, -4.0], [0.0, 0.0, 8.0]], dtype=torch.float64
)
SHIFT = torch.tensor([1.5, -1.0, 0.5], dtype=torch.float64)


def made_image(shift: np.ndarray, spacing: tuple[float, ...], direction: tuple[float, ...]) -> sitk.Image:
    """Soft blobs about the world's origin, moved by `shift` mm, on a 3-D lattice centred on the origin."""
    size = tuple(round(32 / s) for s in spacing)
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size])
    image.SetOrigin([-m for m in middle])
    index = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), -1)
    axes = np.asarray(direction).reshape(3, 3) * np.asarray(spacing)
    points = index @ axes.T + np.asarray(image.GetOrigin()) - shift
    values = np.zeros(size)
    for centre, width, height in (
        ((3, 2, -1), 5, 600),
        ((-5, -3, 2), 4, 900),
        ((1, -6, -5), 3, 400),
        ((-3, 6, 4), 3, 700),
    ):
        values += height * np.exp(-((points - centre) ** 2).sum(-1) / (2 * width**2))
    filled = sitk.GetImageFromArray(np.ascontiguousarray(values.T.astype(np.float32)))
    filled.CopyInformation(image)
    return filled


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shifted pair on different, oblique lattices, its labels and landmarks."""
    folder = tmp_path_factory.mktemp("pair")
    fixed = made_image(np.zeros(3), (2.0, 2.0, 2.0), tuple(np.eye(3).ravel()))
    moving = made_image(SHIFT.numpy(), (1.6, 2.0, 2.5), ROTATION)
    for name, image in (("fixed", fixed), ("moving", moving)):
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
        labels = sitk.Cast(image > 300, sitk.sitkUInt8) + sitk.Cast(image > 500, sitk.sitkUInt8) * 4
        sitk.WriteImage(labels, str(folder / f"{name}_labels.nrrd"))
    names = ("a", "b", "c", "d")
    write_landmarks(Landmarks(FIXED_POINTS, names), folder / "fixed.mrk.json")
    write_landmarks(Landmarks(FIXED_POINTS + SHIFT, names), folder / "moving.fcsv")
    return folder


@pytest.fixture(scope="module")
def done(pair: Path) -> Path:
    """The results of one quiet registration of the pair."""
    assert cli.main(register_arguments(pair, pair / "out", "--quiet")) == 0
    return pair / "out"


def register_arguments(pair: Path, out: Path, *more: str) -> list[str]:
    inputs = [
        "--fixed",
        str(pair / "fixed.nii.gz"),
        "--moving",
        str(pair / "moving.nii.gz"),
        "--out",
        str(out),
    ]
    return ["register", *inputs, "--preset", "fast", "--device", "cpu", *more]


def test_names_are_those_of_the_engine() -> None:
    assert set(cli.METHODS) == set(METHODS)
    assert set(cli.REPRESENTATIONS) == set(REPRESENTATIONS)
    assert cli.SIMILARITIES == SIMILARITY_NAMES
    assert set(cli.PRESETS) == set(PRESETS)
    assert set(cli.LINEAR) == set(STAGES)


def test_help_and_usage_errors_do_not_load_torch() -> None:
    code = """
import sys
from DeepRegistrationLib.cli import main
assert main(["register"]) == 2
try:
    main(["register", "--help"])
except SystemExit as end:
    assert end.code == 0
print("loaded:", {"torch", "numpy", "SimpleITK"} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("loaded: set()\n")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "COMMAND"),
        (["regster"], "regster"),
        (["register", "--fixed", "a", "--moving", "b"], "--out"),
        (["register", "--fixed", "a", "--moving", "b", "--out", "c", "--preset", "best"], "best"),
        (["register", "--fixed", "a", "--moving", "b", "--out", "c", "--threads", "two"], "two"),
        *(
            ([*command, "--threads", count], f"--threads must be at {word}")
            for command in (
                ["register", "--fixed", "a", "--moving", "b", "--out", "c"],
                ["batch", "--fixed", "a", "--moving", "b", "--out", "c"],
                ["template", "a", "b", "--out", "c"],
                ["train", "--method", "dio", "--config", "small", "--data", "d", "--out", "c"],
            )
            for count, word in (("0", "least 1"), ("100000", "most"))
        ),
        (
            ["register", "--fixed", "a", "--moving", "b", "--out", "c", "--quiet", "--json-progress"],
            "--quiet",
        ),
        (["evaluate", "--transform", "t.h5", "--fixed", "f.nii"], "--moving"),
        (["apply", "--transform", "t.h5", "--input", "i.nii", "--output", "o.nii"], "--reference"),
    ],
)
def test_usage_errors_are_one_line(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("deepregistration: error: ")
    assert what in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Cancelled("The registration was cancelled."), 130, "interrupted"),
        (InputError("The file is\n broken."), 2, "The file is broken."),
        (NotAvailableError("Not there."), 2, "Not there."),
        (OutputError("The disk is full."), 1, "The disk is full."),
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 1, "not enough memory"),
        (ValueError("oops"), 1, "internal error (ValueError: oops)"),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(options: object) -> None:
        raise error

    monkeypatch.setattr("DeepRegistrationLib.commands.methods.run", fail)
    monkeypatch.delenv(cli.DEBUG, raising=False)
    assert cli.main(["methods"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("deepregistration: error: ")
    assert words in err
    assert err.count("\n") == 1
    monkeypatch.setenv(cli.DEBUG, "1")
    assert cli.main(["methods"]) == code
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_polite_kill_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        "DeepRegistrationLib.commands.methods.run", lambda options: signal.raise_signal(signal.SIGTERM)
    )
    assert cli.main(["methods"]) == 130
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
def test_a_reader_that_leaves_is_no_error() -> None:
    command = [sys.executable, "-m", "DeepRegistrationLib", "methods", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_register_writes_four_files_that_agree(pair: Path, done: Path) -> None:
    assert sorted(path.name for path in done.iterdir()) == sorted(OUTPUTS)
    fixed, moving = (sitk.ReadImage(str(pair / f"{name}.nii.gz")) for name in ("fixed", "moving"))
    forward = sitk.ReadTransform(str(done / "forward.h5"))
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, forward, sitk.sitkLinear, 0.0))
    warped = sitk.ReadImage(str(done / "warped.nii.gz"))
    intensities = sitk.GetArrayFromImage(moving)
    assert np.abs(sitk.GetArrayFromImage(warped) - expected).max() < 1e-3 * np.ptp(intensities)
    assert warped.GetSize() == fixed.GetSize()
    inverse = sitk.ReadTransform(str(done / "inverse.h5"))
    there = np.array([forward.TransformPoint(point) for point in FIXED_POINTS.tolist()])
    back = np.array([inverse.TransformPoint(point) for point in there.tolist()])
    errors = np.linalg.norm(there - (FIXED_POINTS + SHIFT).numpy(), axis=1)
    assert errors.mean() < 0.5 * float(SHIFT.norm())  # the other direction would double the distance
    assert np.linalg.norm(back - FIXED_POINTS.numpy(), axis=1).max() < 0.2
    quality = json.loads((done / "quality.json").read_text())
    assert quality["similarity"]["after"]["ncc"] > max(0.98, quality["similarity"]["before"]["ncc"])
    assert quality["parameters"]["preset"] == "fast"


def test_quiet_prints_nothing_and_otherwise_a_table(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linear = ("--representation", "rigid", "--linear", "rigid")
    assert cli.main(register_arguments(pair, tmp_path / "a", "--quiet", *linear)) == 0
    assert capsys.readouterr() == ("", "")
    prompts = ["--fixed-landmarks", str(pair / "fixed.mrk.json")]
    prompts += ["--moving-landmarks", str(pair / "moving.fcsv")]
    prompts += ["--fixed-labels", str(pair / "fixed_labels.nrrd")]
    prompts += ["--moving-labels", str(pair / "moving_labels.nrrd")]
    assert cli.main(register_arguments(pair, tmp_path / "b", *linear, *prompts)) == 0
    out, err = capsys.readouterr()
    assert all(line.startswith("deepregistration: good: ") for line in err.splitlines())
    assert "All 4 landmarks are within 3 mm" in err and "No folding." in err
    for words in ("correlation", "landmark error (fitted), mean", "Dice", "folds", "forward.h5", "inverse"):
        assert words in out


def test_json_progress_is_one_object_a_line(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(register_arguments(pair, tmp_path / "out", "--json-progress")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(set(line) == {"stage", "fraction", "objective", "seconds"} for line in lines)
    for key in ("fraction", "seconds"):
        values = [line[key] for line in lines]
        assert values == sorted(values)
    assert lines[0]["fraction"] == 0
    assert lines[-1]["fraction"] == 1
    assert any(line["objective"] is not None for line in lines)


def test_apply_gives_the_warped_image(pair: Path, done: Path, tmp_path: Path) -> None:
    arguments = ["apply", "--transform", str(done / "forward.h5"), "--reference", str(pair / "fixed.nii.gz")]
    output = tmp_path / "again.nrrd"
    assert cli.main([*arguments, "--input", str(pair / "moving.nii.gz"), "--output", str(output)]) == 0
    again, warped = (sitk.ReadImage(str(path)) for path in (output, done / "warped.nii.gz"))
    difference = sitk.GetArrayFromImage(again) - sitk.GetArrayFromImage(warped)
    assert np.abs(difference).max() < 1e-3 * sitk.GetArrayFromImage(warped).max()
    labels = tmp_path / "labels.nii.gz"
    moving = ["--input", str(pair / "moving_labels.nrrd"), "--labels"]
    assert cli.main([*arguments, *moving, "--output", str(labels)]) == 0
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(labels)))
    assert values.dtype.kind in "iu"
    assert set(np.unique(values)) == {0, 1, 5}


def test_apply_fills_outside_with_the_background_of_a_negative_image(pair: Path, tmp_path: Path) -> None:
    image = sitk.ReadImage(str(pair / "moving.nii.gz")) - 1000
    sitk.WriteImage(image, str(tmp_path / "ct.mha"))
    sitk.WriteTransform(sitk.TranslationTransform(3, (500.0, 0.0, 0.0)), str(tmp_path / "t.tfm"))
    arguments = ["--transform", str(tmp_path / "t.tfm"), "--input", str(tmp_path / "ct.mha")]
    arguments += ["--reference", str(pair / "fixed.nii.gz"), "--output", str(tmp_path / "o.mha")]
    assert cli.main(["apply", *arguments]) == 0
    result = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "o.mha")))
    assert np.ptp(result) == 0 and np.allclose(result, -1000, atol=1)


@pytest.mark.parametrize("name", ["points.mrk.json", "points.fcsv", "points.csv"])
def test_apply_maps_landmarks(pair: Path, done: Path, tmp_path: Path, name: str) -> None:
    arguments = ["--transform", str(done / "inverse.h5"), "--input", str(pair / "moving.fcsv")]
    assert cli.main(["apply", *arguments, "--output", str(tmp_path / name)]) == 0
    mapped = read_landmarks(tmp_path / name)
    inverse = sitk.ReadTransform(str(done / "inverse.h5"))
    expected = [inverse.TransformPoint(p) for p in (FIXED_POINTS + SHIFT).tolist()]
    assert mapped.labels == ("a", "b", "c", "d")
    assert torch.allclose(mapped.points, torch.tensor(expected, dtype=torch.float64), atol=1e-6)
    assert float((mapped.points - FIXED_POINTS).norm(dim=1).max()) < 1.0


def test_apply_refuses_two_dimensions_for_three(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sitk.WriteTransform(sitk.TranslationTransform(2, (1.0, 0.0)), str(tmp_path / "t.tfm"))
    for given in (pair / "moving.nii.gz", pair / "moving.fcsv"):
        arguments = ["--input", str(given), "--reference", str(pair / "fixed.nii.gz")]
        output = tmp_path / ("o.csv" if given.suffix == ".fcsv" else "o.nrrd")
        assert (
            cli.main(["apply", "--transform", str(tmp_path / "t.tfm"), *arguments, "--output", str(output)])
            == 2
        )
        assert "2-D" in capsys.readouterr().err
        assert not output.exists()


def test_evaluate_measures_what_register_wrote(
    pair: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = json.loads((done / "quality.json").read_text())
    before = set(pair.rglob("*"))
    arguments = ["--fixed", str(pair / "fixed.nii.gz"), "--moving", str(pair / "moving.nii.gz")]
    arguments += [
        "--fixed-labels",
        str(pair / "fixed_labels.nrrd"),
        "--moving-labels",
        str(pair / "moving_labels.nrrd"),
    ]
    arguments += [
        "--fixed-landmarks",
        str(pair / "fixed.mrk.json"),
        "--moving-landmarks",
        str(pair / "moving.fcsv"),
    ]
    arguments = ["evaluate", "--transform", str(done / "forward.h5"), *arguments]
    assert cli.main([*arguments, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    for when in ("before", "after"):
        for name in ("ncc", "nmi"):
            assert numbers["similarity"][when][name] == pytest.approx(
                written["similarity"][when][name], abs=2e-3
            )
    for name in ("determinant_min", "determinant_max", "log_determinant_sd", "folds_percent"):
        assert numbers["regularity"][name] == pytest.approx(written["regularity"][name], abs=1e-4)
    shift = float(SHIFT.norm())
    assert numbers["landmarks"]["given"]["before"]["mean_mm"] == pytest.approx(shift, abs=1e-6)
    assert numbers["landmarks"]["given"]["after"]["mean_mm"] < 0.6 * shift
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    labels = [sitk.ReadImage(str(pair / f"{name}_labels.nrrd")) for name in ("fixed", "moving")]
    forward = sitk.ReadTransform(str(done / "forward.h5"))
    overlap.Execute(labels[0], sitk.Resample(labels[1], labels[0], forward, sitk.sitkNearestNeighbor, 0))
    for value in (1, 5):
        assert numbers["labels"]["after"]["dice"][str(value)] == pytest.approx(
            overlap.GetDiceCoefficient(value)
        )
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    for words in ("correlation", "Dice, mean", "landmark error, largest", "label", "folds"):
        assert words in out
    assert set(pair.rglob("*")) == before


def test_evaluate_of_linear_and_unsampled_transforms(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    affine = sitk.AffineTransform(3)
    affine.Scale((1.2, 1.0, 0.5))
    sitk.WriteTransform(affine, str(tmp_path / "affine.tfm"))
    assert cli.main(["evaluate", "--transform", str(tmp_path / "affine.tfm"), "--json"]) == 0
    regularity = json.loads(capsys.readouterr().out)["regularity"]
    assert regularity["determinant_min"] == pytest.approx(0.6, abs=1e-5)
    assert regularity["folds_percent"] == 0
    fixed = sitk.ReadImage(str(pair / "fixed.nii.gz"))
    sitk.WriteTransform(sitk.BSplineTransformInitializer(fixed, (4, 4, 4)), str(tmp_path / "spline.tfm"))
    arguments = ["evaluate", "--transform", str(tmp_path / "spline.tfm")]
    assert cli.main(arguments) == 2
    assert "--fixed" in capsys.readouterr().err
    images = ["--fixed", str(pair / "fixed.nii.gz"), "--moving", str(pair / "moving.nii.gz")]
    assert cli.main([*arguments, *images, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["regularity"]["determinant_min"] == pytest.approx(1, abs=1e-4)


def test_methods_lists_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [method["name"] for method in listed["methods"]] == list(METHODS)
    assert [kind["name"] for kind in listed["representations"]] == list(REPRESENTATIONS)
    assert cli.main(["methods"]) == 0
    out = capsys.readouterr().out
    for name, method in METHODS.items():
        assert any(line.split()[:1] == [name] and method.title in line for line in out.splitlines())


def test_demo_prints_a_table_and_writes_pair_results_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "demo_pair", lambda: demo_pair(spacing=6.0))
    assert cli.main(["demo", "--out", str(tmp_path / "a" / "demo")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for words in (
        "Dice",
        "landmark error (not used)",
        "folds",
        "error against the truth, mean",
        "inverse consist",
    ):
        assert words in out
    truth = next(
        line.split() for line in out.splitlines() if line.startswith("error against the truth, mean")
    )
    assert float(truth[-1]) < float(truth[-2])
    written = {path.name for path in (tmp_path / "a" / "demo").iterdir()}
    assert written == {*demo.PAIR_FILES, *OUTPUTS, demo.PICTURE, demo.RECORD}


def test_demo_leaves_nothing_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*rest: object) -> None:
        raise OutputError("The disk is full.")

    monkeypatch.setattr(demo, "demo_pair", lambda: demo_pair(spacing=12.0))
    monkeypatch.setattr(demo, "save_picture", fail)
    assert cli.main(["demo", "--out", str(tmp_path / "a" / "demo")]) == 1
    assert list(tmp_path.iterdir()) == []


def test_bar_shows_stage_percent_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    now = SimpleNamespace(seconds=100.0)
    stream = io.StringIO()
    bar = ProgressBar(stream, lambda: now.seconds)
    bar(Progress("Reading images", 0.0))
    now.seconds += 30
    bar(Progress("Aligning", 0.25))
    now.seconds += 0.01
    bar(Progress("Aligning", 0.26))  # too soon to be drawn
    bar.clear()
    first, second, end = stream.getvalue().split("\r")[1:]
    assert "  0%  Reading images" in first
    assert "left" not in first
    assert second.startswith("[######......")
    assert " 25%  Aligning, 1 min 30 s left" in second
    assert end == "\x1b[K"
    monkeypatch.setenv("COLUMNS", "20")
    now.seconds += 1
    bar(Progress("Aligning", 0.5))
    assert len(stream.getvalue().split("\r")[-1].removesuffix("\x1b[K")) == 19


def test_json_lines_have_no_numbers_that_json_has_not() -> None:
    stream = io.StringIO()
    report = json_reporter(stream, lambda: 0.0)
    report(Progress("a", 0.5, float("nan")))
    assert json.loads(stream.getvalue()) == {"stage": "a", "fraction": 0.5, "objective": None, "seconds": 0.0}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
@pytest.mark.parametrize("setting", ["", "system"])
def test_large_arrays_are_kept_unless_the_environment_says_otherwise(setting: str) -> None:
    code = """
import resource
from DeepRegistrationLib.allocator import use_large_heap
print(int(use_large_heap()))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = bytearray(64 << 20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {**os.environ, "DEEPREGISTRATION_ALLOCATOR": setting}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    used, faults = map(int, run.stdout.split())
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    if setting == "system":
        assert used == 0
    elif used:
        assert faults < 3 * pages  # mapped anew, it would be twenty times as many
