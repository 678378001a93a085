"""Headers whose voxels are in other files: read as they should be, or refused in one sentence, and soon."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegistrationLib import detached, io
from DeepRegistrationLib.batch.rows import Row
from DeepRegistrationLib.batch.size import needed_bytes
from DeepRegistrationLib.errors import InputError
from DeepRegistrationLib.landmarks import read_landmarks
from small_pair import complaint, register

VOXELS = np.arange(9 * 8 * 7, dtype=np.int16).reshape(7, 8, 9)
NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nsizes: 9 8 7\nspacings: 1 1 1\nendian: little\n"
    "encoding: raw\ndata file: "
)
METAIMAGE = (
    "ObjectType = Image\nNDims = 3\nDimSize = 9 8 7\nElementSpacing = 1 1 1\nElementType = MET_SHORT\n"
    "ElementByteOrderMSB = False\nElementDataFile = "
)
SLICES = [f"s{k}.raw" for k in range(7)]
CUT = [*SLICES[:3], "cut.raw", *SLICES[4:]]
POSIX = pytest.mark.skipif(os.name != "posix", reason="devices as POSIX has them")
LINES = "\n".join

FINE = {
    "beside": "whole.raw",
    "of a path": "../images/whole.raw",
    "slices in NRRD": (f"LIST 2\n{LINES(SLICES)}", None),
    "slices": (None, f"LIST\n{LINES(SLICES)}"),
    "slices of that dimension": (None, f"LIST 2D\n{LINES(SLICES)}"),
    "numbered in NRRD": ("s%d.raw 0 6 1 2", None),
    "numbered": (None, "s%d.raw 0 6 1"),
}
REFUSED = {
    "missing": ("gone.raw", "which does not exist"),
    "cut short": ("cut.raw", "damaged or incomplete"),
    "a folder": (".", "which is not a file"),
    "nowhere": ("../../../../nowhere/whole.raw", "which does not exist"),
    "an address": ("http://example.org/whole.raw", "which does not exist"),
    "standard input": ("-", "damaged"),
    "a home": ("~/whole.raw", "damaged|does not exist"),
    "cut by a zero": ("whole.raw\0.raw", "damaged"),
    "a device": ("/dev/null", "which is not a file"),
    "a name that is no text": ("\udcff.raw", "does not exist"),
    "a long name": ("a" * 300, "does not exist|too long"),
    "another kind of number": ("s%x.raw 0 6 1", "damaged|does not exist"),
    "wide": ("s%100d.raw 0 6 1", "damaged|does not exist"),
    "downwards": ((None, "s%d.raw 6 0 -1"), "damaged"),
    "one number too many": ((None, "s%d.raw 0 6 1 1"), "damaged"),
    "few": (("LIST 2\ns0.raw", "LIST\ns0.raw"), "damaged or incomplete|names 1"),
    "few numbers": (("s%d.raw 0 3 1 2", "s%d.raw 0 3 1"), "damaged or incomplete|names 4"),
    "too many": (("s%d.raw 0 100001 1 2", "s%d.raw 5 100001 1"), "damaged|does not exist"),
    "one cut": ((f"LIST 2\n{LINES(CUT)}", f"LIST\n{LINES(CUT)}"), "damaged or incomplete"),
    "slices that are devices": ((f"LIST 2\n{LINES(['/dev/null'] * 7)}", None), "which is not a file"),
}


def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    (images / "whole.raw").write_bytes(VOXELS.tobytes())
    (images / "cut.raw").write_bytes(VOXELS.tobytes()[:100])
    for name, piece in zip(SLICES, VOXELS, strict=True):
        (images / name).write_bytes(piece.tobytes())
    return images


def headers(images: Path, value: str | tuple[str | None, str | None]) -> list[Path]:
    """Files with the value as what a header of either format has in its last line."""
    values = value if isinstance(value, tuple) else (value, value)
    written = []
    for name, start, text in (("a.nhdr", NRRD, values[0]), ("a.mhd", METAIMAGE, values[1])):
        if text is not None:
            (images / name).write_bytes(f"{start}{text}\n".encode("utf-8", "surrogateescape"))
            written.append(images / name)
    return written


@pytest.mark.parametrize("value", FINE.values(), ids=FINE)
def test_voxels_elsewhere(value: str, tmp_path: Path) -> None:
    for path in headers(folder(tmp_path), value):
        assert np.array_equal(io.read_volume(path).data[0].numpy(), VOXELS)
        assert io.read_frame(path).size == (9, 8, 7)


@POSIX
@pytest.mark.parametrize(("value", "says"), REFUSED.values(), ids=REFUSED)
def test_voxels_that_are_not_there(value: str, says: str, tmp_path: Path) -> None:
    for path in headers(folder(tmp_path), value):
        for read in (io.read_volume, io.read_labels, io.read_mask):
            with pytest.raises(InputError, match=says) as found:
                read(path)
            assert "\n" not in str(found.value) and len(str(found.value)) < 1000
        needed_bytes(Row(1, "x", {"fixed": str(path), "moving": str(path)}))


FIELD = 60
"""Characters of a line and of a number that the guards let through below; any reader takes more."""
GUARDED = {
    "a long line": NRRD.replace("type", f"content: {'x' * FIELD}\ntype") + "whole.raw\n",
    "a long line behind a carriage return": NRRD.replace("type", f"# a\r{'x' * 61}\ntype") + "whole.raw\n",
    "a long number": NRRD.replace("raw", "ascii") + "word.txt\n",
    "a long number inside": NRRD.replace("raw", "ascii").replace("data file: ", "\n" + "1" * 61),
    "a folder behind a carriage return": NRRD.replace("data", "# a\rdata") + ".\n",
    "a folder of numbers": NRRD.replace("raw", "ascii") + ".\n",
    "fewer dimensions than sizes": METAIMAGE.replace("NDims = 3", "NDims = 2") + "whole.raw\n",
}


@pytest.mark.parametrize("text", GUARDED.values(), ids=GUARDED)
def test_headers_that_are_not_left_to_itk(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ITK's readers crashed on headers of these kinds; the guards are shown small and harmless ones."""
    monkeypatch.setattr(detached, "_FIELD", FIELD)
    images = folder(tmp_path)
    (images / "word.txt").write_text("1" * 61)
    path = images / ("a.mhd" if "ElementDataFile" in text else "a.nrrd")
    path.write_text(text, newline="")
    for read in (detached.check_header, io.read_volume):
        with pytest.raises(InputError, match=r"damaged|which is not a file") as found:
            read(path)
        assert str(path) in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["a.hdr", "a.img", "a.img.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_pair_of_nifti_files(name: str, dtype: type, tmp_path: Path) -> None:
    """ITK puts zeros in the place of what is missing."""
    path = tmp_path / name
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.astype(dtype)), str(path))
    assert np.array_equal(io.read_volume(path).data[0].numpy(), VOXELS)
    (voxels,) = tmp_path.glob("*.img*")
    (header,) = tmp_path.glob("*.hdr*")
    whole = voxels.read_bytes()
    voxels.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="incomplete"):
        io.read_volume(path)
    if path != voxels:
        voxels.unlink()
        with pytest.raises(InputError, match="which does not exist"):
            io.read_volume(path)
    else:
        header.unlink()
        with pytest.raises(InputError, match="has no header"):
            io.read_volume(path)


@POSIX
@pytest.mark.parametrize("read", [io.read_volume, read_landmarks])
def test_a_device_in_the_place_of_a_file(read: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "a.csv").symlink_to("/dev/null")
    with pytest.raises(InputError, match="is not a file"):
        read(tmp_path / "a.csv")


@POSIX
def test_the_command_says_it(tmp_path: Path) -> None:
    (path,) = headers(folder(tmp_path), ("/dev/null", None))
    assert "which is not a file" in complaint(register(path, path, tmp_path / "out", "--quiet"))
    assert not (tmp_path / "out").exists()
