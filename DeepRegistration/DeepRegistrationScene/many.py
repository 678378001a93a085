"""One fixed volume, many moving ones: registered one after the other, each pair for itself.

What a pair leaves in the scene is marked, so that doing the pair again fills the same nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import slicer
from DeepRegistrationLib.errors import (
    Cancelled,
    InputError,
    NotAvailableError,
    OutputError,
    RegistrationError,
)
from DeepRegistrationLib.worker.client import Progress, TimeLeft

from .changes import remove_node
from .choices import Choices, Output, Outputs, check, options_from, still_there
from .geometry import Node, lies_under
from .made import made_before, mark
from .many_table import Outcome, fill_many_table
from .memory_estimate import check_room
from .parameters import Parameters
from .results import RegistrationNodes
from .runs import Callbacks, Run
from .transform_nodes import check_holds_transform

_FIXED_GONE = "The fixed volume was removed, so the registrations were stopped."


@dataclass(frozen=True)
class ManyProgress(Progress):
    """Where the whole stands; `stage` is that of the volume at work: its `name`, `number` of `count`."""

    number: int
    count: int
    name: str


@dataclass(frozen=True)
class ManyResult:
    """What became of each moving volume.

    Attributes:
        outcomes: in the order the volumes were given in.
        table: node with a row for each, worst first; None if it was left out.
        cancelled: whether the rest was left alone because somebody wanted it.
    """

    outcomes: tuple[Outcome, ...]
    table: Node | None
    cancelled: bool


def pairs_from(parameters: Parameters) -> list[Choices]:
    """A run for each moving volume that a parameter node lists; what belongs to one pair only is left out.

    So there are no landmarks, segmentations, moving mask and start; the fixed mask stays.

    Raises:
        InputError: no fixed or no moving volume, or none of the mask's chosen segments is left.
    """
    p = parameters
    outputs = Outputs(
        p.want_forward,
        p.want_inverse,
        p.want_warped,
        p.want_jacobian,
        False,
        p.want_features,
        p.want_features,
    )
    mask = p.fixed_mask, still_there(p.fixed_mask, p.fixed_mask_segments)
    moving = [node for node in p.many_moving if node is not p.fixed]
    return pairs(p.fixed, moving, options_from(p), outputs, *mask)


def pairs(
    fixed: Node | None,
    moving: Sequence[Node],
    options: dict[str, Any],
    outputs: Outputs,
    mask: Node | None = None,
    mask_segments: Sequence[str] | None = None,
) -> list[Choices]:
    """A run for each moving volume.

    Raises:
        InputError: no fixed or no moving volume, a volume that is given twice, or no output.
    """
    if fixed is None:
        raise InputError("Choose a fixed volume.")
    if not moving:
        raise InputError("Choose at least one moving volume.")
    if len({node.GetID() for node in (fixed, *moving)}) <= len(moving):
        raise InputError("Each volume can be given once only; the fixed one cannot move.")
    found = [
        Choices(
            fixed,
            node,
            options,
            masks=(mask, None),
            mask_segments=(tuple(mask_segments or ()), ()),
            outputs=outputs,
        )
        for node in moving
    ]
    check(found[0])
    return found


class ManyRun:
    """The runs of many pairs, each begun when the one before is over.

    Args:
        todo: the pairs.
        begin: starts one of them.
        callbacks: `progress` gets `ManyProgress`, `finished` a `ManyResult`; `failed` is only called when
            the fixed volume is gone.
        table: a table node to fill, True to make one, False for none.
        parameters: is told of the table.

    Attributes:
        done, result, error: as of a `Run`.
    """

    def __init__(
        self,
        todo: Sequence[Choices],
        begin: Callable[[Choices, Callbacks], Run],
        callbacks: Callbacks,
        table: Output = True,
        parameters: Parameters | None = None,
    ) -> None:
        self.done = False
        self.result: ManyResult | None = None
        self.error: RegistrationError | None = None
        self._todo, self._begin, self._callbacks = deque(todo), begin, callbacks
        self._fixed, self._count = todo[0].fixed, len(todo)
        self._names = {pair.moving: pair.moving.GetName() for pair in todo}
        self._table, self._parameters = table, parameters
        self._outcomes: list[Outcome] = []
        self._before: dict[str, Node] = {}
        self._left = TimeLeft()
        self._next()

    def _next(self) -> None:
        """Begin the first pair that can be begun."""
        while self._todo:
            try:
                if not slicer.mrmlScene.IsNodePresent(self._fixed):
                    raise Cancelled(_FIXED_GONE)
                pair = self._again(self._todo[0])
                check_room(pair)
                self._begin(pair, self._heard())
                return
            except RegistrationError as error:
                self._note(error=error)
            except Exception as failure:  # nobody else would end the whole
                reason = str(failure) or type(failure).__name__
                self._note(error=InputError(f"It could not be read: {reason}"))
        self._end()

    def _again(self, pair: Choices) -> Choices:
        """A pair that fills what it has made before, as far as that can hold the result."""
        if not slicer.mrmlScene.IsNodePresent(pair.moving):
            raise InputError("It was removed from the scene.")
        before = made_before(pair.fixed, pair.moving)
        self._before = {
            name: before[name] for name, wanted in pair.outputs.items() if wanted and name in before
        }
        again = {name: node for name, node in self._before.items() if _holds(node, pair)}
        images = [node for node in (pair.fixed, pair.moving, *pair.masks) if node is not None]
        for node in (self._before[name] for name in self._before.keys() - again.keys()):
            for image in images:
                if lies_under(image, node):
                    raise InputError(
                        f"{image.GetName()} lies under {node.GetName()}, which is to be replaced. "
                        "Take it out of that transform first."
                    )
        return replace(pair, outputs=replace(pair.outputs, **again))

    def _heard(self) -> Callbacks:
        return Callbacks(self._progressed, self._succeeded, self._failed, self._callbacks.log)

    def _progressed(self, event: Progress) -> None:
        number = len(self._outcomes) + 1
        fraction = (number - 1 + event.fraction) / self._count
        whole = ManyProgress(
            event.stage,
            fraction,
            event.objective,
            self._left(fraction),
            number,
            self._count,
            self._names[self._todo[0].moving],
        )
        if self._callbacks.progress is not None:
            self._callbacks.progress(whole)

    def _succeeded(self, nodes: RegistrationNodes) -> None:
        pair = self._todo[0]
        for name, node in nodes.nodes().items():
            mark(node, name, pair.fixed, pair.moving)
        for name, node in self._before.items():
            instead = getattr(nodes, name)
            if instead not in (None, node):  # it could not hold the new one
                instead.SetName(node.GetName())
                remove_node(slicer.mrmlScene, node)
        self._note(nodes)
        self._next()

    def _failed(self, error: RegistrationError) -> None:
        self._note(error=error)
        self._next()

    def _note(self, nodes: RegistrationNodes | None = None, error: RegistrationError | None = None) -> None:
        """What became of the pair at work; an error that every other one would meet ends the whole."""
        pair = self._todo.popleft()
        name = self._names[pair.moving]
        cancelled = isinstance(error, Cancelled)
        self._outcomes.append(Outcome(pair.moving, name, nodes, error, not cancelled))
        if error is not None and self._callbacks.log is not None:
            self._callbacks.log(f"{name}: {error}")
        if cancelled or isinstance(error, NotAvailableError):
            self._outcomes += [
                Outcome(rest.moving, self._names[rest.moving], None, error, False) for rest in self._todo
            ]
            self._todo.clear()

    def _end(self) -> None:
        stopped = next((o.error for o in self._outcomes if isinstance(o.error, Cancelled)), None)
        here = slicer.mrmlScene.IsNodePresent(self._fixed)
        if here:
            try:
                table = self._filled_table()
                self.result = ManyResult(tuple(self._outcomes), table, stopped is not None)
            except OutputError as error:
                self.error = error
        else:
            self.error = stopped or Cancelled(_FIXED_GONE)
        self.done = True
        said = self._callbacks.finished if self.error is None else self._callbacks.failed
        if said is not None:
            said(self.result if self.error is None else self.error)

    def _filled_table(self) -> Node | None:
        given = self._table
        if given is False or not any(outcome.tried for outcome in self._outcomes):
            return None
        node = fill_many_table(self._outcomes, self._fixed, None if given is True else given)
        parameters = self._parameters
        if parameters is not None and slicer.mrmlScene.IsNodePresent(parameters.node):
            parameters.many_table = node
        return node


def _holds(node: Node, pair: Choices) -> bool:
    """Whether what was made before takes a pair's result; of volumes, placing it finds out."""
    if node.IsA("vtkMRMLTransformNode"):
        try:
            check_holds_transform(node, pair.linear)
        except InputError:
            return False
    return True
