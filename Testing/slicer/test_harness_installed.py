"""Real CMake installs the extension; the module runs from there, without the source tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

from harness.installed import install

CMAKE = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
pytestmark = pytest.mark.skipif(
    CMAKE is None or shutil.which("c++") is None, reason="needs cmake, and the compiler it looks for"
)

SOURCE = Path(__file__).parents[2]
TINY = """cmake_minimum_required(VERSION 3.16)
project(Tiny)
find_package(Slicer REQUIRED)
include(${Slicer_USE_FILE})
slicerMacroBuildScriptedModule(NAME Tiny SCRIPTS Tiny.py TinyLib/__init__.py RESOURCES Resources/UI/Tiny.ui)
slicer_add_python_unittest(SCRIPT test_tiny.py)
"""


def tiny(folder: Path, text: str) -> Path:
    for name in ("Tiny.py", "TinyLib/__init__.py", "Resources/UI/Tiny.ui", "test_tiny.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    (folder / "CMakeLists.txt").write_text(text)
    return folder


def test_listed_files_are_installed_where_slicer_looks_for_them(tmp_path):
    modules = install(tiny(tmp_path / "source", TINY), tmp_path, CMAKE)
    found = {str(p.relative_to(modules)) for p in modules.rglob("*") if p.is_file()}
    assert found == {"Tiny.py", "TinyLib/__init__.py", "Resources/UI/Tiny.ui"}
    assert modules.name == "qt-scripted-modules" and modules.parent.name.startswith("Slicer-5.")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("TinyLib/__init__.py", "TinyLib/nothing.py", "does not exist"),
        ("SCRIPTS Tiny.py ", "SCRIPTS ", "there is no module"),
        ("NAME Tiny", "NAMED Tiny", "no NAME"),
        ("SCRIPT test_tiny.py", "SCRIPT test_none.py", "does not exist"),
        ("project(Tiny)", 'project(Tiny)\nset(EXTENSION_DESCRIPTION "One; two")', "first semicolon"),
    ],
)
def test_a_wrong_list_fails(tmp_path, old, new, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        install(tiny(tmp_path / "source", TINY.replace(old, new)), tmp_path, CMAKE)


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(SOURCE, tmp_path_factory.mktemp("extension"), CMAKE)


def test_the_panel_opens_from_the_installed_files(slicer_session, qtbot, modules):
    path = modules / "DeepRegistration.py"
    panel = slicer_session.open_panel(path)
    assert panel.resourcePath("UI/DeepRegistration.ui").startswith(str(modules))
    ours = [
        module.__file__
        for name, module in sys.modules.items()
        if name.startswith("DeepRegistration") and getattr(module, "__file__", None)
    ]
    assert len(ours) > 5 and all(Path(file).is_relative_to(modules) for file in ours)
    assert slicer_session.messages.texts == []


def test_everything_python_is_installed_and_imports(modules):
    """In a process of its own, which knows nothing of the source tree."""
    listed = [p.relative_to(modules) for p in modules.rglob("*.py")]
    names = [".".join(p.with_suffix("").parts) for p in listed if p.parts[0] == "DeepRegistrationLib"]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    script = f"import sys; sys.path[0] = {str(modules)!r}\n" + "".join(f"import {name}\n" for name in names)
    done = subprocess.run(
        [sys.executable, "-E", "-c", script], cwd=modules, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
