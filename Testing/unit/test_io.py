"""Images, labels and masks: what comes out is what was put in, and what is broken says so."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib import io
from DeepRegistrationLib.atomic import atomic_path, write_text
from DeepRegistrationLib.errors import InputError, OutputError, ResourceError
from DeepRegistrationLib.file_checks import quiet_itk
from DeepRegistrationLib.frame import Frame, Volume

ROTATION = np.asarray(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.4, 0.7).GetMatrix()).reshape(3, 3)
OBLIQUE = tuple(map(tuple, ROTATION.tolist()))
LEFT = tuple(map(tuple, (ROTATION * [1, 1, -1]).tolist()))

FRAMES = {
    "oblique": Frame((7, 4, 9), (0.5, 1.25, 3.0), (-12.0, 30.5, 7.0), OBLIQUE),
    "left-handed": Frame((4, 5, 6), (2.0, 0.7, 1.1), (5.0, -60.0, 100.0), LEFT),
    "one slice": Frame((6, 5, 1), (0.8, 0.9, 6.0), (1.0, 2.0, 3.0), OBLIQUE),
    "one column": Frame((1, 5, 4), (0.8, 0.9, 6.0), (1.0, 2.0, 3.0), OBLIQUE),
    "2-D": Frame((6, 9), (0.5, 2.0), (3.0, -4.0), ((0.6, -0.8), (0.8, 0.6))),
}


def _volume(frame: Frame, seed: int = 0) -> Volume:
    values = torch.randn(1, *frame.shape, generator=torch.Generator().manual_seed(seed))
    return Volume(values * 500 - 200, frame)


def _array_image(array: np.ndarray, vector: bool = False) -> sitk.Image:
    return sitk.GetImageFromArray(array, isVector=vector)


def _nothing_hidden(folder: Path) -> bool:
    return not [name for name in os.listdir(folder) if name.startswith(".")]


@pytest.mark.parametrize("extension", io.IMAGE_EXTENSIONS)
@pytest.mark.parametrize("name", FRAMES)
def test_images_come_back_as_they_were(tmp_path: Path, name: str, extension: str) -> None:
    volume = _volume(FRAMES[name])
    path = tmp_path / f"image{extension}"
    io.write_volume(volume, path)
    back = io.read_volume(path)
    assert back.data.dtype == torch.float32
    assert torch.equal(back.data, volume.data)
    assert back.frame.size == volume.frame.size
    np.testing.assert_allclose(back.frame.points(), volume.frame.points(), atol=1e-4)
    # and SimpleITK alone has the same voxel at the same place
    image = sitk.ReadImage(str(path))
    last = tuple(n - 1 for n in volume.frame.size)
    expected = volume.frame.points()[tuple(reversed(last))].numpy()
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(last), expected, atol=1e-4)
    assert image[last] == volume.data[0][tuple(reversed(last))].item()
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_every_voxel_type_becomes_float32(dtype: type) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    array[0, 0, 0] = 200
    volume = io.read_volume(_array_image(array))
    assert volume.data.dtype == torch.float32
    np.testing.assert_array_equal(volume.data[0].numpy(), array)


def test_volume_is_a_copy_of_the_image() -> None:
    image = _array_image(np.ones((2, 3, 4), np.float32))
    volume = io.volume_from_sitk(image)
    volume.data.zero_()
    assert sitk.GetArrayFromImage(image).min() == 1


def test_to_simpleitk_types_and_channels() -> None:
    frame = FRAMES["oblique"]
    data = torch.randn(3, *frame.shape)
    image = io.volume_to_sitk(Volume(data, frame))
    assert image.GetNumberOfComponentsPerPixel() == 3
    np.testing.assert_allclose(image[1, 2, 3], data[:, 3, 2, 1])
    rounded = io.volume_to_sitk(Volume(torch.full((1, *frame.shape), 2.7), frame), np.int16)
    assert rounded.GetPixelID() == sitk.sitkInt16 and rounded[0, 0, 0] == 3
    assert io.volume_to_sitk(Volume(data[:1] > 0, frame)).GetPixelID() == sitk.sitkUInt8
    assert io.volume_to_sitk(Volume(data[:1].half(), frame)).GetPixelID() == sitk.sitkFloat32
    assert image.GetOrigin() == frame.origin


def test_four_d_of_one_volume_is_three_d(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
    path = tmp_path / "one.nrrd"
    sitk.WriteImage(_array_image(array), str(path))
    volume = io.read_volume(path)
    assert volume.frame.dimension == 3
    np.testing.assert_array_equal(volume.data.numpy(), array)


# --- DICOM -------------------------------------------------------------------------------------------


def _write_series(
    folder: Path, array: np.ndarray, uid: str, positions: list[float], prefix: str = ""
) -> None:
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, position in enumerate(positions):
        image = _array_image(array[k : k + 1])
        image.SetSpacing((0.7, 0.8, 2.5))
        tags = {
            "0008|0060": "CT",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{k + 1}",
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0013": str(k + 1),
            "0020|0032": f"10\\20\\{position}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{prefix}{(k * 5) % 7}.dcm"))  # names do not tell the order
        writer.Execute(image)


@pytest.fixture
def slices() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, size=(6, 10, 12)).astype(np.int16)


POSITIONS = [30 + 2.5 * k for k in range(6)]


def test_dicom_series(tmp_path: Path, slices: np.ndarray) -> None:
    _write_series(tmp_path / "d", slices, "1.2.3.4", POSITIONS)
    volume = io.read_volume(tmp_path / "d")
    np.testing.assert_array_equal(volume.data[0].numpy(), slices)
    assert volume.frame.spacing == pytest.approx((0.7, 0.8, 2.5))
    assert volume.frame.origin == pytest.approx((10, 20, 30))


def test_single_dicom_file_is_a_volume_of_one_slice(tmp_path: Path, slices: np.ndarray) -> None:
    _write_series(tmp_path / "d", slices[:1], "1.2.3.4", [30.0])
    volume = io.read_volume(tmp_path / "d" / "0.dcm")
    assert volume.frame.size == (12, 10, 1)
    np.testing.assert_array_equal(volume.data[0].numpy(), slices[:1])
    assert io.read_volume(tmp_path / "d").frame.size == (12, 10, 1)


def test_dicom_scout_beside_the_series_is_left_out(tmp_path: Path, slices: np.ndarray) -> None:
    _write_series(tmp_path / "d", slices, "1.2.3.4", POSITIONS)
    _write_series(tmp_path / "d", slices[:1] * 0, "1.2.3.5", [0.0], "scout")
    np.testing.assert_array_equal(io.read_volume(tmp_path / "d").data[0].numpy(), slices)


def test_two_dicom_series_are_refused(tmp_path: Path, slices: np.ndarray) -> None:
    _write_series(tmp_path / "d", slices, "1.2.3.4", POSITIONS)
    _write_series(tmp_path / "d", slices, "1.2.3.5", POSITIONS, "b")
    with pytest.raises(InputError, match="2 DICOM series"):
        io.read_volume(tmp_path / "d")


@pytest.mark.parametrize(
    "positions", [[0, 2.5, 5, 10, 12.5, 15], [0, 2, 4, 6, 6, 8], [0, 0.1, 0.2, 0.3, 0.4, 9]]
)
def test_uneven_dicom_slices_are_refused(tmp_path: Path, slices: np.ndarray, positions: list[float]) -> None:
    _write_series(tmp_path / "d", slices, "1.2.3.4", positions)
    with pytest.raises(InputError, match="missing, repeated, unevenly spaced"):
        io.read_volume(tmp_path / "d")


def test_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="no DICOM images"):
        io.read_volume(tmp_path)


# --- labels and masks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("highest", "dtype"), [(255, torch.int32), (2**31 - 1, torch.int32), (2**40, torch.int64)]
)
def test_labels_are_kept_exactly(tmp_path: Path, highest: int, dtype: torch.dtype) -> None:
    array = np.arange(60).reshape(3, 4, 5).astype(np.int64)
    array[2, 3, 4] = highest
    labels = io.read_labels(_array_image(array))
    assert labels.data.dtype == dtype
    np.testing.assert_array_equal(labels.data[0].numpy(), array)
    for extension in io.IMAGE_EXTENSIONS:
        io.write_volume(labels, tmp_path / f"l{extension}", labels=True)
        assert torch.equal(io.read_labels(tmp_path / f"l{extension}").data, labels.data)
    stored = sitk.ReadImage(str(tmp_path / "l.nrrd")).GetPixelID()
    assert stored == {255: sitk.sitkUInt8, 2**31 - 1: sitk.sitkInt32, 2**40: sitk.sitkInt64}[highest]


def test_float_labels_must_be_whole() -> None:
    whole = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    assert io.read_labels(_array_image(whole)).data.flatten().tolist() == list(range(24))
    with pytest.raises(InputError, match="not a label map"):
        io.read_labels(_array_image(whole + 0.25))
    whole[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="1 voxels that are not finite"):
        io.read_labels(_array_image(whole))


def test_four_d_labels_need_a_component(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 2, size=(3, 4, 5, 6)).astype(np.float64)
    path = tmp_path / "four.nii.gz"
    sitk.WriteImage(_array_image(array), str(path))
    with pytest.raises(InputError, match="4-D image of 3 volumes"):
        io.read_labels(path)
    for component in range(3):
        np.testing.assert_array_equal(io.read_labels(path, component).data[0].numpy(), array[component])
    with pytest.raises(InputError, match="no number 3"):
        io.read_labels(path, 3)
    with pytest.raises(InputError, match="no number 1"):
        io.read_labels(_array_image(array[0]), 1)


def test_segmentation_layers(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 4, size=(4, 5, 6, 2)).astype(np.uint8)
    path = tmp_path / "two.seg.nrrd"
    sitk.WriteImage(_array_image(array, vector=True), str(path))
    with pytest.raises(InputError, match="vector image of 2"):
        io.read_labels(path)
    np.testing.assert_array_equal(io.read_labels(path, 1).data[0].numpy(), array[..., 1])
    one = tmp_path / "one.seg.nrrd"
    sitk.WriteImage(_array_image(array[..., 0]), str(one))
    np.testing.assert_array_equal(io.read_labels(one).data[0].numpy(), array[..., 0])


def test_masks() -> None:
    array = np.zeros((3, 4, 5), np.float32)
    with pytest.raises(InputError, match="selects no voxel"):
        io.read_mask(_array_image(array))
    array[1, 2, 3], array[0, 0, 0] = 0.5, -2
    mask = io.read_mask(_array_image(array))
    assert mask.data.dtype == torch.bool
    np.testing.assert_array_equal(mask.data[0].numpy(), array != 0)


# --- what is refused ---------------------------------------------------------------------------------


def _refused(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        io.read_volume(path)
    sentence = str(caught.value)
    assert str(path) in sentence and sentence.endswith(".") and "\n" not in sentence
    assert "itk" not in sentence.lower().replace(str(path).lower(), "")


@pytest.mark.parametrize("extension", [*io.IMAGE_EXTENSIONS, ".mhd", ".png", ".dcm", ".h5", ".jpg"])
@pytest.mark.parametrize("content", ["text", "noise", "empty", "missing"])
def test_files_that_are_no_images(tmp_path: Path, extension: str, content: str) -> None:
    path = tmp_path / f"broken{extension}"
    bodies = {"text": b"hello\n" * 300, "noise": np.random.default_rng(0).bytes(3000), "empty": b""}
    if content in bodies:
        path.write_bytes(bodies[content])
    match = {"empty": "empty file", "missing": "does not exist"}.get(content, "damaged|incomplete")
    _refused(path, match)


@pytest.mark.parametrize("extension", [*io.IMAGE_EXTENSIONS, ".png"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_truncated_files(tmp_path: Path, extension: str, share: float) -> None:
    path = tmp_path / f"cut{extension}"
    image = io.volume_to_sitk(_volume(Frame.regular((20, 30, 10))))
    if extension == ".png":
        image = sitk.Cast(sitk.RescaleIntensity(image[:, :, 0]), sitk.sitkUInt8)
    sitk.WriteImage(image, str(path))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    _refused(path, "damaged|incomplete")


def test_damaged_compressed_nifti(tmp_path: Path) -> None:
    path = tmp_path / "flipped.nii.gz"
    io.write_volume(_volume(Frame.regular((20, 30, 10))), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    _refused(path, "damaged")


def test_big_endian_nifti(tmp_path: Path) -> None:
    header = bytearray(352)
    struct.pack_into(">i", header, 0, 348)
    struct.pack_into(">8h", header, 40, 3, 4, 5, 6, 1, 1, 1, 1)
    struct.pack_into(">2h", header, 70, 16, 32)
    struct.pack_into(">4f", header, 76, 1, 1, 1, 1)
    struct.pack_into(">f", header, 108, 352)
    header[344:348] = b"n+1\0"
    voxels = np.arange(120, dtype=">f4").tobytes()
    path = tmp_path / "big.nii.gz"
    path.write_bytes(gzip.compress(bytes(header) + voxels))
    assert io.read_volume(path).data.flatten().tolist() == list(range(120))
    path.write_bytes(gzip.compress(bytes(header) + voxels[:-4]))
    _refused(path, "828 of 832 bytes")


def test_unusable_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {
        "4-D image of 3 volumes": _array_image(rng.normal(size=(3, 4, 5, 6))),
        "colour or vector image of 3": _array_image(np.zeros((4, 5, 6, 3), np.uint8), vector=True),
        "complex numbers": _array_image(np.zeros((4, 5, 6), np.complex64)),
    }
    for match, image in images.items():
        path = tmp_path / "image.nii.gz"
        sitk.WriteImage(image, str(path))
        _refused(path, match)
        with pytest.raises(InputError, match=match):
            io.read_volume(image)
    with pytest.raises(InputError, match="no voxels"):
        io.read_volume(sitk.Image())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_non_finite_voxels_are_counted(tmp_path: Path, value: float) -> None:
    array = np.ones((3, 4, 5))
    array[0, 0, :2] = value
    path = tmp_path / "image.nrrd"
    sitk.WriteImage(_array_image(array), str(path))
    _refused(path, "2 voxels that are not finite")


def test_sheared_geometry(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    io.write_volume(_volume(Frame.regular((4, 5, 6))), path)
    content = bytearray(path.read_bytes())
    struct.pack_into("=2h", content, 252, 0, 1)
    struct.pack_into("=12f", content, 280, 1, 0.6, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    path.write_bytes(content)
    _refused(path, "sheared")


def test_image_larger_than_any_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.nrrd"
    header = (
        "NRRD0004\ntype: float\ndimension: 3\nsizes: 60000 60000 60000\nendian: little\nencoding: raw\n\n"
    )
    path.write_bytes(header.encode() + b"abcd")
    with pytest.raises(ResourceError, match="too large for this machine's memory"):
        io.read_volume(path)


def test_constant_image_is_read_but_has_no_contrast() -> None:
    frame = Frame.regular((4, 5, 6))
    volume = io.read_volume(io.volume_to_sitk(Volume(torch.full((1, *frame.shape), 7.0), frame)))
    with pytest.raises(InputError, match="The moving image has the same value everywhere"):
        io.check_contrast(volume, "moving")
    volume.data[0, 5, 4, 3] = 8
    io.check_contrast(volume, "moving")


def test_itk_says_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.mha"
    sitk.WriteImage(io.volume_to_sitk(_volume(Frame.regular((20, 30, 10)))), str(path), True)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(RuntimeError):
        sitk.ReadImage(str(path))
    assert "MetaImage" in capfd.readouterr().err  # it does when left to itself
    with pytest.raises(InputError):
        io.read_volume(path)
    with pytest.raises(InputError):
        io.read_volume(tmp_path)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_quiet_itk_puts_everything_back(capfd: pytest.CaptureFixture[str]) -> None:
    for shown in (True, False):
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        with pytest.raises(KeyError), quiet_itk():
            assert not sitk.ProcessObject.GetGlobalWarningDisplay()
            os.write(2, b"hidden")
            raise KeyError
        assert sitk.ProcessObject.GetGlobalWarningDisplay() is shown
    sitk.ProcessObject.SetGlobalWarningDisplay(True)
    os.write(2, b"shown")
    assert capfd.readouterr().err == "shown"


# --- writing -----------------------------------------------------------------------------------------


def test_atomic_path_leaves_the_old_file_when_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.nii.gz"
    write_text(path, "old")
    for error, raised in ((KeyboardInterrupt(), KeyboardInterrupt), (RuntimeError(), OutputError)):
        with pytest.raises(raised), atomic_path(path) as temporary:
            assert temporary.parent == tmp_path and temporary.name.startswith(".")
            assert temporary.name.endswith(".nii.gz")
            temporary.write_text("half")
            raise error
        assert path.read_text() == "old" and _nothing_hidden(tmp_path)
    write_text(path, "neu")
    assert path.read_text() == "neu" and _nothing_hidden(tmp_path)


def test_unwritable_places(tmp_path: Path) -> None:
    volume = _volume(Frame.regular((4, 5, 6)))
    with pytest.raises(OutputError, match="does not exist"):
        io.write_volume(volume, tmp_path / "nowhere" / "a.nii.gz")
    with pytest.raises(OutputError, match=r"\.nii\.gz"):
        io.write_volume(volume, tmp_path / "a.jpg")
    (tmp_path / "b.nrrd").mkdir()
    with pytest.raises(OutputError, match="folder of that name"):
        io.write_volume(volume, tmp_path / "b.nrrd")
    assert os.listdir(tmp_path) == ["b.nrrd"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may write anywhere"
)
def test_closed_folder(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o500)
    with pytest.raises(OutputError, match="not allowed"):
        io.write_volume(_volume(Frame.regular((4, 5, 6))), folder / "a.nii.gz")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np, torch
from DeepRegistrationLib import atomic, io, landmarks, transform_files
from DeepRegistrationLib.errors import OutputError
from DeepRegistrationLib.frame import Frame, Volume
folder = Path(sys.argv[1])
frame = Frame.regular((40, 30, 20))
field = np.random.default_rng(0).normal(size=(*frame.shape, 3))
volume = Volume(torch.from_numpy(field[None, ..., 0]).float(), frame)
points = landmarks.Landmarks(torch.from_numpy(field[0].reshape(-1, 3)), ("a",) * 1200)
writers = {
    **{f"image{e}": lambda p: io.write_volume(volume, p) for e in io.IMAGE_EXTENSIONS},
    **{f"field{e}": lambda p: transform_files.write_displacement(field, frame, p)
       for e in (".h5", *io.IMAGE_EXTENSIONS)},
    "points.mrk.json": lambda p: landmarks.write_landmarks(points, p),
    "note.txt": lambda p: atomic.write_text(p, "x" * 30000),
    "line.tfm": lambda p: transform_files.write_linear(np.diag([1.1, 1, 1, 1]), p),
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for name, write in writers.items():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 if name == "line.tfm" else 20000, hard))
    try:
        write(folder / name)
        print("NOT NOTICED", name)
    except OutputError as error:
        assert str(folder / name) in str(error) and "could not be written" in str(error), error
print(sorted(p.name for p in folder.iterdir()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX thing")
def test_every_writer_notices_when_the_file_cannot_grow(tmp_path: Path) -> None:
    """A file size limit is the nearest to a full disk that an ordinary user can have."""
    library = str(Path(io.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": library},
        check=False,
    )
    assert done.stdout == "[]\n", done.stdout + done.stderr
    assert done.returncode == 0 and done.stderr == ""


_SWEEP = """
import os, resource, sys
from DeepRegistrationLib import io
from DeepRegistrationLib.errors import RegistrationError
from DeepRegistrationLib.transform_files import read_transform_file

def attempt(read, path):
    try:
        read(path)
        return "fine"
    except RegistrationError as error:
        return str(error)

for path in sys.argv[2:]:  # whatever is loaded at the first use
    print(attempt(io.read_volume, path))
print(attempt(read_transform_file, sys.argv[1]))
highest = max(map(int, os.listdir("/proc/self/fd")))
for limit in range(max(3, highest - 4), highest + 8):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for path in sys.argv[2:]:
        print(attempt(io.read_volume, path))
    print(attempt(read_transform_file, sys.argv[1]))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's list of open files")
def test_a_limit_of_open_files_is_not_called_damage(tmp_path: Path) -> None:
    images = [str(tmp_path / name) for name in ("a.nii.gz", "a.nrrd", "a.mha")]
    for image in images:
        io.write_volume(_volume(Frame.regular((4, 5, 6))), image)
    sitk.WriteTransform(sitk.TranslationTransform(3), str(tmp_path / "t.tfm"))
    told = subprocess.run(
        [sys.executable, "-c", _SWEEP, str(tmp_path / "t.tfm"), *images],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert told[:4] == ["fine"] * 4 and any("cannot be opened" in line for line in told)
    assert [line for line in told if line != "fine" and "cannot be opened" not in line] == []
