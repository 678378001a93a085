"""What is said of PyTorch, and that nothing is installed unasked."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from DeepRegistrationLib.errors import NotAvailableError
from DeepRegistrationScene import environment

ROOT = Path(__file__).resolve().parents[2]

WORKING: dict[str, Any] = {
    "python": "3.12.3",
    "torch": "2.12.0+cu124",
    "torch_error": None,
    "device": "NVIDIA RTX A2000",
    "device_type": "cuda",
    "device_memory_mb": 12500.0,
    "memory_mb": 30000.0,
    "processors": 8,
    "threads": 4,
    "works": True,
}


class PyTorchExtension:
    """The extension's module, whose logic notes how it is called."""

    def __init__(self, outcome: Any) -> None:
        self.calls: list[dict[str, Any]] = []
        module = self

        class PyTorchUtilsLogic:
            def installTorch(
                self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None
            ) -> Any:
                module.calls.append({"ask": askConfirmation, "version": torchVersionRequirement})
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

        self.PyTorchUtilsLogic = PyTorchUtilsLogic


def extension(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> PyTorchExtension:
    module = PyTorchExtension(outcome)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    return module


def test_a_graphics_card() -> None:
    state = environment.state_from(WORKING)
    assert state.ready is True and not state.offer_install
    assert "NVIDIA RTX A2000 with 12.5 GB" in " ".join(state.lines) and "PyTorch 2.12.0" in state.lines[0]


def test_a_processor() -> None:
    state = environment.state_from(
        {**WORKING, "device": "cpu", "device_type": "cpu", "device_memory_mb": None}
    )
    assert state.ready is True and "4 threads, 30.0 GB of memory free" in state.lines[1]


def test_no_torch() -> None:
    state = environment.state_from({"torch": None, "torch_error": "PyTorch is not installed."})
    assert state.ready is False and state.offer_install and state.lines[0] == "PyTorch is not installed."


def test_a_torch_that_computes_nonsense() -> None:
    state = environment.state_from({**WORKING, "works": False, "torch_error": "PyTorch does not work here."})
    assert state.ready is False and state.offer_install and "PyTorch does not work here." in state.lines


def test_a_worker_that_died_while_probing() -> None:
    state = environment.state_from_failure("The worker ended unexpectedly.")
    assert state.ready is False and state.offer_install and "in part" in state.lines[1]


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("2.10.0", True),
        ("2.13.1+cpu", True),
        ("2.9.1", False),
        ("2.5.1", False),
        ("2.14.0", False),
        ("1.13", False),
        ("odd", False),
    ],
)
def test_versions(version: str, fits: bool) -> None:
    assert environment.within_requirement(version) is fits
    assert (
        any("not tested" in line for line in environment.state_from({**WORKING, "torch": version}).lines)
        != fits
    )


def test_the_requirement_is_the_packages_own() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'"torch([^"]*)"', text)
    assert found is not None and found[1] == environment.TORCH_REQUIREMENT


def test_a_no_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    module = extension(monkeypatch, SimpleNamespace(__version__="2.6.0"))
    asked: list[str] = []
    answer = environment.install_torch(lambda question: bool(asked.append(question)))
    assert asked == [environment.QUESTION] and module.calls == [] and answer == "PyTorch was not installed."


def test_a_yes_installs_once_with_the_versions_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    module = extension(monkeypatch, SimpleNamespace(__version__="2.6.0"))
    assert environment.install_torch(lambda question: True) == "PyTorch 2.6.0 is installed."
    assert module.calls == [{"ask": False, "version": environment.TORCH_REQUIREMENT}]


def test_without_the_extension_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(NotAvailableError, match="Extensions Manager"):
        environment.install_torch(lambda question: pytest.fail("asked"))


def test_a_failed_installation_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    extension(monkeypatch, RuntimeError("no space left on device\nmore"))
    with pytest.raises(NotAvailableError, match=r"\(no space left on device\). Restart"):
        environment.install_torch(lambda question: True)
    extension(monkeypatch, None)
    assert environment.install_torch(lambda question: True) == "PyTorch was not installed."


def test_where_no_torch_is_new_enough_that_is_said_and_nothing_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Macs with Intel processors: PyTorch ended with 2.2 there, so trying again is no advice."""
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    extension(monkeypatch, SimpleNamespace(__version__="2.2.2"))
    missing = {"torch": None, "torch_error": "PyTorch is not installed."}
    broken = {**WORKING, "torch": "2.2.2", "works": False, "torch_error": "It was made for an older numpy."}
    for state in (
        environment.state_from(missing),
        environment.state_from(broken),
        environment.state_from_failure("The worker ended unexpectedly."),
    ):
        said = " ".join(state.lines)
        assert state.ready is False and not state.offer_install
        assert "Intel" in said and "2.10" in said and "try again" not in said
    with pytest.raises(NotAvailableError, match="Intel"):
        environment.install_torch(lambda question: pytest.fail("asked"))
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert environment.state_from(missing).offer_install


def test_only_the_installation_itself_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question is asked before."""
    from contextlib import contextmanager

    order: list[str] = []
    extension(monkeypatch, SimpleNamespace(__version__="2.6.0"))

    @contextmanager
    def busy():
        order.append("busy")
        yield
        order.append("done")

    def confirm(question: str) -> bool:
        order.append("asked")
        return True

    environment.install_torch(confirm, busy)
    assert order == ["asked", "busy", "done"]
