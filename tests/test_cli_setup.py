"""`sensorium init` and `sensorium provider`: what is written loads, keeps what was there, and holds no key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sensorium.errors import SettingsError
from sensorium.options import SecretRef
from sensorium.settings import load_for_vault
from sensorium.settings_text import joined, named_models, provider, replaced
from tests.hub_process import hub_environment
from tests.store.vaults import opened

CANARY = "nvapi-CANARY-q7Jx2"
FILE = "sensorium.toml"


class Shell:
    """Runs the command in a folder and takes care that no key is ever printed or written into the settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        env = hub_environment(HOME=str(self.folder / "home"), XDG_DATA_HOME="")
        command = [sys.executable, "-m", "sensorium.cli", *arguments]
        done = subprocess.run(command, env=env, cwd=self.folder, input=stdin.encode(), capture_output=True, timeout=60, check=False)
        said = (done.stdout + done.stderr).decode() + (self.text if (self.folder / FILE).exists() else "")
        assert (done.returncode, "Traceback" in said, "CANARY" in said) == (code, False, False), said
        return said

    @property
    def text(self) -> str:
        return (self.folder / FILE).read_text("utf-8")

    def revealed(self, name: str, url: str) -> str:
        with opened(self.folder / "data") as vault:
            return vault.reveal(name, url).value


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_one_nvidia_key_is_enough(shell: Shell) -> None:
    said = shell("init", "--nvidia", "--data-dir", "data", "--keys", "-", stdin=f"nvidia-upstream={CANARY}\n")
    assert "nvidia-upstream: version 1, ready, bound to ai.api.nvidia.com, integrate.api.nvidia.com" in said
    settings = load_for_vault(shell.folder / FILE, {})
    assert settings.data_dir == shell.folder / "data"
    assert {model.modality for model in settings.providers["nvidia"].models} == {"chat", "embed", "image"}
    assert shell.revealed("nvidia-upstream", "https://ai.api.nvidia.com/v1") == CANARY


def test_each_modality_has_its_own_url_and_key_and_what_is_missing_is_named(shell: Shell) -> None:
    urls = [f"--{name}=https://{name}.example/v1" for name in ("image", "audio", "video")]
    (shell.folder / "keys").write_text(f"# keys\nnvidia-image={CANARY}-1\n\nnvidia-audio={CANARY}-2=\n", "utf-8")
    said = shell("init", *urls, "--asr", "https://asr.example/v1", "--data-dir", "data", "--keys", "keys")
    assert "nvidia-video: missing; store it with: sensorium secret --settings sensorium.toml put nvidia-video" in said
    assert shell.revealed("nvidia-image", "https://image.example/v1") == f"{CANARY}-1"
    assert shell.revealed("nvidia-audio", "https://asr.example/v1") == f"{CANARY}-2="
    router = load_for_vault(shell.folder / FILE, {}).router.given
    assert {name: (table.url, table.key) for name, table in router.items()} == {
        "image": ("https://image.example/v1", SecretRef("nvidia-image")),
        "audio": ("https://audio.example/v1", SecretRef("nvidia-audio")),
        "video": ("https://video.example/v1", SecretRef("nvidia-video")),
    }


def test_models_of_a_modality_are_written(shell: Shell) -> None:
    shell("init", "--chat", "https://c.example/v1", "--model", "vision=a/b", "--model", "chat=c", "--data-dir", "data")
    chat = load_for_vault(shell.folder / FILE, {}).router.given["chat"]
    assert [(model.id, model.vision) for model in chat.models] == [("a/b", True), ("c", False)]


def test_a_file_may_be_the_beginning(shell: Shell) -> None:
    (shell.folder / "spec.toml").write_text('# mine\n[server]\nport = 9000\n\n[router.image]\nurl = "https://i.example/v1"\n', "utf-8")
    said = shell(
        "init",
        "--from",
        "spec.toml",
        "--video",
        "https://v.example/v1",
        "--data-dir",
        "data",
        "--keys",
        "-",
        stdin=f"nvidia-image={CANARY}",
    )
    assert shell.text.startswith("# mine\n[server]\nport = 9000\n")
    settings = load_for_vault(shell.folder / FILE, {})
    assert (settings.server.port, list(settings.router.given)) == (9000, ["image", "video"])
    place = "--settings sensorium.toml --data-dir data"
    assert f"sensorium secret {place} put nvidia-video" in said and f"sensorium serve {place}\n" in said


