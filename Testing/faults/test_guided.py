"""Our own parsers, explored by inputs led by the lines they reach: read, or refused in one sentence."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from DeepRegistrationLib import detached, landmark_files, landmarks, weights
from DeepRegistrationLib.batch import entries, names, pair, rows, summary
from DeepRegistrationLib.errors import InputError, ResourceError
from DeepRegistrationLib.worker import client, data, serve, tasks
from DeepRegistrationLib.worker.arrays import job_folder, save_array
from guided import Found, explore

FULL = os.environ.get("DEEPREGISTRATION_FAULTS") == "full"
COUNT = 5000 if FULL else 250

Record = Callable[[str, object], None]
MARKUPS = json.dumps(
    {
        "markups": [
            {
                "coordinateSystem": "RAS",
                "coordinateUnits": ["mm", "mm", "mm"],
                "controlPoints": [
                    {"label": "a", "position": [1.0, -2, 3e1], "positionStatus": "defined"},
                    {"position": None, "positionStatus": "undefined"},
                ],
            }
        ]
    }
).encode()
FCSV = b"# CoordinateSystem = LPS\n# columns = id,x,y,z,label\n1,2.5,3,4,a\n2,-3,4,5e0,b\n"
TABLE = b"label,r,a,s,defined\na,1,2,3,1\nb,4,5,6,0\n"
PLAIN = b"1;2\n3;4\n"
PAIRS = (
    b"name,fixed,moving,threads,seed,output_spacing,features\na,x.nii,y.nii,1,0,2.5,yes\n,x.nii,y.nii,,,,\n"
)
NRRD = b"NRRD0004\ntype: short\nsizes: 2 2\nencoding: ascii\ndata file: s%d.raw 0 1 1\n\n1 2 3 4"
LIST = b"NRRD0004\ntype: short\nsizes: 2 2\nencoding: raw\ndata file: LIST\ns0.raw\ns1.raw\n"
METAIMAGE = b"ObjectType = Image\nNDims = 2\nDimSize = 2 2\nElementDataFile = LIST 1D\ns0.raw\ns1.raw\n"
NUMBERED = b"NDims = 2\nDimSize = 2 2\nElementDataFile = s%d.raw 0 1 1\n"


def refused(call: Callable[[], object]) -> str | None:
    """What is wrong with how a call ends; None if it does what it should, or refuses in one sentence."""
    try:
        call()
    except (InputError, ResourceError) as error:
        text = str(error)
        return None if text and text == text.strip() and "\n" not in text else f"no sentence: {text!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def settle(found: Found, record: Record, seeds: int) -> None:
    record("inputs", found.runs)
    record("lines", found.lines)
    record("kept", len(found.corpus))
    assert not found.wrong, (len(found.wrong), found.wrong[:4])
    assert len(found.corpus) > seeds  # it has found more than it was told


def number(name: str) -> int:
    return zlib.crc32(name.encode())


@pytest.mark.parametrize(
    ("name", "seeds"),
    [("a.mrk.json", [MARKUPS]), ("a.fcsv", [FCSV]), ("a.csv", [TABLE, PLAIN])],
    ids=["markups", "fcsv", "table"],
)
def test_landmark_files(name: str, seeds: list[bytes], tmp_path: Path, record_property: Record) -> None:
    path = tmp_path / name

    def call(content: bytes) -> str | None:
        path.write_bytes(content)
        return refused(lambda: landmarks.read_landmarks(path))

    found = explore(call, seeds, [landmark_files, landmarks], COUNT, number(name))
    settle(found, record_property, len(seeds))


def test_tables_of_pairs(tmp_path: Path, record_property: Record) -> None:
    path = tmp_path / "pairs.csv"
    for image in ("x.nii", "y.nii"):
        (tmp_path / image).touch()

    def call(content: bytes) -> str | None:
        path.write_bytes(content)

        def run() -> None:
            read = rows.read_table(path, {"threads": 1})
            for row in read:
                names.file_names(row.options["fixed"], row.options["moving"])
            rows.check_rows(read)

        return refused(run)

    settle(explore(call, [PAIRS], [rows, names], COUNT, number("pairs")), record_property, 1)


@pytest.mark.parametrize(
    ("name", "seeds"), [("a.nhdr", [NRRD, LIST]), ("a.mhd", [METAIMAGE, NUMBERED])], ids=["nrrd", "metaimage"]
)
def test_image_headers(name: str, seeds: list[bytes], tmp_path: Path, record_property: Record) -> None:
    path = tmp_path / name
    for k in range(2):
        (tmp_path / f"s{k}.raw").write_bytes(b"1 2 ")

    def call(content: bytes) -> str | None:
        path.write_bytes(content)
        return refused(lambda: detached.check_header(path))

    settle(explore(call, seeds, [detached], COUNT, number(name)), record_property, len(seeds))


def test_what_weights_say_of_themselves(tmp_path: Path, record_property: Record) -> None:
    """With the right checksum: somebody has meant it."""
    path, state = tmp_path / "a.pt", {"w": torch.ones(2)}
    told = {"method": "dio", "configuration": "small", "dimension": 3, "convention": {"a": [1]}, "record": {}}

    def call(content: bytes) -> str | None:
        text = content.decode("utf-8", "replace")
        stored = {"format": weights._FORMAT, "metadata": text, "state": state}
        torch.save({**stored, "sha256": weights._digest(text, state)}, path)

        def run() -> None:
            loaded = weights.load_weights(path, "dio", 3)
            assert isinstance(loaded.convention, dict) and isinstance(loaded.record, dict)
            assert isinstance(loaded.configuration, str)

        return refused(run)

    found = explore(call, [json.dumps(told).encode()], [weights], COUNT, number("weights"))
    settle(found, record_property, 0)


def test_records_of_pairs(tmp_path: Path, record_property: Record) -> None:
    """What lies in a batch's folder under the name of a pair."""
    for image in ("x.nii", "y.nii"):
        (tmp_path / image).write_bytes(b"1")
    (row,) = rows.rows_of_files(str(tmp_path / "x.nii"), [str(tmp_path / "y.nii")], {})
    task = pair.Task.of(row, tmp_path)
    task.folder.mkdir()
    quality = '{"similarity": {"after": {"ncc": 1.0}}, "warnings": ["a"]}'
    (task.folder / "quality.json").write_text(quality)
    record = {**task.record(), "files": {"quality.json": "quality.json"}, "version": "0"}
    record["bytes"] = {"quality.json": len(quality)}

    def call(content: bytes) -> str | None:
        (task.folder / pair.RECORD).write_bytes(content)

        def run() -> None:
            if pair.finished(task):
                entry = entries.entry_of(row, task.folder, entries.Outcome(row.name, True))
                summary.write_summary([entry], tmp_path)

        return refused(run)

    seeds = [json.dumps(record).encode()]
    settle(
        explore(call, seeds, [pair, entries, summary], COUNT, number("record")), record_property, len(seeds)
    )


