"""DICOM as scanners make it: slopes of single slices, slices without positions, files of several frames."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from DeepRegistrationLib import io
from DeepRegistrationLib.errors import InputError

pydicom = pytest.importorskip("pydicom")

PET, MR, ULTRASOUND, DOSE = (f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("128", "4.1", "3.1", "481.2"))
STORED = np.random.default_rng(0).integers(0, 1000, (6, 10, 12))
SLOPES = [1.0, 0.5, 0.25, 2.5, 1.7, 3.3]
ORIGIN, STEP = (10.0, 20.0, 30.0), 2.5


def _dataset(stored: np.ndarray, kind: str) -> pydicom.Dataset:
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = kind
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = pydicom.uid.generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.3", "1.2.3.4", "OT"
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelData = stored.astype("<i2").tobytes()
    return data


def _series(folder: Path, slopes: Sequence[float], positions: bool = True) -> Path:
    folder.mkdir()
    for k, slope in enumerate(slopes):
        data = _dataset(STORED[k], PET)
        data.InstanceNumber, data.PixelSpacing, data.SliceThickness = k + 1, [0.8, 0.7], STEP
        data.RescaleSlope, data.RescaleIntercept = slope, 0
        if positions:
            data.ImagePositionPatient = [*ORIGIN[:2], ORIGIN[2] + STEP * k]
            data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


def _group(**values: object) -> pydicom.Sequence:
    item = pydicom.Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return pydicom.Sequence([item])


def _enhanced(
    path: Path, order: Sequence[int], slopes: Sequence[float] | None = None, positions: bool = True
) -> Path:
    """Frames in an order along the slice axis, perhaps with slopes of their own."""
    data = _dataset(STORED[list(order)], MR)
    data.NumberOfFrames = len(order)
    measures = _group(PixelSpacing=[0.8, 0.7], SliceThickness=STEP, SpacingBetweenSlices=STEP)
    plane = _group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    data.SharedFunctionalGroupsSequence = _group(
        PixelMeasuresSequence=measures, PlaneOrientationSequence=plane
    )
    frames = []
    for k, place in enumerate(order):
        frame = pydicom.Dataset()
        if positions:
            frame.PlanePositionSequence = _group(ImagePositionPatient=[*ORIGIN[:2], ORIGIN[2] + STEP * place])
        scale = {"RescaleIntercept": 0, "RescaleType": "US"}
        frame.PixelValueTransformationSequence = _group(RescaleSlope=slopes[k] if slopes else 1, **scale)
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = pydicom.Sequence(frames)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("slopes", [SLOPES, SLOPES[::-1], [1.0] * 6])
def test_every_slice_has_its_own_slope(tmp_path: Path, slopes: list[float]) -> None:
    found = io.read_volume(_series(tmp_path / "d", slopes)).data[0].numpy()
    np.testing.assert_allclose(found, STORED * np.array(slopes)[:, None, None], rtol=1e-6)


def test_slices_without_positions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not say where they lie"):
        io.read_volume(_series(tmp_path / "d", [1.0] * 6, positions=False))


@pytest.mark.parametrize("order", [range(6), range(5, -1, -1)], ids=["upwards", "downwards"])
@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_frames_that_are_a_stack_are_read_as_one(tmp_path: Path, order: Sequence[int], slope: float) -> None:
    path = _enhanced(tmp_path / "a.dcm", order, [slope] * 6)
    volume = io.read_volume(path)
    np.testing.assert_allclose(volume.data[0].numpy(), slope * STORED[list(order)])
    for frame in (volume.frame, io.read_frame(path), io.read_volume(tmp_path).frame):
        places = frame.points()[:, 0, 0].numpy()
        wanted = [[*ORIGIN[:2], ORIGIN[2] + STEP * k] for k in order]
        np.testing.assert_allclose(places, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("order", "slopes", "positions", "words"),
    [
        ([0, 2, 4, 1, 3, 5], None, True, "interleaved"),
        ([0, 1, 2, 4, 5], None, True, "missing"),
        ([0, 0, 1, 1, 2, 2], None, True, "several times"),
        (range(6), SLOPES, True, "scale factors of their own"),
        (range(6), None, False, "do not say where they lie"),
    ],
)
def test_other_frames_are_refused(tmp_path: Path, order, slopes, positions, words: str) -> None:
    path = _enhanced(tmp_path / "a.dcm", order, slopes, positions)
    for source in (path, tmp_path):
        for read in (io.read_volume, io.read_frame, io.read_labels):
            with pytest.raises(InputError, match=words):
                read(source)


def test_a_film_is_refused_and_a_dose_is_read(tmp_path: Path) -> None:
    film = _dataset(STORED, ULTRASOUND)
    film.NumberOfFrames = 6
    film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="such as a film"):
        io.read_volume(tmp_path / "film.dcm")
    dose = _dataset(STORED, DOSE)
    dose.NumberOfFrames, dose.PixelSpacing, dose.SliceThickness = 6, [0.8, 0.7], STEP
    dose.ImagePositionPatient, dose.ImageOrientationPatient = list(ORIGIN), [1, 0, 0, 0, 1, 0]
    dose.GridFrameOffsetVector = [STEP * k for k in range(6)]
    dose.FrameIncrementPointer = 0x3004000C
    dose.save_as(tmp_path / "dose.dcm", enforce_file_format=True)
    assert io.read_volume(tmp_path / "dose.dcm").frame.origin == pytest.approx(ORIGIN)


def test_without_pydicom_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _enhanced(tmp_path / "a.dcm", range(6))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match="pip install pydicom"):
        io.read_volume(path)
    assert io.read_volume(_series(tmp_path / "d", [1.0] * 6)).frame.size == (12, 10, 6)
