"""Sample data made on the spot, without a network: two made-up heads whose true deformation is known."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from DeepRegistrationLib.demo.label_names import LABEL_NAMES
from DeepRegistrationLib.errors import NotAvailableError, OutputError
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.landmark_files import read_points
from DeepRegistrationLib.worker.process import cause_of_death, python_executable

from .changes import Changes, changes
from .geometry import FLIP, Node, to_vtk
from .volumes import fill_volume, image_data

SIDES = {"fixed": "Head fixed", "moving": "Head moving"}

_ENGINE = Path(__file__).resolve().parents[1]
_PATIENCE = 300.0
"""Seconds after which the making of the pair is given up; it takes about three."""
_PAUSE = 0.03
"""Seconds between two looks at whether it is made."""


def sample_pair(
    python: str | None = None, scene: Node | None = None, alive: Callable[[], object] | None = None
) -> dict[str, Node]:
    """Make the pair in a process of its own and put it into the scene; takes some seconds.

    Args:
        python: the interpreter, which needs torch; the worker's by default.
        scene: where to add; `slicer.mrmlScene` by default.
        alive: called every so often while the process works, so that windows can be drawn.

    Returns:
        Nodes by name: ``fixed`` and ``moving`` volumes, ``fixed_landmarks`` and ``moving_landmarks`` point
        lists, ``fixed_labels`` and ``moving_labels`` segmentations.

    Raises:
        NotAvailableError: torch is missing, or the process failed.
        OutputError: the scene refused a node; nothing is left behind then.
    """
    with tempfile.TemporaryDirectory(prefix="deepregistration-sample-") as folder:
        _make(Path(folder), python or python_executable(), alive)
        with changes(scene) as change:
            return _load(Path(folder), change)


def _make(folder: Path, python: str, alive: Callable[[], object] | None) -> None:
    paths = [str(_ENGINE), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "PYTHONUTF8": "1"}
    window = {"creationflags": subprocess.CREATE_NO_WINDOW} if sys.platform == "win32" else {}
    command = [python, "-m", "DeepRegistrationLib", "demo", "--pair-only", "--out", str(folder)]
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command,
                cwd=_ENGINE,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                **window,
            )
        except OSError as error:
            raise NotAvailableError(f"The sample images could not be made: {error}.") from error
        _wait(process, alive)
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").strip().splitlines()
    if process.returncode:
        raise NotAvailableError(_why_not(process.returncode, lines))


def _wait(process: subprocess.Popen, alive: Callable[[], object] | None) -> None:
    """Until it has ended, calling `alive` meanwhile; whatever goes wrong, it is not left running."""
    end = time.monotonic() + _PATIENCE
    try:
        while process.poll() is None:
            if time.monotonic() > end:
                raise NotAvailableError("The sample images could not be made: it takes too long.")
            if alive is not None:
                alive()
            time.sleep(_PAUSE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _why_not(code: int, lines: list[str]) -> str:
    """A sentence for a process that ended with this code, having written these lines on standard error."""
    if any("No module named 'torch'" in line for line in lines):
        return "The sample images are made with PyTorch, which is not installed yet."
    told = [line.split("error: ")[-1] for line in lines if line.startswith("deepregistration")]
    return f"The sample images could not be made: {told[-1] if told else cause_of_death(code, lines)}"


def _load(folder: Path, change: Changes) -> dict[str, Node]:
    nodes = {}
    for side, name in SIDES.items():
        array, frame = _read(folder / f"{side}.nii.gz")
        nodes[side] = fill_volume(change.add("vtkMRMLScalarVolumeNode", name), image_data(array), frame)
        points = change.add("vtkMRMLMarkupsFiducialNode", f"{name} landmarks")
        points.CreateDefaultDisplayNodes()
        made = read_points(folder / f"{side}_landmarks.mrk.json")
        for (x, y, z), label in zip(made.points, made.labels, strict=True):
            points.AddControlPoint(vtk.vtkVector3d(-x, -y, z), label)
        nodes[f"{side}_landmarks"] = points
        nodes[f"{side}_labels"] = _segmentation(
            change.add("vtkMRMLSegmentationNode", f"{name} structures"),
            *_read(folder / f"{side}_labels.nii.gz"),
            nodes[side],
        )
    return nodes


def _segmentation(node: Node, labels: np.ndarray, frame: Frame, volume: Node) -> Node:
    """One segment for each structure; they share one image, as they do not overlap."""
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    image = slicer.vtkOrientedImageData()
    image.ShallowCopy(image_data(labels.astype(np.uint8)))
    image.SetImageToWorldMatrix(to_vtk(FLIP @ frame.index_to_world))
    binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segmentation = node.GetSegmentation()
    segmentation.SetSourceRepresentationName(binary)
    for number, (value, name) in enumerate(LABEL_NAMES.items()):
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(*_colour(number / len(LABEL_NAMES)))
        segment.AddRepresentation(binary, image)
        segment.SetLabelValue(value)
        if not segmentation.AddSegment(segment, name):
            raise OutputError(f"Slicer could not create the segment {name}.")
    node.GetDisplayNode().SetVisibility(False)  # the images come first
    return node


def _colour(hue: float) -> tuple[float, float, float]:
    colour = [0.0, 0.0, 0.0]
    vtk.vtkMath.HSVToRGB([hue, 0.55, 0.9], colour)
    return tuple(colour)


def _read(path: Path) -> tuple[np.ndarray, Frame]:
    image = sitk.ReadImage(str(path))
    direction = np.reshape(image.GetDirection(), (3, 3))
    frame = Frame(
        image.GetSize(), image.GetSpacing(), image.GetOrigin(), tuple(map(tuple, direction.tolist()))
    )
    return sitk.GetArrayFromImage(image), frame
