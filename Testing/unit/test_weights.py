"""Weights files: what is written is what is read, and nothing else is read at all."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path

import pytest
import torch
from DeepRegistrationLib import weights
from DeepRegistrationLib.errors import InputError, NotAvailableError, OutputError
from DeepRegistrationLib.weights import load_weights, save_weights, shipped_weights
from torch import Tensor, nn

CONVENTION = {"shape": [32, 32], "intensity": [0.0, 1.0]}
RECORD = {"steps": 7, "losses": {"loss": 0.25}, "data": "generated:shapes"}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def save(path: Path, half: bool = False, state: dict[str, Tensor] | None = None) -> str:
    tensors = network().state_dict() if state is None else state
    return save_weights(path, "dio", "small", 2, tensors, CONVENTION, RECORD, half)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def sentence(path: Path, **wanted: object) -> str:
    with pytest.raises(InputError) as caught:
        load_weights(path, **wanted)
    text = str(caught.value)
    assert str(path) in text and text.endswith(".") and "\n" not in text
    return text


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    digest = save(tmp_path / "w.pt")
    loaded = load_weights(tmp_path / "w.pt", "dio", 2)
    assert (loaded.method, loaded.configuration, loaded.dimension) == ("dio", "small", 2)
    assert loaded.convention == CONVENTION and loaded.record == RECORD and loaded.sha256 == digest
    assert same(loaded.state, network().state_dict())
    fresh = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    fresh.load_state_dict(loaded.state)


def test_half_precision_on_disk_is_float32_when_loaded(tmp_path: Path) -> None:
    state = {"a": torch.linspace(-1, 1, 50_000), "count": torch.tensor(3)}
    whole, half = save(tmp_path / "w.pt", state=state), save(tmp_path / "h.pt", half=True, state=state)
    assert whole != half
    assert (tmp_path / "h.pt").stat().st_size < 0.6 * (tmp_path / "w.pt").stat().st_size
    loaded = load_weights(tmp_path / "h.pt").state
    assert loaded["a"].dtype == torch.float32 and torch.equal(loaded["a"], state["a"].half().float())
    assert loaded["count"].dtype == torch.int64


def test_the_checksum_covers_names_shapes_types_values_and_metadata(tmp_path: Path) -> None:
    variants = [
        ({"a": torch.zeros(6)}, CONVENTION, RECORD),
        ({"b": torch.zeros(6)}, CONVENTION, RECORD),
        ({"a": torch.zeros(2, 3)}, CONVENTION, RECORD),
        ({"a": torch.zeros(6, dtype=torch.int32)}, CONVENTION, RECORD),
        ({"a": torch.ones(6)}, CONVENTION, RECORD),
        ({"a": torch.zeros(6)}, {**CONVENTION, "shape": [8, 8]}, RECORD),
        ({"a": torch.zeros(6)}, CONVENTION, {**RECORD, "steps": 8}),
    ]
    digests = {save_weights(tmp_path / "w.pt", "dio", "small", 2, *variant) for variant in variants}
    assert len(digests) == len(variants)


def test_views_and_training_state_are_stored_by_value(tmp_path: Path) -> None:
    base = torch.arange(1000.0)
    save(tmp_path / "w.pt", state={"view": base[:10].view(2, 5).T, "parameter": nn.Parameter(base[3:5])})
    assert (tmp_path / "w.pt").stat().st_size < 3500  # not the thousand numbers behind the view
    loaded = load_weights(tmp_path / "w.pt").state
    assert torch.equal(loaded["view"], base[:10].view(2, 5).T)
    assert torch.equal(loaded["parameter"], base[3:5])


def test_wrong_method_or_dimension(tmp_path: Path) -> None:
    save(tmp_path / "w.pt")
    assert "of the method dio, not of gradicon" in sentence(tmp_path / "w.pt", method="gradicon")
    assert "for 2-D images, not for 3-D" in sentence(tmp_path / "w.pt", dimension=3)


def test_not_weights(tmp_path: Path) -> None:
    assert "does not exist" in sentence(tmp_path / "none.pt")
    assert "is not a file" in sentence(tmp_path)
    (tmp_path / "text.pt").write_text("hello, these are no weights")
    assert "is not a weights file" in sentence(tmp_path / "text.pt")
    (tmp_path / "empty.pt").touch()
    assert "is not a weights file" in sentence(tmp_path / "empty.pt")
    torch.save(network().state_dict(), tmp_path / "state.pt")
    assert "is not a weights file" in sentence(tmp_path / "state.pt")
    torch.save({"format": "deepregistration-weights-99"}, tmp_path / "later.pt")
    assert "this version" in sentence(tmp_path / "later.pt")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    assert "is not a weights file" in sentence(tmp_path / "list.pt")


class _Bomb:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("exploded"),))


def test_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": weights._FORMAT, "state": _Bomb()}, tmp_path / "code.pt")
    assert "could run code" in sentence(tmp_path / "code.pt")
    torch.save(network(), tmp_path / "module.pt")
    assert "could run code" in sentence(tmp_path / "module.pt")
    assert not (tmp_path / "exploded").exists()


def test_versions_of_torch_that_a_file_can_make_run_code_read_the_shipped_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "w.pt")
    monkeypatch.delenv(weights.ELSEWHERE, raising=False)
    shipped = shipped_weights("dio", 3)
    assert shipped is not None
    for version in ("2.5.1+cpu", "2.9.1", "1.13.0a0"):
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.raises(NotAvailableError, match=r"install PyTorch 2\.10 or newer"):
            load_weights(tmp_path / "w.pt")
        assert load_weights(shipped).method == "dio"
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    assert load_weights(tmp_path / "w.pt").method == "dio"


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one whose directory says that it holds more than the file has."""
    save(tmp_path / "w.pt")
    monkeypatch.setattr(torch, "load", lambda *a, **b: pytest.fail("unpacked"))
    with zipfile.ZipFile(tmp_path / "w.pt") as plain, zipfile.ZipFile(tmp_path / "c.pt", "w", 8) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert "compressed archive" in sentence(tmp_path / "c.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    place = content.index(b"PK\x01\x02") + 24  # sizes of the first entry in the directory
    content[place : place + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "w.pt").write_bytes(content)
    assert "damaged" in sentence(tmp_path / "w.pt")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("half", [False, True])
def test_numbers_that_no_trained_network_has(tmp_path: Path, number: float, half: bool) -> None:
    state = {"a": torch.ones(4), "b": torch.tensor([0.5, number])}
    save(tmp_path / "w.pt", half, state)
    assert "no trained network has" in sentence(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "convention",
    [
        *({"shape": s} for s in ([-4, 4], [0, 4], ["a", 4], [4], [4, 4, 4], [1e300, 4], [10**9, 4], 5, "ab")),
        *({"shape": s} for s in ({"a": 1, "b": 2}, [None, None], [True, True])),
        *({"shape": [4, 4], "stage": s} for s in (-1, 10**9, "a", None)),
        *({"shape": [4, 4], "voxel_mm": v} for v in (-1, "a", float("nan"), 1e9)),
    ],
)
def test_images_that_cannot_be(tmp_path: Path, convention: dict[str, object]) -> None:
    save_weights(tmp_path / "w.pt", "dio", "small", 2, network().state_dict(), convention, RECORD)
    assert "in a way that can be used" in sentence(tmp_path / "w.pt")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_truncated(tmp_path: Path, share: float) -> None:
    save(tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(content[: int(len(content) * share)])
    assert "incomplete" in sentence(tmp_path / "w.pt")


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    save(path)
    content, good = path.read_bytes(), load_weights(path)
    draw, refused = random.Random(5), 0
    for _ in range(400):
        altered = bytearray(content)
        altered[draw.randrange(len(altered))] ^= 1 << draw.randrange(8)
        path.write_bytes(altered)
        try:
            loaded = load_weights(path)
        except InputError:
            refused += 1
        else:
            assert same(loaded.state, good.state)
            assert (loaded.convention, loaded.record) == (good.convention, good.record)
    assert refused > 100


def test_every_bit_of_a_tensor_and_every_letter_of_the_metadata_counts(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    values = torch.linspace(1, 2, 64)
    save(path, state={"a": values})
    content = path.read_bytes()
    tensor_at = content.index(values.numpy().tobytes())
    text_at = content.index(b'{"configuration"')
    for position in (*range(tensor_at, tensor_at + 256, 7), *range(text_at, text_at + 120, 5)):
        altered = bytearray(content)
        altered[position] ^= 1
        path.write_bytes(altered)
        sentence(path)


def test_altered_metadata_with_the_old_checksum(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    save(path)
    stored = torch.load(path, weights_only=True)
    metadata = json.loads(stored["metadata"])
    metadata["method"] = "gradicon"
    torch.save({**stored, "metadata": json.dumps(metadata, sort_keys=True)}, path)
    assert "was altered" in sentence(path)
    torch.save({**stored, "state": {"a": torch.zeros(3)}}, path)
    assert "was altered" in sentence(path)
    torch.save({**stored, "state": {"a": "no tensor"}}, path)
    assert "was altered" in sentence(path)


def test_a_view_that_claims_to_be_huge_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    save(path)
    stored = torch.load(path, weights_only=True)
    torch.save({**stored, "state": {"a": torch.zeros(1).expand(1 << 50)}}, path)
    assert "was altered" in sentence(path)


def test_writing_fails_whole(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        save(tmp_path / "missing" / "w.pt")
    path = tmp_path / "w.pt"
    digest = save(path)
    with pytest.raises(TypeError):
        save_weights(path, "dio", "small", 2, {}, {"not JSON": object()}, {})
    assert load_weights(path).sha256 == digest and list(tmp_path.iterdir()) == [path]


def test_shipped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(weights.ELSEWHERE)
    monkeypatch.setattr(weights, "_SHIPPED", (tmp_path,))
    assert shipped_weights("dio", 2) is None
    save(tmp_path / "dio-2d.pt")
    assert shipped_weights("dio", 2) == tmp_path / "dio-2d.pt" and shipped_weights("dio", 3) is None
    monkeypatch.setenv(weights.ELSEWHERE, str(tmp_path / "own"))
    assert shipped_weights("dio", 2) is None
