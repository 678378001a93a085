"""The objective of a pair: what each term is worth, and that its gradient leads to where it should."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.interpolation import sample, sample_spread
from DeepRegistrationLib.io import volume_to_sitk
from DeepRegistrationLib.objective import Channel, PairObjective, Prompts, matching_size
from DeepRegistrationLib.objectives import LocalNCC, MeanSquaredError, MindSSC, diffusion, one_hot
from DeepRegistrationLib.solver import Scale, Settings, solve
from DeepRegistrationLib.transforms import FreeForm, LinearTransform
from torch import Tensor

FLAT = Frame.regular((26, 22), (1.5, 2.0))
SOLID = Frame.regular((16, 14, 12), (2.0, 2.2, 2.6))
TURNED = Frame(
    (20, 19, 17), (2.6, 2.7, 2.9), (-18.0, -32.0, -23.0), ((0.96, -0.28, 0), (0.28, 0.96, 0), (0, 0, 1))
)


def blob(frame: Frame, shift: float = 0.0, width: float = 7.0) -> Volume:
    """A soft ball about the world's origin, moved along x by `shift` mm."""
    points = frame.points(dtype=torch.float32).clone()
    points[..., 0] -= shift
    return Volume(torch.exp(-points.square().sum(-1) / (2 * width**2))[None], frame)


def objective(
    frame: Frame, prompts: Prompts | None = None, channel: float = 0.0, **more: float
) -> PairObjective:
    """Images `channel` times their squared difference, and prompts."""
    pair = Channel(blob(frame), blob(frame, 2.0), MeanSquaredError(), channel)
    return PairObjective([pair], LinearTransform.identity(frame.dimension), prompts or Prompts(), **more)


def gradient(of: PairObjective, frame: Frame, u: Tensor | None = None, for_update: bool = False) -> Tensor:
    u = torch.zeros(*frame.shape, frame.dimension) if u is None else u
    u = u.clone().requires_grad_()
    (result,) = torch.autograd.grad(of.at(frame, for_update)(u), u)
    return result


def goes_down(of: PairObjective, frame: Frame, for_update: bool = False) -> Tensor:
    """A small step against the gradient lowers the energy; returns the gradient."""
    energy, start = of.at(frame, for_update), torch.zeros(*frame.shape, frame.dimension)
    slope = gradient(of, frame, for_update=for_update)
    step = 0.02 * 2 / max(frame.size) / slope.norm(dim=-1).max()
    assert float(energy(start - step * slope)) < float(energy(start))
    return slope


def linear(degrees: float, shift: tuple[float, ...]) -> LinearTransform:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(len(shift) + 1)
    matrix[:2, :2] = [[c, -s], [s, c]]
    matrix[:-1, -1] = shift
    return LinearTransform(matrix)


def test_the_image_term_is_what_simpleitk_resamples() -> None:
    """Through a displacement and then the linear stage, between lattices of their own."""
    fixed, moving = blob(SOLID), blob(TURNED, 1.0, 6.0)
    before = linear(8.0, (0.5, -0.7, 0.4))
    grid = SOLID.grid()
    u = 0.05 * torch.stack([torch.sin(3 * grid[..., k] + k) for k in range(3)], -1)
    pair = Channel(fixed, moving, MeanSquaredError(), 0.7)
    value = PairObjective([pair], before).at(SOLID)(u)

    mm = u.double() @ torch.from_numpy(SOLID.normalised_to_world[:3, :3]).T
    vectors = sitk.GetImageFromArray(mm.numpy(), isVector=True)
    vectors.CopyInformation(volume_to_sitk(fixed))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(before.matrix[:3, :3].ravel().tolist())
    affine.SetTranslation(before.matrix[:3, 3].tolist())
    chain = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(vectors)])  # last is first
    warped = sitk.Resample(volume_to_sitk(moving), volume_to_sitk(fixed), chain, sitk.sitkLinear, -1.0)
    warped = sitk.GetArrayFromImage(warped)
    assert warped.min() > -0.5  # all of it inside the moving image
    expected = 0.7 * float(((warped - fixed.data[0].numpy()) ** 2).mean())
    assert float(value) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("frame", [FLAT, SOLID], ids=["2-D", "3-D"])
@pytest.mark.parametrize("for_update", [False, True])
def test_images_pull_downhill(frame: Frame, for_update: bool) -> None:
    slope = goes_down(objective(frame, channel=1.0), frame, for_update)
    # the moving blob lies at +x: its pull-back has to grow there
    assert float(slope[..., 0].sum()) < 0


def test_the_regularity_term_is_added_with_its_weight() -> None:
    u = 0.1 * torch.randn(*SOLID.shape, 3, generator=torch.Generator().manual_seed(0))
    without, with_it = (objective(SOLID, channel=1.0, regularity=w).at(SOLID)(u) for w in (0.0, 0.25))
    expected = 0.25 * diffusion(u, tuple(SOLID.extent.tolist()))
    assert float(with_it - without) == pytest.approx(float(expected), rel=1e-4)


