"""What the worker found out about PyTorch, in words, and its installation through the PyTorch extension.

Nothing here imports torch: a broken installation can end the process that does, so the worker probes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from DeepRegistrationLib.errors import NotAvailableError

TORCH_REQUIREMENT = ">=2.4,<2.14"
"""The versions that the engine runs with; the package's own requirement says the same."""

EXTENSION_MISSING = (
    "The PyTorch extension is not installed. Open View > Extensions Manager, install 'PyTorch', restart "
    "Slicer, and come back here."
)
OFFLINE = (
    "Without a network: take a computer that has one, the same operating system and the same version of "
    "Slicer. In a terminal there, with the PythonSlicer program of Slicer's bin folder, run\n"
    f'PythonSlicer -m pip download "torch{TORCH_REQUIREMENT}" --dest FOLDER\n'
    "Carry the folder over, and run here\n"
    f'PythonSlicer -m pip install --no-index --find-links FOLDER "torch{TORCH_REQUIREMENT}"\n'
    "Then restart Slicer. Nothing else is ever downloaded."
)
QUESTION = (
    "PyTorch is needed to register images. It will be downloaded and installed into this Slicer by the "
    "PyTorch extension: between 0.2 GB (processor only) and 3 GB (NVIDIA graphics card), which takes some "
    "minutes, during which Slicer does not answer. Install it now?"
)


@dataclass(frozen=True)
class EnvironmentState:
    """What is known of the machine.

    Attributes:
        ready: whether registrations can run; None as long as nobody has looked.
        lines: sentences for the user.
        offer_install: whether to offer the install button.
    """

    ready: bool | None
    lines: tuple[str, ...]
    offer_install: bool


UNKNOWN = EnvironmentState(None, ("PyTorch has not been looked for yet.",), False)


def state_from(result: Mapping[str, Any]) -> EnvironmentState:
    """The worker's "environment" result in words."""
    error = result.get("torch_error")
    version = result.get("torch")
    if version is None:
        missing = error or "PyTorch is not installed."
        return EnvironmentState(False, (missing, "Everything but registering works without it."), True)
    lines = [f"PyTorch {version} on Python {result.get('python', '?')}."]
    if not within_requirement(version):
        lines.append(
            f"It was made for versions {TORCH_REQUIREMENT.replace(',', ' and ')}; others are not tested."
        )
    memory = result.get("memory_mb")
    free = "" if memory is None else f", {memory / 1000:.1f} GB of memory free"
    if result.get("device_type") == "cuda":
        own = result.get("device_memory_mb")
        size = "" if own is None else f" with {own / 1000:.1f} GB"
        lines.append(f"Runs on the graphics card: {result['device']}{size}.")
    else:
        threads = result.get("threads") or result.get("processors")
        parts = "1 thread" if threads == 1 else f"{threads} threads"
        lines.append(f"Runs on the processor ({parts}{free}); no usable graphics card was found.")
    if result.get("works") is False:
        lines.append(error or "A small test computation went wrong; install PyTorch again.")
    return EnvironmentState(bool(result.get("works", True)), tuple(lines), result.get("works") is False)


def state_from_failure(sentence: str) -> EnvironmentState:
    """The worker itself did not answer: a half-installed torch can end the process that imports it."""
    advice = (
        "PyTorch may be there only in part: uninstall it in the PyTorch Utils module, and install it again."
    )
    return EnvironmentState(False, (sentence, advice), True)


def within_requirement(version: str) -> bool:
    """Whether a version of torch is one of `TORCH_REQUIREMENT`."""
    numbers = version.split("+")[0].split(".")
    try:
        major, minor = int(numbers[0]), int(numbers[1])
    except (ValueError, IndexError):
        return False
    low, high = ((2, 4), (2, 14))
    return low <= (major, minor) < high


def install_torch(confirm: Callable[[str], bool]) -> str:
    """Install PyTorch through Slicer's PyTorch extension, after having asked. Only ever called by a person.

    Args:
        confirm: shows a question and says whether the answer was yes.

    Returns:
        A sentence about how it ended: declined, or installed.

    Raises:
        NotAvailableError: the extension is missing, or the installation failed; with what to do.
    """
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError as error:
        raise NotAvailableError(EXTENSION_MISSING) from error
    if not confirm(QUESTION):
        return "PyTorch was not installed."
    try:
        torch = PyTorchUtilsLogic().installTorch(
            askConfirmation=False, torchVersionRequirement=TORCH_REQUIREMENT
        )
    except Exception as error:  # pip, the network, a full disk: whatever it is, a sentence
        reason = str(error).strip().splitlines()
        raise NotAvailableError(
            f"PyTorch could not be installed ({reason[0] if reason else type(error).__name__}). "
            "Restart Slicer and try again; the Python console (View > Python Console) shows what happened."
        ) from error
    if torch is None:
        return "PyTorch was not installed."
    return f"PyTorch {getattr(torch, '__version__', '')} is installed.".replace("  ", " ")
