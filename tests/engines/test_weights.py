"""The safetensors reader: number formats, shards, int8, and one error that lists everything."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from sensorium.engines import weights
from sensorium.errors import SettingsError
from tests.engines.diffusion_vlm.checkpoints import encode, write_safetensors, write_weights

VALUES = {
    "a.weight": np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6),
    "b.weight": np.arange(36, dtype=np.float32).reshape(3, 3, 2, 2) - 10,
    "c.weight": np.array([0.5, -2.0, 1e-3], np.float32),
}
PLAN = {name: values.shape for name, values in VALUES.items()}


def problems(folder: Path, plan: dict[str, tuple[int, ...]] = PLAN, **how: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        weights.load(folder, plan, foreign=how.get("foreign"))
    return caught.value.problems


@pytest.mark.parametrize(("storage", "error"), [("F32", 0.0), ("F16", 5e-4), ("BF16", 8e-3), ("I8", 4e-3)])
@pytest.mark.parametrize("shards", [1, 2])
def test_every_format_comes_out_as_float32(tmp_path: Path, storage: str, error: float, shards: int) -> None:
    write_weights(tmp_path, VALUES, storage, shards)
    tensors = weights.load(tmp_path, PLAN)
    assert sorted(tensors) == sorted(VALUES)
    for name, values in VALUES.items():
        assert tensors[name].dtype == np.float32 and tensors[name].flags.aligned
        assert np.abs(tensors[name] - values).max() <= error * np.abs(values).max()


def test_the_official_library_reads_and_writes_the_same(tmp_path: Path) -> None:
    official = pytest.importorskip("safetensors.numpy")
    official.save_file(VALUES, tmp_path / "model.safetensors")
    read = dict(weights.load(tmp_path, PLAN))
    write_weights(tmp_path, VALUES)
    again = official.load_file(tmp_path / "model.safetensors")
    assert all(np.array_equal(read[name], values) and np.array_equal(again[name], values) for name, values in VALUES.items())


def test_a_header_of_odd_length_does_not_matter(tmp_path: Path) -> None:
    write_weights(tmp_path, VALUES)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    path.write_bytes(struct.pack("<Q", length + 3) + data[8 : 8 + length] + b"   " + data[8 + length :])
    assert np.array_equal(weights.load(tmp_path, PLAN)["a.weight"], VALUES["a.weight"])


def test_one_error_lists_everything(tmp_path: Path) -> None:
    changed = dict(VALUES)
    changed["d.weight"] = changed.pop("c.weight")
    changed["a.weight"] = changed["a.weight"].T.copy()
    write_weights(tmp_path, changed)
    found = "\n".join(problems(tmp_path))
    assert "missing tensor c.weight" in found
    assert "unexpected tensor d.weight" in found
    assert "a.weight has shape [6, 4], the config asks for [4, 6]" in found


def test_int8_needs_a_fitting_scale(tmp_path: Path) -> None:
    encoded = encode(VALUES, "I8")
    del encoded["a.weight_scale"]
    encoded["b.weight_scale"] = ("F32", (2,), bytes(8))
    write_safetensors(tmp_path / "model.safetensors", encoded)
    found = "\n".join(problems(tmp_path))
    assert "a.weight is int8 but a.weight_scale is missing" in found
    assert "b.weight_scale has shape [2]" in found


def test_a_conversion_is_named_as_the_cause(tmp_path: Path) -> None:
    write_weights(tmp_path, {"language_model." + name: values for name, values in VALUES.items()})
    found = problems(tmp_path, foreign={"language_model.": "written by a conversion"})
    assert found[0].endswith("3 tensors are named language_model.*: written by a conversion")


def test_a_whole_foreign_model_does_not_flood_the_message(tmp_path: Path) -> None:
    write_weights(tmp_path, VALUES)
    found = problems(tmp_path, {f"layer.{number}": (1,) for number in range(300)})
    assert len("\n".join(found)) < 2000 and any("and 288 more" in line for line in found)


def test_a_whole_mis_shaped_model_does_not_flood_the_message_either(tmp_path: Path) -> None:
    write_weights(tmp_path, {f"layer.{n}.weight": np.zeros((2, 2), np.float32) for n in range(200)})
    found = problems(tmp_path, {f"layer.{n}.weight": (3, 3) for n in range(200)})
    assert len(found) == weights.LISTED + 1
    assert "188 more tensors" in found[-1]


def broken(kind: str) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    heads = {
        "not json": b"{nope",
        "nested without end": b"[" * 100_000,
        "not a mapping": b"[]",
        "entry is no mapping": json.dumps({"a": 3}).encode(),
        "unknown format": json.dumps({"a": entry | {"dtype": "F8_E4M3"}}).encode(),
        "negative shape": json.dumps({"a": entry | {"shape": [-2]}}).encode(),
        "no offsets": json.dumps({"a": entry | {"data_offsets": [0]}}).encode(),
        "bytes do not fit": json.dumps({"a": entry | {"shape": [3]}}).encode(),
        "ends too late": json.dumps({"a": entry | {"data_offsets": [4, 12]}}).encode(),
    }
    head = heads[kind]
    return struct.pack("<Q", len(head)) + head + bytes(8)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("not json", "header that is not JSON"),
        ("nested without end", "header that is not JSON"),
        ("not a mapping", "not a mapping"),
        ("entry is no mapping", "header entry of a"),
        ("unknown format", "stored as F8_E4M3"),
        ("negative shape", "no usable shape"),
        ("no offsets", "no usable data_offsets"),
        ("bytes do not fit", "takes 8 bytes"),
        ("ends too late", "cut short"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path: Path, kind: str, said: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(broken(kind))
    assert any(said in problem for problem in problems(tmp_path, {"a": (2,)}))


@pytest.mark.parametrize("size", [0, 5, 20, 400])
def test_a_truncated_file_is_named(tmp_path: Path, size: int) -> None:
    write_weights(tmp_path, VALUES)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert all("model.safetensors" in problem for problem in problems(tmp_path))


def test_missing_files_and_shards_are_named(tmp_path: Path) -> None:
    assert "neither model.safetensors nor model.safetensors.index.json" in problems(tmp_path)[0]
    write_weights(tmp_path, VALUES, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    assert len(problems(tmp_path)) == 2


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": {"a": "../secret.safetensors"}}', '{"weight_map": {"a": 3}}'])
def test_an_index_can_only_name_files_beside_it(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in problems(tmp_path)[0]


def test_an_index_has_to_tell_the_truth(tmp_path: Path) -> None:
    write_weights(tmp_path, VALUES, shards=3)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= {"a.weight": "model-00003-of-00003.safetensors", "d.weight": "model-00001-of-00003.safetensors"}
    path.write_text(json.dumps(index))
    assert problems(tmp_path) == [
        "model.safetensors.index.json says that tensor a.weight lies in model-00003-of-00003.safetensors, where it is not",
        "model.safetensors.index.json says that tensor d.weight lies in model-00001-of-00003.safetensors, where it is not",
    ]


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_weights(tmp_path, VALUES, shards=3)
    both = {name: VALUES[name] for name in ("b.weight", "a.weight")}
    write_safetensors(tmp_path / "model-00002-of-00003.safetensors", encode(both, "F32"))
    assert problems(tmp_path) == [
        "tensor a.weight lies in two files: model-00001-of-00003.safetensors and model-00002-of-00003.safetensors"
    ]


def with_header(folder: Path, head: bytes, size: int) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(size))


def test_a_tensor_named_twice_in_one_header_is_refused(tmp_path: Path) -> None:
    entry = json.dumps({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]})
    with_header(tmp_path, f'{{"a": {entry}, "a": {entry}}}'.encode(), 8)
    assert problems(tmp_path, {"a": (2,)}) == ["model.safetensors: the header names a twice"]


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    at = {"c": (16, 24), "a": (0, 8), "b": (4, 12), "empty": (4, 4)}
    head = {name: {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]} for name, (begin, end) in at.items()}
    with_header(tmp_path, json.dumps(head).encode(), 24)
    assert problems(tmp_path, {"a": (2,)}) == ["model.safetensors: tensors a and b share bytes 4 to 8"]


@pytest.mark.parametrize("kind", ["F64", "I64", "I32", "U8", "BOOL", "F8_E4M3"])
def test_number_formats_that_nobody_reads_are_named(tmp_path: Path, kind: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"a": (kind, (1,), bytes(8))})
    assert problems(tmp_path, {"a": (1,)}) == [f"model.safetensors: tensor a is stored as {kind}; readable are F32, F16, BF16, I8"]


@pytest.mark.parametrize("lost", [1, 40])
def test_a_shard_cut_short_is_named_with_the_tensor(tmp_path: Path, lost: int) -> None:
    write_weights(tmp_path, VALUES, shards=3)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-lost])
    assert [problem.split(": ")[:2] for problem in problems(tmp_path)] == [
        ["model-00002-of-00003.safetensors is cut short", f"tensor b.weight should end at byte 144 of {144 - lost}"]
    ]


@pytest.mark.parametrize("storage", ["F32", "F16", "BF16"])
def test_values_that_are_no_numbers_are_named_where_they_are_asked_for(tmp_path: Path, storage: str) -> None:
    for wrong in (np.nan, np.inf, -np.inf):
        spoilt = VALUES | {"b.weight": np.where(VALUES["b.weight"] == 3, np.float32(wrong), VALUES["b.weight"])}
        write_weights(tmp_path, spoilt, storage)
        with pytest.raises(SettingsError) as caught:
            weights.load_finite(tmp_path, PLAN)
        assert caught.value.problems == [f"{tmp_path.name}: tensor b.weight holds NaN or infinite values"]
    write_weights(tmp_path, VALUES, storage)
    assert sorted(weights.load_finite(tmp_path, PLAN)) == sorted(VALUES)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(tmp_path, VALUES)

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(weights.np, "memmap", refused)
    assert problems(tmp_path) == ["model.safetensors cannot be read: Permission denied"]
