"""What the worker found out about PyTorch, in words, and its installation through the PyTorch extension.

Nothing here imports torch: a broken installation can end the process that does, so the worker probes it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from DeepRegistrationLib.errors import NotAvailableError

from .words import _

TORCH_REQUIREMENT = ">=2.10,<2.14"
"""The versions that the engine runs with; the package's own requirement says the same. A weights file from
elsewhere can make older ones run code (CVE-2025-32434, CVE-2026-24747)."""
_LOWEST, _TOO_HIGH = (2, 10), (2, 14)

EXTENSION_MISSING = _(
    "The PyTorch extension is not installed. Open View > Extensions Manager, install 'PyTorch', restart "
    "Slicer, and come back here."
)
OFFLINE = _(
    "Without a network: take a computer that has one, the same operating system and the same version of "
    "Slicer. In a terminal there, with the PythonSlicer program of Slicer's bin folder, run\n"
    'PythonSlicer -m pip download "torch{versions}" --dest FOLDER\n'
    "Carry the folder over, and run here\n"
    'PythonSlicer -m pip install --no-index --find-links FOLDER "torch{versions}"\n'
    "Then restart Slicer. Nothing else is ever downloaded."
).format(versions=TORCH_REQUIREMENT)
QUESTION = _(
    "PyTorch is needed to register images. It will be downloaded and installed into this Slicer by the "
    "PyTorch extension: between 0.2 GB (processor only) and 3 GB (NVIDIA graphics card), which takes some "
    "minutes, during which Slicer does not answer. Install it now?"
)
NO_TORCH_FOR_INTEL_MACS = _(
    "This is a Slicer for Macs with Intel processors. PyTorch ended with version 2.2 there, and registering "
    "needs {lowest} or newer: nothing can be registered with this Slicer, and no installation would help."
).format(lowest=".".join(map(str, _LOWEST)))


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


UNKNOWN = EnvironmentState(None, (_("PyTorch has not been looked for yet."),), False)


def state_from(result: Mapping[str, Any]) -> EnvironmentState:
    """The worker's "environment" result in words."""
    error = result.get("torch_error")
    version = result.get("torch")
    if version is None:
        return _without_torch(error or _("PyTorch is not installed."))
    python = result.get("python", "?")
    lines = [_("PyTorch {version} on Python {python}.").format(version=version, python=python)]
    if not within_requirement(version):
        versions = TORCH_REQUIREMENT.replace(",", " and ")
        lines.append(
            _("It was made for versions {versions}; others are not tested.").format(versions=versions)
        )
    lines.append(_device(result))
    if result.get("works") is not False:
        return EnvironmentState(True, tuple(lines), False)
    unusable = _without_torch(error or _("A small test computation went wrong; install PyTorch again."))
    return EnvironmentState(False, (*lines, unusable.lines[0]), unusable.offer_install)


def state_from_failure(sentence: str) -> EnvironmentState:
    """The worker itself did not answer: a half-installed torch can end the process that imports it."""
    advice = _(
        "PyTorch may be there only in part: uninstall it in the PyTorch Utils module, and install it again."
    )
    if impossible() is not None:
        return _without_torch(sentence)
    return EnvironmentState(False, (sentence, advice), True)


def impossible() -> str | None:
    """Why no PyTorch that is new enough can exist for this application, in a sentence; None where it can."""
    intel_mac = platform.system() == "Darwin" and platform.machine() == "x86_64"
    return NO_TORCH_FOR_INTEL_MACS if intel_mac else None


def _without_torch(reason: str) -> EnvironmentState:
    """Nothing can be computed; an installation is offered where one can help."""
    never = impossible()
    if never is not None:
        return EnvironmentState(False, (never, reason), False)
    return EnvironmentState(False, (reason, _("Everything but registering works without it.")), True)


def _device(result: Mapping[str, Any]) -> str:
    """What it runs on, in a sentence."""
    memory, own = result.get("memory_mb"), result.get("device_memory_mb")
    if result.get("device_type") == "cuda":
        if own is None:
            return _("Runs on the graphics card: {name}.").format(name=result["device"])
        return _("Runs on the graphics card: {name} with {size:.1f} GB.").format(
            name=result["device"], size=own / 1000
        )
    threads = result.get("threads") or result.get("processors")
    parts = [_("1 thread") if threads == 1 else _("{count} threads").format(count=threads)]
    if memory is not None:
        parts.append(_("{size:.1f} GB of memory free").format(size=memory / 1000))
    return _("Runs on the processor ({parts}); no usable graphics card was found.").format(
        parts=", ".join(parts)
    )


def within_requirement(version: str) -> bool:
    """Whether a version of torch is one of `TORCH_REQUIREMENT`."""
    numbers = version.split("+")[0].split(".")
    try:
        major, minor = int(numbers[0]), int(numbers[1])
    except (ValueError, IndexError):
        return False
    return _LOWEST <= (major, minor) < _TOO_HIGH


def install_torch(
    confirm: Callable[[str], bool], busy: Callable[[], AbstractContextManager[object]] = nullcontext
) -> str:
    """Install PyTorch through Slicer's PyTorch extension, after having asked. Only ever called by a person.

    Args:
        confirm: shows a question and says whether the answer was yes.
        busy: what to do around the installation itself, once the question is answered.

    Returns:
        A sentence about how it ended: declined, or installed.

    Raises:
        NotAvailableError: it cannot be had here, the extension is missing, or the installation failed; with
            what to do.
    """
    never = impossible()
    if never is not None:
        raise NotAvailableError(never)
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError as error:
        raise NotAvailableError(EXTENSION_MISSING) from error
    if not confirm(QUESTION):
        return _("PyTorch was not installed.")
    try:
        with busy():
            torch = PyTorchUtilsLogic().installTorch(
                askConfirmation=False, torchVersionRequirement=TORCH_REQUIREMENT
            )
    except Exception as error:  # pip, the network, a full disk: whatever it is, a sentence
        reason = str(error).strip().splitlines()
        raise NotAvailableError(
            _(
                "PyTorch could not be installed ({reason}). Restart Slicer and try again; the Python console "
                "(View > Python Console) shows what happened."
            ).format(reason=reason[0] if reason else type(error).__name__)
        ) from error
    if torch is None:
        return _("PyTorch was not installed.")
    version = getattr(torch, "__version__", "")
    return _("PyTorch {version} is installed.").format(version=version).replace("  ", " ")
