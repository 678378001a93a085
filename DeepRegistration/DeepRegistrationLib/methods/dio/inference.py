"""A trained network's features of a prepared pair, ready for the solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ...errors import InputError
from ...filters import downsample
from ...frame import Frame, Volume, apply_matrix
from ...interpolation import sample
from ...objective import Channel, Pyramid
from ...objectives import MeanSquaredError
from ...prepare import centred, crop, on_lattice
from ...presets import finest_frame
from ...transforms.linear import LinearTransform
from ...weights import Weights
from ..base import MethodInput, Prediction
from .features import FeatureNetwork, features_of, structures_of

_VOXELS, _ALONE_VOXELS, _START_VOXELS = 1_000_000, 500_000, 60_000
"""Of an image's features, at most about: more detail than that the images themselves have to give. Fewer
where nothing else is compared, since features do better at about the voxels they know, and fewer still where
they only say where the images are to start."""

_TRAINED_VOXELS = 4_000_000
"""Where the network knows structures by their size, it is given voxels of the size it was trained at, unless
they were more than this."""

_LARGER, _MOST = 3.0, 0.7
"""See `recognised`."""

_FINEST = 0.5
"""Features of structures are compared at scales whose voxels are at least this share of theirs: below, the
images say all that features say, and more."""

_PARALLEL = 0.99985
"""Cosine of one degree: up to there lattices count as parallel."""


def learned_features(pair: MethodInput) -> Prediction:
    """Each image's features as one channel, compared by their squared error; no channel where the network
    tells structures apart that the images do not show (see `recognised`).

    Both images are given to the network at one voxel size, the one it was trained at or, where the
    convention names none or a finer one than the preset works with, the preset's finest, but at most a
    million voxels of it, and within one contrast, where features only say where to start, fewer. Of the
    moving image it sees what the fixed box maps onto, since the network's normalisation makes features
    depend on how much background there is. That part keeps its own lattice; only if it is turned by more than
    one degree against the fixed one's axes (after the linear stage) is it read on a lattice parallel to them,
    since convolutions see directions.

    The features of a level are divided by one number, the root of the fixed features' mean variance,
    so that the objective is of the size of the other measures and prompts weigh against it as usual.

    Raises:
        InputError: the weights do not fit.
    """
    assert pair.weights is not None
    network = feature_network(pair.weights, pair.frame.dimension).to(pair.fixed.data.device)
    upright = pair.weights.convention.get("axes") == "lps"
    frame = pair.frame.upright() if upright else pair.frame
    voxel, usual = _voxel(pair), usual_volumes(pair.weights)
    pyramids, volumes = [], []
    with torch.no_grad():
        for k, (image, linear) in enumerate(((pair.fixed, pair.to_fixed_frame), (pair.moving, pair.linear))):
            pair.report(f"Features of the {('fixed', 'moving')[k]} image", k / 2)
            seen = seen_part(image, linear, frame)
            seen = as_trained(seen, voxel, pair.weights) if upright else at_voxel_size(seen, voxel)
            if usual:
                features, found = structures_of(network, seen)
                volumes.append(found)
            else:
                features = features_of(network, seen)
            pyramids.append(features)
        fixed, moving = scaled(*pyramids, pair.symmetric)
    shown = _shown(fixed, network.margin), _shown(moving, network.margin)
    fixed, moving = replace(fixed, frame=pair.fixed.frame), replace(moving, frame=pair.moving.frame)
    finest = _FINEST * voxel if usual else 0.0
    channel = Channel(fixed, moving, MeanSquaredError(), feature_weight(pair) or 1.0, finest)
    fits = not usual or recognised(volumes, usual)
    return Prediction((channel,) if fits else (), features=shown)


def usual_volumes(weights: Weights) -> list[float]:
    """Of the structures that weights tell apart, mm^3; empty for other weights.

    Raises:
        InputError: they do not say which.
    """
    known = weights.convention.get("structures", [])
    try:
        volumes = [float(volume) for _, volume in known]
        count = int(weights.convention["network"].get("structures", 0))
    except (TypeError, ValueError, KeyError, AttributeError):
        volumes, count = [], -1
    if len(volumes) != count:
        raise InputError("The weights do not say how large the structures are that they know.")
    return volumes


def recognised(volumes: Sequence[Sequence[float]], usual: Sequence[float]) -> bool:
    """Whether images show the structures that a network was trained on: most of them in each image, as large
    as they usually are, to a factor.

    Args:
        volumes: of each image, what the network sees of each structure, mm^3.
        usual: volumes of the structures, mm^3.
    """
    return all(
        sum(u / _LARGER <= v <= u * _LARGER for v, u in zip(of_image, usual, strict=True))
        >= _MOST * len(usual)
        for of_image in volumes
    )


def feature_weight(pair: MethodInput) -> float:
    """How much features count beside the images' own similarity of 1; 0: they only say where to start."""
    assert pair.weights is not None
    weight = float(pair.weights.convention.get("feature_weight", 0.0))
    return max(weight, 1.0) if pair.similarity.across_contrasts else weight


