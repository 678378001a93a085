"""What the panel says of the engine without torch is what the engine says of itself."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from DeepRegistrationLib import catalogue
from DeepRegistrationLib.linear_stage import STAGES
from DeepRegistrationLib.methods import METHODS
from DeepRegistrationLib.objectives import SIMILARITIES
from DeepRegistrationLib.presets import PRESETS as ENGINE_PRESETS
from DeepRegistrationLib.presets import SIMILARITY_NAMES
from DeepRegistrationLib.training import TASKS
from DeepRegistrationLib.transforms import REPRESENTATIONS


def test_the_same_choices_in_the_same_order() -> None:
    assert list(catalogue.METHODS) == list(METHODS)
    assert list(catalogue.REPRESENTATIONS) == list(REPRESENTATIONS)
    assert list(catalogue.SIMILARITIES) == list(SIMILARITY_NAMES)
    assert list(catalogue.PRESETS) == list(ENGINE_PRESETS)
    assert set(catalogue.LINEAR_STAGES) == set(STAGES)
    across = {name for name, kind in SIMILARITIES.items() if kind.across_contrasts}
    assert across == set(catalogue.ACROSS_CONTRASTS)
    assert {name for name, text in catalogue.METHODS.items() if text.learns} == set(TASKS)


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("attribute", ["title", "description", "guarantee"])
def test_methods_say_the_same(name: str, attribute: str) -> None:
    assert getattr(catalogue.METHODS[name], attribute) == getattr(METHODS[name], attribute)


@pytest.mark.parametrize("name", list(REPRESENTATIONS))
def test_representations_say_the_same(name: str) -> None:
    assert catalogue.REPRESENTATIONS[name].description == REPRESENTATIONS[name].description


def test_the_catalogue_needs_nothing() -> None:
    code = "import sys; from DeepRegistrationLib import catalogue; print(sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(run.stdout)
    assert "DeepRegistrationLib.catalogue" in loaded
    assert not {"torch", "numpy", "SimpleITK"} & set(loaded)