def test_channels_add_up() -> None:
    pairs = [Channel(blob(FLAT), blob(FLAT, s), MeanSquaredError(), w) for s, w in ((2.0, 1.0), (-3.0, 0.5))]
    u, identity = torch.full((*FLAT.shape, 2), 0.02), LinearTransform.identity(2)
    values = [float(PairObjective(p, identity).at(FLAT)(u)) for p in (pairs, pairs[:1], pairs[1:])]
    assert values[0] == pytest.approx(values[1] + values[2], rel=1e-5)


@pytest.mark.parametrize("frame", [FLAT, SOLID], ids=["2-D", "3-D"])
def test_landmarks_weigh_what_they_say_and_pull_downhill(frame: Frame) -> None:
    d = frame.dimension
    fixed = torch.tensor([[0.0, 3.0, -2.0], [-6.0, 1.0, 4.0], [5.0, -7.0, 3.0]], dtype=torch.float64)[:, :d]
    before = linear(12.0, (2.0, -1.0, 1.5)[:d])
    target = before.map(fixed) + torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)[:d]
    prompts = Prompts(landmarks=(fixed, target))
    of = PairObjective(
        [Channel(blob(frame), blob(frame), MeanSquaredError(), 0.0)], before, prompts, landmark_pull=5.0
    )
    value = float(of.at(frame)(torch.zeros(*frame.shape, d)))
    voxel_squared = float(np.prod(frame.spacing)) ** (2 / d)
    mass = (np.sqrt(2 * np.pi) * of.landmark_reach) ** d  # of the surroundings each point pulls along
    assert value == pytest.approx(mass * 5.0 * 3 / (2 * voxel_squared * frame.voxels) * 9.0, rel=1e-4)
    slope = goes_down(of, frame)
    # the wanted shift, seen before the linear stage turns it
    wanted = np.linalg.inv(before.matrix[:d, :d].numpy()) @ np.eye(d)[0]
    pull = -(slope.sum(tuple(range(d))).numpy() * frame.extent)
    assert float(pull @ wanted / np.linalg.norm(pull)) > 0.9
    weights = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    one = PairObjective(
        of.channels, before, Prompts(landmarks=(fixed, target), landmark_weights=weights), landmark_reach=1.0
    )
    strongest = gradient(one, frame).norm(dim=-1).flatten().argmax()
    place = frame.points().reshape(-1, d)[strongest]
    assert float((place - fixed[2]).norm()) < max(frame.spacing)


