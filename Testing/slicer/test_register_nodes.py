"""Real registrations in a real worker: what Slicer shows is what SimpleITK makes of the engine's files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import vtk
from DeepRegistrationLib import register
from DeepRegistrationLib.registration import Registration
from DeepRegistrationLib.worker.client import WorkerClient
from DeepRegistrationScene.landmark_pairs import read_points
from DeepRegistrationScene.logic import SceneLogic
from DeepRegistrationScene.volumes import read_volume
from scene_support import (
    RAS,
    assert_agree,
    itk,
    linear_node,
    markups_node,
    nodes,
    placement,
    points_of,
    shown,
    volume_node,
)
from worker_support import FIXED, MOVING, picture, worker_client

__all__ = ["worker_client"]

RUNS = [("diffeomorphic", "affine"), ("b-spline", "none"), ("affine", "affine")]


class Done:
    """One pair registered through the scene, and once more by `register`, saved to files."""

    def __init__(self, scene, client: WorkerClient, run: tuple[str, str], folder: Path) -> None:
        options = {
            "representation": run[0],
            "linear": run[1],
            "preset": "fast",
            "device": "cpu",
            "threads": 1,
        }
        self.scene = scene
        self.fixed_node = volume_node(scene, picture(FIXED, False), FIXED, name="fixed")
        self.moving_node = volume_node(scene, picture(MOVING, True), MOVING, name="moving")
        linear_node(scene, placement(9, (4, -6, 3)), self.fixed_node)
        linear_node(scene, placement(-5, (4, -6, 3)), self.moving_node)
        self.fixed, self.moving = map(read_volume, (self.fixed_node, self.moving_node))
        self.nodes = SceneLogic(client).register(self.fixed_node, self.moving_node, **options)
        self.result: Registration = register(itk(*self.fixed), itk(*self.moving), **options)
        self.result.save(folder)
        names = ("forward", "inverse")
        self.forward, self.inverse = (sitk.ReadTransform(str(folder / f"{name}.h5")) for name in names)

    def inner(self) -> tuple[np.ndarray, np.ndarray]:
        """Fixed points, LPS mm, well inside both images, and where SimpleITK puts them in the moving one."""
        points = points_of(self.fixed.frame)[2:-2:3, 2:-2:3, 2:-2:3].reshape(-1, 3)
        there = np.array([self.forward.TransformPoint(p) for p in points.tolist()])
        matrix = self.moving.frame.world_to_normalised
        inside = (np.abs(there @ matrix[:3, :3].T + matrix[:3, 3]) < 0.85).all(-1)
        return points[inside], there[inside]


@pytest.fixture(params=RUNS, ids="-".join)
def done(
    request: pytest.FixtureRequest, scene, worker_client: WorkerClient, tmp_path: Path
) -> Iterator[Done]:
    return Done(scene, worker_client, request.param, tmp_path)


def positions(node) -> np.ndarray:
    return np.array([point.position for point in read_points(node)])


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a - b, axis=1)


def test_the_moving_volume_under_the_result_is_the_warped_image(done: Done) -> None:
    similarity = done.nodes.quality["similarity"]
    assert similarity["after"]["ncc"] > similarity["before"]["ncc"] + 0.05
    expected = sitk.GetArrayFromImage(
        sitk.Resample(itk(*done.moving), itk(*done.fixed), done.forward, sitk.sitkLinear, -1e9)
    )
    done.moving_node.HardenTransform()  # its own placement, which the result takes for granted
    done.moving_node.SetAndObserveTransformNodeID(done.nodes.forward.GetID())
    seen = shown(done.moving_node, done.fixed.frame)
    assert_agree(seen, expected)
    warped = read_volume(done.nodes.warped)
    assert warped.frame.same_lattice(done.fixed.frame)
    assert np.abs(warped.array - done.result.warped.data[0].numpy()).max() < 0.05  # of some thousand
    assert_agree(np.where(expected > -1e8, warped.array, -1e9), seen)


def test_points_go_both_ways_as_the_files_say(done: Done) -> None:
    points, there = done.inner()
    assert len(points) > 50
    # points of the moving image, placed under the forward node, land on the fixed points
    node = markups_node(done.scene, there)
    node.SetAndObserveTransformNodeID(done.nodes.forward.GetID())
    assert distance(positions(node), points).max() < 1e-3
    node.HardenTransform()
    assert distance(positions(node), points).max() < 1e-3
    # the maps themselves: from the world to where each image has it
    for result, transform, start in (
        (done.nodes.forward, done.forward, points),
        (done.nodes.inverse, done.inverse, there),
    ):
        to_node = vtk.vtkGeneralTransform()
        result.GetTransformFromWorld(to_node)
        for point in start:
            seen = RAS[:3, :3] @ np.asarray(to_node.TransformPoint(RAS[:3, :3] @ point))
            assert np.abs(seen - transform.TransformPoint(point.tolist())).max() < 1e-3


def test_the_fixed_volume_under_the_inverse_is_what_simpleitk_resamples(done: Done) -> None:
    expected = sitk.Resample(itk(*done.fixed), itk(*done.moving), done.inverse, sitk.sitkLinear, -1e9)
    done.fixed_node.HardenTransform()
    done.fixed_node.SetAndObserveTransformNodeID(done.nodes.inverse.GetID())
    assert_agree(shown(done.fixed_node, done.moving.frame), sitk.GetArrayFromImage(expected))


def test_the_hardened_volume_is_what_simpleitk_resamples(done: Done) -> None:
    """Slicer hardens a deformation on the moving lattice: compared there, inside the field's box."""
    done.moving_node.HardenTransform()
    done.moving_node.SetAndObserveTransformNodeID(done.nodes.forward.GetID())
    done.moving_node.HardenTransform()
    hardened = read_volume(done.moving_node)
    expected = sitk.Resample(itk(*done.moving), itk(*hardened), done.forward, sitk.sitkLinear, -1e9)
    seen = hardened.array.copy()
    to_fixed = done.fixed.frame.world_to_index
    index = points_of(hardened.frame) @ to_fixed[:3, :3].T + to_fixed[:3, 3]
    boxed = ((index >= 0) & (index <= np.asarray(done.fixed.frame.size) - 1)).all(-1)
    if not done.result.linear_only:
        seen[~boxed | (seen == 0)] = -1e9  # beyond its box SimpleITK has no displacement
    assert_agree(seen, sitk.GetArrayFromImage(expected))


