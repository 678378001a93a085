"""Each measure against a second way to get the number: by hand, by brute force, or by SimpleITK."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.io import volume_to_sitk
from DeepRegistrationLib.metrics import (
    correlation,
    dice,
    fold_statistics,
    hausdorff95,
    inverse_consistency,
    landmark_errors,
    local_correlation,
    mutual_information,
)
from torch import Tensor

OBLIQUE = Frame(
    (9, 8, 7), (1.5, 0.7, 2.0), (10.0, -4.0, 3.0), ((0.6, -0.8, 0.0), (0.8, 0.6, 0.0), (0.0, 0.0, -1.0))
)
FLAT = Frame((13, 11), (0.5, 2.0), (1.0, 2.0), ((0.0, -1.0), (1.0, 0.0)))
FRAMES = pytest.mark.parametrize("frame", [OBLIQUE, FLAT], ids=["3-D", "2-D"])


def blobs(frame: Frame, seed: int) -> Tensor:
    """A label map of four values in smooth patches, (1, *S) int32."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, *(3,) * frame.dimension, generator=generator)
    mode = "trilinear" if frame.dimension == 3 else "bilinear"
    return (torch.nn.functional.interpolate(coarse, size=frame.shape, mode=mode)[0] * 4).int()


def rough(frame: Frame, size: float, seed: int = 0) -> Field:
    """A random displacement of about `size` voxels."""
    generator = torch.Generator().manual_seed(seed)
    voxels = size * torch.randn(*frame.shape, frame.dimension, generator=generator)
    return Field(voxels * 2 / torch.tensor(frame.size), frame)


@FRAMES
def test_dice_agrees_with_simpleitk(frame: Frame) -> None:
    a, b = blobs(frame, 1), blobs(frame, 2)
    result = dice(a, b)
    measure = sitk.LabelOverlapMeasuresImageFilter()
    measure.Execute(*(sitk.Cast(volume_to_sitk(Volume(x, frame)), sitk.sitkUInt8) for x in (a, b)))
    assert sorted(result) == [1, 2, 3]
    for value, overlap in result.items():
        assert overlap == pytest.approx(measure.GetDiceCoefficient(value), abs=1e-12)


def test_dice_of_chosen_far_apart_and_missing_labels() -> None:
    a = torch.tensor([0, -5, 3_000_000, 3_000_000, 7])
    b = torch.tensor([0, -5, 3_000_000, 7, 0])
    expected = {-5: 1.0, 7: 0.0, 3_000_000: pytest.approx(2 / 3)}
    assert dice(a, b) == expected
    assert dice(a, b, [3_000_000, 4]) == {3_000_000: pytest.approx(2 / 3)}
    with pytest.raises(InputError, match="same grid"):
        dice(a, b[:3])


def surface_points(mask: np.ndarray, frame: Frame) -> np.ndarray:
    """World positions of a mask's voxels that have a face neighbour outside, by looking at each."""
    found = []
    for index in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                near = index.copy()
                near[axis] += step
                if not 0 <= near[axis] < mask.shape[axis] or not mask[tuple(near)]:
                    found.append(tuple(index[::-1]))
    indices = np.array(sorted(set(found)), dtype=float)
    return indices @ frame.index_to_world[:-1, :-1].T + frame.index_to_world[:-1, -1]


@FRAMES
def test_hausdorff_agrees_with_brute_force(frame: Frame) -> None:
    a, b = blobs(frame, 3), blobs(frame, 4)
    result = hausdorff95(Volume(a, frame), Volume(b, frame))
    assert sorted(result) == [1, 2, 3]
    for value, distance in result.items():
        one, other = (surface_points(x[0].numpy() == value, frame) for x in (a, b))
        between = np.linalg.norm(one[:, None] - other[None], axis=-1)
        expected = max(np.percentile(between.min(1), 95), np.percentile(between.min(0), 95))
        assert distance == pytest.approx(expected, abs=1e-4)


