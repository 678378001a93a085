"""What the worker still has of a registration, and the scene's nodes that go with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from DeepRegistrationLib.frame import Frame

from .choices import Choices, Outputs
from .geometry import Node
from .results import RegistrationNodes
from .stamps import Stamp, choices_stamps, map_stamp


@dataclass(frozen=True)
class Standing:
    """What the worker can be asked to refine.

    Attributes:
        session: the worker's name for it.
        nodes: the result.
        frames: of the fixed and the moving image.
        stamps: of the images, labels and masks it was computed from.
        map: stamp of the forward transform.
    """

    session: str
    nodes: RegistrationNodes
    frames: dict[str, Frame]
    stamps: dict[str, Stamp]
    map: Stamp

    def serves(self, choices: Choices) -> bool:
        """Whether these choices go on from this: nothing it depends on has been changed since."""
        before, forward = self.nodes.choices, choices.outputs.forward
        return (
            before is not None
            and _comparable(choices) == _comparable(before)
            and (None if isinstance(forward, bool) else forward) is self.nodes.forward
            and map_stamp(self.nodes.forward) == self.map
            and choices_stamps(choices)["images"] == self.stamps["images"]
        )

    def without(self, node: Node) -> Standing | None:
        """The same, letting go of a node that was removed from the scene; None where nothing can go on."""
        choices = self.nodes.choices
        if choices is None or node in (choices.fixed, choices.moving, self.nodes.forward):
            return None
        results = {name: None for name, result in self.nodes.nodes().items() if result is node}
        return replace(self, nodes=replace(self.nodes, choices=_without(choices, node), **results))


def _without(choices: Choices, node: Node) -> Choices:
    """Choices in which a node that is gone is no longer a prompt, the start or an output to fill."""

    def both(sides: Any) -> Any:
        return None if sides is None or node in sides else sides

    outputs = {name: True if value is node else value for name, value in choices.outputs.items()}
    return replace(
        choices,
        landmarks=both(choices.landmarks),
        segmentations=both(choices.segmentations),
        masks=tuple(None if mask is node else mask for mask in choices.masks),
        initial=None if choices.initial is node else choices.initial,
        outputs=Outputs(**outputs),
    )


def _comparable(choices: Choices) -> tuple[Any, ...]:
    """What a session depends on; the linear stage and the start are behind it."""
    options = {name: value for name, value in choices.options.items() if name != "linear"}
    return choices.fixed, choices.moving, options, choices.outputs.features
