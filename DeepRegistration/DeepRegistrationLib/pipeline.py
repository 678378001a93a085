"""`register`: from what a user has to a registration, in one call."""

from __future__ import annotations

from pathlib import Path

from . import resources
from .clock import Clock
from .geometry_checks import check_not_sheared
from .initial import TransformSource
from .inputs import ImageSource, check_pair, load_inputs
from .landmarks import LandmarkSource
from .options import Options
from .progress import CancelToken, ProgressCallback, Reporter
from .registration import Registration
from .session import Session


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
    weights: str | Path | None = None,
    features: bool = False,
    symmetric: str = "on",
    landmark_weight: float = 1.0,
    label_weight: float = 1.0,
    stiffness: float = 1.0,
    regularity: float = 0.0,
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
        fixed_mask, moving_mask: where the images count; what they leave out has no say in the map.
        held_out_landmarks: fixed and moving landmarks that only measure.
        initial: fixed to moving map to start from.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: processor threads during this call; None leaves torch's setting.
        seed: for representations that start from random numbers.
        output_spacing: of the fields in mm; None is the images' own.
        weights: a weights file of the method; None takes those that come with it, where there are any.
        features: also hand back the method's feature images, where it has some.
        symmetric: ``on`` compares the images half-way between them, so that exchanging them exchanges the
            results; ``off`` in the fixed image's space alone.
        landmark_weight, label_weight: how strongly they pull, times the usual.
        stiffness: how smooth the deformation is kept, times the usual.
        regularity: weight of the mean squared gradient of the deformation in the objective, unitless.
        progress: told where the run is.
        cancel: looked at once per iteration.

    Returns:
        Maps between fixed and moving points in LPS mm, the warped image, and its quality.

    Raises:
        InputError, NotAvailableError, ResourceError: with a sentence for the user.
        Cancelled: the token was set.
    """
    options = Options(
        method,
        representation,
        similarity,
        preset,
        linear,
        seed,
        output_spacing,
        None if weights is None else str(weights),
        features,
        symmetric,
        landmark_weight,
        label_weight,
        stiffness,
        regularity,
    )
    options.check()
    clock, report = Clock(), Reporter(progress, cancel)
    with resources.surroundings(threads):
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
        check_not_sheared(inputs.fixed.frame, "fixed")
        check_pair(inputs, linear, output_spacing)
    return Session(inputs, options, device, threads).register(report, clock)
