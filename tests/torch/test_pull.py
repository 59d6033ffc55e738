"""`sensorium pull` as a process of its own, with the real library, against a fake of the hub of checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensorium.engines.checkpoints.pulled import RECORD, find
from sensorium.engines.checkpoints.pulling import LOCK
from sensorium.errors import SettingsError
from tests.hub_process import hub_environment
from tests.torch.file_hub import COMMIT, REPOSITORY, TOKEN, FileHub, running

pytest.importorskip("huggingface_hub", reason="huggingface_hub comes with the extra `torch`")

PIECE = 10 * 1024 * 1024  # what the library writes at a time
WEIGHTS = "model-00001-of-00002.safetensors"
SMALL = {
    "README.md": b"---\nlicense: other\n---\n",
    "LICENSE": b"no commerce\n",
    "config.json": b"{}\n",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors.index.json": b'{"weight_map": {}}',
    WEIGHTS: b"w" * 700,
    "model-00002-of-00002.safetensors": b"x" * 900,
    "linear_spec_lora/adapter_model.safetensors": b"y" * 20,
}
NEVER = {
    "modeling_nemotron.py": b"import os; os.abort()",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"z" * 10,
    "linear_spec_lora/train.py": b"",
    ".gitattributes": b"",
    "original/model.safetensors": b"z",
    "../model.safetensors": b"out of the folder",
}


def command(home: Path, url: str, *arguments: str, **environment: str) -> tuple[list[str], dict[str, str]]:
    line = [sys.executable, "-m", "sensorium.cli", "pull", REPOSITORY, "--home", str(home), *arguments]
    own = {"HF_ENDPOINT": url, "HF_HOME": str(home / "hf"), "HF_TOKEN": "", "HF_HUB_OFFLINE": "", "HOME": str(home)}
    return line, hub_environment(**own | environment)


def pulled(home: Path, url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line, env = command(home, url, *arguments, **environment)
    return subprocess.run(line, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)


def folder(home: Path) -> Path:
    return home / "models" / REPOSITORY.replace("/", "--")


def holds(home: Path) -> dict[str, bytes]:
    """What lies in the checkpoint's folder, without the record and the lock."""
    found = {path.relative_to(folder(home)).as_posix(): path.read_bytes() for path in folder(home).rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name not in (RECORD, LOCK)}


def test_what_an_engine_reads_is_fetched_and_nothing_else(tmp_path: Path) -> None:
    hub = FileHub(SMALL | NEVER)
    with running(hub) as url:
        result = pulled(tmp_path, url, "--accept-licence")
        assert result.returncode == 0, result.stderr
        for said in (
            REPOSITORY,
            COMMIT,
            "nscl-v1",
            f"{url}/{REPOSITORY}/blob/{COMMIT}/LICENSE",
            "non-commercial",
            "10, 1.7 kB; 10 of them",
        ):
            assert said in result.stdout
        assert holds(tmp_path) == SMALL
        record = json.loads((folder(tmp_path) / RECORD).read_bytes())
        assert (record["repository"], record["revision"], record["complete"]) == (REPOSITORY, COMMIT, True)
        assert record["licence"]["name"] == "nscl-v1" and record["acknowledged_at"].endswith("+00:00")
        assert {path: (held["size"], held["sha256"]) for path, held in record["files"].items()} == {
            path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in SMALL.items()
        }
        assert find(REPOSITORY, tmp_path) == find(REPOSITORY.upper(), tmp_path) == folder(tmp_path)
        assert [path.name for path in (tmp_path / "hf").rglob("*.safetensors")] == []

        hub.asked.clear()
        again = pulled(tmp_path, url)  # agreed to before
        assert (again.returncode, hub.downloads()) == (0, [])
        assert again.stdout.count("was there, checked") == len(SMALL)


