"""Whatever a user hands in by mistake ends in one sentence, the right exit code, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegistrationLib import cli, io, resources
from DeepRegistrationLib.registration import OUTPUTS

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and limits as POSIX has them")
N = 20


def texture(size: tuple[int, ...] = (N, N, N), shift: float = 0.0) -> np.ndarray:
    """Something to align, array order, 0 to about 1000."""
    axes = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in reversed(size)], indexing="ij")
    total = np.zeros(tuple(reversed(size)))
    for k, (width, height) in enumerate(((5, 500), (3, 300), (4, 400))):
        centre = [3.0 * np.cos(2.1 * k + axis) for axis in range(len(size))]
        distance = sum((x - c - shift) ** 2 for x, c in zip(axes, centre, strict=True))
        total += height * np.exp(-distance / (2 * width**2))
    return total.astype(np.float32)


def save(
    array: np.ndarray, path: Path, origin: float | None = None, spacing: float = 1.0, vector: bool = False
) -> Path:
    image = sitk.GetImageFromArray(array, isVector=vector)
    d = image.GetDimension()
    image.SetSpacing([spacing] * d)
    start = [-(n - 1) / 2 * spacing for n in image.GetSize()] if origin is None else [origin] * d
    image.SetOrigin(start)
    sitk.WriteImage(image, str(path))
    return path


def points(path: Path, rows: list[tuple[float, float, float]]) -> Path:
    path.write_text("x,y,z\n" + "".join(f"{x},{y},{z}\n" for x, y, z in rows), encoding="utf-8")
    return path


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Path]:
    """A good pair; tests replace a part of it by something bad."""
    return {
        "fixed": save(texture(), tmp_path / "fixed.nii.gz"),
        "moving": save(texture(shift=1.0), tmp_path / "moving.nii.gz"),
    }


def run(options: dict[str, Path], out: Path, *more: str) -> int:
    arguments = [text for name, path in options.items() for text in (f"--{name}", str(path))]
    return cli.main(["register", *arguments, "--out", str(out), "--preset", "fast", "--device", "cpu", *more])


def refused(
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Path],
    folder: Path,
    words: str,
    *more: str,
    code: int = 2,
) -> None:
    """The run fails with one sentence that has these words, and leaves the folder as it was."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run(options, folder / "new" / "out", "--quiet", *more) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("deepregistration: error: ")
    assert words in err
    assert err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def warned(
    capsys: pytest.CaptureFixture[str], options: dict[str, Path], out: Path, words: str, *more: str
) -> dict:
    """The run succeeds and says something about the input; returns quality.json."""
    assert run(options, out, *more) == 0
    err = capsys.readouterr().err
    assert any(line.startswith("deepregistration: look: ") and words in line for line in err.splitlines())
    assert sorted(path.name for path in out.iterdir()) == sorted(OUTPUTS)
    quality = json.loads((out / "quality.json").read_text())
    assert any(words in warning for warning in quality["warnings"])
    return quality


def broken_gzip(path: Path) -> Path:
    save(texture(), path)
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def text_file(path: Path) -> Path:
    path.write_text("this is no image")
    return path


def with_value(value: float) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        array = texture()
        array[3, 4, 5] = value
        return save(array, path)

    return make


def empty_file(path: Path) -> Path:
    path.touch()
    return path


IMAGES: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "missing": ("a.nii.gz", lambda path: path, "does not exist"),
    "not an image": ("a.nrrd", text_file, "not an image"),
    "cut short": ("a.nii.gz", broken_gzip, "incomplete"),
    "empty file": ("a.nii.gz", empty_file, "empty"),
    "constant": (
        "a.nii.gz",
        lambda path: save(np.full((N, N, N), 7, np.float32), path),
        "same value everywhere",
    ),
    "NaN": ("a.nii.gz", with_value(np.nan), "not finite"),
    "NaN elsewhere": ("a.nrrd", with_value(np.nan), "not finite"),
    "infinite": ("a.mha", with_value(np.inf), "not finite"),
    "colour": ("a.nrrd", lambda path: save(np.zeros((N, N, N, 3), np.uint8), path, vector=True), "colour"),
    "4-D": ("a.nii.gz", lambda path: save(np.zeros((3, N, N, N), np.float32), path), "4-D"),
    "2-D": ("a.nrrd", lambda path: save(texture((N, N)), path), "2-D"),
}