def test_hausdorff_leaves_out_labels_without_a_partner_and_other_grids() -> None:
    frame = Frame.regular((4, 4, 4))
    a, b = torch.zeros(1, 4, 4, 4, dtype=torch.int32), torch.zeros(1, 4, 4, 4, dtype=torch.int32)
    a[0, 1, 1, 1], b[0, 1, 1, 3], a[0, 3, 3, 3] = 1, 1, 2
    assert hausdorff95(Volume(a, frame), Volume(b, frame), [1, 2, 9]) == {1: pytest.approx(2.0)}
    with pytest.raises(InputError, match="same grid"):
        hausdorff95(Volume(a, frame), Volume(b, Frame.regular((4, 4, 4), 2.0)))


@FRAMES
def test_landmark_errors_are_distances_after_the_map(frame: Frame) -> None:
    field = Field.from_mm(torch.full((*frame.shape, frame.dimension), 0.5), frame)
    points = torch.from_numpy(np.stack([frame.centre, frame.centre + 0.3]))
    offsets = torch.zeros_like(points)
    offsets[1, 0] = 3.0
    errors = landmark_errors(field, points, points + 0.5 + offsets)
    assert torch.allclose(errors, torch.tensor([0.0, 3.0], dtype=errors.dtype), atol=1e-5)
    with pytest.raises(InputError, match="partner"):
        landmark_errors(field, points, points[:1])


def voxel_determinants(field: Field) -> tuple[np.ndarray, np.ndarray]:
    """All one-sided determinants (*S, 2^d) of the map and the central ones (*S), voxel by voxel."""
    frame, d = field.frame, field.frame.dimension
    where = np.stack(np.meshgrid(*[np.arange(n) for n in frame.shape], indexing="ij")[::-1], -1)
    mapped = where + field.displacement.double().numpy() * np.array(frame.size) / 2
    sided, central = np.zeros((*frame.shape, 2**d)), np.zeros(frame.shape)
    for index in np.ndindex(frame.shape):
        slopes = []  # for each image axis: forward, backward; the only one there is at the border
        for axis in range(d):
            step = np.zeros(d, int)
            step[d - 1 - axis] = 1
            after, before = index + step, index - step
            forward = mapped[tuple(after)] - mapped[index] if (after < frame.shape).all() else None
            backward = mapped[index] - mapped[tuple(before)] if (before >= 0).all() else None
            slopes.append(
                (backward if forward is None else forward, forward if backward is None else backward)
            )
        for k, sides in enumerate(itertools.product(*slopes)):
            sided[index][k] = np.linalg.det(np.array(sides))
        central[index] = np.linalg.det(np.array([(f + b) / 2 for f, b in slopes]))
    return sided, central


@FRAMES
@pytest.mark.parametrize("size", [0.1, 0.6])
def test_folds_agree_with_brute_force(frame: Frame, size: float) -> None:
    field = rough(frame, size)
    sided, central = voxel_determinants(field)
    mask = torch.rand(frame.shape, generator=torch.Generator().manual_seed(5)) > 0.4
    for chosen, given in ((np.ones(frame.shape, bool), None), (mask.numpy(), mask)):
        result = fold_statistics(field, given)
        here, middle = sided[chosen], central[chosen]
        assert result["folds_percent"] == pytest.approx(100 * (here.min(-1) <= 0).mean())
        assert result["folds_percent_central"] == pytest.approx(100 * (middle <= 0).mean())
        assert result["determinant_min"] == pytest.approx(here.min(), abs=1e-4)
        lowest = np.where(chosen, sided.min(-1), np.inf)
        place = np.array(np.unravel_index(lowest.argmin(), lowest.shape))[::-1]
        world = frame.index_to_world @ np.append(place, 1.0)
        assert result["determinant_min_at"] == pytest.approx(world[:-1].tolist())
        assert result["determinant_max"] == pytest.approx(here.max(), abs=1e-4)
        assert result["log_determinant_sd"] == pytest.approx(np.log(middle[middle > 0]).std(), abs=1e-4)
    assert result["folds_percent"] > 0 or size < 0.5