def test_a_card_cannot_steer_the_terminal_nor_add_lines(tmp_path: Path) -> None:
    card = {"license": "other", "license_name": "free\x1b[2J\nlicence     Apache-2.0", "license_link": "https://example.com/\x1b]0;x\x07"}
    with running(FileHub(SMALL, card=card)) as url:
        said = pulled(tmp_path, url).stdout
    assert "free\\x1b[2J\\nlicence" in said
    assert all(letter.isprintable() for letter in said.replace("\n", ""))
    assert [line.split()[0] for line in said.splitlines()].count("licence") == 1


def test_a_name_in_another_case_is_the_same_model(tmp_path: Path) -> None:
    with running(FileHub(SMALL)) as url:
        line, env = command(tmp_path, url, "--accept-licence")
        line[line.index(REPOSITORY)] = REPOSITORY.lower()
        result = subprocess.run(line, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert [place.name for place in (tmp_path / "models").iterdir()] == [REPOSITORY.replace("/", "--")]
    assert find(REPOSITORY.lower(), tmp_path) == folder(tmp_path)


def test_without_a_yes_nothing_is_fetched(tmp_path: Path) -> None:
    hub = FileHub(SMALL)
    with running(hub) as url:
        result = pulled(tmp_path, url)
    assert (result.returncode, hub.downloads(), holds(tmp_path)) == (1, [], {})
    assert "--accept-licence" in result.stderr
    assert "its text" in result.stdout
    with pytest.raises(SettingsError, match=f"run: sensorium pull {REPOSITORY}"):
        find(REPOSITORY, tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="a terminal made by the test is a POSIX one")
@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"\n", 1), (b"y\n", 0)])
def test_somebody_at_a_terminal_is_asked(tmp_path: Path, answer: bytes, code: int) -> None:
    mine, theirs = os.openpty()
    with running(FileHub(SMALL)) as url:
        line, env = command(tmp_path, url)
        os.write(mine, answer)
        result = subprocess.run(line, env=env, stdin=theirs, capture_output=True, text=True, timeout=120, check=False)
    os.close(mine)
    os.close(theirs)
    assert result.returncode == code
    assert "Have you read the licence" in result.stdout
    assert bool(holds(tmp_path)) == (code == 0)


