"""What travels between the worker and its parent, as the engine's types: see `tasks`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..frame import Frame
from .arrays import save_array

if TYPE_CHECKING:
    from ..frame import Volume
    from ..registration import Registration
    from ..transforms import Transform

Arrays = dict[str, np.ndarray]


def digest_of(parameters: dict[str, Any], arrays: Arrays, roles: tuple[str, ...], rest: list[Any]) -> str:
    """The same for the same images, another for others."""
    digest = hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=16)
    for role in roles:
        digest.update(json.dumps([role, role in arrays and parameters.get("frames", {}).get(role)]).encode())
        if role in arrays:
            digest.update(str(arrays[role].dtype).encode())
            digest.update(np.ascontiguousarray(arrays[role]).data)
    return digest.hexdigest()


def _frame(role: str, parameters: dict[str, Any]) -> Frame:
    try:
        geometry = parameters["frames"][role]
        return Frame(
            tuple(int(n) for n in geometry["size"]),
            tuple(float(s) for s in geometry["spacing"]),
            tuple(float(o) for o in geometry["origin"]),
            tuple(tuple(float(v) for v in row) for row in geometry["direction"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"The geometry of the {role.replace('_', ' ')} image is not usable.") from error


def described(frame: Frame) -> dict[str, Any]:
    """A frame as it travels: size, spacing, origin (x, y, z) and the direction's rows, LPS mm."""
    return {
        "size": list(frame.size),
        "spacing": list(frame.spacing),
        "origin": list(frame.origin),
        "direction": [list(row) for row in frame.direction],
    }


def volume_of(role: str, parameters: dict[str, Any], arrays: Arrays, dtype: type = np.float32) -> Volume:
    """The image of a role.

    Raises:
        InputError: it does not hold numbers, or its geometry does not fit.
    """
    import torch

    from ..frame import Volume

    array = arrays[role]
    if array.dtype.kind not in "biuf":
        raise InputError(f"The {role.replace('_', ' ')} image does not hold plain numbers.")
    with np.errstate(over="ignore", invalid="ignore"):  # found as not finite, and refused, later
        data = torch.from_numpy(np.ascontiguousarray(array, dtype))
    return Volume(data[None], _frame(role, parameters))


def prompt_of(role: str, parameters: dict[str, Any], arrays: Arrays) -> Volume | None:
    """The labels or mask of a role, where there are any."""
    if role not in arrays:
        return None
    if not role.endswith("labels"):
        return volume_of(role, parameters, arrays)
    small = np.can_cast(arrays[role].dtype, np.int32)
    return volume_of(role, parameters, arrays, np.int32 if small else np.int64)


def initial_transform(parameters: dict[str, Any], arrays: Arrays) -> Transform | None:
    """The transform to start from, where there is one.

    Raises:
        InputError: numbers that do not describe one.
    """
    import torch

    from ..field import Field
    from ..transforms import FieldTransform, LinearTransform

    if "initial" in arrays:
        frame = _frame("initial", parameters)
        vectors = torch.from_numpy(np.ascontiguousarray(arrays["initial"], np.float32))
        if tuple(vectors.shape) != (*frame.shape, frame.dimension) or not bool(vectors.isfinite().all()):
            raise InputError("The initial transform's field is not usable.")
        return FieldTransform(Field.from_mm(vectors, frame))
    matrix = parameters.get("initial_matrix")
    if matrix is None:
        return None
    try:
        return LinearTransform(np.asarray(matrix, np.float64))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("The initial transform's matrix is not usable.") from error


def landmark_pairs(given: dict[str, Any] | None) -> tuple[Any, Any]:
    """Pairs (fixed, moving) that are fitted and pairs that are held out; None where there are none."""
    from ..landmarks import Landmarks, as_landmarks

    if not given or (not given.get("fixed") and not given.get("moving")):
        return None, None
    counts = [len(given.get(side) or []) for side in ("fixed", "moving")]
    if counts[0] != counts[1]:
        raise InputError(
            f"There are {counts[0]} landmarks on the fixed image but {counts[1]} on the moving image; "
            "each needs its partner."
        )
    fixed, moving = (as_landmarks(given[side]).points for side in ("fixed", "moving"))
    names = tuple(map(str, given.get("names") or range(1, len(fixed) + 1)))
    held_out = [bool(h) for h in given.get("held_out") or [False] * len(fixed)]
    if len(names) != len(fixed) or len(held_out) != len(fixed):
        raise InputError("Each landmark needs one name, and has to be either fitted or held out.")

    def chosen(wanted: bool) -> tuple[Landmarks, Landmarks] | None:
        rows = [k for k, h in enumerate(held_out) if h == wanted]
        labels = tuple(names[k] for k in rows)
        return (Landmarks(fixed[rows], labels), Landmarks(moving[rows], labels)) if rows else None

    return chosen(False), chosen(True)


def handed_over(
    session: str, result: Registration, outputs: Any, folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """Write a result's arrays; returns what is said about them and their names."""
    from ..transforms import LinearTransform

    frames: dict[str, Any] = {}
    names: list[str] = []

    def write(name: str, array: np.ndarray, frame: Frame) -> None:
        save_array(folder, "out", name, array)
        frames[name] = described(frame)
        names.append(name)

    maps = (
        ("forward", result.forward, result.forward_field),
        ("inverse", result.inverse, result.inverse_field),
    )
    for name, transform, field in maps:
        if isinstance(transform, LinearTransform):
            write(name, transform.matrix.numpy(), field.frame)
        else:
            write(name, field.mm().cpu().numpy(), field.frame)
    if "warped" in outputs:
        write("warped", result.warped.data[0].cpu().numpy(), result.warped.frame)
    if "jacobian" in outputs:
        jacobian = result.jacobian()
        write("jacobian", jacobian.data[0].cpu().numpy(), jacobian.frame)
    if result.features is not None:
        for name, volume in zip(("features_fixed", "features_moving"), result.features, strict=True):
            write(name, volume.data.float().cpu().numpy(), volume.frame)
    kind = "linear" if result.linear_only else "grid"
    return {"session": session, "kind": kind, "quality": result.quality, "frames": frames}, names
