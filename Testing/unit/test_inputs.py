"""What users hand over, in every form it may take, checked and matched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.initial import load_transform
from DeepRegistrationLib.inputs import check_pair, load_inputs
from DeepRegistrationLib.io import volume_to_sitk, write_volume
from DeepRegistrationLib.landmarks import Landmarks
from DeepRegistrationLib.transforms import FieldTransform, LinearTransform

FRAME = Frame((10, 9, 8), (2.0, 2.5, 3.0), (-9.0, -10.0, -11.0), ((0, 1, 0), (-1, 0, 0), (0, 0, 1)))
OTHER = Frame.regular((9, 9, 9), 2.5)


def noise(frame: Frame = FRAME, seed: int = 0) -> Volume:
    return Volume(torch.rand(1, *frame.shape, generator=torch.Generator().manual_seed(seed)), frame)


def smooth(frame: Frame, centre: tuple[float, ...] = (1.0, -2.0, 0.5)) -> Volume:
    """A blob, not in the middle of the box, with a smaller one beside it."""
    points = frame.points() - torch.as_tensor(frame.centre.copy()) - torch.tensor(centre[: frame.dimension])
    beside = points - 6
    values = 100 * torch.exp(-points.square().sum(-1) / 40) + 60 * torch.exp(-beside.square().sum(-1) / 8)
    return Volume(values[None].float(), frame)


def labels(frame: Frame, *values: int) -> Volume:
    """Slabs along the last axis."""
    data = torch.zeros(1, *frame.shape, dtype=torch.int32)
    for k, value in enumerate(values):
        data[:, k + 1] = value
    return Volume(data, frame)


def test_paths_simpleitk_images_and_volumes_are_the_same(tmp_path: Path) -> None:
    write_volume(noise(), tmp_path / "a.nrrd")
    for source in (tmp_path / "a.nrrd", str(tmp_path / "a.nrrd"), volume_to_sitk(noise()), noise()):
        loaded = load_inputs(source, noise(OTHER)).fixed
        assert torch.equal(loaded.data, noise().data) and loaded.frame.same_lattice(FRAME, 1e-6)


def test_common_labels_only_and_on_the_images_lattice() -> None:
    given = load_inputs(
        noise(), noise(OTHER), fixed_labels=labels(FRAME, 3, 7, 1), moving_labels=labels(OTHER, 7, 9, 3)
    )
    assert given.label_values == (3, 7) and given.warnings == []
    # the same labels on the other image's lattice
    away = load_inputs(
        noise(), noise(OTHER), fixed_labels=labels(OTHER, 3, 7, 1), moving_labels=labels(OTHER, 7, 9, 3)
    )
    assert away.fixed_labels is not None and away.fixed_labels.frame == FRAME
    assert ["fixed labels are on another grid" in w for w in away.warnings] == [True]
    expected = sitk.Resample(
        volume_to_sitk(labels(OTHER, 3, 7, 1)),
        volume_to_sitk(noise()),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
    )
    differ = away.fixed_labels.data[0].numpy() != sitk.GetArrayFromImage(expected)
    assert differ.mean() < 0.05 and away.fixed_labels.data.any()


def test_masks_become_zero_and_one_on_the_images_lattice() -> None:
    mask = volume_to_sitk(Volume((noise(OTHER).data > 0.2).int() * 37, OTHER))
    given = load_inputs(noise(), noise(OTHER), fixed_mask=mask, moving_mask=mask)
    assert given.fixed_mask is not None and given.moving_mask is not None
    assert given.fixed_mask.frame == FRAME and set(given.fixed_mask.data.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(given.moving_mask.data, (noise(OTHER).data > 0.2).float())
    assert ["mask is on another grid" in w for w in given.warnings] == [True]
    assert "fixed" in given.warnings[0]


def test_a_mask_of_as_many_voxels_has_to_lie_where_its_image_lies() -> None:
    for offset, fits in ((0.2, True), (0.6, False)):
        origin = tuple(o + offset * min(FRAME.spacing) for o in FRAME.origin)
        mask = Volume(torch.ones(1, *FRAME.shape), Frame(FRAME.size, FRAME.spacing, origin, FRAME.direction))
        if fits:
            assert len(load_inputs(noise(), noise(OTHER), fixed_mask=mask).warnings) == 1
            continue
        with pytest.raises(InputError, match=r"fixed mask has as many voxels.*without its geometry"):
            load_inputs(noise(), noise(OTHER), fixed_mask=mask)


def test_landmarks_are_paired_by_name_and_held_out_ones_kept_apart() -> None:
    a = torch.tensor([[0.0, 0, 0], [1, 2, 3], [-2, 1, 0]], dtype=torch.float64)
    given = load_inputs(
        noise(OTHER),
        noise(OTHER),
        fixed_landmarks=Landmarks(a, ("x", "y", "z")),
        moving_landmarks=Landmarks(a[[2, 0, 1]] + 1, ("z", "x", "y")),
        held_out_landmarks=([[5.0, 0, 0]], [[6.0, 0, 0]]),
    )
    assert given.landmarks is not None and given.held_out is not None
    assert torch.equal(given.landmarks[1], given.landmarks[0] + 1) and given.landmarks[2] == ("x", "y", "z")
    assert given.held_out[0].tolist() == [[5.0, 0, 0]] and given.warnings == []
    with pytest.raises(InputError, match="2-D"):
        load_inputs(noise(), noise(OTHER), fixed_landmarks=[[0.0, 0]], moving_landmarks=[[0.0, 0]])
    with pytest.raises(InputError, match="none for the moving"):
        load_inputs(noise(), noise(OTHER), held_out_landmarks=([[0.0, 0, 0]], None))  # type: ignore[arg-type]


def test_landmarks_without_a_partner_are_left_out_and_named() -> None:
    a = torch.tensor([[0.0, 0, 0], [1, 2, 3], [-2, 1, 0], [3, -4, 5]], dtype=torch.float64)
    lists = Landmarks(a, ("A", "B", "C", "D")), Landmarks(a[1:] + 1, ("B", "C", "D"))
    told = "Landmarks that are not used: A (no partner) on the fixed image."
    given = load_inputs(noise(OTHER), noise(OTHER), *lists)
    assert given.landmarks is not None and torch.equal(given.landmarks[1], given.landmarks[0] + 1)
    assert given.warnings == [told]
    assert load_inputs(noise(OTHER), noise(OTHER), held_out_landmarks=lists).warnings == [told]


def test_the_distance_of_a_landmark_outside_is_told_in_millimetres() -> None:
    inside = [[0.0, 0.0, 0.0]]
    load_inputs(
        noise(OTHER), noise(OTHER), fixed_landmarks=[[16.0, 0, 0]], moving_landmarks=inside
    )  # 4.75 out
    with pytest.raises(InputError, match=r"fixed landmark 1 lies 29 mm outside"):
        load_inputs(noise(OTHER), noise(OTHER), fixed_landmarks=[[0, 40.0, 0]], moving_landmarks=inside)


def test_dimensions_have_to_agree() -> None:
    flat = noise(Frame.regular((9, 8)))
    with pytest.raises(InputError, match="2-D and the moving image 3-D"):
        load_inputs(flat, noise())
    with pytest.raises(InputError, match="number of axes"):
        load_inputs(noise(), noise(OTHER), fixed_mask=Volume(torch.ones(1, 8, 9), flat.frame))
    with pytest.raises(InputError, match="components"):
        load_inputs(Volume(torch.rand(2, *FRAME.shape), FRAME), noise())


def test_no_shared_space() -> None:
    far = Frame(OTHER.size, OTHER.spacing, (900.0, 0.0, 0.0), OTHER.direction)
    apart = load_inputs(noise(OTHER), noise(far))
    with pytest.raises(InputError, match="do not overlap"):
        check_pair(apart, "none")
    apart = load_inputs(smooth(OTHER), smooth(far))
    check_pair(apart, "rigid")
    assert len(apart.warnings) == 1
    for more in (
        {"initial": sitk.TranslationTransform(3, (900.0, 0, 0))},
        {"fixed_landmarks": [[0.0, 0, 0]], "moving_landmarks": [[912.0, 12, 12]]},
    ):
        helped = load_inputs(smooth(OTHER), smooth(far), **more)
        before = list(helped.warnings)
        check_pair(helped, "none")
        assert helped.warnings == before


POINTS = torch.tensor([[0.0, 1.0, -2.0], [5.0, -4.0, 3.0]], dtype=torch.float64)


def euler() -> sitk.Transform:
    transform = sitk.Euler3DTransform((3.0, 1.0, -2.0), 0.1, -0.2, 0.3, (4.0, 5.0, -6.0))
    return sitk.CompositeTransform([transform, sitk.TranslationTransform(3, (1.0, 0.0, 2.0))])


def displaced() -> sitk.Transform:
    vectors = torch.randn(*OTHER.shape, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = sitk.GetImageFromArray(vectors.numpy(), isVector=True)
    image.CopyInformation(volume_to_sitk(noise(OTHER)))
    return sitk.DisplacementFieldTransform(image)


@pytest.mark.parametrize("make", [euler, displaced], ids=["linear", "field"])
@pytest.mark.parametrize("as_file", [False, True])
def test_initial_transforms_map_as_simpleitk_does(make: object, as_file: bool, tmp_path: Path) -> None:
    transform = make()  # type: ignore[operator]
    source = transform
    if as_file:
        source = tmp_path / "t.h5"
        sitk.WriteTransform(transform, str(source))
    loaded = load_transform(source, 3)
    assert isinstance(loaded, LinearTransform if make is euler else FieldTransform)
    expected = np.array([make().TransformPoint(p) for p in POINTS.tolist()])  # type: ignore[operator]
    assert np.allclose(loaded.map(POINTS).numpy(), expected, atol=1e-4)


def test_the_engines_own_transforms_pass_and_others_are_refused(tmp_path: Path) -> None:
    own = FieldTransform(Field.identity(OTHER))
    assert load_transform(own, 3) is own
    with pytest.raises(InputError, match="3-D, but the images are 2-D"):
        load_transform(own, 2)
    with pytest.raises(InputError):
        load_transform(tmp_path / "missing.h5", 3)
