"""What the program's source may not hold: a shell, evaluated text, unpickling, the network."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "DeepRegistration"
FILES = sorted(path for path in ROOT.rglob("*.py"))

NETWORK = {"socket", "ssl", "urllib", "http", "ftplib", "smtplib", "requests", "socketserver", "xmlrpc"}
CLUSTER = Path("DeepRegistrationLib/batch/cluster.py")  # talks to the scheduler that the user names
HARMLESS = {"urllib.parse"}  # text only
NOT_CALLED = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
NOT_CALLED_OF = {
    ("os", "system"),
    ("os", "popen"),
    ("pickle", "load"),
    ("pickle", "loads"),
    ("pickle", "Unpickler"),
    ("marshal", "loads"),
    ("shelve", "open"),
    ("torch.hub", "load"),
    ("subprocess", "getoutput"),
    ("subprocess", "getstatusoutput"),
}
SAFE_LOADS = {("torch", "load"): ("weights_only", True), ("np", "load"): ("allow_pickle", False)}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def offences(source: str) -> Iterator[str]:
    """What is not allowed in a file, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if isinstance(node, ast.Import) or node.level == 0:
                for name in names:
                    if name.split(".")[0] in NETWORK and name not in HARMLESS:
                        yield f"line {node.lineno}: imports {name}"
        if not isinstance(node, ast.Call):
            continue
        owner, _, name = dotted(node.func).rpartition(".")
        keywords = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        if isinstance(node.func, ast.Name) and name in NOT_CALLED:
            yield f"line {node.lineno}: calls {name}"
        if (owner, name) in NOT_CALLED_OF:
            yield f"line {node.lineno}: calls {owner}.{name}"
        if keywords.get("shell"):
            yield f"line {node.lineno}: starts a shell"
        if (owner, name) in SAFE_LOADS:
            keyword, value = SAFE_LOADS[owner, name]
            # numpy's default is safe, torch's was not always
            if keywords.get(keyword, False if owner == "np" else None) is not value:
                yield f"line {node.lineno}: {owner}.{name} without {keyword}={value}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_shell_no_evaluation_no_unpickling_no_network(path: Path) -> None:
    found = list(offences(path.read_text(encoding="utf-8")))
    if path.relative_to(ROOT) == CLUSTER:
        found = [offence for offence in found if "imports" not in offence]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import pickle\npickle.loads(b'')",
        "import torch\ntorch.load('a')",
        "import torch\ntorch.load('a', weights_only=False)",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "import urllib.request",
        "from http import client",
    ],
)
def test_the_check_sees_what_it_looks_for(source: str) -> None:
    assert list(offences(source))