@pytest.mark.parametrize("frame", [FLAT, SOLID], ids=["2-D", "3-D"])
def test_the_pull_of_a_point_is_a_gaussian_of_peak_one(frame: Frame) -> None:
    d, generator = frame.dimension, torch.Generator().manual_seed(0)
    sigma = (2.0, 1.5, 1.2)[:d]
    u = torch.randn(*frame.shape, d, generator=generator, requires_grad=True)
    points = 1.4 * torch.rand(5, d, generator=generator) - 0.7
    upstream = torch.randn(5, d, generator=generator)
    values = sample_spread(u, points, sigma)
    plain = sample(u.detach().movedim(-1, 0)[None], points)[0].T
    torch.testing.assert_close(values, plain)
    (slope,) = torch.autograd.grad((values * upstream).sum(), u)
    expected = torch.zeros_like(slope)
    for voxel in np.ndindex(*frame.shape):
        index = torch.tensor(voxel[::-1], dtype=torch.float32)
        centres = ((points + 1) * torch.tensor(frame.size) - 1) / 2
        distance = (((index - centres) / torch.tensor(sigma)) ** 2).sum(-1)
        expected[voxel] = (torch.exp(-distance / 2)[:, None] * upstream).sum(0)
    torch.testing.assert_close(slope, expected, atol=1e-5, rtol=1e-4)
    centre = frame.grid()[tuple(n // 2 for n in frame.shape)][None]
    (narrow,) = torch.autograd.grad(sample_spread(u, centre, (0.01,) * d).sum(), u)
    (true,) = torch.autograd.grad(sample(u.movedim(-1, 0)[None], centre).sum(), u)
    torch.testing.assert_close(narrow, true, atol=1e-4, rtol=0)  # as narrow as that it is the true gradient


@pytest.mark.parametrize("frame", [FLAT, SOLID], ids=["2-D", "3-D"])
@pytest.mark.parametrize("for_update", [False, True])
def test_labels_pull_downhill(frame: Frame, for_update: bool) -> None:
    def labels(shift: float) -> Volume:
        return Volume(one_hot((blob(frame, shift).data[None] > 0.6).int(), (1,))[0], frame)

    of = objective(frame, Prompts(fixed_labels=labels(0.0), moving_labels=labels(4.0)))
    zero = torch.zeros(*frame.shape, frame.dimension)
    assert 0.05 < float(of.at(frame)(zero)) < 1
    slope = goes_down(of, frame, for_update)
    assert float(slope[..., 0].sum()) < 0
    same = objective(frame, Prompts(fixed_labels=labels(0.0), moving_labels=labels(0.0)))
    assert float(same.at(frame)(zero)) < 0.9 * float(of.at(frame)(zero))


@pytest.mark.parametrize("frame", [FLAT, SOLID], ids=["2-D", "3-D"])
def test_masks_leave_out_what_they_exclude(frame: Frame) -> None:
    half = torch.zeros(1, *frame.shape)
    half[..., : frame.size[0] // 3] = 1
    mask = Volume(half, frame)
    zero = torch.zeros(*frame.shape, frame.dimension)
    whole = float(objective(frame, channel=1.0).at(frame)(zero))
    for prompts in (Prompts(fixed_mask=mask), Prompts(moving_mask=mask)):
        of = objective(frame, prompts, channel=1.0)
        slope = goes_down(of, frame)
        assert float(slope[~(half[0] > 0)].abs().max()) == 0 < float(slope.abs().max())
        squared = (blob(frame).data - blob(frame, 2.0).data).square()
        expected = float((squared * half).sum() / half.sum())
        assert float(of.at(frame)(zero)) == pytest.approx(expected, rel=1e-4)
        assert expected != pytest.approx(whole, rel=0.02)
    both = objective(frame, Prompts(mask, Volume(1 - half, frame)), channel=1.0)
    assert float(both.at(frame)(zero)) == 0  # nothing is left, and nothing breaks


def test_pushing_the_moving_mask_away_does_not_pay() -> None:
    half = torch.zeros(1, *FLAT.shape)
    half[..., : FLAT.size[0] // 2] = 1
    of = objective(FLAT, Prompts(moving_mask=Volume(half, FLAT)), channel=1.0)
    moved, _ = solve(of, FreeForm(FLAT), Settings((Scale(1, 30),)))
    assert float(moved.displacement().detach().abs().max()) < 0.5


def test_voxels_beyond_the_moving_image_do_not_count() -> None:
    frame = FLAT
    away = LinearTransform.from_parts(torch.eye(2).double(), torch.tensor([12.0, 0.0]).double())
    pair = Channel(blob(frame), blob(frame, 12.0), MeanSquaredError())
    zero = torch.zeros(*frame.shape, 2)
    assert float(PairObjective([pair], away).at(frame)(zero)) < 1e-6
    bright = Volume(pair.fixed.data.clone(), frame)
    bright.data[..., -6:] = 9.0  # these eight columns have no counterpart
    assert float(PairObjective([Channel(bright, pair.moving, pair.similarity)], away).at(frame)(zero)) < 1e-6


def test_descriptors_of_directions_are_compared_on_one_lattice() -> None:
    """MIND on a turned lattice finds the same head: the truth is better than a few millimetres beside it."""

    def head(frame: Frame) -> Volume:
        p = frame.points(dtype=torch.float32)
        return Volume((torch.sin(p[..., 0] / 3) * torch.cos(p[..., 1] / 4) + p[..., 2] / 30)[None], frame)

    pair = Channel(head(SOLID), head(TURNED), MindSSC())
    zero = torch.zeros(*SOLID.shape, 3)

    def energy(shift: tuple[float, float, float]) -> float:
        return float(PairObjective([pair], linear(0.0, shift)).at(SOLID)(zero))

    truth = energy((0.0, 0.0, 0.0))
    assert all(energy(shift) > 1.5 * truth for shift in ((3.0, 0, 0), (-3.0, 0, 0), (0, 3.0, 0)))


def test_the_moving_image_is_made_as_coarse_as_the_scale_and_never_finer() -> None:
    frame = Frame.regular((100, 100, 50), (1.0, 1.0, 2.0))
    coarse = frame.resized((25, 25, 25))
    assert matching_size(frame, coarse) == (25, 25, 25)
    assert matching_size(frame, frame) == frame.size
    assert matching_size(frame, frame.resized((200, 200, 200))) == frame.size
    axes = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    swapped = Frame((50, 100, 100), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), axes)
    assert matching_size(swapped, frame.resized((25, 50, 50))) == (50, 50, 25)
    assert min(matching_size(frame, frame.resized((1, 1, 1)))) == 8


def test_coarse_scales_measure_the_same_pair() -> None:
    """A well resolved pair has about the same energy at every scale."""
    frame = Frame.regular((48, 48), 1.0)
    of = PairObjective([Channel(blob(frame), blob(frame, 3.0), LocalNCC(2))], LinearTransform.identity(2))
    values = []
    for n in (48, 24):
        scale = frame.resized((n, n))
        u = torch.zeros(n, n, 2)
        u[..., 0] = 3.0 * 2 / 48  # the truth
        values.append(float(of.at(scale)(u)))
        assert values[-1] < float(of.at(scale)(torch.zeros(n, n, 2)))
    assert max(values) < 0.35
