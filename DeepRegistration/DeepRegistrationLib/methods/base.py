"""What a method is: something that looks at a pair and says what to compare and where to start."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from ..catalogue import METHODS as TEXTS
from ..frame import Volume
from ..objective import Channel
from ..objectives import Similarity
from ..presets import Preset
from ..progress import Reporter
from ..transforms.base import Transform
from ..transforms.linear import LinearTransform

if TYPE_CHECKING:
    from ..weights import Weights


@dataclass(frozen=True)
class MethodInput:
    """A prepared pair, as a method sees it.

    Attributes:
        fixed: (1, *S) in [0, 1], on the working frame, on the device of the run.
        moving: (1, *S) in [0, 1], on its own frame, on the same device.
        linear: the linear stage's map, fixed to moving points, LPS mm.
        similarity: the measure the user (or the pipeline) chose.
        preset: how much to spend.
        weights: what was trained for this method, or None.
        report: progress and cancellation; a method that takes long calls it often.
    """

    fixed: Volume
    moving: Volume
    linear: LinearTransform
    similarity: Similarity
    preset: Preset
    weights: Weights | None = None
    report: Reporter = field(default_factory=Reporter)


@dataclass(frozen=True)
class Prediction:
    """What a method hands to the solver.

    Attributes:
        channels: what the solver compares.
        start: a map to start from, applied before the linear stage's map (fixed to linearly aligned
            fixed points, LPS mm); None is the identity.
        features: feature images of the fixed and of the moving image, where the method has some to show.
        warnings: sentences for the user.
    """

    channels: tuple[Channel, ...]
    start: Transform | None = None
    features: tuple[Volume, Volume] | None = None
    warnings: tuple[str, ...] = ()


class Method(ABC):
    """A registration method. It only predicts: representations, prompts and the solver are shared.

    Attributes:
        name: what users type; how the method presents itself is found under it in `catalogue`.
        title: what they read.
        description: one line for people who choose.
        guarantee: what is certain about its results.
    """

    name: ClassVar[str]

    @property
    def title(self) -> str:
        return TEXTS[self.name].title

    @property
    def description(self) -> str:
        return TEXTS[self.name].description

    @property
    def guarantee(self) -> str:
        return TEXTS[self.name].guarantee

    @abstractmethod
    def predict(self, pair: MethodInput) -> Prediction:
        """Look at a prepared pair."""