def _voxel(pair: MethodInput) -> float:
    """Of the images that the network is given, mm; see `learned_features`."""
    assert pair.weights is not None
    frame, trained = pair.frame, float(pair.weights.convention.get("voxel_mm") or 0)

    def coarsest(voxels: int) -> float:
        return float(np.prod(frame.extent) / voxels) ** (1 / frame.dimension)

    if trained and pair.weights.convention.get("axes"):
        return max(trained, coarsest(_TRAINED_VOXELS))
    alone = _START_VOXELS if pair.preset.refines else _ALONE_VOXELS
    most = _VOXELS if pair.similarity.across_contrasts else alone
    return max(min(finest_frame(pair.preset, frame).spacing), coarsest(most), trained)


def feature_network(weights: Weights, dimension: int) -> nn.Module:
    """The network that weights belong to, with them, for inference.

    Raises:
        InputError: for another method or dimension, or tensors that do not fit the network they name.
    """
    if weights.method != "dio" or weights.dimension != dimension:
        raise InputError(
            f"These are weights of {weights.method} for {weights.dimension}-D images; "
            f"weights of dio for {dimension}-D images are needed."
        )
    described = weights.convention.get("network")
    if not isinstance(described, dict):
        raise InputError("The weights do not say which feature network they belong to.")
    return weights.into(FeatureNetwork.from_mapping(described).build(dimension))


def at_voxel_size(image: Volume, voxel: float) -> Volume:
    """The image's box cut into cubes of about `voxel` mm."""
    frame = image.frame.with_spacing(voxel)
    return Volume(downsample(image.data[None], frame.size)[0], frame)


def as_trained(image: Volume, voxel: float, weights: Weights) -> Volume:
    """The image in the middle of a lattice of such voxels, mm, black around, as large as those of training
    at least: a network's normalisation depends on how much background there is."""
    shape = weights.convention["shape"]
    size = tuple(
        max(int(n), int(np.ceil(e / voxel - 1e-6)))
        for n, e in zip(reversed(shape), image.frame.extent, strict=True)
    )
    return on_lattice(image, centred(image.frame, voxel, size))


def seen_part(image: Volume, linear: LinearTransform, frame: Frame) -> Volume:
    """The part of an image that a frame's box maps onto, on axes parallel to the frame's.

    See `learned_features`; `linear`, from the frame's points to the image's, says where and how turned it is.
    """
    moving = image
    own = np.asarray(moving.frame.direction)
    turned = _rotation(linear) @ np.asarray(frame.direction)
    along = turned.T @ own
    if not (np.abs(along).max(0) > _PARALLEL).all():
        axes, parallel = turned, False
    else:
        # the image's own axes, in whatever order: the network is not given a turned picture
        parallel = bool(np.diag(along).min() > _PARALLEL)
        axes = own if parallel else own @ np.round(along).T
    whole = moving.frame.corners() @ axes
    wanted = linear.map(torch.from_numpy(frame.corners())).numpy() @ axes
    first, last = whole.min(0), whole.max(0)
    low, high = np.maximum(wanted.min(0), first), np.minimum(wanted.max(0), last)
    if (high <= low).any():  # nothing in common; let it see everything
        low, high = first, last
    spacing = np.asarray(moving.frame.spacing)
    if parallel:
        start = np.floor((low - first) / spacing + 1e-6).astype(int)
        stop = np.ceil((high - first) / spacing - 1e-6).astype(int)
        return crop(moving, tuple(zip(start.tolist(), stop.tolist(), strict=True)))
    shares = np.abs(own.T @ axes)  # as fine along each new axis as the image is along it
    spacing = (shares / shares.sum(0)).T @ spacing
    size = np.maximum(1, np.round((high - low) / spacing)).astype(int)
    steps = (high - low) / size
    origin = axes @ (low + steps / 2)
    part = Frame(*(tuple(v.tolist()) for v in (size, steps, origin)), tuple(map(tuple, axes.tolist())))
    to_moving = moving.frame.world_to_normalised @ part.normalised_to_world
    points = apply_matrix(to_moving, part.grid(moving.data.device))
    return Volume(sample(moving.data[None], points)[0], part)


def scaled(fixed: Pyramid, moving: Pyramid, symmetric: bool = False) -> tuple[Pyramid, Pyramid]:
    """Both pyramids with each level divided by the spread of the fixed one's features there; of both alike,
    where the order of the images is not to matter."""
    results: tuple[list[Volume], list[Volume]] = ([], [])
    for a, b in zip(fixed.levels, moving.levels, strict=True):
        variances = [v.data.flatten(1).var(1, correction=0).mean() for v in ((a, b) if symmetric else (a,))]
        spread = torch.stack(variances).mean().sqrt().clamp_min(1e-12)
        for result, level in zip(results, (a, b), strict=True):
            result.append(Volume(level.data / spread, level.frame))
    return Pyramid(tuple(results[0]), fixed.frame), Pyramid(tuple(results[1]), moving.frame)


def _shown(features: Pyramid, margin: int) -> Volume:
    """The finest features, without what the padding added."""
    finest, frame = features.levels[0], features.frame
    window = tuple(slice(margin, margin + n) for n in frame.shape)
    return Volume(finest.data[(slice(None), *window)], frame)


def _rotation(linear: LinearTransform) -> np.ndarray:
    """The rotation nearest to a linear map's matrix."""
    u, _, vh = np.linalg.svd(linear.matrix[:-1, :-1].numpy())
    u[:, -1] *= np.sign(np.linalg.det(u @ vh))
    return u @ vh
