"""The process that opens damaged files: python hostile.py FOLDER JOBS, where a job is [kind, first, count].

Prints [kind, number, what came of it] for each file. It may crash, which is for its parent to see:
``current`` in the folder tells which file it is at.
A file may take `SECONDS` (a process that is deaf in a library ends after twice as long) and the process
`BYTES` of memory.
"""

from __future__ import annotations

import faulthandler
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
from DeepRegistrationLib.initial import load_transform
from DeepRegistrationLib.landmarks import Landmarks, read_landmarks, write_landmarks
from DeepRegistrationLib.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from DeepRegistrationLib.weights import load_weights, save_weights
from mutations import mutated

SECONDS = 20
BYTES = 4 << 30
FRAME = Frame.regular((9, 8, 7), (1.0, 1.5, 2.0))
VALUES = np.random.default_rng(0).integers(-500, 500, FRAME.shape)


Make = Callable[[Path], None]
SLICES = "\n".join(f"s{k}.raw" for k in range(len(VALUES)))
NRRD = """NRRD0004
type: short
dimension: 3
sizes: 9 8 7
spacings: 1 1.5 2
endian: little
encoding: raw
data file: """
METAIMAGE = """ObjectType = Image
NDims = 3
DimSize = 9 8 7
ElementSpacing = 1 1.5 2
ElementType = MET_SHORT
ElementByteOrderMSB = False
ElementDataFile = """


def image(path: Path, dtype: type = np.int16) -> None:
    io.write_volume(Volume(torch.from_numpy(VALUES.astype(dtype))[None], FRAME), path)


def described(text: str) -> Make:
    """A header whose voxels are in other files, which stay whole."""

    def make(path: Path) -> None:
        VALUES.astype(np.int16).tofile(path.with_name("a.raw"))
        for k, piece in enumerate(VALUES.astype(np.int16)):
            piece.tofile(path.with_name(f"s{k}.raw"))
        path.with_name("words.txt").write_text(" ".join(map(str, VALUES.ravel())))
        path.write_text(text)

    return make


def field(path: Path) -> None:
    transform_files.write_displacement(np.random.default_rng(1).normal(size=(*FRAME.shape, 3)), FRAME, path)


def pair(path: Path) -> None:
    """A header, with the voxels beside it."""
    sitk.WriteImage(
        io.volume_to_sitk(Volume(torch.from_numpy(VALUES.astype(np.float32))[None], FRAME)), str(path)
    )


def text_nrrd(path: Path) -> None:
    words = " ".join(map(str, VALUES.ravel()))
    path.write_text(NRRD.replace("raw", "ascii").replace("data file: ", f"\n{words}\n"))


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


KINDS: dict[str, tuple[str, Make, Callable[[Path], Any]]] = {
    "nifti": ("a.nii", image, io.read_volume),
    "nifti float": ("a.nii", lambda p: image(p, np.float32), io.read_volume),
    "nifti compressed": ("a.nii.gz", image, io.read_volume),
    "nrrd": ("a.nrrd", image, io.read_volume),
    "metaimage": ("a.mha", image, io.read_volume),
    "nrrd detached": ("a.nhdr", described(f"{NRRD}a.raw\n"), io.read_volume),
    "nrrd list": ("a.nhdr", described(f"{NRRD}LIST 2\n{SLICES}\n"), io.read_volume),
    "nrrd pattern": ("a.nrrd", described(f"{NRRD}s%d.raw 0 6 1 2\n"), io.read_volume),
    "nrrd words": ("a.nhdr", described(NRRD.replace("raw", "ascii") + "words.txt\n"), io.read_volume),
    "nrrd words inside": ("a.nrrd", text_nrrd, io.read_volume),
    "metaimage detached": ("a.mhd", described(f"{METAIMAGE}a.raw\n"), io.read_volume),
    "metaimage list": ("a.mhd", described(f"{METAIMAGE}LIST\n{SLICES}\n"), io.read_volume),
    "metaimage pattern": ("a.mhd", described(f"{METAIMAGE}s%d.raw 0 6 1\n"), io.read_volume),
    "nifti pair": ("a.hdr", pair, io.read_volume),
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
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True)  # libraries hear no alarm
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
        faulthandler.cancel_dump_traceback_later()


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
