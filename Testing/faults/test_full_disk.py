"""The disk is full, or closed, at each write in turn: one sentence, and what was there stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_pair import ENGINE, complaint, register, write_pair

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    images = tmp_path / "in" / "fixed.nii", tmp_path / "in" / "moving.nii"
    write_pair(*images)
    return images


def _mounting() -> tuple[str, ...]:
    """Words that start a command which may mount disks of its own, where the system lets us."""
    tool = shutil.which("unshare")
    words = (tool or "", "-rm")
    mount = ["sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
    return words if tool and subprocess.run([*words, *mount], capture_output=True).returncode == 0 else ()


def test_a_full_disk_at_each_write(pair: tuple[Path, Path], tmp_path: Path) -> None:
    before = _mounting()
    script = Path(__file__).with_name("full_disk.py")
    done = subprocess.run(
        [
            *before,
            sys.executable,
            str(script),
            *map(str, pair),
            str(tmp_path / "out"),
            *["mount"] * bool(before),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ENGINE), "OMP_NUM_THREADS": "1"},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["limited"] >= 20 and found["injected"] >= 30
    assert found.get("mounted", 4) == 4


def test_a_closed_folder(pair: tuple[Path, Path], tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("nothing is closed to the administrator")
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    try:
        assert "not allowed" in complaint(register(*pair, closed / "out", "--quiet"))
        assert list(closed.iterdir()) == []
    finally:
        closed.chmod(0o700)
