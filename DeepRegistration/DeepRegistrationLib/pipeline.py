"""The way of the data: prepare, linear stage, prediction, refinement, result."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .errors import InputError, NotAvailableError, RegistrationError, ResourceError
from .field import Field
from .filters import downsample
from .frame import Frame, Volume
from .inputs import ImageSource, Inputs, TransformSource, check_overlap, load_inputs
from .landmarks import LandmarkSource
from .linear_stage import STAGES, LinearPair, linear_stage
from .methods import MethodInput, method_by_name
from .metrics import correlation
from .objective import PairObjective, Prompts
from .objectives import one_hot
from .prepare import crop, foreground_box, normalised, resampled
from .presets import SIMILARITY_NAMES, Preset, finest_frame, preset_by_name, settings_for, similarity_for
from .progress import CancelToken, ProgressCallback, Reporter
from .quality import environment, quality_of
from .registration import Registration, warped_volume
from .solver import scale_frame, solve
from .transforms import FieldTransform, LinearTransform, Transform, representation
from .transforms.linear import LinearRepresentation

_CONTRAST_MM = 4.0
"""Voxel size at which contrasts are compared: fine enough to keep tissues apart, if the image is."""

_SUBJECT = 0.1
"""Normalised intensity that is surely not background."""

_SAME_CONTRAST = 0.4
"""Correlation after the linear stage above which the images are taken to have one contrast."""

_BYTES_PER_WORKING_VOXEL = 190
_BYTES_PER_OUTPUT_VOXEL = 70


def register(
    fixed: ImageSource,
    moving: ImageSource,
    *,
    method: str = "dio",
    representation: str = "diffeomorphic",
    similarity: str = "auto",
    preset: str = "balanced",
    linear: str = "affine",
    fixed_landmarks: LandmarkSource | None = None,
    moving_landmarks: LandmarkSource | None = None,
    fixed_labels: ImageSource | None = None,
    moving_labels: ImageSource | None = None,
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
    held_out_landmarks: tuple[LandmarkSource, LandmarkSource] | None = None,
    initial: TransformSource | None = None,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    output_spacing: float | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Registration:
    """Align a moving image with a fixed one.

    Args:
        fixed, moving: path, SimpleITK image or `Volume`; 2-D or 3-D, one component, any lattices.
        method: a name from `methods.METHODS`.
        representation: a name from `transforms.REPRESENTATIONS`.
        similarity: ``auto`` (local correlation for one contrast, MIND for two), or a name from
            `objectives.SIMILARITIES`.
        preset: ``fast``, ``balanced`` or ``accurate``.
        linear: ``none``, ``rigid`` or ``affine``: what is aligned before the deformation.
        fixed_landmarks, moving_landmarks: pairs; files, or points (N, d) in LPS mm.
        fixed_labels, moving_labels: label images; labels that both have are brought to overlap.
        fixed_mask, moving_mask: where the images count.
        held_out_landmarks: fixed and moving landmarks that only measure.
        initial: fixed to moving map to start from.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: processor threads during this call; None leaves torch's setting.
        seed: for representations that start from random numbers.
        output_spacing: of the fields in mm; None is the images' own.
        progress: told where the run is.
        cancel: looked at once per iteration.

    Returns:
        Maps between fixed and moving points in LPS mm, the warped image, and its quality.

    Raises:
        InputError, NotAvailableError, ResourceError: with a sentence for the user.
        Cancelled: the token was set.
    """
    options = Options(method, representation, similarity, preset, linear, seed, output_spacing)
    options.check()
    with _threads(threads), torch.random.fork_rng(devices=[]), torch.enable_grad():
        clock = _Clock()
        report = Reporter(progress, cancel)
        report("Reading images", 0.0)
        inputs = load_inputs(
            fixed,
            moving,
            fixed_landmarks,
            moving_landmarks,
            fixed_labels,
            moving_labels,
            fixed_mask,
            moving_mask,
            initial,
            held_out_landmarks,
        )
        check_overlap(inputs, linear)
        run = _Run(inputs, options, _device(device), report, clock)
        try:
            return run.result()
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RegistrationError) or not _is_out_of_memory(error):
                raise
            raise ResourceError(_too_large(run.estimate())) from error


@dataclass(frozen=True)
class Options:
    """What the user chose, by name."""

    method: str
    representation: str
    similarity: str
    preset: str
    linear: str
    seed: int
    output_spacing: float | None

    def check(self) -> None:
        """Raise InputError for anything there is not."""
        method_by_name(self.method)
        representation(self.representation)
        preset_by_name(self.preset)
        if self.similarity not in SIMILARITY_NAMES:
            raise InputError(
                f"There is no similarity '{self.similarity}'; choose {', '.join(SIMILARITY_NAMES)}."
            )
        if self.linear not in STAGES:
            raise InputError(f"There is no linear stage '{self.linear}'; choose {', '.join(STAGES)}.")
        if self.output_spacing is not None and not 0 < self.output_spacing < 1000:
            raise InputError("The output spacing must be a positive number of millimetres.")


class _Run:
    """One registration, stage by stage; each stage hands one value to the next."""

    def __init__(
        self, inputs: Inputs, options: Options, device: torch.device, report: Reporter, clock: _Clock
    ) -> None:
        self.inputs, self.options, self.device = inputs, options, device
        self.report, self.clock = report, clock
        self.preset: Preset = preset_by_name(options.preset)
        self.dimension = inputs.fixed.frame.dimension
        self.informative = True

    def result(self) -> Registration:
        available = _available_memory()
        if available is not None and self.estimate() > available:
            raise ResourceError(_too_large(self.estimate(), available))
        self.clock.lap("read")
        fixed, moving, prompts = self.prepared()
        self.clock.lap("prepare")
        pair = LinearPair(fixed, moving, prompts, self.inputs.fixed.frame)
        linear = self.linear(pair)
        self.clock.lap("linear")
        forward, similarity, scales = self.deformed(pair, linear)
        self.clock.lap("deform")
        self.report("Inverting and resampling", 0.9)
        result = self.written(forward)
        self.clock.lap("outputs")
        self.report("Measuring", 0.96)
        quality = quality_of(self.inputs, *result)
        self.clock.lap("quality")
        quality |= {
            "seconds": self.clock.seconds(),
            **environment(self.device),
            "parameters": {**vars(self.options), "similarity_used": similarity},
            "scales": scales,
            "warnings": self.inputs.warnings,
        }
        self.report("Done", 1.0)
        forward, (forward_field, inverse_field), warped, _ = result
        return Registration(forward, self.inverse, forward_field, inverse_field, warped, quality)

    def prepared(self) -> tuple[Volume, Volume, Prompts]:
        """Normalised images (the fixed one cropped to its subject) and prompts, on the device."""
        inputs = self.inputs
        fixed = normalised(inputs.fixed, inputs.fixed_mask)
        moving = normalised(inputs.moving, inputs.moving_mask).to(self.device)
        box = foreground_box(fixed)
        working = crop(fixed, box).to(self.device)
        labels: list[Volume | None] = [None, None]
        if inputs.fixed_labels is not None and inputs.moving_labels is not None:
            cropped = crop(inputs.fixed_labels, box)
            labels = [
                Volume(one_hot(v.data[None], inputs.label_values)[0].to(self.device), v.frame)
                for v in (cropped, inputs.moving_labels)
            ]
        mask = None if inputs.fixed_mask is None else crop(inputs.fixed_mask, box).to(self.device)
        moving_mask = None if inputs.moving_mask is None else inputs.moving_mask.to(self.device)
        landmarks = None if inputs.landmarks is None else inputs.landmarks[:2]
        return working, moving, Prompts(mask, moving_mask, *labels, landmarks)

    def linear(self, pair: LinearPair) -> LinearTransform:
        """The linear stage's map; the identity under a deformable initial transform."""
        start, stage = self.inputs.initial, self.options.linear
        if self.options.representation in ("rigid", "affine"):
            stage = self.options.representation
        if start is not None and not isinstance(start, LinearTransform):
            return LinearTransform.identity(self.dimension)
        # its arrays are small: threads would gain little, and lose much on a busy machine
        with _threads(1):
            result = linear_stage(pair, stage, start, self.report.part(0.02, 0.12))
        self.informative = result.informative
        if not result.informative:
            self.inputs.warnings.append(
                "The intensities of the two images say little about each other, so the linear stage kept to "
                "landmarks, labels or centres. Check the result, or add landmarks."
            )
        return result.transform

    def deformed(
        self, pair: LinearPair, linear: LinearTransform
    ) -> tuple[Transform, str, list[dict[str, Any]]]:
        """The forward map, the similarity used, and what happened at each scale."""
        kind = representation(self.options.representation)
        name = self.options.similarity
        if name == "auto":
            name = "lncc" if self.correlation(pair, linear) >= _SAME_CONTRAST else "mind"
        settings = settings_for(self.preset, kind.name, name)
        prediction = method_by_name(self.options.method).predict(
            MethodInput(
                pair.fixed,
                pair.moving,
                linear,
                similarity_for(name, self.preset),
                self.preset,
                report=self.report.part(0.12, 0.12),
            )
        )
        self.inputs.warnings.extend(prediction.warnings)
        frame = finest_frame(self.preset, pair.fixed.frame)
        model = kind.seeded(frame, self.device, self.options.seed)
        linear_kind = issubclass(kind, LinearRepresentation)
        before = LinearTransform.identity(self.dimension) if linear_kind else linear
        if linear_kind:
            model.fit(linear)
        elif self.inputs.initial is not None and not isinstance(self.inputs.initial, LinearTransform):
            model.fit(self.inputs.initial)
        elif prediction.start is not None:
            model.fit(prediction.start)
        if linear_kind and not self.informative:
            settings = replace(settings, scales=())
        objective = PairObjective(prediction.channels, before, pair.prompts)
        model, reports = solve(objective, model, settings, self.report.part(0.12, 0.9))
        scales = [
            {
                "size": list(r.frame.size),
                "iterations": len(r.energies),
                "converged": r.converged,
                "objective": [r.energies[0], r.energies[-1]] if r.energies else [],
            }
            for r in reports
        ]
        if isinstance(model, LinearRepresentation):
            return model.linear(), name, scales
        return before.compose(FieldTransform(model.field(model.frame))), name, scales

    def correlation(self, pair: LinearPair, linear: LinearTransform) -> float:
        """Correlation after the linear stage, inside both subjects: background agrees in any contrast."""
        frame = scale_frame(pair.fixed.frame, max(1.0, _CONTRAST_MM / min(pair.fixed.frame.spacing)), 8)
        fixed = downsample(pair.fixed.data[None], frame.size)[0, 0]
        moving = warped_volume(pair.moving, linear.field(frame, self.device), frame).data[0]
        return correlation(fixed, moving, (fixed > _SUBJECT) & (moving > _SUBJECT))

    def written(self, forward: Transform) -> tuple[Transform, tuple[Field, Field], Volume, Volume]:
        """The maps on the output frames, the warped image, and the untouched one, on the fixed lattice."""
        fixed, moving = self.inputs.fixed.frame, self.inputs.moving.frame
        linear = isinstance(forward, LinearTransform)  # is written as a matrix, exact everywhere
        frames = [f if linear else self.output_frame(f) for f in (fixed, moving)]
        forward_field = forward.field(frames[0], self.device)
        self.inverse = forward.inverse()
        inverse_field = self.inverse.field(frames[1], self.device)
        warped = warped_volume(self.inputs.moving, forward_field, fixed)
        return forward, (forward_field, inverse_field), warped, resampled(self.inputs.moving, fixed)

    def output_frame(self, frame: Frame) -> Frame:
        spacing = self.options.output_spacing
        return frame if spacing is None else frame.with_spacing(spacing)

    def estimate(self) -> int:
        """Bytes the run needs, roughly: images, working buffers, output fields."""
        fixed, moving = self.inputs.fixed.frame, self.inputs.moving.frame
        working = min(fixed.voxels, self.preset.finest_voxels)
        outputs = max(self.output_frame(fixed).voxels, self.output_frame(moving).voxels)
        images = 12 * (fixed.voxels + moving.voxels)
        return images + max(working * _BYTES_PER_WORKING_VOXEL, outputs * _BYTES_PER_OUTPUT_VOXEL)


@dataclass
class _Clock:
    """Wall seconds per stage."""

    last: float = field(default_factory=time.perf_counter)
    laps: dict[str, float] = field(default_factory=dict)

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def seconds(self) -> dict[str, float]:
        laps = {name: round(value, 3) for name, value in self.laps.items()}
        return {**laps, "total": round(sum(self.laps.values()), 3)}


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        if count < 1:
            raise InputError("The number of threads must be at least one.")
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"There is no device '{name}'; choose auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise NotAvailableError("There is no usable CUDA device on this machine; choose the device cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _available_memory() -> int | None:
    """Bytes of memory that can be had without swapping, where the system tells."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _too_large(needed: int, available: int | None = None) -> str:
    there = "" if available is None else f", but only {available / 1e9:.1f} GB are free"
    return (
        f"These images need about {needed / 1e9:.1f} GB of memory{there}. "
        "Use a larger output spacing, a coarser preset or smaller images."
    )
