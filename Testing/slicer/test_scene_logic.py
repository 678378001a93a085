"""The logic: one run at a time, what it refines and from where, and what the scene does meanwhile."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import slicer
from DeepRegistrationLib.errors import (
    Cancelled,
    InputError,
    NotAvailableError,
    OutputError,
    RegistrationError,
    ResourceError,
)
from DeepRegistrationLib.worker.client import Cancelled as CancelledEvent
from DeepRegistrationLib.worker.client import Failed, LogLine, Progress
from DeepRegistrationScene import logic as logic_module
from DeepRegistrationScene.logic import SceneLogic
from DeepRegistrationScene.parameters import scene_parameters
from DeepRegistrationScene.transform_nodes import read_displacement, transform_to_node
from scene_support import (
    contents,
    linear_node,
    markups_node,
    nodes,
    placement,
    segmentation_node,
    volume_node,
)
from worker_support import FIXED, MOVING, StandIn, answer, bend, picture

A = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])


class Heard:
    """Everything a run's callbacks were told."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.finished: list[object] = []
        self.failed: list[RegistrationError] = []
        self.log: list[str] = []

    def callbacks(self) -> dict[str, object]:
        return {name: getattr(self, name).append for name in ("progress", "finished", "failed", "log")}


@pytest.fixture
def worker() -> StandIn:
    return StandIn()


@pytest.fixture
def logic(scene, worker: StandIn) -> SceneLogic:
    return SceneLogic(worker)


def pair(scene) -> tuple:
    return (
        volume_node(scene, picture(FIXED, False), FIXED, name="CT"),
        volume_node(scene, picture(MOVING, True), MOVING, name="MR"),
    )


def registered(logic: SceneLogic, worker: StandIn, scene, **options: object):
    """A first run that has ended well."""
    worker.events = [answer()]
    images = (scene.GetFirstNodeByName("CT"), scene.GetFirstNodeByName("MR"))
    return logic.register(*(images if all(images) else pair(scene)), **options)


def to_the_end(logic: SceneLogic, run) -> None:
    """Poll until a run is over: a result comes home in several steps."""
    for _ in range(20):
        if not run.done:
            logic.poll()
    assert run.done and not logic.isRunning()


def test_waiting_returns_the_nodes(logic: SceneLogic, worker: StandIn, scene) -> None:
    heard = Heard()
    worker.events = [LogLine("hello"), Progress("Aligning", 0.5, 1.0, 2.0), answer()]
    done = logic.register(*pair(scene), preset="fast", jacobian=True, **heard.callbacks())
    assert [event.stage for event in heard.progress] == ["Aligning"] and heard.log == ["hello"]
    assert heard.finished == [done] and heard.failed == [] and not logic.isRunning()
    assert set(done.nodes()) == {"forward", "inverse", "warped", "jacobian", "table"}
    task, parameters, arrays = worker.jobs[0]
    assert task == "register" and parameters["options"]["preset"] == "fast"
    assert set(arrays) == {"fixed", "moving"} and parameters["outputs"] == ["warped", "jacobian"]
    assert logic.quality(done) == logic.quality(done.table) == done.quality
    assert logic.quality() is None  # the parameter node was not asked


