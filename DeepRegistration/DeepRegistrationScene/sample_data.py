"""Sample data made on the spot, without a network: two made-up heads whose true deformation is known."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from DeepRegistrationLib.demo.label_names import LABEL_NAMES
from DeepRegistrationLib.errors import NotAvailableError, OutputError, RegistrationError
from DeepRegistrationLib.frame import Frame
from DeepRegistrationLib.landmark_files import read_points
from DeepRegistrationLib.worker.process import python_executable

from .changes import Changes, changes
from .geometry import FLIP, Node, to_vtk
from .volumes import fill_volume, image_data

CATEGORY = "DeepRegistration"
SAMPLE = "DeepRegistrationHeads"
SIDES = {"fixed": "Head fixed", "moving": "Head moving"}

_ENGINE = Path(__file__).resolve().parents[1]
_PATIENCE = 300.0
"""Seconds after which the making of the pair is given up; it takes about three."""


def register_sample_data(icons: Path, tell: Callable[[str], Any] | None = None) -> bool:
    """Add the pair to Slicer's Sample Data module, once. To be called when the application has started.

    Args:
        icons: folder with the thumbnail, `SAMPLE`.png.
        tell: shows a sentence when the pair cannot be made; without it the error is raised.

    Returns:
        Whether there is a Sample Data module.
    """
    try:
        import SampleData
    except ImportError:
        return False

    def load(source: Any) -> list[Node]:
        try:
            return list(sample_pair().values())
        except RegistrationError as error:
            if tell is None:
                raise
            tell(str(error))
            return []

    known = SampleData.SampleDataLogic.sampleDataSourcesByCategory(CATEGORY)
    if not any(source.sampleName == SAMPLE for source in known):
        # lists that are empty but of one length: nothing is downloaded
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=SAMPLE,
            uris=[],
            fileNames=[],
            thumbnailFileName=str(icons / f"{SAMPLE}.png"),
            customDownloader=load,
        )
    return True


def sample_pair(python: str | None = None, scene: Node | None = None) -> dict[str, Node]:
    """Make the pair in a process of its own and put it into the scene; takes some seconds.

    Args:
        python: the interpreter, which needs torch; the worker's by default.
        scene: where to add; `slicer.mrmlScene` by default.

    Returns:
        Nodes by name: ``fixed`` and ``moving`` volumes, ``fixed_landmarks`` and ``moving_landmarks`` point
        lists, ``fixed_labels`` and ``moving_labels`` segmentations.

    Raises:
        NotAvailableError: torch is missing, or the process failed.
        OutputError: the scene refused a node; nothing is left behind then.
    """
    with tempfile.TemporaryDirectory(prefix="deepregistration-sample-") as folder:
        _make(Path(folder), python or python_executable())
        with changes(scene) as change:
            return _load(Path(folder), change)


def _make(folder: Path, python: str) -> None:
    paths = [str(_ENGINE), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "PYTHONUTF8": "1"}
    window = {"creationflags": subprocess.CREATE_NO_WINDOW} if sys.platform == "win32" else {}
    try:
        done = subprocess.run(
            [python, "-m", "DeepRegistrationLib", "demo", "--pair-only", "--out", str(folder)],
            cwd=_ENGINE,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            **window,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailableError(f"The sample images could not be made: {error}.") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        if any("No module named 'torch'" in line for line in said):
            raise NotAvailableError("The sample images are made with PyTorch, which is not installed yet.")
        reason = said[-1].split("error: ")[-1] if said else f"the process ended with code {done.returncode}"
        raise NotAvailableError(f"The sample images could not be made: {reason}")


def _load(folder: Path, change: Changes) -> dict[str, Node]:
    nodes = {}
    for side, name in SIDES.items():
        array, frame = _read(folder / f"{side}.nii.gz")
        nodes[side] = fill_volume(change.add("vtkMRMLScalarVolumeNode", name), image_data(array), frame)
        points = change.add("vtkMRMLMarkupsFiducialNode", f"{name} landmarks")
        points.CreateDefaultDisplayNodes()
        for (x, y, z), label in zip(*read_points(folder / f"{side}_landmarks.mrk.json"), strict=True):
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
