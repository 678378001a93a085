"""The process that opens damaged files: python hostile.py FOLDER JOBS, where a job is [kind, first, count].

Prints [kind, number, what came of it] for each file. It may crash, which is for its parent to see:
``current`` in the folder tells which file it is at.
A file may take `SECONDS` and the process `BYTES` of memory.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from DeepRegistrationLib import io, transform_files
from DeepRegistrationLib.errors import InputError, ResourceError
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.inputs import load_transform
from DeepRegistrationLib.landmarks import Landmarks, read_landmarks, write_landmarks
from DeepRegistrationLib.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from DeepRegistrationLib.weights import load_weights, save_weights
from mutations import mutated

SECONDS = 20
BYTES = 4 << 30
FRAME = Frame.regular((9, 8, 7), (1.0, 1.5, 2.0))
VALUES = np.random.default_rng(0).integers(-500, 500, FRAME.shape)


def image(path: Path, dtype: type = np.int16) -> None:
    io.write_volume(Volume(torch.from_numpy(VALUES.astype(dtype))[None], FRAME), path)


def field(path: Path) -> None:
    transform_files.write_displacement(np.random.default_rng(1).normal(size=(*FRAME.shape, 3)), FRAME, path)


def linear(path: Path) -> None:
    transform_files.write_linear(np.diag([1.1, 0.9, 1.0, 1.0]), path)


def composite(path: Path) -> None:
    first = sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3, (1, 2, 3))
    spline = sitk.BSplineTransformInitializer(sitk.Image((9, 8, 7), sitk.sitkUInt8), (2, 2, 2))
    transform_files.write_transform(sitk.CompositeTransform([first, spline]), path)


def points(path: Path) -> None:
    write_landmarks(Landmarks(torch.arange(12.0).double().view(4, 3), ("a", "b b", "c,d", "")), path)


def weights(path: Path) -> None:
    state = {"a.weight": torch.arange(24.0).view(2, 3, 4), "b": torch.tensor(3)}
    save_weights(path, "dio", "small", 3, state, {"shape": [4, 4, 4]}, {"steps": 1})


def checkpoint(path: Path) -> None:
    network = {"w": torch.ones(3, 4)}
    optimiser = torch.optim.Adam([torch.ones(3, requires_grad=True)]).state_dict()
    save_checkpoint(path.parent, Checkpoint({"method": "toy"}, 3, 1.0, 0, network, optimiser))


def read_transform(path: Path) -> None:
    transform = load_transform(path, 3)
    transform.map(FRAME.points())


Make = Callable[[Path], None]
KINDS: dict[str, tuple[str, Make, Callable[[Path], Any]]] = {
    "nifti": ("a.nii", image, io.read_volume),
    "nifti float": ("a.nii", lambda p: image(p, np.float32), io.read_volume),
    "nifti compressed": ("a.nii.gz", image, io.read_volume),
    "nrrd": ("a.nrrd", image, io.read_volume),
    "metaimage": ("a.mha", image, io.read_volume),
    "labels": ("a.nrrd", lambda p: image(p, np.uint8), io.read_labels),
    "mask": ("a.nii.gz", lambda p: image(p, np.float32), io.read_mask),
    "header": ("a.nii", image, io.read_frame),
    "markups": ("a.mrk.json", points, read_landmarks),
    "fcsv": ("a.fcsv", points, read_landmarks),
    "table": ("a.csv", points, read_landmarks),
    "weights": ("a.pt", weights, load_weights),
    "checkpoint": ("checkpoint.pt", checkpoint, lambda p: load_checkpoint(p.parent)),
    "transform text": ("a.tfm", linear, read_transform),
    "transform composite": ("b.tfm", composite, lambda p: transform_files.displacement_from_sitk(p, FRAME)),
    "transform hdf5": ("a.h5", field, read_transform),
    "transform hdf5 linear": ("b.h5", linear, read_transform),
    "field nifti": ("a.nii.gz", field, read_transform),
    "field nrrd": ("a.nrrd", field, read_transform),
}


class Hang(BaseException):
    """A file took too long."""


def outcome(read: Callable[[Path], Any], path: Path) -> str:
    """``read``, ``refused``, or what else happened."""
    signal.alarm(SECONDS)
    try:
        read(path)
        return "read"
    except (InputError, ResourceError) as error:
        sentence = str(error)
        return "refused" if sentence and "\n" not in sentence.strip() else f"unclear sentence: {sentence!r}"
    except Hang:
        return "took too long"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
    finally:
        signal.alarm(0)


def main() -> None:
    folder, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])

    def too_long(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, too_long)
    unlimited = resource.getrlimit(resource.RLIMIT_DATA)
    for kind, first, count in jobs:
        name, make, read = KINDS[kind]
        path = folder / kind / name
        path.parent.mkdir(exist_ok=True)
        resource.setrlimit(resource.RLIMIT_DATA, unlimited)
        make(path)
        content = path.read_bytes()
        read(path)  # once undamaged, which also loads what is loaded late
        resource.setrlimit(resource.RLIMIT_DATA, (BYTES, unlimited[1]))
        for number in range(first, first + count):
            (folder / "current").write_text(json.dumps([kind, number]))
            path.write_bytes(mutated(content, number))
            print(json.dumps([kind, number, outcome(read, path)]), flush=True)


if __name__ == "__main__":
    main()
