"""Files of other programs: read, or called what they are."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from DeepRegistrationLib import io
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.frame import Frame, Volume
from DeepRegistrationLib.landmarks import read_landmarks
from DeepRegistrationLib.transform_files import read_transform_file
from torch import rand

FRAME = Frame.regular((7, 6, 5))


def _nifti(path: Path) -> bytes:
    io.write_volume(Volume(rand(1, *FRAME.shape), FRAME), path)
    return path.read_bytes()


def _nifti_2(path: Path) -> bytes:
    voxels = _nifti(path)[352:]
    header = bytearray(544)
    struct.pack_into("<i8s2h", header, 0, 540, b"n+2\0\r\n\x1a\n", 16, 32)
    struct.pack_into("<8q", header, 16, 3, *FRAME.size, 1, 1, 1, 1)
    struct.pack_into("<8d", header, 104, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<q", header, 168, 544)
    return bytes(header) + voxels


MGH = struct.pack(">7i", 1, *FRAME.size, 1, 3, 0) + b"\0" * (256 + 4 * FRAME.voxels)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.mgz", lambda path: gzip.compress(MGH), "volume of FreeSurfer"),
        ("a.mgh", lambda path: MGH, "mri_convert"),
        ("a.nii", _nifti_2, "NIfTI-2 file"),
        ("b.nii.gz", lambda path: gzip.compress(_nifti_2(path.with_name("c.nii"))), "NIfTI-2 file"),
        ("a.nii", lambda path: gzip.compress(_nifti(path)), r"compressed, .* rename it to a\.nii\.gz"),
        ("a.nrrd", lambda path: gzip.compress(_nifti(path)), "compressed as a whole"),
    ],
)
def test_images(tmp_path: Path, name: str, content, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content(path))
    for read in (io.read_volume, io.read_frame, io.read_labels):
        with pytest.raises(InputError, match=words) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))


ROWS = "1 0 0 3\n0 1 0 4\n0 0 1 5\n0 0 0 1\n"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("TransformParameters.0.txt", '// made\n(Transform "EulerTransform")\n', "elastix"),
        ("fsl.mat", "1 0 0 3  \n0 1 0 4  \n0 0 1 5.5e-1  \n0 0 0 1  \n", "bare matrix, as FSL"),
        ("affine.txt", ROWS, "bare matrix"),
        ("r.lta", "# made\ntype      = 1\nnxforms   = 1\nmean      = 0 0 0\n1 4 4\n" + ROWS, "lta_convert"),
        ("register.dat", "subject\n1.0\n1.0\n0.15\n" + ROWS + "round\n", "register.dat"),
        ("w.m3z", "anything", "mri_warp_convert"),
        ("a.aff12.1D", "# 3dAllineate\n 1 0 0 3 0 1 0 4 0 0 1 5\n", "AFNI"),
        ("photo.png", "anything", "an image, not a transform"),
    ],
)  # fmt: skip
def test_transforms(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_transform_file(tmp_path / name)


def test_what_is_not_known_is_still_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello\n")
    with pytest.raises(InputError, match="damaged"):
        read_transform_file(tmp_path / "a.txt")
    (tmp_path / "a.nrrd").write_text("hello\n")
    with pytest.raises(InputError, match="damaged"):
        io.read_volume(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    "text",
    [
        "label;x;y;z\na;1,5;-2,25;3\n",
        "label\tx\ty\tz\na\t1,5\t-2,25\t3\n",
        'label,x,y,z\na,"1,5","-2,25","3"\n',
        "a;1,5;-2,25;3\n",
    ],
)
def test_decimal_commas(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    found = read_landmarks(tmp_path / "a.csv")
    assert found.points.tolist() == [[1.5, -2.25, 3]] and found.labels == ("a",)


def test_decimal_commas_among_separating_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,x,y,z\na,1,5,-2,25,3,0\n")
    with pytest.raises(InputError, match="more cells in a line than columns"):
        read_landmarks(tmp_path / "a.csv")


def test_labels_behind_a_scale_factor(tmp_path: Path) -> None:
    """Numbers times 1/255 are whole but for rounding."""
    path = tmp_path / "labels.nii"
    values = np.arange(FRAME.voxels).reshape(FRAME.shape) % 40
    content = bytearray(_nifti(path))
    struct.pack_into("<2h", content, 70, 4, 16)
    struct.pack_into("<2f", content, 112, 1 / 255, 0)
    path.write_bytes(bytes(content[:352]) + (values * 255).astype(np.int16).tobytes())
    stored = io.read_volume(path).data.numpy()
    assert (stored != np.rint(stored)).any()  # 3.0000002 and the like
    assert (io.read_labels(path).data[0].numpy() == values).all()
    struct.pack_into("<2f", content, 112, 1 / 250, 0)
    path.write_bytes(bytes(content[:352]) + (values * 255).astype(np.int16).tobytes())
    with pytest.raises(InputError, match="not whole numbers"):
        io.read_labels(path)