def test_not_waiting_leaves_it_to_poll(logic: SceneLogic, worker: StandIn, scene) -> None:
    before = len(nodes(scene)) + 2
    run = logic.register(*pair(scene), wait=False)
    logic.poll()
    assert logic.isRunning() and not run.done and len(nodes(scene)) == before
    state = contents(scene)
    for second in (
        lambda: logic.register(run, run),
        logic.registerFromParameters,
        logic.refine,
        logic.environment,
    ):
        with pytest.raises(InputError, match=r"running already|Choose a fixed"):
            second()
    assert len(worker.jobs) == 1 and contents(scene)[: len(state)] == state
    worker.events = [answer()]
    to_the_end(logic, run)
    assert run.result.forward is not None


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (Failed("no", "input"), InputError),
        (Failed("no", "not-available"), NotAvailableError),
        (Failed("no", "no-torch"), NotAvailableError),
        (Failed("no", "not-started"), NotAvailableError),
        (Failed("no", "resource"), ResourceError),
        (Failed("no", "output"), OutputError),
        (Failed("no", "died"), RegistrationError),
        (Failed("no", "internal", "details"), RegistrationError),
        (CancelledEvent(), Cancelled),
    ],
)
def test_failures_are_exceptions(logic: SceneLogic, worker: StandIn, scene, event, kind: type) -> None:
    images, heard = pair(scene), Heard()
    state = contents(scene)
    worker.events = [event]
    with pytest.raises(kind) as caught:
        logic.register(*images, **heard.callbacks())
    assert type(caught.value) is kind and heard.failed == [caught.value]
    assert heard.log == ([event.details] if getattr(event, "details", "") else [])
    assert contents(scene) == state and not logic.isRunning()
    assert registered(logic, worker, scene).forward is not None


def test_what_cannot_be_sent_starts_nothing(logic: SceneLogic, worker: StandIn, scene) -> None:
    fixed, _ = pair(scene)
    with pytest.raises(InputError, match="are the same"):
        logic.register(fixed, fixed)
    assert worker.jobs == [] and not logic.isRunning()


def test_a_result_that_does_not_fit_is_an_error_not_a_crash(
    logic: SceneLogic, worker: StandIn, scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pair(scene)
    state = contents(scene)

    def broken(*_: object) -> None:
        raise ValueError("strange")

    monkeypatch.setattr(logic_module, "place", broken)
    worker.events = [answer()]
    with pytest.raises(OutputError, match="strange"):
        logic.register(*images)
    assert contents(scene) == state and not logic.isRunning()


def test_the_parameter_node_learns_of_the_results(logic: SceneLogic, worker: StandIn, scene) -> None:
    parameters = scene_parameters()
    assert "Choose a fixed volume" in logic.problem() and "Choose" in logic.refineProblem()
    parameters.fixed, parameters.moving = pair(scene)
    assert logic.problem() is None and "register first" in logic.refineProblem()
    worker.events = [answer()]
    done = logic.registerFromParameters()
    assert parameters.forward is done.forward and parameters.inverse is done.inverse
    assert parameters.warped is done.warped and parameters.jacobian is None
    assert logic.problem() is None and logic.refineProblem() is None
    assert logic.quality() == logic.quality(parameters) == logic.quality(parameters.node) == done.quality
    before = nodes(scene)
    worker.events = [answer()]
    again = logic.registerFromParameters(parameters.node)  # fills the same nodes
    assert again.nodes() == done.nodes() and nodes(scene) == before
    worker.events = [answer()]
    refined = logic.refine()
    assert refined.warm and refined.nodes() == done.nodes() and nodes(scene) == before
    logic.registerFromParameters(wait=False)
    assert "running already" in logic.problem() and "running already" in logic.refineProblem()


def test_refining_goes_on_where_the_worker_stands(logic: SceneLogic, worker: StandIn, scene) -> None:
    images = pair(scene)
    points = markups_node(scene, A, name="F"), markups_node(scene, A, name="M")
    done = registered(logic, worker, scene, landmarks=points)
    images[1].SetAndObserveTransformNodeID(done.forward.GetID())  # to look at it
    points[1].SetAndObserveTransformNodeID(done.forward.GetID())
    points[0].SetNthControlPointPosition(0, 9.0, 9.0, 9.0)
    event = answer()
    event.arrays["forward"] = bend(FIXED, 0.5)
    worker.events = [event]
    before = nodes(scene)
    again = logic.refine(done, heldOut=["F-3"])
    task, parameters, arrays = worker.jobs[-1]
    assert task == "refine" and parameters["session"] == "one" and arrays == {}
    assert parameters["landmarks"]["fixed"][0] == [-9.0, -9.0, 9.0]
    assert np.allclose(parameters["landmarks"]["moving"], A)
    assert parameters["landmarks"]["held_out"] == [False, False, True]
    assert again.warm and again.nodes() == done.nodes() and nodes(scene) == before
    assert np.array_equal(read_displacement(again.forward, FIXED), bend(FIXED, 0.5))
    worker.events = [answer()]
    assert logic.refine().warm  # the last one by default
    assert worker.jobs[-1][1]["landmarks"]["held_out"] == [False, False, True]
    with pytest.raises(InputError, match="no prompt 'points'"):
        logic.refine(points=points)


def test_segmentations_are_sent_again_when_they_have_changed(
    logic: SceneLogic, worker: StandIn, scene
) -> None:
    masks = {"a": picture(FIXED, False) > 300}, {"a": picture(MOVING, True) > 300}
    parts = segmentation_node(scene, FIXED, masks[0]), segmentation_node(scene, MOVING, masks[1])
    done = registered(logic, worker, scene, segmentations=parts)
    worker.events = [answer()]
    assert logic.refine(done).warm and worker.jobs[-1][2] == {}
    segment = parts[0].GetSegmentation().GetNthSegment(0)
    image = segment.GetRepresentation("Binary labelmap")
    image.GetPointData().GetScalars().SetTuple1(7, 1)
    image.GetPointData().GetScalars().Modified()
    worker.events = [answer()]
    assert logic.refine().warm and set(worker.jobs[-1][2]) == {"fixed_labels", "moving_labels"}
    worker.events = [answer()]
    assert logic.refine(masks=(parts[0], None)).warm and set(worker.jobs[-1][2]) == {"fixed_mask"}
    worker.events = [answer()]
    assert logic.refine(segmentations=None).warm
    assert worker.jobs[-1][2] == {} and worker.jobs[-1][1]["without"] == ["labels"]


def change_forward(scene, done) -> None:
    transform_to_node(bend(FIXED, 0.7), FIXED, "", node=done.forward, fixed=done.choices.fixed)


def change_place(scene, done) -> None:
    linear_node(scene, placement(0, (1, 0, 0)), done.choices.fixed)


def change_voxels(scene, done) -> None:
    scalars = done.choices.moving.GetImageData().GetPointData().GetScalars()
    scalars.SetTuple1(5, 77.0)
    scalars.Modified()


def change_parent(scene, done) -> None:
    linear_node(scene, placement(0, (1, 0, 0)), done.forward)


@pytest.mark.parametrize("change", [change_forward, change_place, change_voxels, change_parent])
def test_what_was_changed_is_registered_again_from_the_forward_transform(
    logic: SceneLogic, worker: StandIn, scene, change
) -> None:
    done = registered(logic, worker, scene)
    change(scene, done)
    worker.events = [answer(session="two")]
    again = logic.refine(done)
    task, parameters, arrays = worker.jobs[-1]
    assert task == "register" and set(arrays) == {"fixed", "moving", "initial"}
    assert parameters["options"]["linear"] == "none" and not again.warm
    assert again.nodes() == done.nodes()
    worker.events = [answer(session="two")]
    assert logic.refine(again).warm and worker.jobs[-1][1]["session"] == "two"
    assert again.choices.options["linear"] == "affine"  # a registration from the start is as before


def test_other_options_are_registered_again(logic: SceneLogic, worker: StandIn, scene) -> None:
    done = registered(logic, worker, scene)
    other = replace(done.choices, options=done.choices.options | {"representation": "b-spline"})
    worker.events = [answer()]
    assert not logic.refine(replace(done, choices=other)).warm
    assert worker.jobs[-1][1]["options"]["representation"] == "b-spline"


def test_a_session_that_the_worker_has_lost(logic: SceneLogic, worker: StandIn, scene) -> None:
    done = registered(logic, worker, scene)
    heard = Heard()
    run = logic.refine(done, wait=False, **heard.callbacks())
    worker.events = [Failed("unknown", "unknown-session")]
    logic.poll()
    assert logic.isRunning() and not run.done and heard.failed == []
    assert [job[0] for job in worker.jobs] == ["register", "refine", "register"]
    assert np.array_equal(worker.jobs[-1][2]["initial"], bend(FIXED))
    worker.events = [answer()]
    to_the_end(logic, run)
    assert heard.finished == [run.result] and not run.result.warm
    # and where there is nothing to start from, a sentence
    done = registered(logic, worker, scene, forward=False)
    run = logic.refine(done, wait=False)
    worker.events = [Failed("unknown", "unknown-session")]
    logic.poll()
    assert run.done and isinstance(run.error, InputError) and not logic.isRunning()


def test_removed_outputs_are_left_out_of_a_refinement(logic: SceneLogic, worker: StandIn, scene) -> None:
    done = registered(logic, worker, scene)
    scene.RemoveNode(done.warped)
    worker.events = [answer()]
    again = logic.refine(done)
    assert again.warm and again.warped is None and again.forward is done.forward
    scene.RemoveNode(done.forward)
    with pytest.raises(InputError, match="no forward transform to refine"):
        logic.refine(done)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("side", [0, 1])
def test_an_image_that_is_removed_during_the_run(
    logic: SceneLogic, worker: StandIn, scene, side: int, late: bool
) -> None:
    images, heard = pair(scene), Heard()
    run = logic.register(*images, wait=False, **heard.callbacks())
    worker.events = [answer()]
    if late:
        logic.poll()  # the result is on its way
        assert not run.done
    scene.RemoveNode(images[side])
    state = contents(scene)
    to_the_end(logic, run)
    assert contents(scene) == state and heard.finished == []
    assert "was removed while the registration ran" in str(heard.failed[0])


@pytest.mark.parametrize("how", ["cancel", "close the scene", "close the logic"])
def test_a_result_on_its_way_can_still_be_stopped(
    logic: SceneLogic, worker: StandIn, scene, how: str
) -> None:
    images, heard = pair(scene), Heard()
    run = logic.register(*images, wait=False, **heard.callbacks())
    worker.events = [answer()]
    logic.poll()
    assert logic.isRunning() and not run.done
    if how == "cancel":
        logic.cancel()
    elif how == "close the scene":
        scene.Clear(False)
    else:
        logic.close()
    state = contents(scene)
    to_the_end(logic, run)
    assert isinstance(run.error, Cancelled) and heard.failed == [run.error] and heard.finished == []
    assert contents(scene) == state
    assert registered(logic, worker, scene).forward is not None


@pytest.mark.parametrize("late", [False, True])
def test_a_scene_that_is_closed_during_the_run(logic: SceneLogic, worker: StandIn, scene, late: bool) -> None:
    parameters, heard = scene_parameters(), Heard()
    parameters.fixed, parameters.moving = pair(scene)
    logic.registerFromParameters(wait=False, **heard.callbacks())
    scene.Clear(False)
    assert worker.calls == ["cancel"]
    state = contents(scene)
    worker.events = [answer() if late else CancelledEvent()]
    logic.poll()
    assert contents(scene) == state and heard.finished == [] and not logic.isRunning()
    assert isinstance(heard.failed[0], Cancelled) and "scene was closed" in str(heard.failed[0])
    with pytest.raises(InputError):
        logic.refine()  # nothing is remembered of the scene before


def test_outputs_of_a_parameter_node_that_is_gone(logic: SceneLogic, worker: StandIn, scene) -> None:
    parameters = scene_parameters()
    parameters.fixed, parameters.moving = pair(scene)
    run = logic.registerFromParameters(wait=False)
    scene.RemoveNode(parameters.node)
    worker.events = [answer()]
    to_the_end(logic, run)
    assert run.result.forward is not None


def test_cancelling_and_closing(logic: SceneLogic, worker: StandIn, scene) -> None:
    logic.cancel()
    assert worker.calls == []  # there is nothing to cancel
    run = logic.register(*pair(scene), wait=False)
    logic.cancel()
    assert worker.calls == ["cancel"] and logic.isRunning()
    state = contents(scene)
    logic.close()
    assert worker.calls == ["cancel", "stop"] and not logic.isRunning()
    assert run.done and isinstance(run.error, Cancelled)
    worker.events = [answer()]
    logic.poll()  # too late
    assert contents(scene) == state
    assert registered(logic, worker, scene).forward is not None  # can be used again
    scene.Clear(False)
    with pytest.raises(InputError):
        logic.refine()


def test_a_callback_that_polls_again_or_raises(logic: SceneLogic, worker: StandIn, scene) -> None:
    seen: list[float] = []

    def progress(event: Progress) -> None:
        logic.poll()  # what an application does that processes its events
        seen.append(event.fraction)

    worker.events = [Progress("", 0.1, None, None), Progress("", 0.2, None, None), answer()]
    assert logic.register(*pair(scene), progress=progress).forward is not None and seen == [0.1, 0.2]

    def wrong(nodes: object) -> None:
        raise KeyError("mine")

    run = logic.refine(wait=False, finished=wrong)
    worker.events = [answer()]
    with pytest.raises(KeyError):
        to_the_end(logic, run)
    assert run.done and not logic.isRunning()
    logic.poll()


def test_an_interrupted_wait_stops_the_run(logic: SceneLogic, worker: StandIn, scene) -> None:
    def interrupt(event: Progress) -> None:
        raise KeyboardInterrupt

    images = pair(scene)
    state = contents(scene)
    worker.events = [Progress("", 0.1, None, None)]
    with pytest.raises(KeyboardInterrupt):
        logic.register(*images, progress=interrupt)
    assert worker.calls == ["stop"] and not logic.isRunning() and contents(scene) == state


def test_the_scene_does_not_keep_a_logic_alive(scene, worker: StandIn) -> None:
    logic = SceneLogic(worker)
    gone = weakref.ref(logic)
    del logic
    gc.collect()
    assert gone() is None
    scene.Clear(False)


def test_a_logic_follows_to_another_scene(logic: SceneLogic, worker: StandIn, scene, monkeypatch) -> None:
    other = slicer.vtkMRMLScene()
    monkeypatch.setattr(slicer, "mrmlScene", other)
    done = registered(logic, worker, other)
    assert other.IsNodePresent(done.forward) and not scene.IsNodePresent(done.forward)
    other.Clear(False)
    assert logic._standing is None


def test_other_tasks(logic: SceneLogic, worker: StandIn, scene) -> None:
    event = answer()
    event.result.clear()
    event.result["torch"] = "2"
    worker.events = [event]
    assert logic.environment() == {"torch": "2"} and worker.jobs[-1][:2] == ("environment", {})
    got: list[object] = []
    logic.methods(wait=False, finished=got.append)
    worker.events = [event]
    logic.poll()
    assert got == [{"torch": "2"}] and worker.jobs[-1][0] == "methods"
    worker.events = [Failed("There is no torch.", "no-torch")]
    with pytest.raises(NotAvailableError, match="no torch"):
        logic.environment()


def test_applying_to_others(logic: SceneLogic, worker: StandIn, scene) -> None:
    done = registered(logic, worker, scene)
    other = volume_node(scene, picture(MOVING, True), MOVING, name="other")
    carried = logic.applyToOthers(done, [other])
    assert carried[0].original is other and carried[0].node is not other
    back = logic.applyToOthers(
        done, [volume_node(scene, picture(FIXED, False), FIXED, name="f")], inverse=True
    )
    assert back[0].node.GetImageData().GetDimensions() == MOVING.size
    jacobian = logic.jacobianVolume(done.forward)
    assert jacobian.GetImageData().GetDimensions() == FIXED.size