def test_measured_quality_in_a_folder(tmp_path: Path, record_property: Record) -> None:
    """quality.json as a disk or a person may leave it."""
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / pair.RECORD).write_text('{"files": {"quality.json": "quality.json"}}')
    row = rows.Row(1, "p", {"fixed": "x", "moving": "y"})
    quality = {
        "similarity": {"after": {"ncc": 0.5}},
        "parameters": {"similarity_used": "ncc"},
        "warnings": ["a"],
    }

    def call(content: bytes) -> str | None:
        (tmp_path / "p" / "quality.json").write_bytes(content)

        def run() -> None:
            entry = entries.entry_of(row, tmp_path / "p", entries.Outcome("p", True))
            summary.write_summary([entry], tmp_path)

        return refused(run)

    seeds = [json.dumps(quality).encode()]
    settle(explore(call, seeds, [entries, summary], COUNT, number("quality")), record_property, len(seeds))


def test_requests_to_the_worker(tmp_path: Path, record_property: Record) -> None:
    """Whatever is sent, the answer is one that the parent understands, and never an error of the program."""
    frame = {"size": [6, 5], "spacing": [1, 1], "origin": [0, 0], "direction": [[1, 0], [0, 1]]}
    parameters = {
        "frames": {"fixed": frame, "moving": frame, "fixed_mask": frame},
        "landmarks": {
            **{side: [[1, 2], [3, 4.5]] for side in ("fixed", "moving")},
            "names": ["a", "b"],
            "held_out": [False, True],
        },
        "initial_matrix": [[1, 0, 0.5], [0, 1, 0], [0, 0, 1]],
        # no room for the registration itself: a method that is not there ends it when all has been read
        "options": {"preset": "fast", "linear": "none", "device": "cpu", "threads": 1, "weights": "none.pt"},
        "outputs": ["warped"],
    }
    request = {
        "id": 1,
        "task": "register",
        "parameters": parameters,
        "arrays": ["fixed", "moving", "fixed_mask"],
    }
    refine = {"id": 2, "task": "refine", "parameters": {"session": "x", "without": ["labels"]}, "arrays": []}
    requests = [json.dumps(value).encode() for value in (request, refine, {"cancel": 1})]
    image = np.arange(30, dtype=np.float32).reshape(5, 6)

    def call(content: bytes) -> str | None:
        answers = io.BytesIO()
        worker = serve.Worker(io.BytesIO(content.replace(b"\n", b" ") + b"\n"), answers, tmp_path)
        try:
            worker._take(content.replace(b"\n", b" "))
        except Exception as error:  # as its reading thread does
            worker._refuse(None, "The request could not be understood.", repr(error)[:500])
        if not worker._jobs.empty():
            job = worker._jobs.get()
            if job["task"] == "pair":
                return None  # a batch's: it writes where it is told to
            folder = job_folder(tmp_path, job["id"])
            try:
                folder.mkdir(exist_ok=True)
                for name in ("fixed", "moving", "fixed_mask"):
                    save_array(folder, "in", name, image)
            except OSError:
                return None  # a number too long for a name: the parent makes these
            worker._run(job)
        for line in answers.getvalue().splitlines():
            answer = json.loads(line)
            if answer["event"] == "failed" and answer["kind"] == "internal":
                return answer["details"].strip().splitlines()[-1] + answer["details"][-600:-200]
            if answer["event"] == "failed" and (not answer["sentence"] or "\n" in answer["sentence"]):
                return f"no sentence: {answer['sentence']!r}"
        return None

    found = explore(call, requests, [serve, tasks, data], COUNT, number("requests"))
    settle(found, record_property, 2)