@FRAMES
def test_folds_of_an_affine_map_are_its_determinant(frame: Frame) -> None:
    matrix = torch.eye(frame.dimension) * 1.2
    matrix[0, 1] = 0.4
    points = frame.points(dtype=torch.float32)
    field = Field.from_mm(points @ matrix.T - points, frame)
    result = fold_statistics(field)
    expected = 1.2**frame.dimension
    assert result["folds_percent"] == result["folds_percent_central"] == 0
    assert result["determinant_min"] == pytest.approx(expected, rel=1e-4)
    assert result["determinant_max"] == pytest.approx(expected, rel=1e-4)
    assert result["log_determinant_sd"] < 1e-4
    mirrored = Field.from_mm(points * torch.tensor([-1.0] + [1.0] * (frame.dimension - 1)) - points, frame)
    assert fold_statistics(mirrored)["folds_percent"] == 100


def test_one_folded_cell_is_seen_where_central_differences_do_not_see_it() -> None:
    frame = Frame.regular((12, 10, 8))
    field = Field.identity(frame)
    field.displacement[4, 5, 6, 0] = 1.5 * 2 / 12  # this voxel jumps over its neighbour
    result = fold_statistics(field)
    assert result["folds_percent_central"] == 0
    # the voxel itself and the neighbour it jumps over have a reversed cell between them
    assert result["folds_percent"] == pytest.approx(100 * 2 / frame.voxels)
    assert result["determinant_min"] == pytest.approx(-0.5, abs=1e-5)
    assert result["determinant_max"] == pytest.approx(2.5, abs=1e-5)


def test_slabs_do_not_change_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    field = rough(OBLIQUE, 0.4)
    whole = fold_statistics(field)
    for voxels in (1, 150, 200):
        monkeypatch.setattr("DeepRegistrationLib.jacobian._SLAB", voxels)
        sliced = fold_statistics(field)
        assert sliced.pop("determinant_min_at") == whole["determinant_min_at"]
        assert sliced == pytest.approx({name: whole[name] for name in sliced}, rel=1e-6)


@pytest.mark.parametrize("size", [(6, 5, 1), (1, 5, 4), (6, 1)])
def test_an_axis_of_one_voxel_counts_as_not_deformed(size: tuple[int, ...]) -> None:
    result = fold_statistics(rough(Frame.regular(size), 0.05))
    assert result["folds_percent"] == 0
    assert 0 < result["determinant_min"] < 1 < result["determinant_max"]


