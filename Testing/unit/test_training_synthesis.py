"""Made-up anatomy: the pairs, their truth, and what the options do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from DeepRegistrationLib.cli import main
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.interpolation import read_at, sample, voxel_centres
from DeepRegistrationLib.jacobian import determinant_slabs
from DeepRegistrationLib.training import Batch, synthesis
from DeepRegistrationLib.training.data import GENERATORS, open_data
from DeepRegistrationLib.training.source import PairSource
from DeepRegistrationLib.training.synthesis import AnatomyPairs
from DeepRegistrationLib.training.synthesis.canvas import Canvas
from DeepRegistrationLib.training.synthesis.deformation import random_deformation
from DeepRegistrationLib.training.synthesis.plans import PLANS

NAMES = ("fixed", "moving", "fixed_labels", "moving_labels", "fixed_landmarks", "moving_landmarks",
         "displacement")  # fmt: skip


def source(text: str = "", dimension: int = 2) -> PairSource:
    return open_data(f"generated:anatomy?{text}", dimension)


def equal(a: Batch, b: Batch, first: int = 0) -> bool:
    """Whether `b` is what `a` has from pair `first` on."""
    last = first + len(b.fixed)
    return all(torch.equal(getattr(a, n)[first:last], getattr(b, n)) for n in NAMES)


@pytest.mark.parametrize(("text", "dimension"), [("size=40", 2), ("size=20", 3)])
def test_draws_depend_on_seed_step_and_place_only(text: str, dimension: int) -> None:
    one, other = source(text, dimension), source(text, dimension)
    batch = one.batch(3, seed=1, step=5)
    other.batch(1, seed=9, step=2)  # what came before does not matter
    assert equal(batch, other.batch(3, 1, 5)) and equal(batch, other.batch(1, 1, 5, first=2), 2)
    for changed in (one.batch(1, 2, 5), one.batch(1, 1, 6), one.batch(1, 1, 5, first=3), one.held_out(0)):
        assert not equal(batch, changed)
    assert equal(one.held_out(3), other.held_out(3)) and one.held_out_count >= 100


@pytest.mark.parametrize("shape", [(36, 48), (20, 28, 24)])
def test_a_batch_is_what_losses_expect(shape: tuple[int, ...]) -> None:
    d = len(shape)
    made = open_data("generated:anatomy?labels=5&landmarks=7", d, shape).batch(2, 0, 0)
    assert made.fixed.shape == made.moving.shape == (2, 1, *shape)
    for image in (made.fixed, made.moving):
        assert image.dtype == torch.float32 and bool(image.isfinite().all())
        assert float(image.min()) == 0 and float(image.max()) == 1
    assert made.fixed_labels.shape == made.moving_labels.shape == (2, 5, *shape)
    assert torch.equal(made.fixed_labels.unique(), torch.tensor([0.0, 1.0]))
    assert float(made.fixed_labels.sum(1).max()) == 1  # no voxel has two labels
    there = [labels.flatten(2).any(2) for labels in (made.fixed_labels, made.moving_labels)]
    assert torch.equal(*there) and bool(there[0].any())  # a label that is not in both is in neither
    assert made.fixed_landmarks.shape == made.moving_landmarks.shape == (2, 7, d)
    assert made.displacement.shape == (2, *shape, d)
    assert source("landmarks=0").batch(1, 0, 0).fixed_landmarks is None


@pytest.mark.parametrize("shape", [(64, 48), (24, 32, 28)])
def test_the_true_map_does_not_fold_and_fits_both_images(shape: tuple[int, ...]) -> None:
    """Strictest case: deformations twice as strong as usual."""
    voxel = 2 / torch.tensor(shape[::-1], dtype=torch.float32)
    strongest = 0.0
    for seed in range(6):
        moved = random_deformation(shape, np.random.default_rng(seed), strength=2.0)
        assert min(float(slab.smallest.min()) for slab in determinant_slabs(moved.displacement)) > 0.05
        for points in (moved.fixed, moved.moving):  # each image shows the anatomy unfolded, too
            grid = voxel_centres(shape, points)
            assert min(float(slab.smallest.min()) for slab in determinant_slabs(points - grid)) > 0.05
        goal = grid + moved.displacement
        shown = goal + sample((moved.moving - grid).movedim(-1, 0)[None], goal)[0].movedim(0, -1)
        assert float(((shown - moved.fixed) / voxel).abs().max()) < 1e-3
        strongest = max(strongest, float((moved.displacement / voxel).norm(dim=-1).max()))
    assert strongest > 4  # voxels: these are not trifles


def test_warping_the_moving_image_by_the_truth_gives_the_fixed_one() -> None:
    """Labels to the width of a pixel's border, images of one contrast to their noise."""
    pairs = source("size=256&body=trunk&contrast=same")
    assert isinstance(pairs, AnatomyPairs)
    before, after = [], []
    for seed in range(4):
        pair = pairs.pair(np.random.default_rng(seed))
        goal = voxel_centres(pairs.shape, pair.displacement) + pair.displacement
        seen = (goal.abs() < 1).all(-1)
        fixed = pair.fixed_labels[seen]
        warped = sample(pair.moving_labels[None, None].float(), goal, mode="nearest")[0, 0][seen]
        values = [v for v in fixed.unique()[1:] if int((fixed == v).sum()) > 0.03 * len(fixed)]
        assert values and min(overlap(warped == v, fixed == v) for v in values) > 0.9
        assert overlap(warped > 0, fixed > 0) > 0.99
        assert int((fixed > 0).sum()) > 0.2 * len(fixed)
        before.append(float((pair.moving - pair.fixed)[0][seen].square().mean()))
        moved = sample(pair.moving[None], goal)[0, 0]
        after.append(float((moved - pair.fixed[0])[seen].square().mean()))
    assert np.median(after) < 0.5 * np.median(before)


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_landmarks_are_partners_on_borders() -> None:
    made = source("size=96&landmarks=200").batch(4, 0, 0)
    for k in range(4):
        start, goal = made.fixed_landmarks[k], made.moving_landmarks[k]
        assert float(start.abs().max()) < 1 and float(goal.abs().max()) < 1
        there = read_at(made.displacement[k].movedim(-1, 0)[None], start[None])[0].T
        assert torch.allclose(start + there, goal, atol=1e-5)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("body", PLANS)
