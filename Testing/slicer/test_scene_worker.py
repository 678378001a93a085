"""The logic on a real worker process: refining, cancelling, dying, saving and loading."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk
from DeepRegistrationLib.errors import Cancelled, RegistrationError
from DeepRegistrationLib.worker.client import WorkerClient
from DeepRegistrationScene import results
from DeepRegistrationScene.logic import SceneLogic
from DeepRegistrationScene.parameters import scene_parameters
from DeepRegistrationScene.transform_nodes import read_displacement
from scene_support import contents, markups_node, nodes, points_of, volume_node
from worker_support import FIXED, MOVING, picture, worker_client

__all__ = ["worker_client"]

PLACES = np.array([[8.0, 2, 1], [-6, 7, 2], [1, -9, 5]])
_PATIENCE = 120.0


@pytest.fixture
def logic(scene, worker_client: WorkerClient) -> SceneLogic:
    return SceneLogic(worker_client)


def chosen(scene):
    """A parameter node with two images and three pairs of landmarks."""
    parameters = scene_parameters()
    parameters.fixed = volume_node(scene, picture(FIXED, False), FIXED, name="CT")
    parameters.moving = volume_node(scene, picture(MOVING, True), MOVING, name="MR")
    parameters.preset, parameters.device = "fast", "cpu"
    parameters.fixed_landmarks = markups_node(scene, PLACES, ("a", "b", "c"), "fixed points")
    there = np.add(PLACES, (2, 1.5, 1))
    parameters.moving_landmarks = markups_node(scene, there, ("a", "b", "c"), "moving points")
    return parameters


def until(logic: SceneLogic, there: Callable[[], object]) -> None:
    """Poll as the panel does."""
    end = time.monotonic() + _PATIENCE
    while not there():
        assert time.monotonic() < end, "nothing happened"
        logic.poll()
        time.sleep(0.005)


def in_the_middle(logic: SceneLogic, parameters, heard: list):
    """A run that has begun to align or to deform."""
    run = logic.registerFromParameters(parameters, wait=False, progress=heard.append)
    until(logic, lambda: run.done or any(event.fraction > 0.15 for event in heard))
    assert not run.done
    return run


def landmark_error(parameters) -> float:
    """How far the forward node leaves the first landmarks apart, mm, by Slicer's own arithmetic."""
    pull_back = vtk.vtkGeneralTransform()
    parameters.forward.GetTransformFromWorld(pull_back)
    places = [[0.0] * 3, [0.0] * 3]
    for node, place in zip((parameters.fixed_landmarks, parameters.moving_landmarks), places, strict=True):
        node.GetNthControlPointPositionWorld(0, place)
    return float(np.linalg.norm(np.subtract(pull_back.TransformPoint(places[0]), places[1])))


def test_saved_cleared_and_loaded_it_is_refined_from_there(scene, logic: SceneLogic, tmp_path: Path) -> None:
    parameters = chosen(scene)
    done = logic.registerFromParameters(parameters)
    assert done.quality["landmarks"]["fitted"]["after"]["max_mm"] < 1
    field, quality = read_displacement(done.forward, FIXED), done.quality
    scene.SetRootDirectory(str(tmp_path))
    file = str(tmp_path / "study.mrb")
    assert scene.WriteToMRB(file)
    scene.Clear(False)
    assert logic.quality() is None
    assert scene.ReadFromMRB(file, False)
    read = scene_parameters()
    roles = ("fixed", "moving", "forward", "inverse", "warped", "table")
    names = ["CT", "MR", "MR moving to fixed", "MR fixed to moving", "MR registered", "MR quality"]
    assert [getattr(read, role).GetName() for role in roles] == names
    assert read.forward is not done.forward and read.preset == "fast"
    roles = slicer.vtkMRMLTransformNode
    assert read.forward.GetNodeReference(roles.GetFixedNodeReferenceRole()) is read.fixed
    assert read.forward.GetNodeReference(roles.GetMovingNodeReferenceRole()) is read.moving
    assert read.forward.GetTransformFromParent().GetInterpolationMode() == 1  # linear, as it was made
    assert np.abs(read_displacement(read.forward, FIXED) - field).max() < 1e-4
    assert logic.quality() == quality
    before = nodes(scene)
    read.fixed_landmarks.SetNthControlPointPosition(0, -10.0, -1.0, 2.0)
    wrong = landmark_error(read)
    again = logic.refine()
    assert not again.warm and again.forward is read.forward and nodes(scene) == before
    assert wrong > 2 and landmark_error(read) < wrong / 3
    # it started where the transform stood, and has not moved much that no landmark asked for
    subject = np.linalg.norm(points_of(FIXED), axis=-1) < 14
    moved = np.linalg.norm(read_displacement(again.forward, FIXED) - field, axis=-1)[subject]
    assert 0 < np.median(moved) < 1.5 and np.linalg.norm(field, axis=-1)[subject].mean() > 2
    assert logic.refine().warm


