"""Odd names, long paths, odd locales and clocks, no network: the result is the same."""

from __future__ import annotations

import contextlib
import itertools
import json
import locale
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_pair import RESULTS, arguments, child, complaint, register, write_pair

pytestmark = pytest.mark.slow

NAMES = {
    "spaces": "two  words and one.nii.gz",
    "quotes": 'it\'s "quoted" `so` $HOME.nii.gz',
    "accents": "Ünïcødé 図像 ß.nii.gz",
    "newline": "first\nsecond.nii.gz",
    "dash": "-rf.nii.gz",
    "percent": "100%s {0} \\n.nrrd",
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    images = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    write_pair(*images)
    return images


@pytest.fixture(scope="module")
def expected(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("expected")
    done = register(*pair, out, "--quiet")
    assert done.returncode == 0, done.stderr
    return json.loads((out / "quality.json").read_text(encoding="utf-8"))


def same(out: Path, expected: dict) -> bool:
    assert sorted(path.name for path in out.iterdir()) == RESULTS
    found = json.loads((out / "quality.json").read_text(encoding="utf-8"))
    return all(found[key] == expected[key] for key in ("similarity", "regularity", "inverse_consistency"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not allow such names")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_odd_names(name: str, pair: tuple[Path, Path], expected: dict, tmp_path: Path) -> None:
    folder = tmp_path / name.rpartition(".n")[0]
    if name.endswith(".nii.gz"):
        folder.mkdir()
        images = [folder / f"{role}{name}" for role in ("a", "b")]
        for source, copy in zip(pair, images, strict=True):
            shutil.copy(source, copy)
    else:
        images = [folder / f"{role}{name}" for role in ("a", "b")]
        write_pair(*images)
    out = folder / name
    done = register(*images, out, "--quiet")
    assert done.returncode == 0 and done.stdout == done.stderr == ""
    assert same(out, expected)
    missing = complaint(register(folder / f"not{name}", images[1], tmp_path / "no", "--quiet"))
    assert "does not exist" in missing and not (tmp_path / "no").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="paths of this length need a setting there")
def test_paths_over_260_characters(pair: tuple[Path, Path], expected: dict, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*[f"a folder with a rather long name, number {k}" for k in range(12)])
    images = deep / "fixed.nii.gz", deep / "moving.nii.gz"
    deep.mkdir(parents=True)
    for source, copy in zip(pair, images, strict=True):
        shutil.copy(source, copy)
    assert len(str(deep)) > 400
    done = register(*images, deep / "out", "--quiet")
    assert done.returncode == 0, done.stderr
    assert same(deep / "out", expected)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems refuse such names themselves")
def test_a_name_that_is_not_text(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """As old programs wrote them, in Latin letters of one byte."""
    image = tmp_path / os.fsdecode(b"f\xfcr.nii.gz")
    shutil.copy(pair[0], image)
    assert "rename it" in complaint(register(image, pair[1], tmp_path / "out", "--quiet"))
    out = tmp_path / os.fsdecode(b"f\xfcr")
    assert "rename it" in complaint(register(*pair, out, "--quiet"))
    assert list(tmp_path.iterdir()) == [image]


def test_a_name_longer_than_the_system_allows(pair: tuple[Path, Path], tmp_path: Path) -> None:
    complaint(register(*pair, tmp_path / ("x" * 300), "--quiet"))
    complaint(register(tmp_path / ("x" * 300 + ".nii"), pair[1], tmp_path / "out", "--quiet"))
    assert list(tmp_path.iterdir()) == []


RUN = "import sys\nfrom DeepRegistrationLib import cli\nsys.exit(cli.main(sys.argv[1:]))"


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "tr_TR.UTF-8", "LANG": "no such locale", "TZ": "Nowhere/At_All", "HOME": "/nowhere"},
    ],
    ids=["C", "nowhere"],
)
def test_odd_locales(
    variables: dict[str, str], pair: tuple[Path, Path], expected: dict, tmp_path: Path
) -> None:
    out = tmp_path / "Ergebnis ä"
    done = child(RUN, arguments(*pair, out), variables)
    assert done.returncode == 0, done.stderr
    assert same(out, expected)


def test_a_decimal_comma(pair: tuple[Path, Path], expected: dict, tmp_path: Path) -> None:
    before = locale.setlocale(locale.LC_ALL)
    for name in ("de_DE.UTF-8", "de_DE.utf8", "German_Germany.1252", "fr_FR.UTF-8"):
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, name)
            break
    else:
        pytest.skip("no locale with a decimal comma here")
    try:
        done = register(*pair, tmp_path / "out")
    finally:
        locale.setlocale(locale.LC_ALL, before)
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "out", expected)


COUNTER = itertools.count()
CLOCKS = {
    "backwards": {"time": lambda: 1e9 - 1000 * next(COUNTER)},
    "before 1970": {"time": lambda: -1e9},
    "still": dict.fromkeys(("perf_counter", "monotonic", "time"), lambda: 5.0),
    "jumping": dict.fromkeys(("perf_counter", "monotonic"), lambda: 1e6 * (next(COUNTER) % 7)),
}


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_odd_clocks(
    clock: dict, pair: tuple[Path, Path], expected: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        for name, function in clock.items():
            patched.setattr(time, name, function)
        done = register(*pair, tmp_path / "out", "--json-progress")
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "out", expected)


CUT_OFF = """
import socket
def refuse(*_, **__):
    raise AssertionError("the network was used")
for name in ("create_connection", "getaddrinfo", "gethostbyname", "socketpair"):
    setattr(socket, name, refuse)
class Refused(socket.socket):
    __init__ = refuse
socket.socket = Refused
"""


def _leaving() -> tuple[str, ...]:
    """Words that start a command without a network, where the system lets us."""
    tool = shutil.which("unshare")
    words = (tool or "", "-rn")
    return words if tool and subprocess.run([*words, "true"], capture_output=True).returncode == 0 else ()


def test_without_a_network(pair: tuple[Path, Path], expected: dict, tmp_path: Path) -> None:
    """Python's sockets refuse to work, and where we may, the process has no network at all."""
    done = child(CUT_OFF + RUN, arguments(*pair, tmp_path / "out", "--quiet"), before=_leaving())
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "out", expected)