def test_answers_of_the_worker(tmp_path: Path, record_property: Record) -> None:
    """A line among the answers that is damaged, or none of ours, does not end the thread that reads them."""

    class Process:
        folder = tmp_path

        def kill(self) -> None:
            pass

    lines: list[dict[str, Any]] = [
        {"event": "progress", "id": 1, "stage": "a", "fraction": 0.5, "objective": None},
        {"event": "finished", "id": 1, "result": {"kind": "grid"}, "arrays": ["forward"]},
        {"event": "failed", "id": 1, "sentence": "It failed.", "kind": "input", "details": ""},
        {"event": "cancelled", "id": 1},
    ]

    def call(content: bytes) -> str | None:
        one = client.WorkerClient(python="none")
        one._token, one._job, one._process = None, client.Job(1, "register"), Process()  # type: ignore[assignment]
        try:
            message = json.loads(content)
        except (ValueError, RecursionError):
            return None
        if not isinstance(message, dict):
            return None
        try:
            one._receive(None, message)
            for event in one.poll():
                if isinstance(event, client.Failed):
                    assert isinstance(event.sentence, str) and isinstance(event.kind, str)
                if isinstance(event, client.Progress):
                    assert isinstance(event.fraction, float)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            one._process = None
        return None

    seeds = [json.dumps(line).encode() for line in lines]
    settle(explore(call, seeds, [client], COUNT, number("answers")), record_property, 3)


GATES = """
def parse(data):
    if data[:1] == b"R":
        if data[1:2] == b"I":
            if data[2:3] == b"F":
                if data[3:4] == b"F":
                    raise ValueError("the bottom")
"""


def test_guidance_leads_where_chance_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gates_of_a_parser.py").write_text(GATES)
    monkeypatch.syspath_prepend(tmp_path)
    import gates_of_a_parser as gates

    guided, blind = (
        explore(lambda content: refused(lambda: gates.parse(content)), [b"12345678"], [gates], 3000, 1, led)
        for led in (True, False)
    )
    assert guided.wrong and guided.wrong[0][1] == "ValueError: the bottom"
    assert not blind.wrong and blind.lines < guided.lines
