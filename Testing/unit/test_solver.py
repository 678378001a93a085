"""The optimiser: where it ends, that it repeats itself, stops when told, and leaves nothing behind."""

from __future__ import annotations

import gc
import math
from pathlib import Path

import pytest
import torch
from DeepRegistrationLib.errors import Cancelled
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.objective import Channel, PairObjective
from DeepRegistrationLib.objectives import LocalNCC
from DeepRegistrationLib.progress import CancelToken, Progress, Reporter
from DeepRegistrationLib.solver import Energy, Scale, Settings, scale_frame, solve
from DeepRegistrationLib.transforms import REPRESENTATIONS, FreeForm, LinearTransform, Representation
from torch import Tensor

FRAMES = [Frame.regular((24, 20), (1.5, 2.0)), Frame.regular((18, 14, 16), (2.0, 2.5, 1.5))]
DEFORMABLE = [name for name in REPRESENTATIONS if name not in ("rigid", "affine")]
STATM = Path("/proc/self/statm")


def bumps(frame: Frame) -> Tensor:
    """A smooth displacement of up to one voxel per axis, still at the border, normalised units."""
    grid = frame.grid()
    window = torch.cos(grid * math.pi / 2).prod(-1, keepdim=True)
    waves = torch.stack([torch.cos(1.3 * grid.sum(-1) + k) for k in range(frame.dimension)], -1)
    return window * waves * (2 / torch.tensor(frame.size))


class Nearness:
    """Mean squared distance, in voxels, to a displacement known on every frame of a box."""

    def __init__(self, slope: float = 0.0) -> None:
        self.slope, self.calls = slope, 0

    def at(self, frame: Frame, for_update: bool) -> Energy:
        target, voxel = bumps(frame), 2 / torch.tensor(frame.size)

        def energy(u: Tensor) -> Tensor:
            self.calls += 1
            return ((u - target) / voxel).square().sum(-1).mean() + self.slope * u.mean()

        return energy


def images(frame: Frame) -> PairObjective:
    """Two noisy blobs a voxel and a half apart."""
    noise = torch.Generator().manual_seed(1)
    pair = []
    for shift in (0.0, 1.5):
        points = frame.points(dtype=torch.float32) - shift * frame.spacing[0]
        blob = torch.exp(-(points / (0.2 * torch.tensor(frame.extent.copy()).float())).square().sum(-1))
        pair.append(Volume((blob + 0.05 * torch.rand(frame.shape, generator=noise))[None], frame))
    identity = LinearTransform.identity(frame.dimension)
    return PairObjective([Channel(*pair, LocalNCC(2, gradient="centre"))], identity, regularity=0.1)


SHORT = Settings(scales=(Scale(2, 8), Scale(1, 6)), smallest=8)


@pytest.mark.parametrize("frame", FRAMES, ids=["2-D", "3-D"])
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_known_minimum_is_reached(frame: Frame, optimiser: str) -> None:
    settings = Settings(
        (Scale(2, 60), Scale(1, 200)), 0.1, gradient_sigma=0, warp_sigma=0, optimiser=optimiser, tolerance=0
    )
    found, reports = solve(Nearness(), FreeForm(frame), settings)
    voxel = 2 / torch.tensor(frame.size)
    before = (bumps(frame) / voxel).norm(dim=-1).mean()
    after = ((found.displacement() - bumps(frame)) / voxel).norm(dim=-1).mean()
    assert after < 0.1 * before
    assert reports[-1].frame == found.frame == frame
    assert all(r.energies[-1] < r.energies[0] for r in reports)


@pytest.mark.parametrize("frame", FRAMES, ids=["2-D", "3-D"])
@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_the_same_again_bit_for_bit_and_the_start_untouched(name: str, frame: Frame) -> None:
    start = REPRESENTATIONS[name].seeded(frame, "cpu", 3)
    before = [p.detach().clone() for p in start.parameters()]
    runs = [solve(images(frame), start, SHORT) for _ in range(2)]
    (one, first), (two, second) = runs
    assert one is not start and one.frame == frame
    assert torch.equal(one.displacement(), two.displacement())
    assert [r.energies for r in first] == [r.energies for r in second]
    assert one.displacement().abs().max() > 0
    assert start.frame == frame
    for parameter, value in zip(start.parameters(), before, strict=True):
        assert torch.equal(parameter, value) and parameter.requires_grad and parameter.grad is None