def test_a_killed_download_goes_on_where_it_was(tmp_path: Path) -> None:
    big = SMALL | {WEIGHTS: random.Random(3).randbytes(5 * PIECE // 2)}
    hub = FileHub(big, stop=(WEIGHTS, 2 * PIECE + 5, "hang"))
    with running(hub) as url:
        line, env = command(tmp_path, url, "--accept-licence")
        with subprocess.Popen(line, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            _until_written(folder(tmp_path), 2 * PIECE)
            second = pulled(tmp_path, url)
            assert (second.returncode, "another pull" in second.stderr) == (1, True)
            process.kill()
        with pytest.raises(SettingsError, match=r"not complete.* sensorium pull"):
            find(REPOSITORY, tmp_path)
        hub.asked.clear()
        result = pulled(tmp_path, url)  # the yes was written down
    assert result.returncode == 0, result.stderr
    ranges = dict(hub.downloads())
    assert ranges[WEIGHTS] == f"bytes={2 * PIECE}-"
    assert "README.md" not in ranges
    assert holds(tmp_path) == big
    assert "31.5 MB" not in result.stdout and "5.2 MB, still to come" in result.stdout


def _until_written(place: Path, size: int, patience: float = 60) -> None:
    give_up = time.monotonic() + patience
    while not any(part.stat().st_size >= size for part in place.glob("*.part")):
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_cut_connection_is_taken_up_again_at_once(tmp_path: Path) -> None:
    big = SMALL | {WEIGHTS: random.Random(4).randbytes(3 * PIECE // 2)}
    hub = FileHub(big, stop=(WEIGHTS, PIECE + 5, "cut"))
    with running(hub) as url:
        result = pulled(tmp_path, url, "--accept-licence")
    assert result.returncode == 0, result.stderr
    assert [part for path, part in hub.downloads() if path == WEIGHTS] == [None, f"bytes={PIECE}-"]
    assert holds(tmp_path) == big


@pytest.mark.parametrize(("path", "sent"), [(WEIGHTS, b"v" + b"w" * 699), ("config.json", b"[]\n")])
def test_a_file_that_is_not_what_the_hub_lists(tmp_path: Path, path: str, sent: bytes) -> None:
    hub = FileHub(SMALL, lie={path: sent})
    with running(hub) as url:
        result = pulled(tmp_path, url, "--accept-licence")
        assert result.returncode == 1
        assert f"deleted: {path}" in result.stderr
        assert path not in holds(tmp_path)
        with pytest.raises(SettingsError, match="not complete"):
            find(REPOSITORY, tmp_path)
        hub.lie.clear()
        assert pulled(tmp_path, url).returncode == 0
    assert holds(tmp_path) == SMALL


@pytest.mark.parametrize("sent", [b"w" * 650, b"w" * 750, b"v" * 650])
def test_a_file_of_another_size(tmp_path: Path, sent: bytes) -> None:
    hub = FileHub(SMALL, lie={WEIGHTS: sent})
    with running(hub) as url:
        result = pulled(tmp_path, url, "--accept-licence")
        assert (result.returncode, WEIGHTS in holds(tmp_path)) == (1, False)
        assert "came with another size" in result.stderr
        hub.lie.clear()
        results = [pulled(tmp_path, url).returncode for _ in range(2)]  # what came first is found to be wrong, and then fetched anew
    assert results in ([0, 0], [1, 0])
    assert holds(tmp_path) == SMALL


def test_a_file_that_changed_here(tmp_path: Path) -> None:
    hub = FileHub(SMALL)
    with running(hub) as url:
        assert pulled(tmp_path, url, "--accept-licence").returncode == 0
        (folder(tmp_path) / WEIGHTS).write_bytes(b"v" * 700)
        assert find(REPOSITORY, tmp_path) == folder(tmp_path)  # sizes only
        assert pulled(tmp_path, url, "--only-missing").returncode == 0
        assert holds(tmp_path)[WEIGHTS] == b"v" * 700
        assert pulled(tmp_path, url).returncode == 1
        assert pulled(tmp_path, url).returncode == 0
        assert holds(tmp_path) == SMALL
        (folder(tmp_path) / WEIGHTS).unlink()
        with pytest.raises(SettingsError, match=WEIGHTS):
            find(REPOSITORY, tmp_path)


def test_another_revision_takes_the_place_of_the_former(tmp_path: Path) -> None:
    first = {"config.json": b"{}", "model.safetensors": b"a" * 50}
    with running(FileHub(first)) as url:
        assert pulled(tmp_path, url, "--accept-licence").returncode == 0
    hub = FileHub(SMALL, commit="b2" * 20)
    with running(hub) as url:
        assert pulled(tmp_path, url, "--revision", "b2" * 20, "--accept-licence").returncode == 0
    assert holds(tmp_path) == SMALL  # a model.safetensors of old would be read instead of the shards
    other = replace(hub, card={"license": "mit"})
    with running(other) as url:
        assert pulled(tmp_path, url).returncode == 1  # another licence: asked again


def test_of_a_diffusers_repository_the_components_are_fetched(tmp_path: Path) -> None:
    wanted = {
        "model_index.json": b"{}", "LICENSE.md": b"Apache", "transformer/config.json": b"{}", "scheduler/scheduler_config.json": b"{}",
        "transformer/diffusion_pytorch_model-00001-of-00003.safetensors": b"a", "vae/diffusion_pytorch_model.safetensors": b"b",
        "transformer/diffusion_pytorch_model.safetensors.index.json": b"{}", "text_encoder_2/model-00002-of-00002.safetensors": b"c",
        "tokenizer/merges.txt": b"", "tokenizer/vocab.json": b"{}", "tokenizer_2/spiece.model": b"m", "tokenizer_2/tokenizer.json": b"{}",
    }  # fmt: skip
    single = {"flux1-schnell.safetensors": b"all", "ae.safetensors": b"all", "transformer/code.py": b"", "vae/diffusion.bin": b""}
    with running(FileHub(wanted | single)) as url:
        assert pulled(tmp_path, url, "--accept-licence").returncode == 0
    assert holds(tmp_path) == wanted


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--revision", "no-such-branch"], {}, "has no revision no-such-branch"),
        ([], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ([], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "does not answer"),
    ],
)
def test_troubles_are_one_sentence(tmp_path: Path, arguments: list[str], environment: dict[str, str], said: str) -> None:
    with running(FileHub(SMALL)) as url:
        result = pulled(tmp_path, url, "--accept-licence", *arguments, **environment)
    assert result.returncode == 1
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (lambda page: page.update(id="../../elsewhere"), "neither a name nor a commit"),
        (lambda page: page.update(sha=None), "neither a name nor a commit"),
        (lambda page: page.update(sha="../main"), "neither a name nor a commit"),
        (lambda page: page["siblings"][0].pop("size"), "no size of 'README.md'"),
        (lambda page: page["siblings"][0].update(size=-5), "no size of 'README.md'"),
        (lambda page: page["siblings"][-1].update(size=51 * 10**9), "too large"),
        (lambda page: page.update(cardData=["x"]), "cannot be read (AttributeError"),
        (dict.clear, "cannot be read (KeyError"),
    ],
)
def test_a_page_of_the_hub_that_cannot_be_is_one_sentence(tmp_path: Path, odd: Callable[[dict[str, Any]], object], said: str) -> None:
    with running(FileHub(SMALL, odd=odd)) as url:
        result = pulled(tmp_path, url, "--accept-licence")
    assert (result.returncode, said in result.stderr, "Traceback" in result.stderr) == (1, True, False), result.stderr
    assert not list(tmp_path.rglob("elsewhere*"))


def test_a_gated_repository_wants_a_token_that_nobody_sees(tmp_path: Path) -> None:
    hub = FileHub(SMALL, gated=True)
    with running(hub) as url:
        without = pulled(tmp_path, url, "--accept-licence")
        assert without.returncode == 1
        assert "gated" in without.stderr and "HF_TOKEN" in without.stderr
        with_token = pulled(tmp_path, url, HF_TOKEN=TOKEN)
    assert with_token.returncode == 0, with_token.stderr
    assert f"Bearer {TOKEN}" in hub.tokens
    assert TOKEN not in with_token.stdout + with_token.stderr
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_another_host_that_files_come_from_gets_ranges_but_no_token(tmp_path: Path) -> None:
    big = SMALL | {WEIGHTS: random.Random(5).randbytes(3 * PIECE // 2)}
    hub = FileHub(big, gated=True, elsewhere=True, stop=(WEIGHTS, PIECE + 5, "cut"))
    with running(hub) as url:
        result = pulled(tmp_path, url, "--accept-licence", HF_TOKEN=TOKEN)
    assert result.returncode == 0, result.stderr
    assert holds(tmp_path) == big
    stored = [(path, part, token) for (_, path, part), token in zip(hub.asked, hub.tokens, strict=True) if path.startswith("/store/")]
    assert (f"/store/{WEIGHTS}", f"bytes={PIECE}-", None) in stored
    assert {token for _, _, token in stored} == {None}


def test_an_unknown_repository_and_one_that_no_engine_reads(tmp_path: Path) -> None:
    with running(FileHub({"README.md": b"", "pytorch_model.bin": b"p"})) as url:
        line, env = command(tmp_path, url, "--accept-licence")
        line[line.index(REPOSITORY)] = "nobody/nothing"
        unknown = subprocess.run(line, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        unreadable = pulled(tmp_path, url, "--accept-licence")
    assert "there is no repository nobody/nothing" in unknown.stderr
    assert (unreadable.returncode, "no engine here reads it" in unreadable.stderr) == (2, True)
