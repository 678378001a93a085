"""One pair, from prepared images to maps, kept warm so that new prompts go on from where it stands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import resources
from .clock import Clock
from .errors import ResourceError
from .field import Field
from .filters import downsample
from .frame import Frame, Volume
from .inputs import KEEP, ImagePair, Inputs, Keep, LandmarkPairs, with_prompts
from .linear_stage import LinearPair, LinearResult, linear_stage
from .memory import too_large_sentence
from .memory_plan import MemoryPlan
from .methods import MethodInput, Prediction, method_by_name
from .metrics import correlation
from .objective import PairObjective, Prompts
from .objectives import one_hot
from .options import Options
from .prepare import crop, foreground_box, normalised
from .presets import finest_frame, settings_for, similarity_for
from .progress import Reporter
from .quality import Untouched, environment, quality_of
from .refinement import refine
from .registration import Registration, warped_volume
from .solver import ScaleReport, Settings, scale_frame, solve
from .transforms import FieldTransform, LinearTransform, Representation, Transform, representation
from .transforms.linear import LinearRepresentation
from .transforms.linear_fit import best_affine

_CONTRAST_MM = 4.0
"""Voxel size at which contrasts are compared: fine enough to keep tissues apart, if the image is."""

_SUBJECT = 0.1
"""Normalised intensity that is surely not background."""

_SAME_CONTRAST = 0.4
"""Correlation after the linear stage above which the images are taken to have one contrast."""

_START_POINTS = 12
"""Points per axis at which a deformable start is told from its linear part."""

_PROCESSOR = torch.device("cpu")
_MOVED = "The graphics card's memory did not suffice, so the computation went on on the processor."


@dataclass(frozen=True)
class Prepared:
    """Normalised images on the device: the fixed one cropped to its subject, whose box is (x, y, z)."""

    fixed: Volume
    moving: Volume
    box: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Standing:
    """What a registration leaves behind for the next refinement.

    Attributes:
        inputs: the images with the prompts that were used.
        pair: the prepared images with the prompts on the device.
        linear: the linear stage's map and whether it was informed.
        before: the map applied after the representation's: the linear one, or the identity where the
            representation is itself linear.
        prediction: the method's.
        similarity: name of the measure used.
        model: the representation as it was optimised.
        weights: SHA-256 of the trained weights that were used, or None.
    """

    inputs: Inputs
    pair: LinearPair
    linear: LinearResult
    before: LinearTransform
    prediction: Prediction
    similarity: str
    model: Representation
    weights: str | None


class Session:
    """One pair of images, registered once and refined as often as wanted.

    Args:
        inputs: the pair, loaded and checked.
        options: what the user chose.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: processor threads during each call; None leaves torch's setting.
        prepared, aligned: `prepared` and `aligned` of another session of the same images and masks (and,
            for `aligned`, the same prompts, initial transform and linear stage), to save their time.

    Attributes:
        prepared: the normalised images, once there.
        aligned: the linear stage's result, once there.
        device: where it works: the one asked for, or the processor once that one's memory did not do.

    Raises:
        InputError, NotAvailableError: an option or a device that there is not.
    """

    def __init__(
        self,
        inputs: Inputs,
        options: Options,
        device: str = "auto",
        threads: int | None = None,
        prepared: Prepared | None = None,
        aligned: LinearResult | None = None,
    ) -> None:
        options.check()
        self.inputs, self.options, self.threads = inputs, options, threads
        self.device = resources.device(device)
        self._plan = MemoryPlan(options)
        self.dimension = inputs.fixed.frame.dimension
        self.prepared, self.aligned = prepared, aligned
        self._before = Untouched()
        self._standing: _Standing | None = None

    def register(self, report: Reporter | None = None, clock: Clock | None = None) -> Registration:
        """Prepare, align, deform, measure: the whole way. Afterwards the session can be refined.

        Where memory would not do, or runs out, the working grid is coarsened, and a run on another device
        goes on on the processor; a warning in the quality says so.

        Raises:
            InputError, NotAvailableError, ResourceError: with a sentence for the user.
            Cancelled: within one iteration of the token being set; the session stands as before.
        """
        report, clock = report or Reporter(), clock or Clock()
        self._plan.fit(self.inputs)
        clock.lap("read")
        with resources.surroundings(self.threads):
            while True:
                deformed = False
                try:
                    standing, reports = self._computed(report, clock)
                    deformed = True
                    return self._finished(standing, reports, report, clock)
                except (MemoryError, RuntimeError) as error:
                    if not resources.is_out_of_memory(error):
                        raise
                    if not self._relieved(not deformed):
                        raise ResourceError(too_large_sentence(self.estimate())) from error
                # out here, where nothing of the failed attempt is held any more
                standing = None
                resources.let_go()

    def _computed(self, report: Reporter, clock: Clock) -> tuple[_Standing, list[ScaleReport]]:
        """All of `register` up to the map."""
        self.prepared = self.prepared or self._prepared()
        pair = self._pair(self.inputs)
        clock.lap("prepare")
        linear = self.aligned = self.aligned or self._linear(pair, report.part(0.02, 0.12))
        clock.lap("linear")
        standing, reports = self._deformed(pair, linear, report)
        clock.lap("deform")
        return standing, reports

    def refine(
        self,
        landmarks: LandmarkPairs | Keep | None = KEEP,
        held_out: LandmarkPairs | Keep | None = KEEP,
        labels: ImagePair | Keep | None = KEEP,
        masks: ImagePair | Keep | None = KEEP,
        report: Reporter | None = None,
    ) -> Registration:
        """Go on from where the map stands, with other prompts (pairs: fixed, moving).

        `KEEP` leaves a kind of prompt as it is, None takes it away; the intensities stay normalised as they
        were, also under a new mask. A registration that was never run is run whole.

        Args:
            landmarks: all pairs that are to be fitted, not just the new ones.
            held_out: pairs that only measure.
            labels: both label images.
            masks: either may be None.
            report: progress and cancellation.

        Raises:
            InputError, ResourceError: with a sentence for the user.
            Cancelled: within one iteration of the token being set.
            Whatever is raised, the session stands as before.
        """
        report, clock = report or Reporter(), Clock()
        report("Reading the prompts", 0.0)
        with resources.surroundings(self.threads):
            inputs = with_prompts(self.inputs, landmarks, held_out, labels, masks)
        last = self._standing
        if last is None:
            fresh = Session(inputs, self.options, self.device.type, self.threads, self.prepared)
            result = fresh.register(report, clock)
            self.__dict__.update(fresh.__dict__)
            return result
        clock.lap("read")
        with resources.surroundings(self.threads), resources.out_of_memory_explained(self.estimate):
            pair = self._pair(inputs)
            clock.lap("prepare")
            standing = replace(last, inputs=inputs, pair=pair)
            part = report.part(0.02, 0.7)
            if isinstance(last.model, LinearRepresentation):
                stage = self.options.linear_stage
                with resources.threads(1):
                    linear = linear_stage(pair, stage, last.model.linear(), part)
                model = last.model.resized(last.model.frame)
                model.fit(linear.transform)
                if not linear.informative and pair.prompts.landmarks is not None:
                    model.fit_points(*pair.prompts.landmarks)
                standing, reports = replace(standing, linear=linear, model=model), []
            else:
                objective = self._objective(standing)
                model, reports = refine(objective, last.model, self._settings(standing), part)
                standing = replace(standing, model=model)
            clock.lap("deform")
            return self._finished(standing, reports, report, clock)

    def estimate(self) -> int:
        """Bytes a run needs beside the images that are loaded: see `memory`."""
        found = self._plan.request(self.inputs).estimate()
        return found.peak - found.images

    def _relieved(self, coarsen: bool) -> bool:
        """After memory ran out: a coarser working grid where that can help, then the processor.

        Returns:
            Whether another attempt is worth it.
        """
        if coarsen and self._plan.coarser(self.inputs):
            return True
        if self.device == _PROCESSOR:
            return False
        self.device, self.prepared = _PROCESSOR, None
        self._plan = MemoryPlan(self.options)
        self._plan.fit(self.inputs)
        self._plan.told.insert(0, _MOVED)
        return True

    def _prepared(self) -> Prepared:
        fixed = normalised(self.inputs.fixed, self.inputs.fixed_mask)
        moving = normalised(self.inputs.moving, self.inputs.moving_mask)
        box = foreground_box(fixed)
        return Prepared(crop(fixed, box).to(self.device), moving.to(self.device), box)

    def _pair(self, inputs: Inputs) -> LinearPair:
        """The prepared images with these prompts, on the device."""
        assert self.prepared is not None
        prepared, box = self.prepared, self.prepared.box
        labels: list[Volume | None] = [None, None]
        if inputs.fixed_labels is not None and inputs.moving_labels is not None:
            labels = [
                Volume(one_hot(v.data[None], inputs.label_values)[0].to(self.device), v.frame)
                for v in (crop(inputs.fixed_labels, box), inputs.moving_labels)
            ]
        mask = None if inputs.fixed_mask is None else crop(inputs.fixed_mask, box).to(self.device)
        moving_mask = None if inputs.moving_mask is None else inputs.moving_mask.to(self.device)
        landmarks = None if inputs.landmarks is None else inputs.landmarks[:2]
        prompts = Prompts(mask, moving_mask, *labels, landmarks)
        names = () if inputs.landmarks is None else inputs.landmarks[2]
        return LinearPair(prepared.fixed, prepared.moving, prompts, inputs.fixed.frame, names)

    def _linear(self, pair: LinearPair, report: Reporter) -> LinearResult:
        """The linear stage's map; what is linear of a deformable initial transform, where there is one."""
        start = self.inputs.initial
        if start is not None and not isinstance(start, LinearTransform):
            # at the border of the image: there a map of this engine is its linear stage's, and no more
            box = self.inputs.fixed.frame.resized((_START_POINTS,) * self.dimension)
            points = box.points()[box.grid().abs().amax(-1) > 1 - 1.5 / _START_POINTS]
            return LinearResult(best_affine(points, start.map(points)))
        # its arrays are small: threads would gain little, and lose much on a busy machine
        with resources.threads(1):
            return linear_stage(pair, self.options.linear_stage, start, report)

    def _deformed(
        self, pair: LinearPair, linear: LinearResult, report: Reporter
    ) -> tuple[_Standing, list[ScaleReport]]:
        """The deformable stage: the method's prediction, the representation's start, the solver."""
        kind = representation(self.options.representation)
        name = self.options.similarity
        if name == "auto":
            name = "lncc" if self._correlation(pair, linear.transform) >= _SAME_CONTRAST else "mind-nmi"
        weights = self._weights()
        prediction = method_by_name(self.options.method).predict(
            MethodInput(
                pair.fixed,
                pair.moving,
                linear.transform,
                similarity_for(name, self._plan.preset),
                self._plan.preset,
                weights,
                report.part(0.12, 0.2),
            )
        )
        model = kind.seeded(finest_frame(self._plan.preset, pair.fixed.frame), self.device, self.options.seed)
        linear_kind = issubclass(kind, LinearRepresentation)
        before = LinearTransform.identity(self.dimension) if linear_kind else linear.transform
        start, started = prediction.start, False
        if linear_kind:
            model.fit(linear.transform)  # refined already, both images treated alike
        elif self.inputs.initial is not None and not isinstance(self.inputs.initial, LinearTransform):
            model.fit(before.inverse().compose(self.inputs.initial))
        elif start is not None:
            model.fit(start)
            # landmarks and labels, which it knows nothing of, may yet have far to pull
            started = pair.prompts.landmarks is None and pair.prompts.fixed_labels is None
        used = None if weights is None else weights.sha256
        standing = _Standing(self.inputs, pair, linear, before, prediction, name, model, used)
        settings = self._settings(standing, started)
        if self._finished_linear(kind, linear):
            settings = replace(settings, scales=())
        model, reports = solve(self._objective(standing), model, settings, report.part(0.2, 0.9))
        return replace(standing, model=model), reports

    def _finished_linear(self, kind: type[Representation], linear: LinearResult) -> bool:
        """Whether the linear stage's map is the result: nobody asked for another measure, or none tells."""
        chosen = self.options.similarity != "auto"
        return issubclass(kind, LinearRepresentation) and not (chosen and linear.informative)

    def _weights(self) -> Any:
        """The weights asked for, or those that come with the method, or None."""
        from .weights import load_weights, shipped_weights  # only a method that learns needs them

        path = self.options.weights or shipped_weights(self.options.method, self.dimension)
        return None if path is None else load_weights(Path(path), self.options.method, self.dimension)

    def _settings(self, standing: _Standing, started: bool = False) -> Settings:
        return settings_for(self._plan.preset, self.options.representation, standing.similarity, started)

    def _objective(self, standing: _Standing) -> PairObjective:
        return PairObjective(standing.prediction.channels, standing.before, standing.pair.prompts)

    def _correlation(self, pair: LinearPair, linear: LinearTransform) -> float:
        """Correlation after the linear stage, inside both subjects: background agrees in any contrast."""
        frame = scale_frame(pair.fixed.frame, max(1.0, _CONTRAST_MM / min(pair.fixed.frame.spacing)), 8)
        fixed = downsample(pair.fixed.data[None], frame.size)[0, 0]
        moving = warped_volume(pair.moving, linear.field(frame, self.device), frame).data[0]
        return correlation(fixed, moving, (fixed > _SUBJECT) & (moving > _SUBJECT))

    def _finished(
        self, standing: _Standing, reports: list[ScaleReport], report: Reporter, clock: Clock
    ) -> Registration:
        """The result of a standing, which becomes the session's."""
        report("Inverting and resampling", 0.9)
        inputs, model = standing.inputs, standing.model
        forward: Transform
        if isinstance(model, LinearRepresentation):
            forward = model.linear()
        else:
            forward = standing.before.compose(FieldTransform(model.field(model.frame)))
        inverse = forward.inverse()
        fields, warped = self._written(inputs, forward, inverse)
        clock.lap("outputs")
        report("Measuring", 0.96)
        quality = quality_of(inputs, forward, fields, warped, self._before)
        clock.lap("quality")
        quality |= {
            "seconds": clock.seconds(),
            **environment(self.device),
            "parameters": {
                **vars(self.options),
                "similarity_used": standing.similarity,
                "weights_used": standing.weights,
            },
            "scales": [_scale(r) for r in reports],
            "memory": self._plan.numbers,
            "warnings": [
                *inputs.warnings,
                *self._plan.told,
                *standing.linear.warnings,
                *standing.prediction.warnings,
            ],
        }
        report("Done", 1.0)
        features = standing.prediction.features if self.options.features else None
        self.inputs, self._standing = inputs, standing
        return Registration(forward, inverse, *fields, warped, quality, features)

    def _written(
        self, inputs: Inputs, forward: Transform, inverse: Transform
    ) -> tuple[tuple[Field, Field], Volume]:
        """Both maps on the output frames, and the warped image on the fixed lattice."""
        frames = [inputs.fixed.frame, inputs.moving.frame]
        if not isinstance(forward, LinearTransform):  # which is written as a matrix, exact everywhere
            frames = [self._output_frame(f) for f in frames]
        fields = forward.field(frames[0], self.device), inverse.field(frames[1], self.device)
        return fields, warped_volume(inputs.moving, fields[0], inputs.fixed.frame)

    def _output_frame(self, frame: Frame) -> Frame:
        return frame if self._plan.output_spacing is None else frame.with_spacing(self._plan.output_spacing)


def _scale(report: ScaleReport) -> dict[str, Any]:
    return {
        "size": list(report.frame.size),
        "iterations": len(report.energies),
        "converged": report.converged,
        "objective": [report.energies[0], report.energies[-1]] if report.energies else [],
    }
