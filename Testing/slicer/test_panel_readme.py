"""What the README says about Slicer: its snippets run as they stand, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

import slicer
from harness.fixtures import MODULE_FILE

CATEGORY, SAMPLE = "DeepRegistration", "DeepRegistrationHeads"

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SLICER = README.partition("## 3D Slicer\n")[2].partition("\n## ")[0]


def snippets() -> list[str]:
    console = SLICER.partition("### Python console\n")[2].partition("\n### ")[0]
    return re.findall(r"```python\n(.*?)```", console, re.DOTALL)


def test_the_snippets_run(slicer_session, capsys):
    slicer_session.load_module(MODULE_FILE)
    assert len(snippets()) == 3
    names: dict = {}
    exec(snippets()[0], names)
    try:
        nodes = names["nodes"]
        assert "ncc" in capsys.readouterr().out
        assert nodes.quality["landmarks"]["held_out"]["after"]["each_mm"].keys() == {"left eye"}
        assert nodes.quality["regularity"]["folds_percent"] == 0
        known = {name: node.GetID() for name, node in nodes.nodes().items()}
        assert set(known) == {"forward", "inverse", "warped", "table"}
        assert nodes.forward.GetName() == "Head moving moving to fixed"
        exec(snippets()[1], names)
        again = names["nodes"]
        assert names["moving"].GetTransformNodeID() == again.forward.GetID()
        for snippet in snippets()[2:]:  # with the names of those before
            exec(snippet, names)
        if "result" in names:
            assert [outcome.name for outcome in names["result"].outcomes] == ["Head moving"]
            assert all(outcome.nodes is not None for outcome in names["result"].outcomes)
    finally:
        names["logic"].close()
    assert again.warm and {name: node.GetID() for name, node in again.nodes().items()} == known
    assert [item.node.GetName() for item in names["copies"]] == ["Head moving structures on Head fixed"]
    assert names["jacobian"].GetImageData().GetScalarRange()[0] > 0
    for name in re.findall(r"\*(Head moving [a-z ]+?)\*", " ".join(SLICER.split())):
        assert slicer.mrmlScene.GetFirstNodeByName(name) is not None, name
    assert slicer_session.messages.texts == []


def test_what_the_tutorial_names_can_be_read_in_the_panel(panel):
    """Words in italics are buttons, titles, choices, other modules of Slicer, or words that it explains."""
    ui, readable = panel.ui, set()
    for widget in vars(ui).values():
        for attribute in ("text", "title"):
            text = getattr(widget, attribute, None)
            if isinstance(text, str):
                readable.add(text.rstrip(":"))
        if hasattr(widget, "itemText"):
            readable |= {widget.itemText(k) for k in range(widget.count)}
    table = ui.landmarkTable
    readable |= {table.horizontalHeaderItem(k).text() for k in range(table.columnCount)}
    readable |= {panel.panel.run.ui.registerButton.text, "Cancel", CATEGORY, SAMPLE}
    others = {"Registration", "Sample Data", "Deep Registration", "Transforms", "Crop Volume"}
    others |= {"PyTorch", "Extensions Manager", "fixed", "moving", "View"}
    others |= {"Edit > Application Settings > Modules", "Additional module paths"}
    said = set(re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", SLICER.replace("\n   ", " ")))
    unknown = {words for words in said - readable - others if not words.startswith("Head ")}
    assert not unknown and len(said & readable) > 20, unknown