def test_nothing_is_overwritten_without_force(shell: Shell) -> None:
    (shell.folder / FILE).write_text("# mine\n", "utf-8")
    assert "is there already; --force replaces it" in shell("init", "--nvidia", code=2)
    assert shell.text == "# mine\n"
    for url in ("https://one.example", "https://two.example"):
        shell("init", "--image", url, "--data-dir", "data", "--force", "--keys", "-", stdin=f"nvidia-image={CANARY}")
        assert shell.revealed("nvidia-image", url) == CANARY


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        ((), "", "say what to set up"),
        (("--image", "ftp://x"), "", "router.image.url: must look like"),
        (("--image", "https://x", "--model", "chat=m"), "", "names a model for chat, and there is no URL"),
        (("--image", "https://x", "--model", "sound=m"), "", "write a model as ID or MODALITY=ID"),
        (("--asr", "https://x", "--image", "https://x"), "", "--asr goes with --audio"),
        (("--from", "nowhere.toml"), "", "nowhere.toml: No such file"),
    ],
)
def test_what_cannot_be_set_up_leaves_no_file(shell: Shell, arguments: tuple[str, ...], stdin: str, said: str) -> None:
    assert said in shell("init", *arguments, stdin=stdin, code=1 if "nowhere" in said else 2)
    assert os.listdir(shell.folder) in ([], ["home"])


def test_a_line_of_keys_that_cannot_be_read_is_not_repeated(shell: Shell) -> None:
    said = shell("init", "--nvidia", "--data-dir", "data", "--keys", "-", stdin=f"{CANARY}\n", code=2)
    assert "--keys, line 1: write SECRET=KEY, where SECRET is one of nvidia-upstream" in said


def test_a_provider_is_added_below_and_comments_stay(shell: Shell) -> None:
    (shell.folder / FILE).write_text("# mine\n[server]\nport = 9000 # here", "utf-8")
    said = shell("provider", "add", "openai", "--model", "gpt", "--model", "image=dall", "--per-minute", "7")
    assert "put openai   # goes to api.openai.com" in said
    assert shell.text.startswith("# mine\n[server]\nport = 9000 # here\n\n[providers.openai]\n")
    shell("provider", "add", "engine", "--name", "box", "--url", "http://127.0.0.1:8000/v1", "--model", "qwen")
    shell("provider", "add", "nvidia", "--key-env", "K")
    listed = shell("provider", "list")
    assert [line.split()[0] for line in listed.splitlines()[1:4]] == ["openai", "box", "nvidia"]
    assert "put fal   # goes to queue.fal.run" in shell("provider", "add", "fal")
    fal = load_for_vault(shell.folder / FILE, {}).providers["fal"]
    assert {model.id: (model.modality, model.upstream) for model in fal.models} == {
        "fal-ai/nemotron-diffusion-vlm": ("chat", None),
        "black-forest-labs/flux.1-schnell": ("image", "fal-ai/flux/schnell"),
        "black-forest-labs/flux.1-dev": ("image", "fal-ai/flux/dev"),
    }
    shell("provider", "add", "fal", "--name", "films", "--model", "video=fal-ai/ltx-video")
    openai = load_for_vault(shell.folder / FILE, {}).providers["openai"]
    assert (openai.per_minute, [model.modality for model in openai.models]) == (7, ["chat", "image"])


def test_anthropic_is_a_provider_by_its_name_alone(shell: Shell) -> None:
    assert "put anthropic   # goes to api.anthropic.com" in shell("provider", "add", "anthropic")
    assert shell.text == '[providers.anthropic]\nkind = "anthropic"\nkey = "secret:anthropic"\n'
    assert "any name" in shell("provider", "list")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("openai", "--model", "m"), "has a provider openai already; choose another --name"),
        (("openai", "--name", "a b", "--model", "m"), "is no name of a provider"),
        (("openai", "--name", "hub", "--model", "m"), "providers.hub: this name is the hub's own"),
        (("openai", "--name", "x"), "providers.x.models: name at least one"),
        (("hub", "--name", "x"), "providers.x.base_url: is missing"),
        (("openai", "--name", "x", "--secret", CANARY, "--model", "m"), "providers.x.key: write it as"),
        (("openai", "--name", "x", "--secret", "a", "--key-env", "B", "--model", "m"), "both name a key"),
        (("replicate", "--name", "x"), "'replicate' is not one of"),
        (("fal", "--model", "embed=m"), 'providers.fal.models: m must have modality "chat", "image" or "video"'),
    ],
)
def test_a_provider_that_cannot_be_leaves_the_file_as_it_was(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    before = '[providers.openai]\nkind = "openai"\nbase_url = "https://x"\nmodels = ["m"]\n'
    (shell.folder / FILE).write_text(before, "utf-8")
    assert said in shell("provider", "add", *arguments, code=2)
    assert (shell.text, sorted(os.listdir(shell.folder))) == (before, [FILE])


def test_a_value_with_any_character_survives(tmp_path: Path) -> None:
    odd = 'https://x.example/a"b\\c\x7fé'
    written = replaced(tmp_path / FILE, joined("", provider("p", "openai", named_models(["m"]), base_url=odd)), {})
    assert written.providers["p"].base_url == odd
    with pytest.raises(SettingsError, match=r"sensorium\.toml: not valid TOML"):
        replaced(tmp_path / FILE, joined("x = ", json.dumps({})), {})
    assert load_for_vault(tmp_path / FILE, {}).providers["p"].base_url == odd
