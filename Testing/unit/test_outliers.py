"""Values that are no tissue: hot voxels, metal, and a mark where nothing was measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from DeepRegistrationLib.background import Limits, limits
from DeepRegistrationLib.frame import Volume
from DeepRegistrationLib.prepare import measurements
from pair_support import FRAME, INNER, MAPPED, POINTS, RADIUS, ball, error, registered, within

FIXED, MOVING = ball(MAPPED), ball(POINTS)
LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("mark", [LARGEST, -LARGEST, 1e6])
def test_a_mark_of_no_measurement_in_the_background(mark: float) -> None:
    away = POINTS.norm(dim=-1)[None]
    images = [torch.where(away > RADIUS + m, torch.tensor(mark), i) for m, i in ((3, FIXED), (9, MOVING))]
    plain, marked = registered(FIXED, MOVING), registered(*images)
    assert error(marked) < error(plain) + 0.15
    numbers, expected = (r.quality["similarity"] for r in (marked, plain))
    assert numbers["before"]["ncc"] == pytest.approx(expected["before"]["ncc"], abs=0.05)
    assert numbers["after"]["ncc"] == pytest.approx(expected["after"]["ncc"], abs=0.03)


@pytest.mark.parametrize("value", [1e9, -1e9])
def test_one_hot_voxel_leaves_the_numbers_as_they_were(value: float) -> None:
    hot = FIXED.clone()
    hot[0, 20, 20, 20] = value
    plain, result = registered(FIXED, MOVING), registered(hot, MOVING)
    for when in ("before", "after"):
        numbers, expected = (r.quality["similarity"][when]["ncc"] for r in (result, plain))
        assert numbers == pytest.approx(expected, abs=0.02)
    assert error(result) < error(plain) + 0.05
    assert not any("noise" in w for w in result.quality["warnings"])


@pytest.mark.parametrize("name", ["lncc", "mse"])
def test_a_bright_implant_does_not_set_the_scale(name: str) -> None:
    """About half a per cent of both images' voxels, thirty times as bright as the tissue."""
    implant, moved = (within(places, (10.0, 0.0, 10.0), 10.5) for places in (MAPPED, POINTS))
    assert 0.004 < float(implant.float().mean()) < 0.009
    images = [torch.where(i, torch.tensor(3000.0), v) for i, v in ((implant, FIXED), (moved, MOVING))]
    where = INNER & ~implant[0]
    plain = error(registered(FIXED, MOVING, similarity=name), where)
    assert error(registered(*images, similarity=name), where) < plain + 0.3


def test_usual_images_and_sparse_ones_have_no_outliers() -> None:
    values = np.random.default_rng(0).gamma(2.0, 50.0, 50_000)
    assert limits(values) == Limits()
    sparse = np.zeros(5000)
    sparse[:9] = 7.0
    assert limits(sparse) == Limits()
    plain = Volume(FIXED, FRAME)
    assert measurements(plain) is plain


def test_limits_are_those_of_the_other_voxels() -> None:
    values = np.linspace(0, 1, 20_001)
    values[:100] = 50.0
    found = limits(values)
    assert found.low == -np.inf and found.high == pytest.approx(0.998, abs=1e-3)
    found = limits(np.concatenate([values, np.full(4000, -1e30)]))
    assert found.unmeasured is not None and -1000 < found.unmeasured < -10
    assert found.low == pytest.approx(0.006, abs=2e-3)