@pytest.mark.parametrize("role", ["fixed", "moving"])
@pytest.mark.parametrize("kind", IMAGES)
def test_unusable_image(
    kind: str, role: str, pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make, words = IMAGES[kind]
    refused(capsys, {**pair, role: make(tmp_path / name)}, tmp_path, words)


def test_no_common_space_is_an_error_without_a_linear_stage(
    pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = {**pair, "moving": save(texture(), tmp_path / "far.nii.gz", origin=5000.0)}
    refused(capsys, far, tmp_path, "do not overlap", "--linear", "none")


def test_no_common_space_is_mended_by_a_linear_stage_and_said(
    pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = {**pair, "moving": save(texture(), tmp_path / "far.nii.gz", origin=5000.0)}
    quality = warned(capsys, far, tmp_path / "out", "did not overlap", "--representation", "rigid")
    assert quality["similarity"]["after"]["ncc"] > 0.9


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_landmarks_are_used_and_said_to_be_few(
    count: int, pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(0.0, 0.0, 0.0), (4.0, 2.0, -3.0)][:count]
    few = {
        **pair,
        "fixed-landmarks": points(tmp_path / "f.csv", rows),
        "moving-landmarks": points(tmp_path / "m.csv", [(x + 1, y + 1, z + 1) for x, y, z in rows]),
    }
    quality = warned(capsys, few, tmp_path / "out", f"only {count} landmark")
    numbers = quality["landmarks"]["fitted"]
    assert numbers["after"]["mean_mm"] < numbers["before"]["mean_mm"]


THREE = [(0.0, 0.0, 0.0), (4.0, 2.0, -3.0), (-3.0, 5.0, 2.0)]


@pytest.mark.parametrize(
    ("fixed", "moving", "words"),
    [
        (THREE, THREE[:2], "3 landmarks on the fixed image but 2"),
        (THREE, None, "pairs"),
        (None, THREE, "pairs"),
        ([*THREE, (300.0, 0.0, 0.0)], [*THREE, (4.0, 4.0, 4.0)], "outside the fixed image"),
        ([*THREE, (4.0, 4.0, 4.0)], [*THREE, (0.0, -300.0, 0.0)], "outside the moving image"),
        ([(float("nan"), 0.0, 0.0)], THREE[:1], "not finite"),
        ([], THREE, "no landmarks"),
    ],
)
def test_unusable_landmarks(
    fixed: list[tuple[float, float, float]] | None,
    moving: list[tuple[float, float, float]] | None,
    words: str,
    pair: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = dict(pair)
    if fixed is not None:
        options["fixed-landmarks"] = points(tmp_path / "f.csv", fixed)
    if moving is not None:
        options["moving-landmarks"] = points(tmp_path / "m.csv", moving)
    refused(capsys, options, tmp_path, words)


def test_labels_on_another_grid_are_resampled_and_it_is_said(
    pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coarse = texture((N // 2,) * 3) > 0  # the same box, half the voxels
    coarse[:2] = False
    labels = {
        **pair,
        "fixed-labels": save(coarse.astype(np.uint8), tmp_path / "fl.nrrd", spacing=2.0),
        "moving-labels": save((texture(shift=1.0) > 300).astype(np.uint8), tmp_path / "ml.nrrd"),
    }
    quality = warned(capsys, labels, tmp_path / "out", "another grid")
    assert list(quality["labels"]["after"]["dice"]) == ["1"]


@pytest.mark.parametrize(
    ("fixed", "moving", "words"),
    [
        (1, 2, "value in common"),
        (1, None, "none for the moving image"),
        (0, 1, "no label"),
    ],
)
def test_unusable_labels(
    fixed: int,
    moving: int | None,
    words: str,
    pair: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = dict(pair)
    for role, value in (("fixed", fixed), ("moving", moving)):
        if value is not None:
            options[f"{role}-labels"] = save(
                (texture() > 300).astype(np.uint8) * value, tmp_path / f"{role}.nrrd"
            )
    refused(capsys, options, tmp_path, words)


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_a_mask_that_leaves_nothing(
    role: str, pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = save(np.zeros((N, N, N), np.uint8), tmp_path / "empty.nrrd")
    refused(capsys, {**pair, f"{role}-mask": empty}, tmp_path, "empty mask")
    elsewhere = save(np.ones((N, N, N - 1), np.uint8), tmp_path / "elsewhere.nrrd", origin=900.0)
    refused(capsys, {**pair, f"{role}-mask": elsewhere}, tmp_path, f"the whole {role} image")


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_a_mask_saved_without_its_geometry(
    role: str, pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = save(np.ones((N, N, N), np.uint8), tmp_path / "lost.nrrd", origin=7.0)
    refused(capsys, {**pair, f"{role}-mask": lost}, tmp_path, "without its geometry")
    coarse = save(np.ones((N, N, N + 2), np.uint8), tmp_path / "wide.nrrd")
    warned(capsys, {**pair, f"{role}-mask": coarse}, tmp_path / "out", f"{role} mask is on another grid")


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_a_single_slice_is_registered_and_said_to_be_one(
    role: str, pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = {**pair, role: save(texture()[N // 2 : N // 2 + 1], tmp_path / "flat.nrrd")}
    quality = warned(capsys, flat, tmp_path / "out", "single slice")
    assert np.isfinite(quality["regularity"]["determinant_min"])


def test_two_single_slices_are_registered(
    pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = {
        role: save(texture(shift=shift)[N // 2 : N // 2 + 1], tmp_path / f"{role}.nrrd")
        for role, shift in (("fixed", 0.0), ("moving", 1.0))
    }
    quality = warned(capsys, flat, tmp_path / "out", "single slice")
    assert quality["similarity"]["after"]["ncc"] > quality["similarity"]["before"]["ncc"]


def test_too_large_for_the_machine(
    pair: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: 100_000)
    refused(capsys, pair, tmp_path, "GB of memory", code=1)


@pytest.mark.slow
def test_a_large_volume_on_a_small_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    array = np.zeros((400, 512, 512), np.uint8)
    array[100:300, 100:400, 100:400] = 200
    large = save(array, tmp_path / "large.mha")
    monkeypatch.setattr(resources, "available_memory", lambda: 1 << 30)
    refused(capsys, {"fixed": large, "moving": large}, tmp_path, "GB of memory", code=1)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("older", [False, True])
def test_a_failure_while_writing_leaves_what_was_there(
    error: BaseException,
    older: bool,
    pair: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "deep" / "out"
    if older:
        out.mkdir(parents=True)
        (out / "forward.h5").write_text("older")
    before = sorted(tmp_path.rglob("*"))

    def fail(*rest: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(io, "write_image", fail)  # both transforms are on the disk by then
    code = run(pair, out, "--quiet", "--representation", "rigid")
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (130 if isinstance(error, KeyboardInterrupt) else 1, 1)
    assert ("interrupted" if code == 130 else "the disk is full") in err
    assert sorted(tmp_path.rglob("*")) == before
    assert not older or (out / "forward.h5").read_text() == "older"


@POSIX
def test_a_full_disk(pair: dict[str, Path], tmp_path: Path) -> None:
    """A file size limit is the nearest to a full disk that an ordinary user can have."""
    code = """
import resource, sys
from DeepRegistrationLib.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
sys.exit(main(sys.argv[1:]))
"""
    before = sorted(tmp_path.rglob("*"))
    arguments = [
        "register",
        "--out",
        str(tmp_path / "a" / "b"),
        "--preset",
        "fast",
        "--device",
        "cpu",
        "--quiet",
    ]
    arguments += ["--fixed", str(pair["fixed"]), "--moving", str(pair["moving"])]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    assert result.stderr.startswith("deepregistration: error: ")
    assert "could not be written" in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def heard() -> Iterator[None]:
    """Interrupts, also by processes started here where these tests were started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@POSIX
@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupt_in_the_middle(number: str, tmp_path: Path) -> None:
    size = (64, 64, 64)
    arguments = ["register", "--out", str(tmp_path / "a" / "b"), "--preset", "accurate", "--json-progress"]
    for role, shift in (("fixed", 0.0), ("moving", 2.0)):
        arguments += [f"--{role}", str(save(texture(size, shift), tmp_path / f"{role}.nii.gz"))]
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-m", "DeepRegistrationLib", *arguments, "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if json.loads(line)["fraction"] > 0.2:
                break
        process.send_signal(signal.Signals[number])
        process.stdout.read()
        err = process.stderr.read()
        assert process.wait(30) == 130
    assert err == "deepregistration: error: interrupted; nothing was written.\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_results_where_a_file_is(
    pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    assert run(pair, tmp_path / "out", "--quiet") == 2
    assert "need a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "a file"


@POSIX
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="the superuser may write anywhere")
def test_results_where_writing_is_not_allowed(
    pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert run(pair, closed / "out", "--quiet") == 1
    assert "not allowed" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "apply"])
@pytest.mark.parametrize(
    ("content", "words"), [(None, "does not exist"), (b"no transform", "not a transform"), (b"", "empty")]
)
def test_unusable_transform(
    command: str,
    content: bytes | None,
    words: str,
    pair: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "t.h5"
    if content is not None:
        path.write_bytes(content)
    images = {"evaluate": ["--fixed", pair["fixed"], "--moving", pair["moving"]]}
    images["apply"] = [
        "--input",
        pair["moving"],
        "--reference",
        pair["fixed"],
        "--output",
        tmp_path / "o.nrrd",
    ]
    before = sorted(tmp_path.rglob("*"))
    assert cli.main([command, "--transform", str(path), *map(str, images[command])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_initial_transform_of_another_dimension(
    pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "flat.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(2, (1.0, 2.0)), str(path))
    refused(capsys, {**pair, "initial": path}, tmp_path, "2-D")


@pytest.mark.parametrize("spacing", ["0", "-1", "nan"])
def test_unusable_output_spacing(
    spacing: str, pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, pair, tmp_path, "output spacing", "--output-spacing", spacing)
