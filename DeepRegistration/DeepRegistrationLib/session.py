"""One pair, from prepared images to maps, kept warm so that new prompts go on from where it stands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import resources
from .catalogue import METHODS
from .clock import Clock
from .deformation import Deformation
from .errors import ResourceError
from .field import Field
from .frame import Frame, Volume
from .half_way import HalfWay, Halves, half_displacement, half_way_frame
from .inputs import KEEP, ImagePair, Inputs, Keep, LandmarkPairs, with_prompts
from .linear_stage import LinearPair, LinearResult, linear_stage
from .memory import too_large_sentence
from .memory_plan import MemoryPlan
from .methods import MethodInput, Prediction, method_by_name
from .methods.base import image_on
from .metrics import correlation
from .objective import PairObjective, Prompts
from .objectives import one_hot
from .options import Options
from .prepare import Box, crop, cropped_frame, foreground_box, matched_pair, normalised
from .presets import finest_frame, settings_for, similarity_for
from .progress import Reporter
from .quality import Untouched, environment, quality_of
from .refinement import refine
from .registration import Registration, warped_volume
from .solver import ScaleReport, Settings, scale_frame, solve
from .transforms import FieldTransform, LinearTransform, Representation, Transform, representation
from .transforms.linear import LinearRepresentation
from .transforms.linear_fit import best_affine
from .verdict import ALIKE_NCC, summed_up
from .weights import load_weights, none_found, shipped_weights
from .written_map import WrittenMap

_CONTRAST_MM = 4.0
"""Voxel size at which contrasts are compared: fine enough to keep tissues apart, if the image is."""

_SUBJECT = 0.1
"""Normalised intensity that is surely not background."""

_SEEN = 0.99
"""Share of a mask from which on a place is compared."""

_SAME_CONTRAST = 0.4
"""Correlation after the linear stage above which the images are taken to have one contrast."""

_START_POINTS = 12
"""Points per axis at which a deformable start is told from its linear part."""

_ONLY_MEASURED = (
    "The preset prediction gives what the network proposes, without optimisation: landmarks and labels help "
    "the linear stage and measure the result, but do not pull. Choose another preset if they are to."
)
_PROCESSOR = torch.device("cpu")
_MOVED = "The graphics card's memory did not suffice, so the computation went on on the processor."


@dataclass(frozen=True)
class Prepared:
    """Normalised images on the device, and the boxes (x, y, z) that hold their subjects."""

    fixed: Volume
    moving: Volume
    boxes: tuple[Box, Box]


@dataclass(frozen=True)
class _Standing:
    """What a registration leaves behind for the next refinement.

    Attributes:
        inputs: the images with the prompts that were used.
        pair: the prepared images with the prompts on the device.
        linear: the linear stage's map and whether it was informed.
        halves: the linear ways from the working frame to the images; one-sided, to_fixed is the identity.
        prediction: the method's.
        similarity: name of the measure used.
        model: the representation as it was optimised, or the pair of them.
        weights: SHA-256 of the trained weights that were used, or None.
    """

    inputs: Inputs
    pair: LinearPair
    linear: LinearResult
    halves: Halves
    prediction: Prediction
    similarity: str
    model: Representation | HalfWay
    weights: str | None

    @property
    def representation(self) -> Representation:
        return self.model.model if isinstance(self.model, HalfWay) else self.model

    @property
    def linear_kind(self) -> bool:
        return isinstance(self.representation, LinearRepresentation)

    @property
    def maps(self) -> LinearTransform | Deformation:
        """Fixed to moving points: a matrix, or the parts of a deformation."""
        to_moving, to_fixed = self.halves.to_moving, self.halves.to_fixed
        towards_fixed: Transform | None = None
        if isinstance(self.model, HalfWay):
            towards_moving, towards_fixed = self.model.maps()
        elif isinstance(self.model, LinearRepresentation):
            towards_moving = self.model.linear()
        else:
            towards_moving = FieldTransform(self.model.field(self.model.frame))
        if isinstance(towards_moving, LinearTransform):
            inner: Transform = to_fixed.inverse()
            inner = inner if towards_fixed is None else towards_fixed.inverse().compose(inner)
            whole = to_moving.compose(towards_moving.compose(inner))
            assert isinstance(whole, LinearTransform)
            return whole
        assert isinstance(towards_moving, FieldTransform)
        partner = towards_fixed.stored if isinstance(towards_fixed, FieldTransform) else None
        return Deformation(to_moving, to_fixed, towards_moving.stored, partner)


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
        self.prepared = self.prepared or self._prepared(self.inputs)
        pair = self._pair(self.inputs, self.prepared)
        clock.lap("prepare")
        linear = self.aligned = self.aligned or self._linear(pair, report.part(0.02, 0.12))
        pair = self._matched(pair, self.inputs, linear.transform)
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

        `KEEP` leaves a kind of prompt as it is, None takes it away; under a new mask intensities are
        normalised, and features computed, anew. A registration that was never run is run whole.

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
            standing = self._prompted(last, inputs, report.part(0.02, 0.1))
            clock.lap("prepare")
            part = report.part(0.1, 0.7)
            if last.linear_kind:
                standing, reports = self._linearly_refined(standing, part), []
            else:
                model, reports = refine(self._objective(standing), last.model, self._settings(standing), part)
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

    def _linearly_refined(self, standing: _Standing, report: Reporter) -> _Standing:
        """A linear map, gone on with from where it stands by the linear stage."""
        last, pair = standing.maps, standing.pair
        assert isinstance(last, LinearTransform)
        with resources.threads(1):
            linear = linear_stage(pair, self.options.linear_stage, last, report)
        if not linear.informative and pair.prompts.landmarks is not None:
            fitted = representation(self.options.representation)(pair.fixed.frame)
            assert isinstance(fitted, LinearRepresentation)
            fitted.fit_points(*pair.prompts.landmarks, pair.prompts.landmark_weights)
            linear = replace(linear, transform=fitted.linear())
        halves, _, model = self._model(linear.transform)
        return replace(standing, linear=linear, halves=halves, model=model)

    def _prompted(self, last: _Standing, inputs: Inputs, report: Reporter) -> _Standing:
        """A standing with other prompts; with other masks also with what is then seen of the images."""
        assert self.prepared is not None
        if _same_masks(last.inputs, inputs):
            pair = self._pair(inputs, self.prepared)
            pair = replace(pair, fixed=last.pair.fixed, moving=last.pair.moving)
            return replace(last, inputs=inputs, pair=pair)
        prepared = replace(self._prepared(inputs), boxes=self.prepared.boxes)
        pair = self._matched(self._pair(inputs, prepared), inputs, last.linear.transform)
        frame = self._model(last.linear.transform)[1]
        prediction = self._predicted(pair, last.halves, frame, last.similarity, self._weights(), report)
        return replace(last, inputs=inputs, pair=pair, prediction=prediction)

    def _prepared(self, inputs: Inputs) -> Prepared:
        fixed = normalised(inputs.fixed, inputs.fixed_mask)
        moving = normalised(inputs.moving, inputs.moving_mask)
        boxes = foreground_box(fixed), foreground_box(moving)
        return Prepared(fixed.to(self.device), moving.to(self.device), boxes)

    def _matched(self, pair: LinearPair, inputs: Inputs, linear: LinearTransform) -> LinearPair:
        """The pair normalised where both masks leave it, now that the linear stage says where that is: what
        only one mask leaves out would give the images different scales."""
        masks = inputs.fixed_mask, inputs.moving_mask
        matched = (
            None if masks == (None, None) else matched_pair((inputs.fixed, inputs.moving), masks, linear)
        )
        if matched is None:
            return pair
        fixed, moving = matched
        return replace(pair, fixed=fixed.to(self.device), moving=moving.to(self.device))

    def _pair(self, inputs: Inputs, prepared: Prepared) -> LinearPair:
        """The prepared images with these prompts, on the device."""
        labels: list[Volume | None] = [None, None]
        if inputs.fixed_labels is not None and inputs.moving_labels is not None:
            for k, volume in enumerate((inputs.fixed_labels, inputs.moving_labels)):
                part = crop(volume, prepared.boxes[k])
                values = one_hot(part.data[None], inputs.label_values)[0]
                labels[k] = Volume(values.to(self.device), part.frame)
        mask = None if inputs.fixed_mask is None else inputs.fixed_mask.to(self.device)
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

    def _model(self, linear: LinearTransform) -> tuple[Halves, Frame, Representation | HalfWay]:
        """The linear ways, the working frame, and the identity on it, as fine as the preset works."""
        assert self.prepared is not None
        kind, prepared = representation(self.options.representation), self.prepared
        if not self.options.half_way:
            frame = cropped_frame(prepared.fixed.frame, prepared.boxes[0])
            model = kind.seeded(finest_frame(self._plan.preset, frame), self.device, self.options.seed)
            return Halves(LinearTransform.identity(self.dimension), linear), frame, model
        frames = prepared.fixed.frame, prepared.moving.frame
        halves = Halves.of(linear, *frames)
        subjects = [cropped_frame(f, box) for f, box in zip(frames, prepared.boxes, strict=True)]
        frame = half_way_frame(halves, frames, (subjects[0], subjects[1]))
        model = kind.half_way(finest_frame(self._plan.preset, frame), self.device, self.options.seed)
        return halves, frame, HalfWay(model)

    def _deformed(
        self, pair: LinearPair, linear: LinearResult, report: Reporter
    ) -> tuple[_Standing, list[ScaleReport]]:
        """The deformable stage: the method's prediction, the representation's start, the solver."""
        halves, frame, model = self._model(linear.transform)
        name = self.options.similarity
        if name == "auto":
            alike = self._correlation(pair, halves, frame) >= _SAME_CONTRAST
            name = "lncc" if alike else "mind-nmi"
        weights = self._weights()
        prediction = self._predicted(pair, halves, frame, name, weights, report.part(0.12, 0.2))
        used = None if weights is None else weights.sha256
        standing = _Standing(self.inputs, pair, linear, halves, prediction, name, model, used)
        method = METHODS[self.options.method]
        if weights is None and method.learns and not standing.linear_kind:
            missing = none_found(method.title, self.dimension, bool(prediction.warnings))
            prediction = replace(prediction, warnings=(*prediction.warnings, *missing))
            standing = replace(standing, prediction=prediction)
        started = self._started(standing)
        settings = self._settings(standing, started)
        # the linear stage has refined a linear map already, by mutual information
        chosen = self.options.similarity != "auto" and linear.informative
        if not self._plan.preset.refines or (standing.linear_kind and not chosen):
            return standing, []
        model, reports = solve(self._objective(standing), model, settings, report.part(0.2, 0.9))
        return replace(standing, model=model), reports

    def _predicted(
        self, pair: LinearPair, halves: Halves, frame: Frame, similarity: str, weights: Any, report: Reporter
    ) -> Prediction:
        """What the method proposes for the images, to be compared by the measure of that name."""
        preset = self._plan.preset
        return method_by_name(self.options.method).predict(
            MethodInput(
                pair.fixed,
                pair.moving,
                halves.to_moving,
                similarity_for(similarity, preset),
                preset,
                weights,
                report,
                frame,
                halves.to_fixed,
                self.options.half_way,
            )
        )

    def _started(self, standing: _Standing) -> bool:
        """Move the representation to the initial transform or the prediction, if there is one.

        Returns:
            Whether the solver begins from a deformation that all it looks at agrees with.
        """
        initial, halves, prompts = self.inputs.initial, standing.halves, standing.pair.prompts
        if initial is not None and not isinstance(initial, LinearTransform) and not standing.linear_kind:
            frame = standing.model.frame
            inner = halves.to_moving.inverse().compose(initial.compose(halves.to_fixed))
            field = inner.field(frame, self.device)
            if isinstance(standing.model, HalfWay):
                zero = torch.zeros_like(field.displacement)
                field = Field(half_displacement(field.displacement, zero, frame), frame)
            standing.model.fit(FieldTransform(field))
            return False
        if standing.prediction.start is None or standing.linear_kind:
            return False
        standing.model.fit(standing.prediction.start)
        # landmarks and labels, which it knows nothing of, may yet have far to pull
        return prompts.landmarks is None and prompts.fixed_labels is None

    def _weights(self) -> Any:
        """The weights asked for, or those that come with the method, or None."""
        path = self.options.weights or shipped_weights(self.options.method, self.dimension)
        return None if path is None else load_weights(Path(path), self.options.method, self.dimension)

    def _settings(self, standing: _Standing, started: bool = False) -> Settings:
        options = self.options
        settings = settings_for(self._plan.preset, options.representation, standing.similarity, started)
        return replace(
            settings,
            warp_sigma=settings.warp_sigma * options.stiffness,
            gradient_sigma=settings.gradient_sigma * options.stiffness,
        )

    def _objective(self, standing: _Standing) -> PairObjective:
        options, halves = self.options, standing.halves
        usual = PairObjective(standing.prediction.channels, halves.to_moving, to_fixed=halves.to_fixed)
        return replace(
            usual,
            prompts=standing.pair.prompts,
            regularity=options.regularity,
            landmark_pull=usual.landmark_pull * options.landmark_weight,
            label_pull=usual.label_pull * options.label_weight,
        )

    def _correlation(self, pair: LinearPair, halves: Halves, frame: Frame) -> float:
        """Correlation after the linear stage, inside both subjects (background agrees in any contrast) and
        their masks."""
        frame = scale_frame(frame, max(1.0, _CONTRAST_MM / min(frame.spacing)), 8)
        sides = (
            (pair.fixed, pair.prompts.fixed_mask, halves.to_fixed),
            (pair.moving, pair.prompts.moving_mask, halves.to_moving),
        )
        fixed, moving = (image_on(image, linear, frame)[0, 0] for image, _, linear in sides)
        inside = (fixed > _SUBJECT) & (moving > _SUBJECT)
        for _, mask, linear in sides:
            if mask is not None:
                inside &= image_on(mask, linear, frame)[0, 0] > _SEEN
        return correlation(fixed, moving, inside)

    def _finished(
        self, standing: _Standing, reports: list[ScaleReport], report: Reporter, clock: Clock
    ) -> Registration:
        """The result of a standing, which becomes the session's."""
        report("Inverting and resampling", 0.9)
        inputs, maps = standing.inputs, standing.maps
        frames = inputs.fixed.frame, inputs.moving.frame
        forward: Transform
        if isinstance(maps, LinearTransform):  # which is written as a matrix, exact everywhere
            forward, inverse = maps, maps.inverse()
            linear = forward
            fields = forward.field(frames[0], self.device), inverse.field(frames[1], self.device)
        else:
            outputs = self._output_frame(frames[0]), self._output_frame(frames[1])
            repair = standing.representation.diffeomorphic and self._plan.preset.refines
            maps, fields = maps.written(outputs, repair, self.device)
            forward, inverse = maps.forward, maps.inverse
            linear = LinearTransform(maps.to_moving.matrix @ maps.to_fixed.inverse().matrix)
        written = WrittenMap(fields[0], linear), WrittenMap(fields[1], linear.inverse())
        warped = warped_volume(inputs.moving, written[0], inputs.fixed.frame)
        clock.lap("outputs")
        report("Measuring", 0.96)
        quality = quality_of(inputs, written, warped, self._before)
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
                *self._unused(standing),
                *([] if _idle(standing, quality) else standing.prediction.warnings),
            ],
        }
        quality["verdict"] = summed_up(quality)
        report("Done", 1.0)
        features = standing.prediction.features if self.options.features else None
        self.inputs, self._standing = inputs, standing
        return Registration(forward, inverse, *fields, warped, quality, features, linear)

    def _unused(self, standing: _Standing) -> list[str]:
        """That prompts do not pull where nothing is optimised."""
        prompts = standing.pair.prompts
        if self._plan.preset.refines or (prompts.landmarks is None and prompts.fixed_labels is None):
            return []
        return [_ONLY_MEASURED]

    def _output_frame(self, frame: Frame) -> Frame:
        return frame if self._plan.output_spacing is None else frame.with_spacing(self._plan.output_spacing)


def _same_masks(one: Inputs, other: Inputs) -> bool:
    pairs = (one.fixed_mask, other.fixed_mask), (one.moving_mask, other.moving_mask)
    return all(a is b if a is None or b is None else torch.equal(a.data.to(b.data), b.data) for a, b in pairs)


def _idle(standing: _Standing, quality: dict[str, Any]) -> bool:
    """Whether weights that did not help had nothing to do: the images were alike from the start."""
    return standing.weights is not None and quality["similarity"]["before"]["ncc"] > ALIKE_NCC


def _scale(report: ScaleReport) -> dict[str, Any]:
    return {
        "size": list(report.frame.size),
        "iterations": len(report.energies),
        "converged": report.converged,
        "objective": [report.energies[0], report.energies[-1]] if report.energies else [],
    }
