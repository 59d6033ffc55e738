"""The torch loader against the numpy one, and what it refuses."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from sensorium.engines import torch_weights, weights
from sensorium.engines.torch_weights import Buffer, spans
from sensorium.errors import SettingsError
from tests.engines.diffusion_vlm.checkpoints import encode, write_safetensors, write_weights

CPU = torch.device("cpu")
RNG = np.random.default_rng(7)
VALUES = {
    "conv.weight": RNG.normal(size=(9, 3, 4, 4)).astype(np.float32),
    "wide.weight": RNG.normal(size=(3, 700)).astype(np.float32),
    "tall.weight": RNG.normal(size=(701, 2)).astype(np.float32),
    "norm.weight": RNG.uniform(0.5, 2, 33).astype(np.float32),
}
PLAN = {name: values.shape for name, values in VALUES.items()}
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load(folder: Path, dtype: object = torch.float32, **how: object) -> dict[str, torch.Tensor]:
    return torch_weights.load(folder, PLAN, device=CPU, dtype=dtype, **how)


def problems(folder: Path, dtype: object = torch.float32) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(folder, dtype)
    return caught.value.problems


@pytest.mark.parametrize("piece", [16, 1 << 12, torch_weights.CPU_PIECE])
@pytest.mark.parametrize("storage", ["F32", "F16", "BF16", "I8"])
@pytest.mark.parametrize("wanted", ["F32", "F16", "BF16"])
def test_every_format_equals_the_numpy_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, wanted: str, piece: int
) -> None:
    """Also when a tensor takes many pieces, and when one row is longer than a piece."""
    monkeypatch.setattr(torch_weights, "CPU_PIECE", piece)
    write_weights(tmp_path, VALUES, storage, shards=2)
    read = load(tmp_path, DTYPES[wanted])
    assert list(read) == list(PLAN)
    for name, values in weights.load(tmp_path, PLAN).items():
        assert read[name].dtype == DTYPES[wanted] and read[name].is_contiguous()
        assert torch.equal(read[name], torch.from_numpy(values).to(DTYPES[wanted]))


def test_the_number_format_may_depend_on_the_name(tmp_path: Path) -> None:
    write_weights(tmp_path, VALUES, "BF16")
    read = load(tmp_path, lambda name: torch.float32 if name.startswith("norm") else torch.bfloat16)
    assert {name: tensor.dtype for name, tensor in read.items()} == dict.fromkeys(PLAN, torch.bfloat16) | {"norm.weight": torch.float32}


def test_the_official_library_writes_what_is_read(tmp_path: Path) -> None:
    official = pytest.importorskip("safetensors.torch")
    tensors = {name: torch.from_numpy(values).to(torch.bfloat16) for name, values in VALUES.items()}
    official.save_file(tensors, tmp_path / "model.safetensors")
    read = load(tmp_path, torch.bfloat16)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("storage", ["BF16", "I8"])
def test_progress_counts_the_bytes_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    monkeypatch.setattr(torch_weights, "CPU_PIECE", 1 << 10)
    write_weights(tmp_path, VALUES, storage, shards=2)
    said: list[tuple[int, int]] = []
    load(tmp_path, progress=lambda done, total: said.append((done, total)))
    total = sum(len(data) for _, _, data in encode(VALUES, storage).values())
    assert said[-1] == (total, total) and {one for _, one in said} == {total}
    assert all(before < after <= before + (1 << 12) for (before, _), (after, _) in zip([(0, 0), *said], said, strict=False))


def test_the_file_may_be_replaced_afterwards(tmp_path: Path) -> None:
    write_weights(tmp_path, VALUES, "BF16")
    read = load(tmp_path, torch.bfloat16)
    kept = {name: tensor.clone() for name, tensor in read.items()}
    path = tmp_path / "model.safetensors"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(read[name], tensor) for name, tensor in kept.items())


@pytest.mark.parametrize("storage", ["F32", "F16", "BF16"])
def test_every_tensor_that_is_not_finite_is_named_in_one_error(tmp_path: Path, storage: str) -> None:
    values = {name: tensor.copy() for name, tensor in VALUES.items()}
    values["conv.weight"][8, 2, 3, 3] = np.nan
    values["tall.weight"][350, 1] = np.inf
    values["norm.weight"][0] = -np.inf
    write_weights(tmp_path, values, storage)
    assert problems(tmp_path, torch.bfloat16) == [
        f"{tmp_path.name}: tensor {name} holds NaN or infinite values" for name in ("conv.weight", "tall.weight", "norm.weight")
    ]


def test_an_int8_scale_that_is_not_finite_names_its_tensor(tmp_path: Path) -> None:
    encoded = encode(VALUES, "I8")
    scale = np.frombuffer(encoded["wide.weight_scale"][2], np.float32).copy()
    scale[1] = np.nan
    encoded["wide.weight_scale"] = ("F32", scale.shape, scale.tobytes())
    write_safetensors(tmp_path / "model.safetensors", encoded)
    assert problems(tmp_path) == [f"{tmp_path.name}: tensor wide.weight holds NaN or infinite values"]


def test_values_beyond_the_wanted_format_are_told_apart(tmp_path: Path) -> None:
    values = VALUES | {"wide.weight": VALUES["wide.weight"] * np.float32(1e6)}
    write_weights(tmp_path, values, "BF16")
    assert problems(tmp_path, torch.float16) == [
        f"{tmp_path.name}: tensor wide.weight has values beyond the range of float16; use bfloat16 or float32"
    ]
    assert load(tmp_path, torch.bfloat16)["wide.weight"].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_one_value_is_found_wherever_it_stands(dtype: torch.dtype, wrong: float) -> None:
    values = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 67)).astype(np.float32)).to(dtype)
    assert torch_weights.all_finite(values)
    for place in range(values.numel()):
        damaged = values.clone()
        damaged.view(-1)[place] = wrong
        assert not torch_weights.all_finite(damaged)


def drop(folder: Path) -> None:
    write_weights(folder, {name: values for name, values in VALUES.items() if name != "wide.weight"})


def rename(folder: Path) -> None:
    write_weights(folder, {name.replace("wide", "wild"): values for name, values in VALUES.items()})


def reshape(folder: Path) -> None:
    write_weights(folder, VALUES | {"wide.weight": VALUES["wide.weight"].reshape(700, 3)})


def truncate(folder: Path) -> None:
    write_weights(folder, VALUES, shards=2)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])


def double_precision(folder: Path) -> None:
    encoded = encode(VALUES, "F32")
    encoded["wide.weight"] = ("F64", (3, 700), bytes(3 * 700 * 8))
    write_safetensors(folder / "model.safetensors", encoded)


def duplicate(folder: Path) -> None:
    write_weights(folder, VALUES, shards=2)
    names = ("tall.weight", "norm.weight", "wide.weight")
    write_safetensors(folder / "model-00002-of-00002.safetensors", encode({name: VALUES[name] for name in names}, "F32"))


def misplace(folder: Path) -> None:
    write_weights(folder, VALUES, shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["wide.weight"] = "model-00002-of-00002.safetensors"
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop, ["missing tensor wide.weight"]),
        (rename, ["missing tensor wide.weight", "unexpected tensor wild.weight"]),
        (reshape, ["tensor wide.weight has shape [700, 3], the config asks for [3, 700]"]),
        (truncate, ["model-00002-of-00002.safetensors is cut short: tensor norm.weight should end at"]),
        (double_precision, ["tensor wide.weight is stored as F64; readable are F32, F16, BF16, I8"]),
        (duplicate, ["tensor wide.weight lies in two files"]),
        (misplace, ["says that tensor wide.weight lies in model-00002-of-00002.safetensors, where it is not"]),
    ],
)
def test_each_damage_is_one_error_that_names_it(tmp_path: Path, damage: object, said: list[str]) -> None:
    damage(tmp_path)
    found = problems(tmp_path)
    assert len(found) == len(said) and all(part in problem for part, problem in zip(said, found, strict=True))


@pytest.mark.parametrize(("rows", "width", "piece"), [(0, 4, 16), (1, 100, 16), (10, 3, 16), (10, 16, 16), (7, 0, 16), (1000, 1, 16)])
def test_spans_cover_all_rows_in_order(rows: int, width: int, piece: int) -> None:
    found = list(spans(rows, width, piece))
    assert [row for first, last in found for row in range(first, last)] == list(range(rows))
    assert all((last - first) * width <= piece or last - first == 1 for first, last in found)


def test_the_bytes_of_a_tensor_are_asked_for_ahead(tmp_path: Path) -> None:
    """From the page in which they begin; memory that is no file is left alone."""
    write_weights(tmp_path, VALUES)
    tensors = weights.load(tmp_path, PLAN)
    for name in tensors:
        data = tensors.stored(name)[0].data
        assert len(data) <= torch_weights.read_ahead(data) < len(data) + mmap.PAGESIZE
    assert torch_weights.read_ahead(np.zeros(5, np.uint8)) == 0


def test_host_memory_is_two_buffers_of_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counted(Buffer):
        def __init__(self, size: int, device: torch.device) -> None:
            made.append(size)
            super().__init__(size, device)

    monkeypatch.setattr(torch_weights, "CPU_PIECE", 4096)
    monkeypatch.setattr(torch_weights, "Buffer", Counted)
    write_weights(tmp_path, VALUES)
    load(tmp_path)
    assert made == [4096, 4096]
