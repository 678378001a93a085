"""What a method is: something that looks at a pair and says what to compare and where to start."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..catalogue import METHODS as TEXTS
from ..filters import downsample
from ..frame import Frame, Volume
from ..interpolation import sample
from ..objective import Channel, matching_size, normalised_matrix
from ..objectives import Similarity
from ..presets import Preset
from ..progress import Reporter
from ..transforms import FieldTransform
from ..transforms.linear import LinearTransform

if TYPE_CHECKING:
    from ..weights import Weights


@dataclass(frozen=True)
class MethodInput:
    """A prepared pair, as a method sees it.

    Attributes:
        fixed, moving: (1, *S) in [0, 1], each on its own frame, on the device of the run.
        linear: from the working frame's points to the moving image's, LPS mm.
        similarity: the measure the user (or the pipeline) chose.
        preset: how much to spend.
        weights: what was trained for this method, or None.
        report: progress and cancellation; a method that takes long calls it often.
        working: the frame of the prediction; None where that is the fixed image's own.
        to_fixed: from the working frame's points to the fixed image's; None is the identity.
        symmetric: whether both images are moved, half-way each; otherwise the fixed one stays.
    """

    fixed: Volume
    moving: Volume
    linear: LinearTransform
    similarity: Similarity
    preset: Preset
    weights: Weights | None = None
    report: Reporter = field(default_factory=Reporter)
    working: Frame | None = None
    to_fixed: LinearTransform | None = None
    symmetric: bool = False

    @property
    def frame(self) -> Frame:
        """The working frame."""
        return self.working or self.fixed.frame

    @property
    def to_fixed_frame(self) -> LinearTransform:
        """`to_fixed`, or the identity."""
        return self.to_fixed or LinearTransform.identity(self.linear.dimension)

    def exchanged(self) -> MethodInput:
        """The same pair with the images in the other order."""
        return replace(
            self, fixed=self.moving, moving=self.fixed, linear=self.to_fixed_frame, to_fixed=self.linear
        )

    def onto(self, frame: Frame) -> MethodInput:
        """The pair with the fixed image read on a frame of the working box, where it stays: one-sided."""
        fixed = Volume(image_on(self.fixed, self.to_fixed_frame, frame)[0], frame)
        return replace(self, fixed=fixed, to_fixed=None, working=None, symmetric=False)


@dataclass(frozen=True)
class Prediction:
    """What a method hands to the solver.

    Attributes:
        channels: what the solver compares.
        start: a map of the working frame's points to start from, LPS mm; None is the identity. One-sided, it
            is applied before the linear map to the moving image. Half-way, it is the one towards the moving
            image, id + w, and the one towards the fixed image is id - w.
        features: feature images of the fixed and of the moving image, where the method has some to show.
        warnings: sentences for the user.
    """

    channels: tuple[Channel, ...]
    start: FieldTransform | None = None
    features: tuple[Volume, Volume] | None = None
    warnings: tuple[str, ...] = ()


def image_on(image: Volume, linear: LinearTransform, frame: Frame) -> Tensor:
    """An image (1, 1, *S) read at a frame's voxels, as coarse as they are; black outside its box.

    Args:
        linear: from the frame's points to the image's, LPS mm.
    """
    matrix = normalised_matrix(linear, frame, image.frame, image.data.device)
    points = frame.grid(image.data.device) @ matrix[:, :-1].T + matrix[:, -1]
    values = downsample(image.data[None], matching_size(image.frame, frame))
    return sample(values, points) * (points.abs() <= 1).all(-1)


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
