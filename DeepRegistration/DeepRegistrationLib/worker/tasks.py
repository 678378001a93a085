"""What the worker process can do: environment, methods, register, refine, and a pair of a batch.

Parameters of ``register``:

* ``frames``: for each array its ``size``, ``spacing``, ``origin`` (x, y, z) and ``direction`` (rows), LPS;
* arrays ``fixed``, ``moving``, ``fixed_labels``, ``moving_labels``, ``fixed_mask``, ``moving_mask``, each
  (z, y, x); ``initial`` (z, y, x, 3), LPS mm;
* ``initial_matrix``: 4 x 4, LPS mm;
* ``landmarks``: ``fixed`` and ``moving`` points, LPS mm, ``names``, and ``held_out`` (true: only measured);
* ``options``: keyword options of `pipeline.register`;
* ``outputs``: which of ``warped`` and ``jacobian`` to hand back; both if missing.

``refine`` takes ``session``, and of the above what has changed: ``landmarks`` as a whole, both labels, masks;
``without`` names what is taken away (``landmarks``, ``labels``, ``masks``).

``pair`` takes the attributes of `batch.pair.Task`, reads and writes files, and hands back nothing.

The result of ``register`` and ``refine``: ``session``, ``kind`` (``linear`` or ``grid``), ``quality``,
``frames``, and the arrays ``forward`` and ``inverse`` (displacements (z, y, x, 3) float32 in LPS mm, or 4 x 4
float64 matrices), ``warped``, ``jacobian``, ``features_fixed``, ``features_moving`` (C, z, y, x).
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, ResourceError
from ..progress import CancelToken, ProgressCallback, Reporter
from .arrays import load_array
from .data import (
    Arrays,
    digest_of,
    handed_over,
    initial_transform,
    landmark_pairs,
    prompt_of,
    volume_of,
)
from .environment import default_threads, environment, methods, need_torch
from .failures import TaskError

if TYPE_CHECKING:
    from ..registration import Registration
    from ..session import Session

_MOST_SESSIONS = 2
_OUTPUTS = ("warped", "jacobian")
_PROMPTS = ("fixed_labels", "moving_labels", "fixed_mask", "moving_mask")


@dataclass
class _Warm:
    """A session, with digests of what its prepared images and its linear stage came from."""

    session: Session
    images: str
    alignment: str


class Tasks:
    """The tasks, and the sessions they keep warm: the last two at most."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, _Warm] = OrderedDict()

    def run(
        self,
        task: str,
        parameters: dict[str, Any],
        folder: Path,
        arrays: list[str],
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> tuple[dict[str, Any], list[str]]:
        """Do a task.

        Returns:
            The result, and the names of the arrays that were written to the job's folder.

        Raises:
            RegistrationError: with a sentence for the user.
        """
        known = {"environment": environment, "methods": methods}
        if task in known:
            return known[task](), []
        if task not in ("register", "refine", "pair"):
            raise TaskError(f"There is no task '{task}'.", "request")
        need_torch()
        if task == "pair":
            from ..batch.pair import Task, register_pair

            register_pair(Task(**parameters), progress, cancel)
            return {}, []
        report = Reporter(progress, cancel)
        report("Receiving images", 0.0)
        run = self._register if task == "register" else self._refine
        session, result = run(parameters, {name: load_array(folder, "in", name) for name in arrays}, report)
        report("Handing over", 1.0)
        return handed_over(session, result, parameters.get("outputs", _OUTPUTS), folder)

    def _register(
        self, parameters: dict[str, Any], arrays: Arrays, report: Reporter
    ) -> tuple[str, Registration]:
        from ..clock import Clock
        from ..inputs import check_pair, load_inputs
        from ..session import Session

        clock = Clock()
        with _understood():
            options, device, threads = _options(parameters.get("options", {}))
            images = digest_of(parameters, arrays, ("fixed", "moving", "fixed_mask", "moving_mask"), [device])
            rest = [parameters.get("landmarks"), parameters.get("initial_matrix"), options.linear_stage]
            prompts = digest_of(parameters, arrays, ("fixed_labels", "moving_labels", "initial"), rest)
            for role in ("fixed", "moving"):
                if role not in arrays:
                    raise InputError(f"There is no {role} image.")
            landmarks, held_out = landmark_pairs(parameters.get("landmarks"))
            given = {
                **{role: volume_of(role, parameters, arrays) for role in ("fixed", "moving")},
                **{role: prompt_of(role, parameters, arrays) for role in _PROMPTS},
                "initial": initial_transform(parameters, arrays),
            }
        alignment = images + prompts
        inputs = load_inputs(
            **given,
            fixed_landmarks=landmarks and landmarks[0],
            moving_landmarks=landmarks and landmarks[1],
            held_out_landmarks=held_out,
        )
        check_pair(inputs, options.linear, options.output_spacing)
        like = next((w for w in self._sessions.values() if w.images == images), None)
        same = next((w for w in self._sessions.values() if w.alignment == alignment), None)
        session = Session(
            inputs,
            options,
            device,
            threads,
            like and like.session.prepared,
            same and same.session.aligned,
        )
        self._make_room(session.estimate())
        result = self._kept_in_memory(lambda: session.register(report, clock))
        name = uuid.uuid4().hex[:12]
        self._sessions[name] = _Warm(session, images, alignment)
        while len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return name, result

    def _refine(
        self, parameters: dict[str, Any], arrays: Arrays, report: Reporter
    ) -> tuple[str, Registration]:
        from ..inputs import KEEP

        name = str(parameters.get("session"))
        if name not in self._sessions:
            raise TaskError("This registration is no longer in memory; register again.", "unknown-session")
        self._sessions.move_to_end(name)
        session, without = self._sessions[name].session, parameters.get("without", [])
        landmarks = held_out = KEEP
        with _understood():
            if "landmarks" in parameters or "landmarks" in without:
                landmarks, held_out = landmark_pairs(parameters.get("landmarks"))
            labels, masks = (
                tuple(prompt_of(f"{side}_{kind}", parameters, arrays) for side in ("fixed", "moving"))
                for kind in ("labels", "mask")
            )
        result = self._kept_in_memory(
            lambda: session.refine(
                landmarks,
                held_out,
                None if "labels" in without else KEEP if labels == (None, None) else labels,
                None if "masks" in without else KEEP if masks == (None, None) else masks,
                report,
            ),
            name,
        )
        return name, result

    def _make_room(self, needed: int) -> None:
        """Let go of old sessions where the memory that is free would not do."""
        from .. import resources

        while self._sessions:
            available = resources.available_memory()
            if available is None or available >= needed:
                return
            self._sessions.popitem(last=False)

    def _kept_in_memory(self, run: Any, name: str | None = None) -> Any:
        """Run something; where memory runs out, let go of every session but the one of that name."""
        try:
            return run()
        except (ResourceError, MemoryError):
            for other in [n for n in self._sessions if n != name]:
                del self._sessions[other]
            raise


@contextmanager
def _understood() -> Iterator[None]:
    """What the request holds has not the form it should have."""
    try:
        yield
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise TaskError("The request could not be understood.", "request") from error


def _options(given: dict[str, Any]) -> tuple[Any, str, int | None]:
    """The session's options, the device and the number of threads."""
    import SimpleITK as sitk

    from ..options import Options

    given = dict(given)
    device, threads = given.pop("device", None) or "auto", given.pop("threads", None) or default_threads()
    unknown = sorted(given.keys() - {f.name for f in fields(Options)})
    if unknown:
        raise InputError(f"There is no option '{unknown[0]}'.")
    if threads is not None:  # this process is the program's own
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    options = Options(**given)
    options.check()
    return options, device, threads
