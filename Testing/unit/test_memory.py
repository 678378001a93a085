"""Memory: what a run is said to need, what is made coarser where there is less, what happens without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch
from DeepRegistrationLib import cli, free_memory, memory, resources, session
from DeepRegistrationLib.background import filling_value
from DeepRegistrationLib.errors import InputError, ResourceError
from DeepRegistrationLib.field import Field
from DeepRegistrationLib.frame import Frame, Volume, apply_matrix
from DeepRegistrationLib.inputs import load_inputs
from DeepRegistrationLib.interpolation import sample
from DeepRegistrationLib.io import read_frame, read_volume, write_volume
from DeepRegistrationLib.memory import PROGRAM, Request, fitting
from DeepRegistrationLib.options import Options
from DeepRegistrationLib.prepare import resampled
from DeepRegistrationLib.presets import PRESETS, SIMILARITY_NAMES, finest_frame
from DeepRegistrationLib.registration import warped_volume
from DeepRegistrationLib.session import Session
from DeepRegistrationLib.sizes import finest_size
from DeepRegistrationLib.solver import scale_frame
from DeepRegistrationLib.transform_files import displacement_from_sitk, write_displacement_slabs
from DeepRegistrationLib.transforms import REPRESENTATIONS, FieldTransform, LinearTransform

FRAME = Frame.regular((56, 52, 48), (1.0, 1.2, 1.4))
CT = Request((512, 512, 400), (0.7, 0.7, 1.0), (512, 512, 400), (0.7, 0.7, 1.0), preset="fast")


def picture(shift: float = 0.0) -> Volume:
    points = FRAME.points() - torch.tensor([shift, 0, 0], dtype=torch.float64)
    ball = torch.sigmoid(17 - points.norm(dim=-1)) * (1 + 0.3 * torch.sin(points[..., 0] / 3))
    return Volume(100 * ball[None].float(), FRAME)


def fresh(**options: Any) -> Session:
    settings = {"preset": "fast", "linear": "none", "similarity": "mse", **options}
    return Session(load_inputs(picture(), picture(2.0)), Options(**settings), "cpu")


@pytest.mark.parametrize(
    ("size", "preset", "measured"),
    [
        ((96, 96, 96), "fast", 626),
        ((128, 128, 128), "fast", 879),
        ((128, 128, 128), "balanced", 935),
        ((160, 160, 160), "fast", 1009),
        ((192, 192, 192), "fast", 1316),
        ((220, 20, 190), "fast", 629),
    ],
)
def test_what_is_said_is_what_the_command_line_took(
    size: tuple[int, int, int], preset: str, measured: int
) -> None:
    """Peak resident megabytes of ``register`` as a child process on one thread."""
    request = Request(size, (1.0, 1.0, 1.0), size, (1.0, 1.0, 1.0), preset=preset)
    assert (request.estimate().peak + PROGRAM) / 1e6 == pytest.approx(measured, rel=0.15)


def test_a_networks_finest_look_counts_where_no_solver_follows() -> None:
    """Measured on heads and on slabs, whose few planes are padded: megabytes."""
    heads, slabs = ((96, 116, 128), (2.0, 2.0, 2.0)), ((217, 18, 182), (1.0, 1.0, 1.0))
    for lattice, method, measured in (
        *((heads, "sitreg", 1625), (heads, "dio", 789), (heads, "svf-r2net", 852)),
        *((slabs, "dio", 852), (slabs, "svf-r2net", 1049), (slabs, "nsvf-r2net", 1028)),
    ):
        alone = Request(*lattice, *lattice, preset="prediction", method=method)
        assert (alone.estimate().peak + PROGRAM) / 1e6 == pytest.approx(measured, rel=0.1)
        refined = replace(alone, preset="fast")
        assert refined.estimate() == replace(refined, method="classical").estimate()
    small = (24, 24, 24), (2.0, 2.0, 2.0)
    assert Request(*small, *small, preset="prediction", method="sitreg").estimate().peak < 1e8


def test_the_estimate_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from DeepRegistrationLib.memory import Request; "
        "print(Request((9, 9, 9), (1., 1., 1.), (9, 9, 9), (1., 1., 1.)).estimate().peak); "
        "assert not {'torch', 'numpy', 'SimpleITK'} & set(sys.modules), sorted(sys.modules)"
    )
    root = str(Path(memory.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "size", [(512, 512, 400), (512, 512, 20), (30, 30, 30), (64, 3000, 1000), (900, 700)]
)
def test_the_working_grid_told_is_the_one_that_is_used(preset: str, size: tuple[int, ...]) -> None:
    spacing = (0.7, 0.9, 2.5)[: len(size)]
    frame = Frame.regular(size, spacing)
    found = finest_frame(PRESETS[preset], frame)
    assert Request(size, spacing, size, spacing, preset=preset).working_size == found.size
    assert found.voxels <= PRESETS[preset].finest_voxels
    # and no coarser than need be
    assert found == scale_frame(frame, 1.0, 16) or found.voxels > 0.85 * PRESETS[preset].finest_voxels


def test_it_ends_where_nothing_can_be_coarser() -> None:
    assert finest_size((400, 300, 200), (1.0, 1.0, 1.0), 10) == (16, 16, 16)


def test_estimates_grow_with_what_is_asked_for() -> None:
    peak = CT.estimate().peak
    assert replace(CT, fixed_size=(512, 512, 500)).estimate().peak > peak
    assert replace(CT, output_spacing=3.0).estimate().peak < 0.7 * peak
    assert replace(CT, labels=4).estimate().preparing > CT.estimate().preparing
    assert replace(CT, preset="balanced").estimate().deforming > CT.estimate().deforming
    for name in REPRESENTATIONS:
        for similarity in SIMILARITY_NAMES:
            for preset in PRESETS:
                request = replace(CT, representation=name, similarity=similarity, preset=preset)
                assert request.estimate().peak > 16 * prod(CT.fixed_size)


def test_file_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    result = fresh(output_spacing=2.5).register()
    result.save(tmp_path)
    request = Request(FRAME.size, FRAME.spacing, FRAME.size, FRAME.spacing, output_spacing=2.5)
    told = request.file_sizes()
    for name in ("forward.h5", "inverse.h5"):
        assert (tmp_path / name).stat().st_size == pytest.approx(told[name], rel=0.02)
    assert (tmp_path / "warped.nii.gz").stat().st_size <= told["warped.nii.gz"]


def test_what_fits_is_left_as_it_is() -> None:
    assert fitting(CT, None) == (CT, [])
    assert fitting(CT, CT.estimate().peak) == (CT, [])
    loaded = CT.estimate().peak - CT.estimate().images
    assert fitting(CT, loaded, loaded=True) == (CT, [])


def test_the_working_grid_is_coarsened_first() -> None:
    wide = replace(CT, preset="balanced", similarity="mind", output_spacing=4.0)
    needed = wide.estimate()
    assert needed.peak == needed.deforming
    found, told = fitting(wide, int(0.8 * needed.peak))
    assert found.estimate().peak <= 0.8 * needed.peak
    assert prod(found.working_size) < prod(wide.working_size)
    assert found.output_spacing == 4.0
    assert len(told) == 1 and "not enough free memory to deform" in told[0]
    # no more than need be
    assert found.estimate().peak > 0.6 * needed.peak


def test_maps_too_large_to_write_are_written_coarser() -> None:
    needed = CT.estimate()
    found, told = fitting(CT, int(0.9 * needed.peak))
    assert found.estimate().peak <= 0.9 * needed.peak
    assert found.working_size == CT.working_size
    assert found.output_spacing is not None and 0.7 < found.output_spacing < 1.2
    assert len(told) == 1 and f"written at {found.output_spacing:.2g} mm" in told[0]


def test_less_than_the_images_take_is_an_error() -> None:
    with pytest.raises(ResourceError, match=r"need about \d+\.\d GB of memory, but only 1\.0 GB are free"):
        fitting(CT, 10**9)
    with pytest.raises(ResourceError, match="Use a larger output spacing"):
        fitting(replace(CT, representation="affine"), 10**9)


def test_a_session_works_on_the_grid_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    warm = fresh(similarity="mind")
    wanted = warm.estimate()
    monkeypatch.setattr(resources, "available_memory", lambda: int(0.8 * wanted))
    result = warm.register()
    size = result.quality["scales"][-1]["size"]
    assert prod(size) < FRAME.voxels
    assert any("not enough free memory to deform" in text for text in result.quality["warnings"])
    told = result.quality["memory"]
    assert told["available_mb"] == round(0.8 * wanted / 1e6)
    assert PROGRAM / 1e6 < told["estimated_mb"] < (wanted + PROGRAM) / 1e6 + 5
    after = result.quality["similarity"]["after"]["ncc"]
    assert after > result.quality["similarity"]["before"]["ncc"]
    # and can be refined as ever
    again = warm.refine(landmarks=(torch.zeros(1, 3).double(), torch.tensor([[2.0, 0, 0]]).double()))
    assert again.quality["memory"] == told


def solved(limit: int | None, device: str | None, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Let the solver run out of memory on more than `limit` voxels, or on a device; what it was asked."""
    asked: list[tuple] = []
    real: Callable = session.solve

    def solve(objective: Any, model: Any, *arguments: Any) -> Any:
        asked.append((model.frame.voxels, str(model.device)))
        if (limit is not None and model.frame.voxels > limit) or str(model.device) == device:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(objective, model, *arguments)

    monkeypatch.setattr(session, "solve", solve)
    return asked