@pytest.mark.parametrize("name", ["free-form", "diffeomorphic", "b-spline"])
def test_no_step_is_longer_than_the_rate(name: str) -> None:
    frame, settings = FRAMES[1], Settings((Scale(1, 1),), rate=0.3, gradient_sigma=0, warp_sigma=0)
    moved, _ = solve(images(frame), REPRESENTATIONS[name](frame), settings)
    voxels = moved.displacement().detach() * torch.tensor(frame.size) / 2
    assert 0.01 < float(voxels.norm(dim=-1).max()) < 0.3 * 1.02


@pytest.mark.parametrize("at", [1, 5, 11])
def test_cancelling_ends_within_one_iteration(at: int) -> None:
    token, objective, calls = CancelToken(), Nearness(), []

    def watch(progress: Progress) -> None:
        calls.append(progress)
        if len(calls) == at:
            token.cancel()

    with pytest.raises(Cancelled):
        solve(objective, FreeForm(FRAMES[0]), SHORT, Reporter(watch, token))
    # the first scale has eight iterations, and one look more at where they end
    assert len(calls) == at and objective.calls == at + (at > 8)


def test_progress_rises_by_cost_and_names_the_objective() -> None:
    calls: list[Progress] = []
    solve(Nearness(), FreeForm(FRAMES[1]), SHORT, Reporter(calls.append), "Bending")
    fractions = [c.fraction for c in calls]
    assert fractions[0] == 0 and fractions == sorted(set(fractions)) and fractions[-1] < 1
    assert len(calls) == 14 and all(c.stage.startswith("Bending, ") for c in calls)
    assert calls[0].objective is None and calls[-1].objective > 0
    # eight iterations on an eighth of the voxels (no axis below eight) against six on all of them
    coarse, fine = scale_frame(FRAMES[1], 2, 8), FRAMES[1]
    share = 8 * coarse.voxels / (8 * coarse.voxels + 6 * fine.voxels)
    assert fractions[8] == pytest.approx(share)


def test_a_scale_ends_when_nothing_is_gained_any_more() -> None:
    frame = FRAMES[0]
    settings = Settings((Scale(1, 500),), rate=0.1, gradient_sigma=0, warp_sigma=0, tolerance=1e-3)
    _, (report,) = solve(Nearness(), FreeForm(frame), settings)
    assert report.converged and 20 <= len(report.energies) < 300
    there = FreeForm(frame)
    there.warp.data.copy_(bumps(frame))
    _, (report,) = solve(Nearness(), there, Settings((Scale(1, 500),), rate=1e-9, warp_sigma=0))
    assert report.converged and len(report.energies) == 20
    endless = Settings((Scale(1, 60),), rate=0.5, gradient_sigma=0, warp_sigma=0)
    _, (report,) = solve(Nearness(slope=1e6), FreeForm(frame), endless)
    assert not report.converged and len(report.energies) == 60


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("name", DEFORMABLE)
def test_no_tensor_outlives_its_iteration(name: str) -> None:
    seen: list[int] = []

    def count(progress: Progress) -> None:
        if progress.fraction in (0.25, 0.5, 0.75):
            seen.append(live_tensors())

    settings = Settings((Scale(1, 16),), tolerance=0)
    solve(images(FRAMES[0]), REPRESENTATIONS[name](FRAMES[0]), settings, Reporter(count))
    assert len(seen) == 3 and max(seen) == min(seen)


@pytest.mark.skipif(not STATM.exists(), reason="resident memory as Linux tells it")
@pytest.mark.parametrize("name", ["diffeomorphic", "stationary-velocity", "b-spline"])
def test_memory_does_not_grow_with_iterations(name: str) -> None:
    frame, seen = Frame.regular((48, 48, 48)), []

    def measure(_: Progress) -> None:
        seen.append(int(STATM.read_text().split()[1]) * 4096)

    settings = Settings((Scale(1, 50),), tolerance=0)
    solve(images(frame), REPRESENTATIONS[name](frame), settings, Reporter(measure))
    # one forgotten displacement an iteration would be 30 times 1.3 MB
    assert max(seen[45:]) - max(seen[:15]) < 20e6


