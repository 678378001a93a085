"""Intensities, foreground, crops and resampling before the work begins."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.io import volume_to_sitk
from DeepRegistrationLib.prepare import (
    centre_of_mass,
    crop,
    cropped_frame,
    foreground_box,
    normalised,
    overlap_share,
    resampled,
    share_space,
)

TURN = ((0.8, -0.6, 0.0), (0.6, 0.8, 0.0), (0.0, 0.0, -1.0))
OBLIQUE = Frame((12, 10, 9), (2.0, 2.5, 3.0), (-7.0, 11.0, 5.0), TURN)


def noise(frame: Frame, seed: int = 0) -> Volume:
    values = torch.rand(1, *frame.shape, generator=torch.Generator().manual_seed(seed))
    return Volume(values, frame)


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (3000.0, -1024.0), (1e-2, 5.0)])
def test_percentiles_become_zero_and_one(gain: float, offset: float) -> None:
    frame = Frame.regular((40, 30, 20))
    values = torch.linspace(0, 1, frame.voxels).reshape(1, *frame.shape)
    spiked = values.clone()
    spiked.view(-1)[-3:] = 50.0  # a few bright specks do not set the scale
    result = normalised(Volume(spiked * gain + offset, frame)).data
    expected = ((values - 0.001) / (0.998 - 0.001)).clamp(0, 1)
    torch.testing.assert_close(result.flatten()[:-3], expected.flatten()[:-3], atol=3e-3, rtol=0)
    assert result.min() == 0 and result.max() == 1


def test_a_mask_says_where_percentiles_are_taken() -> None:
    frame = Frame.regular((20, 20))
    values = torch.rand(1, *frame.shape, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(values)
    mask[..., :10] = 1
    values[..., 10:] *= 1000
    result = normalised(Volume(values, frame), Volume(mask, frame)).data
    assert float(result[..., :10].std()) > 0.2
    # what lies outside is not looked at: it goes on as the rest does
    values[..., 10:] = -3.0
    assert torch.equal(normalised(Volume(values, frame), Volume(mask, frame)).data, result)
    assert float((result[..., 10:] - result[..., :10].mean()).abs().max()) < 0.3


def test_sparse_images_keep_their_few_values_and_constant_ones_are_refused() -> None:
    frame = Frame.regular((40, 40))
    values = torch.zeros(1, *frame.shape)
    values[0, 3, 4] = 7.0
    assert float(normalised(Volume(values, frame)).data.max()) == 1
    with pytest.raises(InputError, match="same value everywhere"):
        normalised(Volume(torch.full((1, *frame.shape), 3.0), frame))
    mask = torch.ones_like(values)
    mask[0, 3, 4] = 0
    with pytest.raises(InputError):
        normalised(Volume(values, frame), Volume(mask, frame))


@pytest.mark.parametrize("size", [(60, 50), (60, 50, 40)])
def test_the_subject_is_found_with_a_margin(size: tuple[int, ...]) -> None:
    frame = Frame.regular(size, 2.0)
    data = torch.zeros(1, *frame.shape)
    inside = tuple(slice(n // 3, n // 3 + 10) for n in frame.shape)
    data[(0, *inside)] = 1.0
    if len(size) == 3:
        data[0, 0, 0, 0] = 1.0  # a speck in a corner
    for (first, last), n in zip(foreground_box(Volume(data, frame)), size, strict=True):
        low, high = n // 3, n // 3 + 10
        assert low - 7 <= first <= low - 3  # 10 mm are five voxels
        assert high + 3 <= last <= high + 7


def test_an_image_without_background_is_kept_whole() -> None:
    assert foreground_box(Volume(torch.ones(1, 9, 8, 7), Frame.regular((7, 8, 9)))) == (
        (0, 7),
        (0, 8),
        (0, 9),
    )
    dark = Volume(torch.zeros(1, 9, 8, 7), Frame.regular((7, 8, 9)))
    assert foreground_box(dark) == ((0, 7), (0, 8), (0, 9))


def test_a_crop_is_what_simpleitk_extracts() -> None:
    volume = noise(OBLIQUE)
    box = ((2, 9), (1, 10), (3, 7))
    part = crop(volume, box)
    size, start = [b - a for a, b in box], [a for a, _ in box]
    expected = sitk.RegionOfInterest(volume_to_sitk(volume), size, start)
    assert np.array_equal(part.data[0].numpy(), sitk.GetArrayFromImage(expected))
    assert part.frame.size == expected.GetSize() and part.frame.spacing == expected.GetSpacing()
    assert np.allclose(part.frame.origin, expected.GetOrigin(), atol=1e-12)


@pytest.mark.parametrize("nearest", [False, True])
def test_resampling_is_simpleitks(nearest: bool) -> None:
    volume, other = (
        noise(OBLIQUE),
        Frame((15, 9, 11), (1.7, 2.9, 2.0), (-9.0, 7.0, -19.0), np.eye(3).tolist()),
    )
    result = resampled(volume, other, nearest).data[0].numpy()
    kind = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    reference = volume_to_sitk(Volume(torch.zeros(1, *other.shape), other))
    expected = sitk.GetArrayFromImage(
        sitk.Resample(volume_to_sitk(volume), reference, sitk.Transform(), kind)
    )
    assert (expected != 0).mean() > 0.2
    assert (np.abs(result - expected) > 1e-5).mean() < 2e-3  # ties on the box's faces fall either way


def test_resampling_onto_the_same_lattice_changes_nothing() -> None:
    volume = noise(OBLIQUE)
    assert torch.equal(resampled(volume, OBLIQUE).data, volume.data)


def test_overlap_is_the_shared_part_of_the_fixed_box() -> None:
    frame = Frame.regular((20, 30, 10), (2.0, 1.0, 3.0))
    assert overlap_share(frame, frame) == 1
    half = Frame(frame.size, frame.spacing, (frame.origin[0] + 20, *frame.origin[1:]), frame.direction)
    assert overlap_share(frame, half) == pytest.approx(0.5, abs=0.03)
    assert overlap_share(frame, frame.resized((5, 5, 5))) == 1
    away = Frame(frame.size, frame.spacing, (frame.origin[0] + 41, *frame.origin[1:]), frame.direction)
    assert overlap_share(frame, away) == 0


def test_centre_of_mass_of_a_blob_on_an_oblique_lattice() -> None:
    frame = Frame((40, 44, 36), (1.5, 1.4, 1.8), (-20.0, -30.0, 33.0), TURN)
    centre = torch.from_numpy(frame.centre + np.array([3.0, -2.0, 4.0]))
    blob = torch.exp(-(frame.points() - centre).square().sum(-1) / (2 * 4.0**2)).float()
    assert (centre_of_mass(Volume(blob[None], frame)) - centre).norm() < 0.05
    assert torch.isfinite(centre_of_mass(Volume(torch.zeros(1, *frame.shape), frame))).all()


def test_the_sentence_names_the_mask_that_leaves_nothing_to_align() -> None:
    frame = Frame.regular((40, 40))
    values = torch.rand(1, *frame.shape)
    mask = torch.zeros_like(values)
    mask[0, 3, 4] = 1
    with pytest.raises(InputError, match="mask leaves a single voxel"):
        normalised(Volume(values, frame), Volume(mask, frame))
    mask[0, 3:9, 4:9] = 1
    values[0, 3:9, 4:9] = 2
    with pytest.raises(InputError, match="same value all over its mask"):
        normalised(Volume(values, frame), Volume(mask, frame))


def test_a_thin_box_shares_space_with_a_large_one_whichever_comes_first() -> None:
    whole = Frame.regular((96, 116, 128), 2.0)
    thin = cropped_frame(whole, ((0, 96), (0, 116), (64, 66)))
    assert overlap_share(whole, thin) == 0  # between the points of the coarse lattice
    assert share_space(whole, thin) and share_space(thin, whole)
    away = Frame(thin.size, thin.spacing, (0.0, 0.0, 900.0), thin.direction)
    assert not share_space(whole, away) and not share_space(away, whole)