def test_running_out_of_memory_is_answered_by_a_coarser_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = solved(40_000, None, monkeypatch)
    result = fresh().register()
    assert len(asked) == 2 and asked[0][0] > 100_000 and asked[1][0] <= FRAME.voxels // 4
    (told,) = (text for text in result.quality["warnings"] if "memory" in text)
    assert "deform 56 x 52 x 48 voxels" in told
    assert prod(result.quality["scales"][-1]["size"]) == asked[1][0]
    assert result.forward_field.frame == FRAME


def test_then_the_processor_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """``cpu:0`` is a device of its own to torch's eyes, and stands for the graphics card."""
    asked = solved(None, "cpu:0", monkeypatch)
    warm = fresh()
    warm.device = torch.device("cpu:0")
    result = warm.register()
    assert [device for _, device in asked] == ["cpu:0", "cpu:0", "cpu"]
    assert asked[0][0] == asked[2][0] > asked[1][0]
    told = [text for text in result.quality["warnings"] if "memory" in text]
    assert told == [
        "The graphics card's memory did not suffice, so the computation went on on the processor."
    ]
    expected = fresh()
    monkeypatch.undo()
    assert torch.equal(expected.register().forward_field.displacement, result.forward_field.displacement)


def test_where_nothing_helps_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = solved(0, None, monkeypatch)
    with pytest.raises(ResourceError, match=r"need about .* GB of memory"):
        fresh().register()
    assert len(asked) == 2  # a quarter of a quarter would be too coarse to be worth it


