"""MIND and mutual information as one measure."""

from __future__ import annotations

import pytest
import torch
from DeepRegistrationLib.objectives import MindAndInformation, MindSSC, NormalisedMutualInformation

GENERATOR = torch.Generator().manual_seed(5)


@pytest.mark.parametrize("shape", [(9, 10), (8, 9, 10)])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_mean_of_the_two(shape: tuple[int, ...], channels: int, weighted: bool) -> None:
    a, b = (torch.rand(1, channels, *shape, generator=GENERATOR) for _ in range(2))
    weight = torch.rand(1, 1, *shape, generator=GENERATOR) if weighted else None
    ranges = {"warped_range": (0.0, 1.0), "fixed_range": (0.0, 1.0)}
    both, mind = MindAndInformation(**ranges), MindSSC()
    structure = mind(mind.prepare(a), mind.prepare(b), weight)
    information = NormalisedMutualInformation(**ranges)(a, b, weight)
    found = both(both.prepare(a), both.prepare(b), weight)
    assert float(found) == pytest.approx(float(structure + information) / 2, rel=1e-6)


def test_another_fixed_image_is_noticed() -> None:
    a, b, c = (torch.rand(1, 1, 8, 8, 8, generator=GENERATOR) for _ in range(3))
    both, fresh = MindAndInformation(), MindAndInformation()
    seen = both.prepare(a)
    both(seen, both.prepare(b))
    assert float(both(seen, both.prepare(c))) == float(fresh(seen, fresh.prepare(c)))


@pytest.mark.parametrize("shape", [(9, 10), (6, 9, 10)])
def test_at_scattered_points_it_is_what_it_is_on_the_lattice(shape: tuple[int, ...]) -> None:
    a, b = (torch.rand(1, 1, *shape, generator=GENERATOR) for _ in range(2))
    both = MindAndInformation()
    a, b = both.prepare(a), both.prepare(b)
    apart = (v.flatten(2)[:, :, None] for v in (a, b))
    assert float(both(*apart)) == pytest.approx(float(both(a, b)), rel=1e-5)


def test_gradient() -> None:
    """Against differences, in double precision; values keep to the middle of the histogram's range."""
    a, b = (0.3 + 0.4 * torch.rand(1, 1, 5, 6, 5, generator=GENERATOR).double() for _ in range(2))
    both = MindAndInformation((0.0, 1.0), (0.0, 1.0))
    seen, fixed = both.prepare(a).requires_grad_(), both.prepare(b)
    assert torch.autograd.gradcheck(lambda v: both(v, fixed), (seen,), atol=1e-6)
