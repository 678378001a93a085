"""Every text of the panel can be translated: it is written out where it is marked."""

from __future__ import annotations

import ast

import pytest

pytest.importorskip("PySide6")
pytest.importorskip("pytestqt")

from DeepRegistrationLib import catalogue
from harness.fixtures import MODULE_FILE
from harness.scripted_module import UntranslatableError

FILES = sorted(
    path
    for path in MODULE_FILE.parent.rglob("*.py")
    if path == MODULE_FILE or path.parent.name in ("DeepRegistrationPanel", "DeepRegistrationScene")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_texts_that_stand_there_are_marked(path):
    """A variable in the place of the text finds no translation, nor does a text that is put together."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    marked = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "_"]
    wrong = [call.lineno for call in marked if not isinstance(call.args[0], ast.Constant)]
    assert wrong == []


def test_the_engines_texts_are_all_there(panel):
    from DeepRegistrationPanel.engine_words import ENGINE_TEXTS

    texts = set()
    for choices in ("METHODS", "REPRESENTATIONS", "SIMILARITIES", "PRESETS", "LINEAR_STAGES"):
        for choice in getattr(catalogue, choices).values():
            texts |= {choice.title, choice.description, getattr(choice, "guarantee", choice.title)}
    assert texts - ENGINE_TEXTS == set(), "add what the catalogue has gained to engine_words.py"


def test_stages_are_told_with_their_size(panel):
    from DeepRegistrationPanel.engine_words import stage_in_words

    for stage in ("Measuring", "Rigid alignment, 18 x 22 x 18 voxels", "something new, 3 of 4"):
        assert stage_in_words(stage) == stage


def test_the_stand_in_refuses_what_stands_nowhere(slicer_session):
    from slicer.i18n import getContext, translate
    from slicer.i18n import tr as _

    assert _("This stands here.") == "This stands here."
    text = "This " + "does not."
    with pytest.raises(UntranslatableError, match="does not"):
        _(text)
    with pytest.raises(UntranslatableError, match="does not"):
        translate(getContext(__file__), text)
