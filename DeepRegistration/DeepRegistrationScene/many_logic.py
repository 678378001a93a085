"""The part of the logic that registers many moving volumes to one fixed volume."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from DeepRegistrationLib.errors import InputError, RegistrationError

from .choices import Choices, Output, Outputs
from .geometry import Node
from .many import ManyProgress, ManyResult, ManyRun, pairs, pairs_from
from .parameters import Parameters, parameters_of
from .runs import Callbacks, Run, Runner

_OPTIONS = {
    "method": "method",
    "representation": "representation",
    "preset": "preset",
    "similarity": "similarity",
    "linear": "linear",
    "device": "device",
    "threads": "threads",
    "seed": "seed",
    "weights": "weights",
    "outputSpacing": "output_spacing",
}
"""Options of `register` that many pairs share, and what the engine calls them."""

_OUTPUTS = ("forward", "inverse", "warped", "jacobian", "features")


class ManyLogic:
    """Registers many moving volumes; a base of `SceneLogic`, whose runs it uses."""

    runner: Runner
    register: Callable[..., Any]
    _register: Callable[..., Run]
    _waited: Callable[[Any], Any]
    _problem: Callable[[Callable[[], object]], str | None]

    def registerMany(
        self,
        fixed: Node,
        moving: Sequence[Node],
        *,
        mask: Node | None = None,
        maskSegments: Sequence[str] | None = None,
        table: Output = True,
        wait: bool = True,
        progress: Callable[[ManyProgress], object] | None = None,
        finished: Callable[[ManyResult], object] | None = None,
        failed: Callable[[RegistrationError], object] | None = None,
        log: Callable[[str], object] | None = None,
        **options: Any,
    ) -> ManyResult | ManyRun:
        """Align several moving volumes with one fixed volume, one after the other.

        Each finished pair is in the scene at once: its transforms, named after the moving volume, and the
        moving volume on the fixed one's voxels. A pair that fails leaves the scene as it was and does not
        keep the others from being done; nor does a worker that dies. After `cancel` the finished pairs stay.
        Doing it again does every pair again, and fills the nodes that were made before.

            result = logic.registerMany(fixed, [first, second], preset="fast")
            for outcome in result.outcomes:
                print(outcome.name, outcome.state, outcome.sentence)

        Args:
            fixed: volume node.
            moving: volume nodes.
            mask: segmentation or label map where the fixed image counts.
            maskSegments: identifiers of the segments that make it up; None: all.
            table: True to make a table node of the outcomes (worst first), a node to fill, False for none.
            wait: return when all is done; otherwise at once (see `SceneLogic`).
            progress: gets events with the stage, `name` and `number` of the volume at work, their `count`,
                and the fraction and the seconds left of the whole.
            finished: gets the result, whatever became of the single volumes; where none of them can be
                begun, before this returns.
            failed: gets the exception when the fixed volume or the scene has gone.
            log: gets lines of text.
            **options: method, representation, preset, similarity, linear, device, threads, seed, weights,
                outputSpacing as in `register`; forward, inverse, warped, jacobian, features: whether each
                pair leaves these. Without forward or inverse transform there is no way to refine.

        Returns:
            What became of each volume; with ``wait=False`` a run, whose `result` that will be.

        Raises:
            InputError: no moving volume, an unknown option, no output, or a run is going on already.
            Cancelled: the fixed volume or the scene has gone.
        """
        chosen, outputs = self._many_options(options)
        todo = pairs(fixed, list(moving), chosen, outputs, mask, maskSegments)
        return self._many(todo, None, table, wait, Callbacks(progress, finished, failed, log))

    def registerManyFromParameters(
        self,
        parameters: Parameters | Node | None = None,
        wait: bool = True,
        progress: Callable[[ManyProgress], object] | None = None,
        finished: Callable[[ManyResult], object] | None = None,
        failed: Callable[[RegistrationError], object] | None = None,
        log: Callable[[str], object] | None = None,
    ) -> ManyResult | ManyRun:
        """Register the moving volumes that a parameter node lists, with its method, options and outputs.

        Landmarks, segmentations, the moving mask and the start belong to one pair and are left out; the
        fixed mask is used. The nodes chosen as outputs of one pair are left alone.

        Args:
            parameters: the scene's own by default.
            wait, progress, finished, failed, log: as in `registerMany`.

        Raises:
            As `registerMany`.
        """
        p = parameters_of(parameters)
        todo = pairs_from(p)
        return self._many(todo, p, p.many_table or True, wait, Callbacks(progress, finished, failed, log))

    def manyProblem(self, parameters: Parameters | Node | None = None) -> str | None:
        """Why a parameter node's moving volumes cannot be registered, in a sentence; None when they can."""
        return self._problem(lambda: pairs_from(parameters_of(parameters)))

    def _many(
        self,
        todo: Sequence[Choices],
        parameters: Parameters | None,
        table: Output,
        wait: bool,
        callbacks: Callbacks,
    ) -> ManyResult | ManyRun:
        self.runner.refuse_second()
        if not isinstance(table, bool) and not table.IsA("vtkMRMLTableNode"):
            raise InputError(f"The outcomes cannot be stored in {table.GetName()}; choose a table.")

        def begin(choices: Choices, heard: Callbacks) -> Run:
            return self._register(choices, None, heard, stands=False)

        run = ManyRun(todo, begin, callbacks, table, parameters)
        return self._waited(run) if wait else run

    def _many_options(self, given: dict[str, Any]) -> tuple[dict[str, Any], Outputs]:
        """Options with the defaults of `register`, and outputs."""
        unknown = sorted(given.keys() - _OPTIONS.keys() - set(_OUTPUTS))
        if unknown:
            known = ", ".join((*_OPTIONS, *_OUTPUTS))
            raise InputError(f"There is no option '{unknown[0]}' for many volumes; there are {known}.")
        signature = inspect.signature(self.register).parameters
        values = {name: given.get(name, signature[name].default) for name in (*_OPTIONS, *_OUTPUTS)}
        outputs = [values[name] for name in _OUTPUTS]
        if not all(isinstance(value, bool) for value in outputs):
            raise InputError("Each of many volumes gets nodes of its own: outputs are True or False here.")
        return (
            {engine: values[name] for name, engine in _OPTIONS.items()},
            Outputs(*outputs[:4], table=False, fixed_features=outputs[4], moving_features=outputs[4]),
        )