def test_every_plan_fills_the_image_with_many_structures(body: str, dimension: int) -> None:
    seen = []
    for seed in range(3):
        canvas = Canvas((48,) * dimension, np.random.default_rng(seed))
        PLANS[body](canvas)
        assert len(canvas.tissues) <= 256 and int(canvas.labels.max()) < len(canvas.tissues)
        counts = torch.bincount(canvas.labels.flatten().long())
        assert int((counts > 20).sum()) >= 4 and float(counts.max()) < 0.95 * counts.sum()
        seen.append(canvas.labels)
    assert not torch.equal(seen[0], seen[1])


def test_slabs_are_thin_and_of_one_size_in_a_step() -> None:
    pairs, plain = source("size=32&thin=0.5&landmarks=4", 3), source("size=32&landmarks=4", 3)
    shapes = [tuple(pairs.batch(1, 0, step).fixed.shape[2:]) for step in range(24)]
    slabs = [shape for shape in shapes if shape != (32, 32, 32)]
    assert 4 < len(slabs) < 20 and not any(n % 4 for shape in slabs for n in shape)
    for thick, wide, other in map(sorted, slabs):
        assert wide == other and 8 <= thick <= 0.36 * wide
        assert 0.8 < thick * wide**2 / 32**3 < 1.5  # about as many voxels as in the others
    assert len(set(slabs)) > 3
    assert {shape.index(min(shape)) for shape in slabs} == {0, 1, 2}
    thin, cube = (
        next(k for k, s in enumerate(shapes) if (s in slabs) is is_slab) for is_slab in (True, False)
    )
    both = pairs.batch(2, 0, thin)  # however many processes share the step
    assert equal(both, pairs.batch(1, 0, thin, first=1), 1)
    assert equal(pairs.batch(2, 0, cube), plain.batch(2, 0, cube))  # cubes are what they are without slabs


