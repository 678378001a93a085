"""Landmark pairs: those that agree are fitted, those that do not are named."""

from __future__ import annotations

import pytest
import torch
from DeepRegistrationLib.linear.consensus import consensus, outlier_sentences
from DeepRegistrationLib.transforms import LinearTransform
from DeepRegistrationLib.transforms.linear_fit import best_rigid
from DeepRegistrationLib.transforms.rotation import rotation_matrix
from torch import Tensor

TRUTH = LinearTransform.from_parts(
    rotation_matrix(torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64)),
    torch.tensor([5.0, -3.0, 40.0], dtype=torch.float64),
)


def points(count: int, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    fixed = 50 * torch.randn(count, 3, generator=random, dtype=torch.float64)
    return fixed, TRUTH.map(fixed) + noise * torch.randn(count, 3, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 45])
def test_pairs_that_agree_are_fitted_by_least_squares(count: int) -> None:
    fixed, moving = points(count, 2.0)
    found = consensus(fixed, moving)
    assert bool(found.agreeing.all()) and not outlier_sentences(found, fixed, moving)
    torch.testing.assert_close(found.rigid.matrix, best_rigid(fixed, moving).matrix)


@pytest.mark.parametrize("count", [5, 7, 45])
def test_one_wrong_pair_is_set_aside_and_named(count: int) -> None:
    fixed, moving = points(count, 0.5)
    moving[3] += torch.tensor([40.0, 0.0, -30.0])
    found = consensus(fixed, moving)
    assert (~found.agreeing).nonzero().flatten().tolist() == [3]
    assert float((found.rigid.map(fixed) - TRUTH.map(fixed)).norm(dim=1).max()) < 2.0
    (sentence,) = outlier_sentences(found, fixed, moving)
    assert "pair 4 (" in sentence and "set it aside" in sentence


def test_two_exchanged_pairs_are_named_as_such() -> None:
    fixed, moving = points(7, 0.5)
    moving[[0, 5]] = moving[[5, 0]]
    (sentence,) = outlier_sentences(consensus(fixed, moving), fixed, moving, tuple("abcdefg"))
    assert "pairs a and f look exchanged" in sentence


def test_pairs_that_contradict_each_other_are_said_to() -> None:
    fixed, _ = points(3)
    found = consensus(fixed, 3 * fixed)
    (sentence,) = outlier_sentences(found, fixed, 3 * fixed)
    assert "contradict" in sentence


def test_swapping_the_lists_inverts_the_fit() -> None:
    fixed, moving = points(9, 1.0)
    moving[2] += 60
    one, other = consensus(fixed, moving), consensus(moving, fixed)
    assert torch.equal(one.agreeing, other.agreeing)
    torch.testing.assert_close(one.rigid.matrix, other.rigid.inverse().matrix, atol=1e-9, rtol=0)


def test_weights_count() -> None:
    fixed, moving = points(4)
    moving[0] += 3
    weights = torch.tensor([0.0, 1.0, 1.0, 1.0])
    found = consensus(fixed, moving, weights)
    assert float(found.distances[1:].max()) < 1e-9 < 1 < float(found.distances[0])


def test_two_dimensions() -> None:
    fixed = torch.tensor([[0.0, 0.0], [30.0, 0.0], [0.0, 40.0], [20.0, 25.0], [-15.0, 10.0]]).double()
    moving = fixed + torch.tensor([5.0, 7.0])
    moving[1] += 40
    found = consensus(fixed, moving)
    assert found.agreeing.tolist() == [True, False, True, True, True]
    torch.testing.assert_close(found.rigid.matrix[:2, 2], torch.tensor([5.0, 7.0]).double())