def test_folds_refuse_a_mask_of_another_size_or_an_empty_one() -> None:
    field = Field.identity(Frame.regular((4, 4, 4)))
    with pytest.raises(InputError, match="same size"):
        fold_statistics(field, torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(InputError, match="no voxel"):
        fold_statistics(field, torch.zeros(4, 4, 4, dtype=torch.bool))


@FRAMES
def test_inverse_consistency_of_a_shift(frame: Frame) -> None:
    d = frame.dimension
    moving = Frame(
        frame.size, tuple(2 * s for s in frame.spacing), tuple(o - 5 for o in frame.origin), frame.direction
    )
    forward = Field.from_mm(torch.tensor([0.3, 0.2, 0.1][:d]).expand(*frame.shape, d), frame)
    exact = Field.from_mm(torch.tensor([-0.3, -0.2, -0.1][:d]).expand(*moving.shape, d), moving)
    off = Field.from_mm(torch.tensor([-0.3, -0.2 + 0.4, -0.1][:d]).expand(*moving.shape, d), moving)
    assert inverse_consistency(forward, exact)["max_mm"] == pytest.approx(0, abs=1e-4)
    result = inverse_consistency(forward, off)
    assert result["mean_mm"] == pytest.approx(0.4, abs=1e-4)
    assert result["max_mm"] == pytest.approx(0.4, abs=1e-4)
    away = Field.identity(
        Frame(frame.size, frame.spacing, tuple(o + 900 for o in frame.origin), frame.direction)
    )
    nothing = {"mean_mm": None, "max_mm": None, "covered_percent": 0.0}
    assert inverse_consistency(forward, away) == nothing


@FRAMES
def test_inverse_consistency_agrees_with_mapping_the_points(frame: Frame) -> None:
    forward, inverse = rough(frame, 0.7, 1), rough(frame, 0.7, 2)
    points = frame.points(dtype=torch.float64)
    there = forward.map(points)
    inside = frame.contains(there)
    errors = (inverse.map(there) - points).norm(dim=-1)[inside]
    result = inverse_consistency(forward, inverse)
    assert 0 < inside.sum() < inside.numel()
    assert result["mean_mm"] == pytest.approx(float(errors.mean()), rel=1e-4)
    assert result["max_mm"] == pytest.approx(float(errors.max()), rel=1e-4)
    assert result["covered_percent"] == pytest.approx(100 * float(inside.double().mean()))


def test_one_voxel_that_is_not_inverted_is_found() -> None:
    """All voxels count: a coarser look would have passed it by."""
    frame = Frame.regular((90, 90, 90))
    forward, inverse = Field.identity(frame), Field.identity(frame)
    inverse.displacement[41, 43, 47, 0] = 5 * 2 / 90
    found = inverse_consistency(forward, inverse)
    assert found["max_mm"] == pytest.approx(5, rel=1e-4)
    assert found["mean_mm"] == pytest.approx(5 / 90**3, rel=1e-3)


def test_correlation_agrees_with_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, 7, 8, generator=generator) + 500
    b = 0.3 * a + torch.randn(6, 7, 8, generator=generator)
    mask = torch.rand(6, 7, 8, generator=generator) > 0.5
    assert correlation(a, b) == pytest.approx(np.corrcoef(a.flatten(), b.flatten())[0, 1], abs=1e-5)
    assert correlation(a, b, mask) == pytest.approx(np.corrcoef(a[mask], b[mask])[0, 1], abs=1e-5)
    assert correlation(a, -a) == pytest.approx(-1, abs=1e-6)
    assert correlation(a, torch.ones_like(a)) == 0


def test_local_correlation_and_mutual_information_see_relations_that_correlation_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(16, 16, 16, generator=generator)
    noise = torch.rand(16, 16, 16, generator=generator)
    folded = (a - 0.5).abs()
    assert abs(correlation(folded, a)) < 0.1
    assert mutual_information(folded, a) > 1.15 > mutual_information(noise, a)
    assert local_correlation(1 - a, a) > 0.99
    assert local_correlation(noise, a) < 0.1
    mask = torch.zeros(16, 16, 16, dtype=torch.bool)
    mask[4:12, 4:12, 4:12] = True
    half = torch.where(mask, a, noise)
    assert local_correlation(half, a, mask) > local_correlation(half, a)
    assert math.isclose(mutual_information(half, a, mask), mutual_information(a, a, mask), abs_tol=0.02)


@pytest.mark.parametrize("factor", [1e38, 1e30, 1e-30, 1e-38, 1e-40])
def test_similarity_does_not_depend_on_the_unit_of_the_intensities(factor: float) -> None:
    """Squares of such values overflow single precision, or vanish in it."""
    a = torch.rand(20, 20, 20, generator=torch.Generator().manual_seed(0))
    b = a + 0.3 * torch.rand(20, 20, 20, generator=torch.Generator().manual_seed(1))
    mask = a > 0.1
    for measure in (correlation, mutual_information, local_correlation):
        expected = measure(a, b, mask)
        assert 0 < expected != 1
        assert measure(a * factor, b * factor, mask) == pytest.approx(expected, abs=2e-3)