def test_a_prompted_run_brings_the_markups_together(scene, worker_client: WorkerClient) -> None:
    """Markups in, markups moved: from the scene and back to it. Then one is moved, and the map refined."""
    fixed = volume_node(scene, picture(FIXED, False), FIXED, name="fixed")
    moving = volume_node(scene, picture(MOVING, False), MOVING, name="moving")
    parent = linear_node(scene, placement(35, (4, -6, 3)), moving)
    points = np.array([[8.0, 2, 1], [-6, 7, 2], [1, -9, 5], [2, 3, -8]])
    there, here = markups_node(scene, points, name="M"), markups_node(scene, points, name="F")
    there.SetAndObserveTransformNodeID(parent.GetID())
    start = distance(positions(there), points)
    logic = SceneLogic(worker_client)
    result = logic.register(fixed, moving, landmarks=(here, there), preset="fast", device="cpu")
    for node in (there, moving):  # as they were registered, and then under the result
        node.HardenTransform()
        node.SetAndObserveTransformNodeID(result.forward.GetID())
    end = distance(positions(there), points)
    assert start.mean() > 6 and end.max() < 1.0
    before = nodes(scene)
    here.SetNthControlPointPosition(0, *(RAS[:3, :3] @ (points[0] + (2.0, -1.5, 1.0))))
    wrong = distance(positions(there), positions(here))[0]
    refined = logic.refine(result)
    assert refined.nodes() == result.nodes() and nodes(scene) == before
    right = distance(positions(there), positions(here))
    assert wrong > 2 and right[0] < wrong / 3 and right.max() < 1.0
    fitted = refined.quality["landmarks"]["fitted"]
    assert fitted["after"]["each_mm"]["F-1"] == pytest.approx(right[0], abs=0.15)