def test_other_errors_are_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(session, "solve", wrong)
    with pytest.raises(RuntimeError, match="mat1"):
        fresh().register()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")
def test_a_limit_on_the_process_counts() -> None:
    code = (
        "import resource; from DeepRegistrationLib import resources; free = resources.available_memory(); "
        "resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, resource.RLIM_INFINITY)); "
        "assert 1 << 30 < resources.available_memory() < min(3 << 30, free + (1 << 30))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(memory.__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_limit_of_a_group_counts(tmp_path: Path) -> None:
    for name, text in (
        ("memory.max", "5000000000\n"),
        ("memory.current", "3000000000\n"),
        ("memory.stat", "anon 1\ninactive_file 500000000\nactive_file 7\n"),
    ):
        (tmp_path / name).write_text(text)
    names = ("memory.max", "memory.current", "inactive_file")
    assert free_memory._below_group_limit(tmp_path, names) == 2_500_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory._below_group_limit(tmp_path, names) is None
    assert free_memory._below_group_limit(tmp_path / "none", names) is None


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {"fixed": tmp_path / "fixed.nii.gz", "moving": tmp_path / "moving.nrrd"}
    for (_, path), shift in zip(paths.items(), (0.0, 2.0), strict=True):
        write_volume(picture(shift), path)
    return paths


def test_a_dry_run_tells_and_writes_nothing(
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [text for role, path in files.items() for text in (f"--{role}", str(path))]
    command = ["register", *arguments, "--out", str(tmp_path / "out"), "--dry-run"]
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(command) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    lines = {name: value.strip() for name, value in lines.items()}
    assert lines["fixed image"] == "56 x 52 x 48 voxels"
    assert lines["working grid, at most"] == "56 x 52 x 48 voxels"
    assert lines["forward.h5"] == "3 MB" and lines["warped.nii.gz"].startswith("up to")
    assert "MB" in lines["memory needed, about"] and lines["memory available"].endswith("B")
    monkeypatch.setattr(resources, "available_memory", lambda: 10**6)
    assert cli.main(command) == 1
    assert "but only 0.0 GB are free" in capsys.readouterr().err
    assert cli.main([*command, "--fixed", str(tmp_path / "none.nii")]) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_a_frame_is_read_without_the_voxels(files: dict[str, Path], tmp_path: Path) -> None:
    for path in files.values():
        assert read_frame(path) == read_volume(path).frame
    stack = sitk.JoinSeries([sitk.GetImageFromArray(picture().data[0].numpy())])
    sitk.WriteImage(stack, str(tmp_path / "four.nii"))
    assert read_frame(tmp_path / "four.nii") == read_volume(tmp_path / "four.nii").frame
    (tmp_path / "no.nii").write_text("nothing")
    with pytest.raises(InputError):
        read_frame(tmp_path / "no.nii")


def random_field(frame: Frame) -> Field:
    generator = torch.Generator().manual_seed(1)
    return Field(0.1 * torch.randn(*frame.shape, frame.dimension, generator=generator), frame)


@pytest.mark.parametrize("slab", [1, 500, 1 << 30])
def test_slabs_change_nothing(slab: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Against the same written out for whole arrays."""
    monkeypatch.setattr("DeepRegistrationLib.frame._SLAB", slab)
    frame, target = FRAME.resized((14, 13, 12)), FRAME.resized((9, 10, 11))
    field, image = random_field(frame), Volume(torch.randn(2, *frame.shape), frame)
    here = target.grid()
    assert torch.equal(torch.cat([target.grid(window=w) for w in target.slabs()]), here)
    assert torch.equal(target.grid(window=(slice(None, None, 3),) * 3), here[::3, ::3, ::3])
    moved = field.at(here)
    assert torch.allclose(field.resampled(target).displacement, moved, atol=1e-6)
    points = here + moved
    expected = sample(image.data[None], points)[0] * ~(points.abs() > 1).any(-1)
    filling = torch.tensor(filling_value(image.data[0].numpy()))
    expected = torch.where((points.abs() > 1).any(-1), filling, expected)
    assert torch.allclose(warped_volume(image, field, target).data, expected, atol=1e-5)
    still = sample(image.data[None], here)[0]
    assert torch.allclose(resampled(image, target).data, still, atol=1e-5)
    linear = LinearTransform.from_parts(1.1 * torch.eye(3).double(), torch.tensor([1.0, 2.0, 3.0]).double())
    chain = linear.compose(FieldTransform(field))
    there = apply_matrix(target.world_to_normalised, chain.map(target.points()))
    expected = (there - target.grid(dtype=torch.float64)).float()
    assert torch.allclose(chain.field(target).displacement, expected, atol=1e-5)
    write_displacement_slabs(field.mm_slabs(), frame, tmp_path / "a.h5")
    written, lattice = displacement_from_sitk(tmp_path / "a.h5")
    assert lattice.same_lattice(frame)
    assert torch.allclose(torch.from_numpy(written).float(), field.mm(), atol=1e-5)


def test_slabs_have_to_fill_the_frame(tmp_path: Path) -> None:
    field = random_field(FRAME.resized((6, 5, 4)))
    with pytest.raises(InputError, match="same size"):
        write_displacement_slabs([field.mm()[:2]], field.frame, tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == []
