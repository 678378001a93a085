"""Many moving volumes in the logic: what is sent, what stays, in which order it is told."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import slicer
from DeepRegistrationLib.errors import Cancelled, InputError, OutputError, RegistrationError
from DeepRegistrationLib.worker.client import Failed, LogLine, Progress
from DeepRegistrationScene import logic as logic_module
from DeepRegistrationScene import memory_estimate
from DeepRegistrationScene.logic import SceneLogic
from DeepRegistrationScene.made import made_before
from DeepRegistrationScene.many_table import COLUMNS, Outcome, rows_of, worst_first
from DeepRegistrationScene.parameters import scene_parameters
from DeepRegistrationScene.results import RegistrationNodes
from scene_support import contents, frame, nodes, volume_node
from worker_support import FIXED, MOVING, StandIn, answer, picture


class Answering(StandIn):
    """Has an answer ready for each job: some events, or one."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list = []

    def submit(self, task, parameters, arrays, convert=None) -> None:
        super().submit(task, parameters, arrays, convert)
        said = self.answers.pop(0) if self.answers else []
        self.events += said if isinstance(said, list) else [said]


@pytest.fixture
def worker() -> Answering:
    return Answering()


@pytest.fixture
def logic(scene, worker: Answering) -> SceneLogic:
    return SceneLogic(worker)


@pytest.fixture
def volumes(scene) -> list:
    """One that stays and three that move."""
    return [
        volume_node(scene, picture(FIXED, False), FIXED, name="CT"),
        *(volume_node(scene, picture(MOVING, True) + k, MOVING, name=f"MR{k}") for k in range(3)),
    ]


def test_each_pair_is_sent_and_stays(logic, worker, volumes, scene) -> None:
    fixed, *moving = volumes
    before = nodes(scene)
    worker.answers = [
        [LogLine("hello"), Progress("Aligning", 0.5, None, None), answer()],
        Failed("It went wrong.", "died"),
        [Progress("Aligning", 0.5, None, None), answer()],
    ]
    heard, log, finished = [], [], []
    result = logic.registerMany(
        fixed,
        moving,
        preset="fast",
        outputSpacing=4.0,
        jacobian=True,
        inverse=False,
        progress=heard.append,
        finished=finished.append,
        log=log.append,
    )
    assert finished == [result] and not result.cancelled and not logic.isRunning()
    assert [(e.number, e.count, e.name, e.stage) for e in heard] == [
        (1, 3, "MR0", "Aligning"),
        (3, 3, "MR2", "Aligning"),
    ]
    assert [e.fraction for e in heard] == pytest.approx([0.5 / 3, 2.5 / 3])
    assert "hello" in log and "MR1: It went wrong." in log
    for (task, parameters, arrays), image in zip(worker.jobs, moving, strict=True):
        assert task == "register" and set(arrays) == {"fixed", "moving"}
        assert (arrays["moving"] == slicer.util.arrayFromVolume(image)).all()
        assert parameters["options"]["preset"] == "fast" and parameters["options"]["output_spacing"] == 4.0
        assert parameters["outputs"] == ["warped", "jacobian"]
    assert [(o.moving, o.tried, o.nodes is not None) for o in result.outcomes] == [
        (moving[0], True, True),
        (moving[1], True, False),
        (moving[2], True, True),
    ]
    assert type(result.outcomes[1].error) is RegistrationError
    assert result.outcomes[0].nodes.forward.GetName() == "MR0 moving to fixed"
    assert set(made_before(fixed, moving[2])) == {"forward", "warped", "jacobian"}
    assert made_before(fixed, moving[1]) == {} and made_before(moving[0], fixed) == {}
    rows = rows_of(result.table)
    assert [row["Moving volume"] for row in rows] == ["MR1", "MR0", "MR2"]
    assert (rows[0]["Verdict"], rows[0]["NCC after"], rows[0]["First to look at"]) == (
        "failed",
        "",
        "It went wrong.",
    )
    assert rows[1]["NCC before"] == "0.500" and rows[1]["NCC after"] == "0.900"
    assert rows[1]["Verdict"] == "worth a look" and rows[1]["First to look at"] == "said by the worker"

    # again: the same nodes; the table that is given is filled
    made, table = nodes(scene), result.table
    worker.answers = [answer(), answer(), answer()]
    again = logic.registerMany(fixed, moving[::2], inverse=False, jacobian=True, table=table)
    assert nodes(scene) == made and len(made) > len(before) and again.table is table
    assert [row["Moving volume"] for row in rows_of(table)] == ["MR0", "MR2"]
    assert again.outcomes[0].nodes.nodes() == result.outcomes[0].nodes.nodes()


def test_the_options_default_to_those_of_one_pair(logic, worker, volumes) -> None:
    worker.answers = [answer(), answer()]
    logic.register(*volumes[:2])
    logic.registerMany(volumes[0], volumes[1:2])
    assert worker.jobs[0][1]["options"] == worker.jobs[1][1]["options"]
    given = {
        "device": "cpu",
        "seed": 3,
        "threads": 1,
        "linear": "none",
        "similarity": "ncc",
        "weights": "w.pt",
    }
    worker.answers = [answer(), answer()]
    logic.register(*volumes[:2], **given)
    logic.registerMany(volumes[0], volumes[1:2], **given)
    assert worker.jobs[2][1]["options"] == worker.jobs[3][1]["options"]
    assert set(inspect.signature(logic.registerMany).parameters) >= {"mask", "table", "progress"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"moving": []}, "at least one moving"),
        ({"fixed": None}, "Choose a fixed"),
        ({"landmarks": (1, 2)}, "no option 'landmarks' for many volumes"),
        ({"forward": False, "inverse": False, "warped": False}, "Nothing would come out"),
        ({"warped": "node"}, "True or False"),
    ],
)
def test_what_cannot_be_begun_is_refused_at_once(logic, worker, volumes, change, sentence, scene) -> None:
    state = contents(scene)
    given = {"fixed": volumes[0], "moving": volumes[1:], **change}
    with pytest.raises(InputError, match=sentence):
        logic.registerMany(given.pop("fixed"), given.pop("moving"), **given)
    for twice in (volumes[:2], [volumes[1]] * 2):
        with pytest.raises(InputError, match="once only"):
            logic.registerMany(volumes[0], twice)
    with pytest.raises(InputError, match="CT; choose a table"):
        logic.registerMany(volumes[0], volumes[1:], table=volumes[0])
    assert worker.jobs == [] and contents(scene) == state and not logic.isRunning()


def test_pairs_that_cannot_be_read_do_not_stop_the_others(logic, worker, volumes, scene) -> None:
    flat = volume_node(
        scene, np.zeros((1, 9, 9)), frame((9, 9, 1), (1,) * 3, (0,) * 3, (0, 0, 1), 0), name="flat"
    )
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    worker.answers = [answer()]
    result = logic.registerMany(volumes[0], [flat, volumes[1], empty])
    assert [o.state for o in result.outcomes] == ["failed", "look", "failed"] and len(worker.jobs) == 1
    assert "single slice" in result.outcomes[0].sentence and "no voxels" in result.outcomes[2].sentence
    finished = []
    run = logic.registerMany(volumes[0], [flat, empty], wait=False, finished=finished.append)
    assert run.done and finished == [run.result] and len(worker.jobs) == 1 and not logic.isRunning()


def test_whatever_goes_wrong_the_others_are_done(logic, worker, volumes, monkeypatch) -> None:
    build, failing = logic_module.build_request, [False, True, False]

    def sometimes(*arguments):
        if failing.pop(0):
            raise MemoryError
        return build(*arguments)

    monkeypatch.setattr(logic_module, "build_request", sometimes)
    worker.answers = [answer(), answer()]
    result = logic.registerMany(volumes[0], volumes[1:])
    assert [o.state for o in result.outcomes] == ["look", "failed", "look"] and not logic.isRunning()
    assert result.outcomes[1].sentence == "It could not be read: MemoryError"


def test_what_would_fail_for_all_is_met_once(logic, worker, volumes) -> None:
    worker.answers = [Failed("PyTorch is not installed.", "no-torch")]
    result = logic.registerMany(volumes[0], volumes[1:])
    assert len(worker.jobs) == 1 and not result.cancelled
    assert [o.state for o in result.outcomes] == ["failed", "not done", "not done"]
    assert {row["First to look at"] for row in rows_of(result.table)} == {"PyTorch is not installed."}


def test_one_at_a_time_and_cancelled(logic, worker, volumes, scene) -> None:
    worker.answers = [answer()]
    run = logic.registerMany(volumes[0], volumes[1:], wait=False)
    for _ in range(20):
        if len(worker.jobs) < 2:
            logic.poll()
    state = contents(scene)
    for second in (
        lambda: logic.registerMany(volumes[0], volumes[1:]),
        lambda: logic.register(*volumes[:2]),
        logic.environment,
    ):
        with pytest.raises(InputError, match="running already"):
            second()
    assert logic.isRunning() and not run.done
    logic.cancel()
    assert worker.calls == ["cancel"]
    worker.events = [answer()]  # it was done before it heard; nobody wants it any more
    logic.poll()
    assert run.done and run.result.cancelled and not logic.isRunning() and len(worker.jobs) == 2
    assert [o.state for o in run.result.outcomes] == ["look", "not done", "not done"]
    assert contents(scene)[: len(state)] == state  # only the table came
    assert len(contents(scene)) == len(state) + 1


def test_the_scene_refuses_a_pair(logic, worker, volumes, scene, monkeypatch) -> None:
    place, failing = logic_module.place, [True, False]

    def sometimes(*arguments):
        if failing.pop(0):
            raise OutputError("No room.")
        return place(*arguments)

    monkeypatch.setattr(logic_module, "place", sometimes)
    worker.answers = [answer(), answer()]
    result = logic.registerMany(volumes[0], volumes[1:3], table=False)
    assert [o.state for o in result.outcomes] == ["failed", "look"] and result.table is None
    assert made_before(volumes[0], volumes[1]) == {} and result.outcomes[0].sentence == "No room."
    assert not scene.GetNodesByClass("vtkMRMLTableNode").GetNumberOfItems()


def test_no_room_for_the_results(logic, worker, volumes, monkeypatch) -> None:
    """Rather one volume less than a machine that swaps."""
    free = [10**9, 100_000, 10**9]
    monkeypatch.setattr(memory_estimate, "available_memory", lambda: free.pop(0))
    worker.answers = [answer(), answer()]
    result = logic.registerMany(volumes[0], volumes[1:])
    assert [o.state for o in result.outcomes] == ["look", "failed", "look"] and len(worker.jobs) == 2
    assert "no room for its results: they would take 887 kB" in result.outcomes[1].sentence


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("closed", [False, True])
def test_without_the_fixed_volume_there_is_nothing_to_do(
    logic, worker, volumes, scene, closed, count
) -> None:
    failed = []
    run = logic.registerMany(volumes[0], volumes[1 : 1 + count], wait=False, failed=failed.append)
    if closed:
        scene.Clear()
    else:
        scene.RemoveNode(volumes[0])
    worker.events = [answer()]
    for _ in range(20):
        logic.poll()
    assert run.done and failed == [run.error] and isinstance(run.error, Cancelled)
    assert str(run.error).endswith("stopped.") and len(worker.jobs) == 1 and not logic.isRunning()
    for kind in ("vtkMRMLTableNode", "vtkMRMLTransformNode"):
        assert not scene.GetNodesByClass(kind).GetNumberOfItems()


def test_the_single_pair_is_still_refined_where_it_stands(logic, worker, volumes) -> None:
    worker.answers = [answer(session="mine"), answer(session="other"), answer(session="mine")]
    mine = logic.register(*volumes[:2])
    others = logic.registerMany(volumes[0], volumes[2:3])
    refined = logic.refine()
    assert worker.jobs[2][0] == "refine" and worker.jobs[2][1]["session"] == "mine"
    assert refined.forward is mine.forward is not others.outcomes[0].nodes.forward
    worker.answers = [answer()]
    logic.refine(others.outcomes[0].nodes)  # from its transform
    assert worker.jobs[3][0] == "register" and "initial" in worker.jobs[3][2]


def test_parameters(logic, worker, volumes, scene) -> None:
    p = scene_parameters()
    mask = volume_node(scene, np.ones(FIXED.shape, np.uint8), FIXED, "LabelMap", "mask")
    assert "Choose a fixed" in logic.manyProblem()
    p.fixed = volumes[0]
    assert "at least one moving" in logic.manyProblem()
    p.many_moving = volumes  # the fixed one among them does not count
    p.moving, p.fixed_mask, p.fixed_segmentation, p.want_inverse = volumes[1], mask, mask, False
    p.moving_mask = mask
    assert logic.manyProblem() is None and "one image only" in logic.problem()
    worker.answers = [answer(), answer(), answer()]
    result = logic.registerManyFromParameters()
    assert [set(arrays) for _, _, arrays in worker.jobs] == [{"fixed", "moving", "fixed_mask"}] * 3
    assert p.many_table is result.table and p.forward is None
    assert set(made_before(p.fixed, volumes[3])) == {"forward", "warped"}
    worker.answers = [answer(), answer(), answer()]
    before = nodes(scene)
    assert logic.registerManyFromParameters(p.node).table is result.table and nodes(scene) == before


def test_worst_first(volumes) -> None:
    def outcome(name: str, ncc: float, folds: float = 0.0, before: float = 0.3, nmi: float = 1.2, used="ncc"):
        quality = {
            "similarity": {"before": {"ncc": before, "nmi": 1.0}, "after": {"ncc": ncc, "nmi": nmi}},
            "regularity": {"folds_percent": folds},
            "parameters": {"similarity_used": used},
        }
        return Outcome(volumes[1], name, RegistrationNodes(quality=quality))

    failed = Outcome(volumes[1], "failed", None, InputError("no"))
    left = Outcome(volumes[1], "left", None, Cancelled("stopped"), False)
    given = [
        outcome("fine", 0.9),
        outcome("finer", 0.95),
        outcome("folded", 0.99, 2.0),
        outcome("slightly", 0.99, 0.01),
        left,
        outcome("worse", 0.1),
        failed,
    ]
    order = ["failed", "left", "worse", "folded", "slightly", "fine", "finer"]
    assert [o.name for o in worst_first(given)] == order
    assert [o.name for o in worst_first(given[::-1])] == order
    across = [outcome("a", 0.9, nmi=1.3, used="mind"), outcome("b", 0.5, nmi=1.4, used="mind")]
    assert [o.name for o in worst_first(across)] == ["a", "b"]


def test_a_table_of_something_else_has_no_rows(scene) -> None:
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "other")
    assert rows_of(table) == rows_of(None) == [] and len(COLUMNS) == 11
