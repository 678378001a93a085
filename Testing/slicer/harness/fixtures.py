"""Fixtures over the stand-ins; `conftest.py` hands them on where Qt is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import python_qt
from .application import Session
from .grab import ensure_fonts

python_qt.enforce_rules()

MODULE_FILE = Path(__file__).parents[3] / "DeepRegistration" / "DeepRegistration.py"


@pytest.fixture
def slicer_session(qapp: Any) -> Iterator[Session]:
    """An application of its own; VTK's errors fail the test, as slots that raise do (pytest-qt)."""
    ensure_fonts()
    session = Session()
    try:
        yield session.start()
        errors = session.close()
    finally:
        session.stop()
    assert not errors, errors


@pytest.fixture
def panel(slicer_session: Session) -> Any:
    """The panel of the module in the working tree, opened as its user would; `.parent` is its frame."""
    return slicer_session.open_panel(MODULE_FILE)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where temporary files go: the worker's folder included."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
