"""What there is to work with: torch, device, memory, methods and their weights."""

from __future__ import annotations

import os
import platform
from dataclasses import fields
from typing import Any

import numpy as np

from ..catalogue import METHODS
from ..errors import InputError, NotAvailableError
from ..thread_count import processors
from .failures import TaskError


def need_torch() -> None:
    """Raise TaskError (``no-torch``) where torch cannot be used, MemoryError where it did not fit."""
    try:
        import torch  # noqa: F401
    except MemoryError:
        raise
    except Exception as error:
        if "cannot allocate memory" in str(error).lower() or "failed to map segment" in str(error).lower():
            raise MemoryError(str(error)) from error
        missing = isinstance(error, ModuleNotFoundError) and error.name == "torch"
        sentence = "PyTorch is not installed." if missing else f"PyTorch cannot be loaded: {error}"
        raise TaskError(sentence, "no-torch") from error


def default_threads() -> int | None:
    """All processors but one, which is the program's in front; both of two. None: as OMP_NUM_THREADS says."""
    if "OMP_NUM_THREADS" in os.environ:
        return None
    count = processors()
    return count - 1 if count > 2 else count


def environment() -> dict[str, Any]:
    """What there is to work with. Without torch, ``torch`` is None and ``torch_error`` says why."""
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "numpy": np.__version__,
        "torch": None,
        "torch_error": None,
        "simpleitk": None,
        "device": None,
        "device_type": None,
        "device_memory_mb": None,
        "memory_mb": None,
        "threads": default_threads(),
        "works": False,
    }
    try:
        need_torch()
    except TaskError as error:
        return {**result, "torch_error": str(error)}
    import SimpleITK as sitk
    import torch

    from .. import resources

    available = resources.available_memory()
    cuda = torch.cuda.is_available()
    result |= {
        "torch": torch.__version__,
        "simpleitk": sitk.Version.VersionString(),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "device_type": "cuda" if cuda else "cpu",
        "device_memory_mb": torch.cuda.get_device_properties(0).total_memory / 1e6 if cuda else None,
        "memory_mb": None if available is None else available / 1e6,
        "threads": result["threads"] or torch.get_num_threads(),
    }
    try:
        ones = torch.ones(1, 1, 4, 4, 4, device="cuda" if cuda else "cpu")
        result["works"] = float(torch.nn.functional.conv3d(ones, ones).sum()) == 64.0
    except RuntimeError as error:
        result["torch_error"] = f"PyTorch does not work on this machine: {str(error).splitlines()[0]}"
    return result


def methods() -> dict[str, Any]:
    """The methods with their texts and trained weights, per number of dimensions."""
    weights: dict[str, dict[str, Any]] = {}
    try:
        need_torch()
    except TaskError:
        pass
    else:
        weights = {name: {str(d): _shipped(name, d) for d in (2, 3)} for name in METHODS}
    return {
        "methods": [
            {
                "name": name,
                **{f.name: getattr(text, f.name) for f in fields(text)},
                "weights": weights.get(name),
            }
            for name, text in METHODS.items()
        ]
    }


def _shipped(method: str, dimension: int) -> dict[str, Any] | None:
    from ..weights import load_weights, shipped_weights

    path = shipped_weights(method, dimension)
    if path is None:
        return None
    try:
        weights = load_weights(path, method, dimension)
    except (InputError, NotAvailableError) as error:
        return {"file": str(path), "error": str(error)}
    return {
        "file": str(path),
        "configuration": weights.configuration,
        "record": weights.record,
        "sha256": weights.sha256,
    }
