"""What of a pull needs no hub: the choice of files, room on the disk, names, records, and the message when the library is missing."""

from __future__ import annotations

import shutil
import sys
from collections import namedtuple
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

from sensorium.engines.checkpoints import pulling
from sensorium.engines.checkpoints.licences import known
from sensorium.engines.checkpoints.pulled import (
    RECORD,
    Held,
    Licence,
    Listed,
    Record,
    Repository,
    find,
    folder_of,
    read_record,
    write_record,
)
from sensorium.errors import SettingsError

NAME = "nvidia/Nemotron-Labs-Diffusion-VLM-8B"


def repository(*paths: str, size: int = 10) -> Repository:
    return Repository(NAME, "c" * 40, tuple(Listed(path, size, None, None) for path in paths), Licence(name="nscl-v1"), False)


@pytest.mark.parametrize(
    "path",
    [
        *("model.py", "config.json.py", "tokenizer.py", "model.bin", "model.pt", "model.safetensors.py", "training_args.bin"),
        *("../config.json", "/config.json", "a/../config.json", "..\\config.json", "sub/config.json", ".config.json"),
        *(
            "consolidated.safetensors",
            "adapter/adapter_model.safetensors",
            "linear_spec_lora/x.bin",
            "LICENSE.py",
            "LICENSE.sh",
            "README.pkl",
        ),
        *("tokenizer.json\n", "sensorium-pull.json"),
    ],
)
def test_never_fetched(path: str) -> None:
    assert pulling.readable(repository(path).files) == ()
    chosen = pulling.readable(repository("model_index.json", path).files)
    assert [file.path for file in chosen if file.path != "sub/config.json"] == ["model_index.json"]


def test_the_library_is_named_when_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "sensorium.engines.checkpoints.hugging_face", raising=False)
    with pytest.raises(SettingsError, match=r'pip install "sensorium\[torch\]"'):
        pulling.look(NAME, None, tmp_path)


def test_too_little_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(100, 81, 19))
    chosen = pulling.plan(repository("model.safetensors", "config.json"), folder_of(NAME, tmp_path))
    monkeypatch.setitem(sys.modules, "sensorium.engines.checkpoints.hugging_face", ModuleType("hugging_face"))
    with pytest.raises(SettingsError, match=r"has 19 bytes free.*20 bytes"):
        pulling.pull(chosen, datetime.now(UTC), print)
    assert not (tmp_path / "models").exists()


def test_what_an_interrupted_pull_left_need_not_come_again(tmp_path: Path) -> None:
    chosen = pulling.plan(repository("model.safetensors", "config.json"), tmp_path)
    assert (chosen.bytes_wanted, chosen.bytes_missing) == (20, 20)
    (tmp_path / "config.json").write_bytes(b"0123456789")
    pulling.part_of(tmp_path, chosen.files[0]).write_bytes(b"0123")
    chosen = pulling.plan(repository("model.safetensors", "config.json"), tmp_path)
    assert ([file.path for file in chosen.missing], chosen.bytes_missing) == (["model.safetensors"], 6)


@pytest.mark.parametrize("name", ["nvidia", "nvidia/../x", "a/b/c", "/b", "a/", "../b", "a/..", "a\\b", "a b/c"])
def test_names_that_no_repository_has(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not the name of a repository"):
        folder_of(name, tmp_path)


def test_a_record_is_read_as_it_was_written_or_told_as_damaged(tmp_path: Path) -> None:
    folder = folder_of(NAME, tmp_path)
    folder.mkdir(parents=True)
    record = Record(repository=NAME, revision="c" * 40, licence=Licence(name="nscl-v1"), acknowledged_at="2026-01-01T00:00:00+00:00")
    write_record(folder, record)
    assert read_record(folder) == record
    write_record(folder, Record(**{name: getattr(record, name) for name in record.__struct_fields__} | {"complete": True}))
    assert find(NAME.lower(), tmp_path) == folder
    (folder / RECORD).write_text("{")
    with pytest.raises(SettingsError, match="damaged"):
        find(NAME, tmp_path)


@pytest.mark.parametrize("name", ["../../notes.txt", "/etc/hostname", "sub/../../x"])
def test_a_record_never_names_files_of_others(tmp_path: Path, name: str) -> None:
    folder = folder_of(NAME, tmp_path)
    folder.mkdir(parents=True)
    held = {name: Held(size=1, sha256="0" * 64)}
    write_record(folder, Record(repository=NAME, revision="c" * 40, licence=Licence(), acknowledged_at="", files=held, complete=True))
    with pytest.raises(SettingsError, match="not in its folder"):
        pulling.plan(repository("model.safetensors"), folder)


def test_what_we_know_of_licences() -> None:
    vlm, text = known(NAME.lower()), known("nvidia/Nemotron-Labs-Diffusion-8B")
    assert vlm is not None and "non-commercial" in vlm
    assert text is not None and "commercial use is allowed" in text
    schnell, dev = known("black-forest-labs/FLUX.1-schnell"), known("black-forest-labs/FLUX.1-dev")
    assert schnell is not None and dev is not None and "Apache-2.0" in schnell and "non-commercial" in dev
    assert known("nobody/nothing") is None
