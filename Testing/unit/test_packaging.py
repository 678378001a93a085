"""What is shipped is what is on disk, and its names agree."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import DeepRegistrationLib
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DeepRegistration"


def project() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def listed(variable: str) -> list[str]:
    """The files that a list of the module's CMakeLists.txt names."""
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    block = re.search(rf"set\({variable}(.*?)\n  \)", text, re.DOTALL)
    assert block is not None
    return sorted(name.replace("${MODULE_NAME}", MODULE.name) for name in block[1].split())


def test_cmake_installs_every_python_file() -> None:
    on_disk = [path.relative_to(MODULE).as_posix() for path in MODULE.rglob("*.py")]
    assert listed("MODULE_PYTHON_SCRIPTS") == sorted(on_disk)


def test_cmake_installs_every_resource() -> None:
    on_disk = [p.relative_to(MODULE).as_posix() for p in (MODULE / "Resources").rglob("*") if p.is_file()]
    assert listed("MODULE_PYTHON_RESOURCES") == sorted(on_disk)


def test_description_for_the_extensions_index() -> None:
    entry = json.loads((ROOT / "Resources" / "DeepRegistration.json").read_text(encoding="utf-8"))
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    known = {"category", "scm_url", "scm_revision", "build_dependencies", "tier", "$schema"}
    assert {"$schema", "category", "scm_url"} <= set(entry) <= known
    assert f'EXTENSION_CATEGORY "{entry["category"]}"' in cmake
    assert f'EXTENSION_DEPENDS "{" ".join(entry["build_dependencies"])}"' in cmake
    assert f'EXTENSION_HOMEPAGE "{entry["scm_url"].removesuffix(".git")}"' in cmake


def test_the_index_can_read_every_value() -> None:
    """It reads the file as text, without CMake, and CMake cuts a value at a semicolon."""
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    values = dict(re.findall(r'^set\((EXTENSION_\w+) "([^"]*)"\)$', cmake, re.MULTILINE))
    assert {"EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS", "EXTENSION_DESCRIPTION"} <= set(values)
    assert [name for name, value in values.items() if ";" in value or "$" in value] == []
    repository = values["EXTENSION_HOMEPAGE"].rpartition("/")[2]
    assert repository.startswith("Slicer"), "the Index wants the repository, not the extension, named so"
    for address in (values["EXTENSION_ICONURL"], *values["EXTENSION_SCREENSHOTURLS"].split()):
        assert address.startswith("https://") and f"/{repository}/main/Resources/" in address, address


def test_pictures_that_the_index_and_the_readme_show_are_there() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    shown = re.findall(r"/main/(Resources/[^ \"]+)", cmake)
    shown += re.findall(r"\]\((Resources/[^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(shown) > 5
    assert [name for name in shown if not (ROOT / name).is_file()] == []
    icon = (ROOT / "Resources" / "DeepRegistration.png").read_bytes()
    assert struct.unpack(">II", icon[16:24]) == (128, 128)


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in MODULE.rglob("*.py")} - {MODULE}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_one_version() -> None:
    assert f'version = "{DeepRegistrationLib.__version__}"' in project()


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / ".ci" / "run"])
def test_readme_and_ci_run_the_same_tests(path: Path) -> None:
    assert re.search(r"python\"? -m pytest Testing\b", path.read_text(encoding="utf-8"))