def test_results_are_converted_elsewhere_and_landed_in_steps(scene, logic, monkeypatch) -> None:
    """The thread that polls, which is the application's, is never kept for more than one output."""
    threads: list[threading.Thread] = []
    steps: list[int] = []

    def noted(original: Callable) -> Callable:
        def convert(*arguments):
            threads.append(threading.current_thread())
            return original(*arguments)

        return convert

    for name in ("displacement_image", "image_data"):
        monkeypatch.setattr(results, name, noted(getattr(results, name)))
    land = logic.runner._land

    def one_step(landing) -> None:
        steps[-1] += 1
        land(landing)

    monkeypatch.setattr(logic.runner, "_land", one_step)
    parameters = chosen(scene)
    for begin in (logic.registerFromParameters, logic.refine):
        threads.clear()
        steps.clear()
        run = begin(parameters, wait=False)
        while not run.done:
            steps.append(0)
            logic.poll()
            time.sleep(0.002)
        assert run.error is None
        assert len(threads) == 3 and threading.main_thread() not in threads  # two maps, and the warped image
        assert max(steps) == 1 and sum(steps) == 4  # each of them, and all into the scene


def test_cancelling_leaves_nothing_and_the_next_run_works(scene, logic: SceneLogic) -> None:
    parameters, heard = chosen(scene), []
    state = contents(scene)
    run = in_the_middle(logic, parameters, heard)
    logic.cancel()
    until(logic, lambda: run.done)
    assert isinstance(run.error, Cancelled) and contents(scene) == state and not logic.isRunning()
    assert logic.registerFromParameters(parameters).warped is parameters.warped is not None


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_a_worker_that_is_killed_leaves_the_scene_and_the_next_run_works(scene, logic: SceneLogic) -> None:
    parameters, heard = chosen(scene), []
    state = contents(scene)
    run = in_the_middle(logic, parameters, heard)
    os.kill(logic.runner.client.pid, signal.SIGKILL)
    until(logic, lambda: run.done)
    assert type(run.error) is RegistrationError and str(run.error).endswith(".")
    assert contents(scene) == state and not logic.isRunning()
    done = logic.registerFromParameters(parameters)
    # killed once more between two runs: the session is gone, and the refinement starts from the transform
    os.kill(logic.runner.client.pid, signal.SIGKILL)
    until(logic, lambda: logic.runner.client.state == "off")
    again = logic.refine()
    assert not again.warm and again.nodes() == done.nodes()
    assert again.quality["landmarks"]["fitted"]["after"]["max_mm"] < 1


def test_a_scene_that_is_closed_in_the_middle(scene, logic: SceneLogic) -> None:
    parameters, heard = chosen(scene), []
    run = in_the_middle(logic, parameters, heard)
    scene.Clear(False)
    state = contents(scene)
    until(logic, lambda: run.done)
    assert isinstance(run.error, Cancelled) and "scene was closed" in str(run.error)
    assert contents(scene) == state
    assert logic.registerFromParameters(chosen(scene)).forward is not None


@pytest.mark.parametrize("representation", ["rigid", "free-form"])
def test_refining_matrices_and_fields(scene, logic: SceneLogic, representation: str) -> None:
    """Warm and cold, into the same nodes, whatever they hold."""
    parameters = chosen(scene)
    parameters.representation = representation
    logic.registerFromParameters(parameters)
    parameters.fixed_landmarks.SetNthControlPointPosition(0, -9.0, -3.0, 2.0)
    warm = logic.refine()
    cold_start = parameters.forward.GetTransformFromParent()
    cold_start.Modified()
    cold = logic.refine()
    assert (warm.warm, cold.warm) == (True, False) and warm.nodes() == cold.nodes()
    errors = [r.quality["landmarks"]["fitted"]["after"]["mean_mm"] for r in (warm, cold)]
    before = warm.quality["landmarks"]["fitted"]["before"]["mean_mm"]
    assert max(errors) < before / 2 and abs(errors[0] - errors[1]) < 0.5


def test_features_where_the_method_has_some(scene, logic: SceneLogic) -> None:
    parameters = chosen(scene)
    parameters.want_features, parameters.want_jacobian = True, True
    done = logic.registerFromParameters(parameters)
    assert done.jacobian.GetImageData().GetScalarRange()[0] > 0
    assert (done.fixed_features is None) == (done.moving_features is None)
    if done.fixed_features is not None:
        assert done.fixed_features.GetImageData().GetNumberOfScalarComponents() >= 1
        assert parameters.fixed_features is done.fixed_features


def test_the_environment(scene, logic: SceneLogic) -> None:
    found = logic.environment()
    assert found["works"] and found["torch"]
