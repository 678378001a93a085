"""How DIO's features are trained: image, label and landmark losses through the solver's optimum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...field import Field
from ...filters import downsample
from ...frame import Frame
from ...interpolation import sample
from ...objective import Pyramid
from ...objectives import LabelOverlap, LocalNCC, MeanSquaredError
from ...solver import Scale, Settings
from ...training.base import Batch, Stage, TrainingTask
from ...training.source import PairSource
from ...transforms import Representation, representation
from .features import FeatureNetwork, padded, pyramid
from .layer import Aligned, AlignmentLayer, Differentiation
from .matching import match_loss
from .structures import structure_loss

_PERCENTILE = 0.98
"""The gradient of a displacement is cut off at this quantile of its size (the paper's code), among those
that are not zero: where images are mostly empty, hardly any are."""


@dataclass(frozen=True)
class Configuration:
    """A network and how it is trained.

    Attributes:
        features: the network.
        representation: what the solver moves: free-form, diffeomorphic, affine or rigid.
        scales: voxels of the image per voxel of the scale, and the most iterations, coarse to fine.
        begin: share of the training after which each scale takes part.
        rate, gradient_sigma, warp_sigma: of the solver, voxels of the scale. The published smoothing of
            the map, 0.5, goes with steps of a learned length; with the solver's, it left 13 % of folds in
            the free-form maps of generated shapes, 1.0 leaves 3 % at the same Dice.
        patience: see `solver.Settings`; a scale ends after so many iterations without decrease.
        phantom_steps: differentiable steps after each scale's optimum.
        image_loss: ``lncc`` (window of 7 voxels) or ``mse``.
        image_weight, label_weight, landmark_weight: of the image loss, of 1 - soft Dice, and of the mean
            squared landmark distance in voxels; all of them are left out with `match_weight`.
        match_weight: of `matching.match_loss`, for data whose true maps are known.
        structure_weight: of `structures.structure_loss`, for data with labels; the other losses are left out.
        feature_weight: how much the features count in a registration beside the images, within one contrast.
        shape: voxels along each axis of training images, unless the data say otherwise.
        learning_rate, steps, batch: of the training.
    """

    features: FeatureNetwork = field(default_factory=FeatureNetwork)
    representation: str = "free-form"
    scales: tuple[tuple[float, int], ...] = ((4, 200), (2, 100), (1, 50))
    begin: tuple[float, ...] = (0.0, 0.02, 0.2)
    rate: float = 0.5
    gradient_sigma: float = 1.0
    warp_sigma: float = 1.0
    patience: int = 4
    phantom_steps: int = 1
    image_loss: str = "lncc"
    image_weight: float = 1.0
    label_weight: float = 1.0
    landmark_weight: float = 0.1
    match_weight: float = 0.0
    structure_weight: float = 0.0
    feature_weight: float = 0.0
    shape: int = 128
    learning_rate: float = 3e-4
    steps: int = 100_000
    batch: int = 1

    def settings(self, done: float = 1.0) -> Settings:
        """The solver's settings when `done` of the training is over; at 1 all scales take part."""
        pairs = zip(self.scales, self.begin, strict=True)
        scales = tuple(Scale(factor, n) for (factor, n), begin in pairs if done >= begin)
        return Settings(
            scales,
            self.rate,
            self.gradient_sigma,
            self.warp_sigma,
            patience=self.patience,
            smallest=8,
        )


_SMALL = Configuration(
    FeatureNetwork("unet", widths=(8, 16, 16), channels=8),
    representation="diffeomorphic",
    scales=((4, 60), (2, 30), (1, 15)),
    begin=(0.0, 0.1, 0.3),
    warp_sigma=0.5,
    image_loss="mse",
    shape=64,
    learning_rate=1e-3,
    steps=3_000,
    batch=4,
)

CONFIGURATIONS = {
    "small": _SMALL,
    "small-labels": replace(_SMALL, image_weight=0.0, landmark_weight=0.02),
    "small-match": replace(
        _SMALL,
        features=FeatureNetwork("unet", widths=(16, 32, 32), channels=12, smoothing=1.0),
        image_weight=0.0,
        label_weight=0.0,
        landmark_weight=0.0,
        match_weight=1.0,
        learning_rate=5e-4,
        steps=600,
    ),
    "structures": replace(
        _SMALL,
        features=FeatureNetwork("stem", widths=(16, 32, 64, 96), channels=8),
        scales=((4, 40), (2, 20)),
        begin=(0.0, 0.0),
        image_weight=0.0,
        structure_weight=1.0,
        feature_weight=1.0,
        shape=80,
        steps=2_000,
        batch=1,
    ),
    "paper": Configuration(),
    "paper-lku": Configuration(FeatureNetwork("lku")),
    "paper-unet-e": Configuration(FeatureNetwork("unet-e")),
    "paper-lku-e": Configuration(FeatureNetwork("lku-e")),
    "squares": Configuration(
        FeatureNetwork("unet", widths=(4, 8, 8, 16, 16, 32, 32), channels=8, margin=64),
        representation="rigid",
        scales=((32, 20), (16, 8), (8, 8)),
        begin=(0.0, 0.0, 0.0),
        patience=0,
        image_loss="mse",
        image_weight=0.0,
        shape=256,
        learning_rate=1e-2,
        steps=200,
        batch=8,
    ),
}
"""``small`` runs in minutes on a processor; ``small-labels`` is the same without the image loss, for pairs of
any contrast that have labels; ``small-match`` learns from the known maps of generated pairs; ``paper`` is the
published U-Net, and its siblings the other published networks; ``squares`` is the paper's toy problem, the
squares being their own labels. Where the paper has an affine solver and the images' squared error, this has
a rigid one and overlap: the error also falls when the square is shrunk away or pushed out of the image."""


class DioTask(TrainingTask):
    """Trains a feature network by the displacements the solver finds with its features.

    Of each step's two images one, drawn at random, sends gradients to the network, as in the paper's code.
    """

    method: ClassVar[str] = "dio"
    configurations: ClassVar[Mapping[str, Configuration]] = CONFIGURATIONS

    def __init__(self, structures: Mapping[int, float] | None = None) -> None:
        self._structures = dict(structures or {})

    def for_data(self, source: PairSource) -> DioTask:
        """With the structures of the data, for configurations that learn those."""
        return type(self)(source.structures)

    def _chosen(self, configuration: str) -> Configuration:
        chosen = self.configurations[configuration]
        if chosen.structure_weight == 0:
            return chosen
        return replace(chosen, features=replace(chosen.features, structures=len(self._structures)))

    def network(self, configuration: str, dimension: int) -> nn.Module:
        chosen = self._chosen(configuration)
        if chosen.structure_weight and not self._structures:
            raise InputError(
                f"DIO's configuration '{configuration}' learns from labels that all images share: it needs "
                "--data labels:FOLDER, or a folder with labels/ and ?voxel=MM."
            )
        network = chosen.features.build(dimension)
        network.configuration = chosen  # the loop hands back the network alone
        return network

    def convention(self, configuration: str, dimension: int) -> dict[str, Any]:
        """`network` describes the feature network; `feature_weight` is how much features count beside the
        images within one contrast; `structures` are pairs of a label and its usual volume, mm^3; `voxel_mm`
        is what its input has to have, None for the working one; `across_contrasts` says whether it was
        trained without an image loss, which only images of one contrast can have."""
        chosen = self._chosen(configuration)
        return {
            "intensity": [0.0, 1.0],
            "channels": 1,
            "voxel_mm": None,
            "across_contrasts": chosen.image_weight == 0,
            "shape": [chosen.shape] * dimension,
            "feature_weight": chosen.feature_weight,
            "network": asdict(chosen.features),
            **({"structures": [*self._structures.items()]} if chosen.structure_weight else {}),
        }

    def stages(self, configuration: str) -> tuple[Stage, ...]:
        chosen = self.configurations[configuration]
        return (Stage("features", 1.0, chosen.learning_rate, chosen.batch),)

    def optimiser(self, network: nn.Module, stage: Stage) -> torch.optim.Optimizer:
        return torch.optim.AdamW(network.parameters(), lr=stage.rate)

    def rate_at(self, stage: Stage, done: float) -> float:
        """Polynomial decay."""
        return (1 - min(1.0, done)) ** 0.9

    def loss(
        self, network: nn.Module, batch: Batch, done: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The mean over pairs and scales of the weighted losses, and its parts.

        Raises:
            InputError: no labels for a configuration that has no image loss, no maps for one that needs them.
        """
        chosen: Configuration = network.configuration
        if chosen.match_weight > 0:
            return self._matched(network, batch, generator)
        if chosen.structure_weight > 0:
            return self._structured(network, batch)
        if chosen.image_weight == 0 and (batch.fixed_labels is None or batch.moving_labels is None):
            raise InputError("This configuration of DIO learns from labels, and the data have none.")
        of_fixed = bool(torch.rand((), generator=generator) < 0.5)
        fixed, moving = (
            _features(network, batch.fixed, of_fixed),
            _features(network, batch.moving, not of_fixed),
        )
        layer = AlignmentLayer(chosen.settings(done), Differentiation(steps=chosen.phantom_steps))
        rows = []
        with torch.autocast(batch.fixed.device.type, enabled=False):
            for k in range(len(batch.fixed)):
                for aligned in layer(*_pair(network, fixed, moving, batch, k), _start(chosen, batch)):
                    rows.append(_losses(chosen, aligned, batch, k))
            return {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}

    @staticmethod
    def _matched(network: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The mean over pairs of `match_loss`; both images send gradients."""
        if batch.displacement is None:
            raise InputError(
                "This configuration of DIO learns from known maps; only generated:anatomy has them."
            )
        fixed, moving = (_features(network, images, True) for images in (batch.fixed, batch.moving))
        with torch.autocast(batch.fixed.device.type, enabled=False):
            losses = [
                match_loss(
                    *([level[k : k + 1] for level in levels] for levels in (fixed, moving)),
                    batch.fixed[k],
                    batch.displacement[k],
                    network.margin,
                    generator,
                )
                for k in range(len(batch.fixed))
            ]
            return {"loss": torch.stack(losses).mean()}

    @staticmethod
    def _structured(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """`structure_loss` of all images, each seen by itself."""
        if batch.fixed_labels is None or batch.moving_labels is None:
            raise InputError("This configuration of DIO learns from labels, and the data have none.")
        images = torch.cat([batch.fixed, batch.moving])
        levels = network.outputs(padded(images, network.stride, network.margin))
        with torch.autocast(batch.fixed.device.type, enabled=False):
            labels = torch.cat([batch.fixed_labels, batch.moving_labels])
            return structure_loss(levels, labels, network.margin)

    @torch.no_grad()
    def displacement(self, network: nn.Module, batch: Batch) -> Tensor:
        chosen: Configuration = network.configuration
        fixed, moving = _features(network, batch.fixed, False), _features(network, batch.moving, False)
        layer = AlignmentLayer(chosen.settings(), Differentiation(steps=0))
        frame, results = _frame(batch), []
        for k in range(len(batch.fixed)):
            with torch.enable_grad():
                last = layer(*_pair(network, fixed, moving, batch, k), _start(chosen, batch))[-1]
            results.append(Field(last.displacement, last.frame).resampled(frame).displacement)
        return torch.stack(results)


TASK = DioTask()


def _features(network: nn.Module, images: Tensor, gradient: bool) -> list[Tensor]:
    """Features (B, C, *S / 2^k) in float32 of images (B, 1, *S), each seen by itself."""
    with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
        return [level.float() for level in network(padded(images, network.stride, network.margin))]


def _pair(
    network: nn.Module, fixed: list[Tensor], moving: list[Tensor], batch: Batch, k: int
) -> tuple[Pyramid, Pyramid]:
    frame, margin = _frame(batch), network.margin
    return pyramid([v[k] for v in fixed], frame, margin), pyramid([v[k] for v in moving], frame, margin)


def _frame(batch: Batch) -> Frame:
    return Frame.regular(tuple(reversed(batch.fixed.shape[2:])), batch.spacing)


def _start(chosen: Configuration, batch: Batch) -> Representation:
    """The identity."""
    return representation(chosen.representation)(_frame(batch), batch.fixed.device)


def _losses(chosen: Configuration, aligned: Aligned, batch: Batch, k: int) -> dict[str, Tensor]:
    """The terms of pair `k` at one scale, on the scale's lattice."""
    w, size = aligned.displacement, aligned.frame.size
    points = aligned.frame.grid(w.device) + w
    if points.requires_grad:  # not for landmarks, which are few and would be silenced
        points.register_hook(_cut)
    fixed, moving = (downsample(v[k : k + 1], size) for v in (batch.fixed, batch.moving))
    measure = MeanSquaredError() if chosen.image_loss == "mse" else LocalNCC(3)
    terms = {"image": measure(sample(moving, points), fixed)}
    total = chosen.image_weight * terms["image"]
    if batch.fixed_labels is not None and batch.moving_labels is not None and chosen.label_weight > 0:
        of_fixed, of_moving = (
            downsample(v[k : k + 1].float(), size) for v in (batch.fixed_labels, batch.moving_labels)
        )
        terms["labels"] = LabelOverlap()(sample(of_moving, points), of_fixed)
        total = total + chosen.label_weight * terms["labels"]
    if batch.fixed_landmarks is not None and batch.moving_landmarks is not None:
        start, goal = batch.fixed_landmarks[k], batch.moving_landmarks[k]
        found = start + sample(w.movedim(-1, 0)[None], start)[0].T
        voxels = (found - goal) * (found.new_tensor(batch.fixed.shape[2:][::-1]) / 2)
        terms["landmarks"] = voxels.square().sum(-1).mean()
        total = total + chosen.landmark_weight * terms["landmarks"]
    return {"loss": total, **terms}


def _cut(gradient: Tensor) -> Tensor:
    """The gradient with its largest numbers cut off."""
    sizes = gradient[gradient != 0].abs()
    if len(sizes) == 0:
        return gradient
    limit = sizes.kthvalue(max(1, round(_PERCENTILE * len(sizes)))).values
    return gradient.clamp(-limit, limit)
