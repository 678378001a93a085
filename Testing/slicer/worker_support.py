"""What stands in for the worker, and a small pair of images for the real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.worker.client import Convert, Finished, WorkerClient
from scene_support import frame, points_of

FIXED = frame((28, 26, 20), (2.0, 2.2, 2.9), (-33.0, 24.0, -20.0), (0.3, 1.0, 0.2), 17, flip=1)
MOVING = frame((32, 24, 26), (1.8, 2.7, 2.2), (-27.0, -34.0, -20.0), (1.0, -0.2, 0.6), -23)


def picture(where: Frame, bent: bool) -> np.ndarray:
    """A textured ball about the origin; the bent one through a smooth map of a few mm."""
    p = points_of(where)
    if bent:
        p = p - np.stack([2 + 1.5 * np.sin(p[..., k - 1] / 9) for k in range(3)], -1)
    ball = 1 / (1 + np.exp(-1.2 * (17 - np.linalg.norm(p, axis=-1))))
    waves = sum(np.sin(p[..., k] / 2.2 + np.cos(p[..., k - 1] / 4)) for k in range(3))
    return (900 * ball * (1 + 0.25 * waves) + 50).astype(np.float32)


def bend(where: Frame, strength: float = 1.0) -> np.ndarray:
    """A smooth displacement (z, y, x, 3) of up to 6 mm."""
    x, y, z = np.moveaxis(points_of(where), -1, 0)
    mm = [3 + 2.5 * np.sin(y / 17), -2 + 2 * np.cos(z / 14), 1.5 * np.sin((x + y) / 19)]
    return (strength * np.stack(mm, -1)).astype(np.float32)


def described(where: Frame) -> dict[str, Any]:
    return {
        "size": list(where.size),
        "spacing": list(where.spacing),
        "origin": list(where.origin),
        "direction": [list(row) for row in where.direction],
    }


def answer(linear: np.ndarray | None = None, session: str = "one", features: bool = False) -> Finished:
    """What the worker says at the end of a run of `FIXED` and `MOVING`."""
    arrays = {
        "forward": bend(FIXED) if linear is None else linear,
        "inverse": bend(MOVING, -1.0) if linear is None else np.linalg.inv(linear),
        "warped": picture(FIXED, True),
        "jacobian": np.ones(FIXED.shape, np.float32),
    }
    if features:
        arrays["features_fixed"] = np.zeros((3, *FIXED.shape), np.float32)
        arrays["features_moving"] = np.ones((3, *MOVING.shape), np.float32)
    frames = {name: described(MOVING if name in ("inverse", "features_moving") else FIXED) for name in arrays}
    quality = {
        "similarity": {"before": {"ncc": 0.5, "nmi": 1.1}, "after": {"ncc": 0.9, "nmi": 1.3}},
        "regularity": {
            "folds_percent": 0.0,
            "determinant_min": 0.6,
            "determinant_max": 1.7,
            "log_determinant_sd": 0.2,
        },
        "inverse_consistency": {"mean_mm": 0.01, "max_mm": 0.1},
        "warnings": ["said by the worker"],
        "seconds": {"total": 1.5},
        "device": "cpu",
    }
    kind = "grid" if linear is None else "linear"
    return Finished({"session": session, "kind": kind, "quality": quality, "frames": frames}, arrays)


class StandIn:
    """A worker's client that notes what it is given and says what it is told to say."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, dict, dict]] = []
        self.events: list[Any] = []
        self.calls: list[str] = []

    def submit(self, task: str, parameters: dict, arrays: dict, convert: Convert | None = None) -> None:
        self.jobs.append((task, parameters, arrays))

    def poll(self) -> list[Any]:
        events, self.events = self.events, []
        return events

    def cancel(self) -> None:
        self.calls.append("cancel")

    def stop(self) -> None:
        self.calls.append("stop")


@pytest.fixture(scope="module")
def worker_client() -> Iterator[WorkerClient]:
    """A real worker, shared by the tests of a file: starting one takes seconds."""
    client = WorkerClient(environment={"OMP_NUM_THREADS": "1"})
    yield client
    client.stop()