def test_a_slab_is_the_middle_of_a_body_and_its_map_fits() -> None:
    """The outermost voxels still show the body, which a whole image of it would leave to the air."""
    pairs = source("size=40&thin=1&body=head&contrast=same&labels=32", 3)
    before, after = [], []
    for step in range(6):
        made = pairs.batch(1, 0, step)
        axis = int(np.argmin(made.fixed.shape[2:]))
        ends = made.fixed_labels[0].sum(0).movedim(axis, 0)[[0, -1]]
        assert float((ends > 0).float().mean()) > 0.05
        goal = voxel_centres(made.fixed.shape[2:], made.displacement) + made.displacement
        seen = (goal.abs() < 1).all(-1)[0]
        warped = read_at(made.moving_labels, goal)[0]
        before.append(overlap(made.moving_labels[0][:, seen] > 0.5, made.fixed_labels[0][:, seen] > 0.5))
        after.append(overlap(warped[:, seen] > 0.5, made.fixed_labels[0][:, seen] > 0.5))
    assert np.median(after) > 0.7 and np.median(after) > np.median(before) + 0.15


def test_everything_is_made_on_the_device_asked_for() -> None:
    """A tensor made without saying where lands on another device, and fails when it meets the rest."""
    for text in ("body=head", "body=trunk", "contrast=different"):
        pairs = source(f"size=16&{text}", 3)
        torch.set_default_device("meta")
        try:
            made = pairs.batch(2, 0, 0)
        finally:
            torch.set_default_device(None)
        assert {getattr(made, name).device.type for name in NAMES} == {"cpu"}


def test_contrasts_are_the_same_or_not() -> None:
    """How alike the brightness of a pair's structures is, by correlation."""

    def agreement(text: str) -> list[float]:
        result = []
        for seed in range(12):
            pairs = source(f"size=64&{text}")
            assert isinstance(pairs, AnatomyPairs)
            pair = pairs.pair(np.random.default_rng(seed))
            labels = pair.moving_labels
            both = [v for v in pair.fixed_labels.unique() if int((labels == v).sum()) > 20]
            means = [
                [float(image[0][side == v].median()) for v in both]
                for image, side in ((pair.fixed, pair.fixed_labels), (pair.moving, labels))
            ]
            result.append(float(np.corrcoef(*means)[0, 1]))
        return result

    same, different = agreement("contrast=same"), agreement("contrast=different")
    assert np.median(same) > 0.85 > 0.6 > np.median(different)


@pytest.mark.parametrize(("contrast", "shared"), [("same", True), ("different", False)])
def test_another_contrast_shows_another_fine_pattern(
    contrast: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns = []

    def render(canvas: Canvas, pattern: torch.Tensor, *others: object) -> torch.Tensor:
        patterns.append(pattern)
        return synthesis.appearance.render(canvas, pattern, *others)

    monkeypatch.setattr(synthesis, "render", render)
    source(f"size=64&contrast={contrast}").batch(1, 0, 0)
    agreement = np.corrcoef(*(v.flatten().numpy() for v in patterns))[0, 1]
    assert agreement > 0.99 if shared else abs(agreement) < 0.3


def test_strength_and_affine_scale_the_map() -> None:
    still = source("size=32&strength=0&affine=0").batch(2, 0, 0)
    assert float(still.displacement.abs().max()) < 1e-6
    assert torch.equal(still.fixed_labels, still.moving_labels)
    turned = source("size=32&strength=0&affine=1").batch(1, 0, 0).displacement[0]
    rows = turned.diff(dim=0), turned.diff(dim=1)  # an affine map's displacement changes evenly
    assert all(float((r - r.mean((0, 1))).abs().max()) < 1e-4 for r in rows)
    weak, strong = (
        source(f"size=32&affine=0&strength={s}").batch(4, 0, 0).displacement.norm(dim=-1).mean()
        for s in (0.2, 1.0)
    )
    assert float(weak) < 0.4 * float(strong)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("contrast=odd", "'odd'"),
        ("body=whale", "'whale'"),
        ("strength=-1", "strength"),
        ("strength=nan", "strength"),
        ("affine=9", "affine"),
        ("labels=0", "labels"),
        ("landmarks=-3", "landmarks"),
        ("thin=1.5", "thin"),
        ("thin=0.5", "slabs"),
        ("colour=1", "no option 'colour'"),
    ],
)
def test_options_that_are_not_understood(text: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        source(text)


def test_the_help_names_every_generator_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    for name, kind in GENERATORS.items():
        assert name in shown and all(option in shown for option in kind.options)
    assert all(body in shown for body in PLANS)