def test_scales_leave_thick_slices_alone_and_keep_the_box() -> None:
    frame = Frame.regular((100, 80, 12), (1.0, 1.0, 5.0))
    half, quarter, eighth = (scale_frame(frame, f, 8) for f in (2, 4, 8))
    assert half.size == (50, 40, 12) and quarter.size == (25, 20, 12)
    assert eighth.size == (12, 10, 8)
    assert scale_frame(frame, 1, 8) == frame and scale_frame(frame, 1000, 16).size == (16, 16, 12)
    for other in (half, quarter, eighth):
        assert torch.allclose(torch.from_numpy(other.corners()), torch.from_numpy(frame.corners()))


@pytest.mark.parametrize("name", ["free-form", "diffeomorphic", "stationary-velocity"])
def test_every_scale_begins_where_the_one_before_ended(name: str) -> None:
    class Watched(Nearness):
        def __init__(self) -> None:
            super().__init__()
            self.starts: list[Tensor] = []

        def at(self, frame: Frame, for_update: bool) -> Energy:
            energy, count = super().at(frame, for_update), self.calls

            def watched(u: Tensor) -> Tensor:
                if self.calls == count:
                    self.starts.append(u.detach().clone())
                return energy(u)

            return watched

    frame, objective = FRAMES[1], Watched()
    settings = Settings((Scale(2, 30), Scale(1, 1)), smallest=6, tolerance=0)
    start: Representation = REPRESENTATIONS[name](frame)
    coarse, _ = solve(Nearness(), start, Settings((Scale(2, 30),), smallest=6, tolerance=0))
    solve(objective, start, settings)
    expected = coarse.resized(frame).displacement().detach()
    assert expected.abs().max() > 0
    torch.testing.assert_close(objective.starts[1], expected)


class Climbing(Nearness):
    """Its gradient says one thing and its value another: each look costs more than the one before."""

    def at(self, frame: Frame, for_update: bool) -> Energy:
        energy, first = super().at(frame, for_update), self.calls

        def climbing(u: Tensor) -> Tensor:
            value = energy(u)
            return value - value.detach() + 1.0 + 0.1 * (self.calls - first)

        return climbing


@pytest.mark.parametrize("tolerance", [1e-4, 0.0])
def test_an_energy_that_climbs_has_not_converged_and_leaves_the_start(tolerance: float) -> None:
    frame = FRAMES[0]
    start = FreeForm(frame)
    start.warp.data.copy_(0.3 * bumps(frame))
    settings = Settings((Scale(1, 60),), rate=0.1, warp_sigma=0, tolerance=tolerance)
    found, (report,) = solve(Climbing(), start, settings)
    assert len(report.energies) == 20 and list(report.energies) == sorted(report.energies)
    assert not report.converged
    assert torch.equal(found.warp, start.warp)


def test_the_best_parameters_come_back_when_the_energy_climbs_again() -> None:
    """Down for six looks, then up."""
    seen: list[Tensor] = []

    class Valley(Nearness):
        def at(self, frame: Frame, for_update: bool) -> Energy:
            energy = super().at(frame, for_update)

            def valley(u: Tensor) -> Tensor:
                value = energy(u)
                seen.append(u.detach().clone())
                return value - value.detach() + abs(len(seen) - 6)

            return valley

    settings = Settings((Scale(1, 14),), rate=0.1, warp_sigma=0, tolerance=0)
    found, (report,) = solve(Valley(), FreeForm(FRAMES[0]), settings)
    assert report.energies.index(min(report.energies)) == 5 and not report.converged
    assert torch.equal(found.displacement(), seen[5]) and not torch.equal(seen[5], seen[6])


@pytest.mark.parametrize("iterations", [1, 2, 3, 6])
@pytest.mark.parametrize("optimiser", ["adam", "sgd", "descent"])
@pytest.mark.parametrize("off", [0.0, 0.05, 0.3, 1.0])
def test_no_scale_ends_above_the_energy_it_began_with(off: float, optimiser: str, iterations: int) -> None:
    """However much too long the steps are."""
    frame, ended = FRAMES[1], []
    start = FreeForm(frame)
    start.warp.data.copy_(bumps(frame)).add_(off * 2 / torch.tensor(frame.size))

    def after(model: Representation) -> None:
        with torch.no_grad():
            ended.append(float(Nearness().at(model.frame, False)(model.displacement())))

    scales = (Scale(2, iterations), Scale(1, iterations))
    settings = Settings(scales, rate=0.6, warp_sigma=0.3, optimiser=optimiser, smallest=8, tolerance=0)
    _, reports = solve(Nearness(), start, settings, after_scale=after)
    for report, energy in zip(reports, ended, strict=True):
        assert energy <= report.energies[0]
