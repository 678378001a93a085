"""Weights files: a network's tensors with what is needed to use them and to tell where they come from.

A file is a ``torch.save`` of one plain dictionary: the tensors, a JSON text (method, configuration,
dimension, input convention, training record) and a SHA-256 over both. It is only ever opened with
``weights_only=True``, which runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .atomic import atomic_path
from .errors import InputError
from .plain_archive import read_plain

_FORMAT = "deepregistration-weights-1"
_BESIDE = Path(__file__).resolve().parents[1]
_METADATA = {"method": str, "configuration": str, "dimension": int, "convention": dict, "record": dict}
_SHIPPED = (_BESIDE / "Resources" / "Weights", _BESIDE / "DeepRegistrationWeights")
"""Where trained weights are in Slicer and in the sources, and where pip puts them."""

ELSEWHERE = "DEEPREGISTRATION_WEIGHTS"
"""Environment variable: a folder to look into instead."""

_LARGEST = 1e12
"""No number of a trained network is larger."""

_LONGEST, _STAGES = 10_000, 100
"""No training image has more voxels along an axis, no training more stages."""


Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Weights:
    """What a weights file holds.

    Attributes:
        method: the method's name.
        configuration: of that method.
        dimension: 2 or 3.
        state: the network's state, floating tensors as float32 (float32 or float16 on disk), on the CPU.
        convention: of the input: intensity range, working size, channels and what else the method wrote.
        record: of the training: steps, seconds, data, seed, hardware, losses, versions.
        sha256: over the tensors as stored and the metadata.
    """

    method: str
    configuration: str
    dimension: int
    state: dict[str, Tensor]
    convention: dict[str, Any]
    record: dict[str, Any]
    sha256: str

    def into(self, network: Network) -> Network:
        """The network with these tensors, in evaluation mode and without gradients.

        Raises:
            InputError: they are of another network.
        """
        try:
            network.load_state_dict(self.state)
        except RuntimeError as error:
            raise InputError(
                f"The weights do not fit the network of {self.method}'s configuration '{self.configuration}'."
            ) from error
        return network.eval().requires_grad_(False)


def save_weights(
    path: str | Path,
    method: str,
    configuration: str,
    dimension: int,
    network_state: Mapping[str, Tensor],
    convention: Mapping[str, Any],
    record: Mapping[str, Any],
    half: bool = False,
) -> str:
    """Write a weights file, whole or not at all.

    Args:
        path: where; an existing file is replaced.
        method, configuration, dimension: what the weights are for.
        network_state: a network's ``state_dict()``.
        convention: JSON values the method needs to prepare its input.
        record: JSON values about the training.
        half: store floating tensors as float16, in half the space.

    Returns:
        The SHA-256 of tensors and metadata.

    Raises:
        OutputError: missing or closed folder, full disk.
    """
    state = {name: _stored(tensor, half) for name, tensor in network_state.items()}
    metadata = json.dumps(
        {
            "method": method,
            "configuration": configuration,
            "dimension": dimension,
            "convention": dict(convention),
            "record": dict(record),
        },
        sort_keys=True,
    )
    digest = _digest(metadata, state)
    with atomic_path(path) as temporary:
        torch.save({"format": _FORMAT, "metadata": metadata, "state": state, "sha256": digest}, temporary)
    return digest


def load_weights(path: str | Path, method: str | None = None, dimension: int | None = None) -> Weights:
    """Read a weights file and verify it.

    Args:
        path: the file.
        method: when given, the method it has to be for.
        dimension: when given, the dimension it has to be for.

    Raises:
        InputError: missing, cut short, damaged or altered; not a weights file; holds code, or numbers and
            sizes of images that cannot be; for another method or dimension.
        NotAvailableError: this version of torch is not safe with files from elsewhere.
    """
    path = Path(path)
    stored = read_plain(path, "weights file", trusted=path.resolve().parent in _SHIPPED)
    damaged = InputError(f"{path} is damaged or was altered: its contents do not match its checksum.")
    if not isinstance(stored, dict) or "format" not in stored:
        raise InputError(f"{path} is not a weights file of this program.")
    if stored["format"] != _FORMAT:
        raise InputError(f"{path} is not a weights file of this version of the program.")
    metadata, state, digest = (stored.get(key) for key in ("metadata", "state", "sha256"))
    if not isinstance(metadata, str) or not isinstance(state, dict) or not isinstance(digest, str):
        raise damaged
    if not all(isinstance(n, str) and _usable(t) for n, t in state.items()):
        raise damaged
    # A forged view can claim more elements than the file has; hashing it would fill the memory.
    if sum(t.numel() * t.element_size() for t in state.values()) > path.stat().st_size:
        raise damaged
    if _digest(metadata, state) != digest:
        raise damaged
    told = _told(metadata)
    if told is None:
        raise damaged
    if method is not None and told["method"] != method:
        raise InputError(f"{path} holds weights of the method {told['method']}, not of {method}.")
    if dimension is not None and told["dimension"] != dimension:
        raise InputError(
            f"{path} holds weights for {told['dimension']}-D images, not for {dimension}-D ones."
        )
    if not _conceivable(told["convention"], told["dimension"]):
        raise InputError(f"{path} does not say what images its network takes in a way that can be used.")
    if not all(_trained(tensor) for tensor in state.values()):
        raise InputError(f"{path} holds numbers that no trained network has: not finite, or too large.")
    full = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    return Weights(**told, state=full, sha256=digest)


def shipped_weights(method: str, dimension: int) -> Path | None:
    """The weights that come with the program for a method and a dimension, None where there are none."""
    elsewhere = os.environ.get(ELSEWHERE)
    files = (
        folder / f"{method}-{dimension}d.pt" for folder in ([Path(elsewhere)] if elsewhere else _SHIPPED)
    )
    return next((path for path in files if path.is_file()), None)


def none_found(title: str, dimension: int, told: bool) -> list[str]:
    """Sentences for a method that has no trained weights.

    Args:
        title: the method's.
        dimension: of the images.
        told: whether the method itself has said that there are none.
    """
    sentences = []
    if not told:
        what = f"{title} and {dimension}-D images"
        sentences.append(f"There are no trained weights for {what}, so the images themselves are compared.")
    elsewhere = os.environ.get(ELSEWHERE)
    if elsewhere and not os.path.isdir(elsewhere):
        sentences.append(f"{ELSEWHERE} names the folder {elsewhere}, which does not exist.")
    return sentences


def _told(metadata: str) -> dict[str, Any] | None:
    """What a file says of itself; None if that is not what `save_weights` writes."""
    try:
        told = json.loads(metadata)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or told.keys() != _METADATA.keys():
        return None
    fine = all(isinstance(told[key], kind) for key, kind in _METADATA.items())
    return told if fine and told["dimension"] in (2, 3) else None


def _conceivable(convention: Mapping[str, Any], dimension: int) -> bool:
    """Whether the images that a network is said to take can be: a length for each axis, a stage, a voxel."""
    shape, stage = convention.get("shape"), convention.get("stage", 0)
    voxel = convention.get("voxel_mm") or 0
    lengths = [] if shape is None else shape
    return (
        isinstance(lengths, list)
        and (shape is None or len(lengths) == dimension)
        and all(type(n) is int and 0 < n <= _LONGEST for n in lengths)
        and type(stage) is int
        and 0 <= stage < _STAGES
        and type(voxel) in (int, float)
        and 0 <= voxel <= _LONGEST
    )


def _trained(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are finite and not so large that arithmetic with them is not."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = (float(number) for number in torch.aminmax(tensor))
    return -_LARGEST < low <= high < _LARGEST


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().to("cpu", copy=True).contiguous()
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.float16 if half else torch.float32)


def _usable(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"


def _digest(metadata: str, state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the metadata and of each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(metadata.encode("utf-8"))
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
