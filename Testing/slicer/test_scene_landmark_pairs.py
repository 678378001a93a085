"""Which landmark belongs to which."""

from __future__ import annotations

import numpy as np
import pytest
from DeepRegistrationLib.errors import InputError
from DeepRegistrationScene.landmark_pairs import pair_landmarks, read_points
from DeepRegistrationScene.transform_nodes import transform_to_node
from scene_support import linear_node, markups_node, placement, volume_node
from worker_support import FIXED, bend

A = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])


def test_by_label_whatever_the_order(scene) -> None:
    fixed = markups_node(scene, A, ("a", "b", "c"))
    moving = markups_node(scene, A[::-1] + 1, ("c", "b", "d"))
    pairs = pair_landmarks(fixed, moving, held_out=("c", "nobody"))
    assert pairs.by_label and pairs.names == ("b", "c")
    assert [pair.number for pair in pairs.pairs] == [1, 2]
    assert pairs.unpaired_fixed == ("a",) and pairs.unpaired_moving == ("d",)
    assert np.allclose(pairs.fixed, A[1:]) and np.allclose(pairs.moving, [A[1] + 1, A[2] + 1])
    assert pairs.held_out.tolist() == [False, True]
    assert pairs.request() == {
        "fixed": pairs.fixed.tolist(),
        "moving": pairs.moving.tolist(),
        "names": ["b", "c"],
        "held_out": [False, True],
    }
    assert pairs.sentences == (
        "Landmarks that are not used: a (no partner) on the fixed image; d (no partner) on the moving image.",
    )


def test_by_order_where_labels_say_nothing(scene) -> None:
    fixed = markups_node(scene, A, name="F")
    moving = markups_node(scene, A[:2] + 1, name="M")
    pairs = pair_landmarks(fixed, moving, held_out=("F-2",))
    assert not pairs.by_label and pairs.names == ("F-1", "F-2")
    assert pairs.unpaired_fixed == ("F-3",) and pairs.unpaired_moving == ()
    assert np.allclose(pairs.moving, A[:2] + 1) and pairs.held_out.tolist() == [False, True]


def test_names_that_repeat_are_told_apart(scene) -> None:
    fixed = markups_node(scene, A, ("p", "p", "-"))
    moving = markups_node(scene, A, ("p", "p", "r"))
    fixed.SetNthControlPointLabel(2, "")
    pairs = pair_landmarks(fixed, moving, held_out=("p (2)",))
    assert pairs.names == ("p (1)", "p (2)", "point (3)")
    fixed.SetNthControlPointLabel(2, "p (1)")
    assert pair_landmarks(fixed, moving).names == ("p (1)", "p (2)", "p (1) (3)")
    moving.SetNthControlPointLabel(1, "q")  # which p is meant?
    with pytest.raises(InputError, match="called p"):
        pair_landmarks(fixed, moving)
    assert len(set(pairs.names)) == 3 and pairs.held_out.tolist() == [False, True, False]


def test_a_point_that_is_not_placed_keeps_its_place(scene) -> None:
    """Otherwise all the points after it would be paired with the wrong ones."""
    fixed, moving = markups_node(scene, A, name="F"), markups_node(scene, A, name="M")
    fixed.UnsetNthControlPointPosition(1)
    pairs = pair_landmarks(fixed, moving)
    assert pairs.names == ("F-1", "F-3") and np.allclose(pairs.fixed, pairs.moving)
    assert pairs.unpaired_moving == ("M-2",) and pairs.unpaired_fixed == ()


def test_a_deselected_point_is_not_used(scene) -> None:
    fixed, moving = markups_node(scene, A, name="F"), markups_node(scene, A, name="M")
    fixed.SetNthControlPointSelected(0, False)
    pairs = pair_landmarks(fixed, moving)
    assert pairs.names == ("F-2", "F-3") and np.allclose(pairs.fixed, pairs.moving)
    assert "F-1 (deselected) on the fixed image; M-1 (no partner)" in pairs.sentences[0]


def test_points_are_read_where_they_are_seen(scene) -> None:
    points = markups_node(scene, A, ("a", "b", "c"))
    points.UnsetNthControlPointPosition(1)
    assert [p.label for p in read_points(points)] == ["a", "c"]
    assert np.allclose([p.position for p in read_points(points)], A[[0, 2]])
    shift = np.eye(4)
    shift[:3, 3] = (10, 20, 30)
    inner = linear_node(scene, shift, points)
    assert np.allclose(read_points(points)[0].position, A[0] + (-10, -20, 30))
    grid = transform_to_node(bend(FIXED), FIXED, "result")
    inner.SetAndObserveTransformNodeID(grid.GetID())
    assert not np.allclose(read_points(points)[0].position, A[0] + (-10, -20, 30), atol=1)
    # under the result of a run: as if it did not hang there
    assert np.allclose(read_points(points, [grid])[0].position, A[0] + (-10, -20, 30))
    other = linear_node(scene, placement(20, (1, 2, 3)))
    assert np.allclose(read_points(points, [other])[0].position, read_points(points)[0].position)


def test_empty_and_wrong_lists(scene) -> None:
    empty = markups_node(scene, np.zeros((0, 3)))
    pairs = pair_landmarks(empty, empty)
    assert len(pairs) == 0 and pairs.fixed.shape == (0, 3) and pairs.sentences == ()
    image = volume_node(scene, np.zeros(FIXED.shape, np.float32), FIXED)
    for wrong in (None, image):
        with pytest.raises(InputError, match="point list"):
            pair_landmarks(empty, wrong)
