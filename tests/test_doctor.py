"""`sensorium doctor` against the simulated service: keys are looked at, one small call per route is made, and the exit code says it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.anthropic_program import KEY as THEIRS
from tests.anthropic_program import Program
from tests.hub_process import hub_environment
from tests.serving import serving
from tests.simulators.fal import site as fal_site
from tests.simulators.site import AI, KEY, SETTINGS, Site, running
from tests.store.vaults import opened

NAMES = ("nvidia-upstream", "nvidia-image", "nvidia-audio", "nvidia-video")


class Shell:
    """Runs `sensorium doctor` on a folder with settings and a vault in front of `site`."""

    def __init__(self, folder: Path, site: Site, text: str = SETTINGS) -> None:
        self.folder, self.site = folder, site
        (folder / "hub.toml").write_text(text.format(site=f"http://{site.address}"), "utf-8")

    def keep(self, **keys: str) -> None:
        with opened(self.folder / "data") as vault:
            for name, value in keys.items():
                vault.put(name.replace("_", "-"), value, [f"http://{self.site.address}"], who="test")

    def __call__(self, *arguments: str, code: int = 0) -> str:
        place = ("--settings", str(self.folder / "hub.toml"), "--data-dir", str(self.folder / "data"))
        command = [sys.executable, "-m", "sensorium.cli", "doctor", *place, *arguments]
        done = subprocess.run(command, env=hub_environment(), capture_output=True, text=True, timeout=60, check=False)
        said = done.stdout + done.stderr
        assert (done.returncode, "Traceback" in said, "nvapi-" in said) == (code, False, False), said
        return said

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self("--json", *arguments, code=code).partition("\nsensorium: ")[0])
        return report


@contextmanager
def shell(folder: Path, text: str = SETTINGS, **keys: str) -> Iterator[Shell]:
    with running() as site:
        made = Shell(folder, site, text)
        made.keep(**keys)
        yield made


def calls(site: Site) -> list[str]:
    return [call["path"] for call in site.get("/simulator/calls").json]


def test_every_modality_is_tried_with_a_call_that_costs_nothing_or_next_to_it(tmp_path: Path) -> None:
    with shell(tmp_path, **{name.replace("-", "_"): KEY for name in NAMES}) as doctor:
        report = doctor.json("--require", "chat,image,audio,video,embeddings")
        drawn = [path for path in calls(doctor.site) if "genai" in path]
    states = {(route["provider"], route["modality"], route["model"]): route["state"] for route in report["routes"]}
    assert states == {
        ("router.chat", "chat", "meta/llama-3.1-8b-instruct"): "works",
        ("router.chat", "chat", "any name"): "not called",
        ("router.image", "image", "any name"): "works",
        ("router.audio", "speech", "any name"): "works",
        ("router.audio", "transcribe", "any name"): "works",
        ("router.video", "video", "any name"): "not called",
        ("router.embeddings", "embed", "nvidia/nv-embedqa-e5-v5"): "works",
        ("router.embeddings", "embed", "any name"): "not called",
    }
    assert "nothing was made" in next(route["detail"] for route in report["routes"] if route["modality"] == "image")
    assert len(drawn) == 1
    assert {name: one["on"] for name, one in report["modalities"].items()} == dict.fromkeys(report["modalities"], True)


def test_a_picture_is_drawn_on_request_only(tmp_path: Path) -> None:
    text = f'[local]\nenabled = false\n[router.image]\nurl = "{{site}}{AI}/v1/genai"\n'
    with shell(tmp_path, text, nvidia_image=KEY) as doctor:
        (route,) = doctor.json("--draw")["routes"]
    assert route["state"] == "works" and "it answered (" in route["detail"]


def test_what_does_not_work_is_told_with_the_reason_and_fails(tmp_path: Path) -> None:
    with shell(tmp_path, nvidia_upstream=KEY, nvidia_image="nvapi-revoked", nvidia_audio="nvapi-no-credits") as doctor:
        said = doctor(code=1)
    assert "403 auth: Authorization failed; replace the key nvidia-image" in said
    assert "402 quota_exhausted" in said
    assert "there is no secret nvidia-video; store it with: sensorium secret put nvidia-video" in said
    lines = {line.split()[0]: line.split()[1] for line in said.partition("modalities\n")[2].splitlines()[:5]}
    assert lines == {"chat": "on", "image": "off", "audio": "off", "video": "off", "embeddings": "on"}


def test_offline_nothing_is_called(tmp_path: Path) -> None:
    with shell(tmp_path, **{name.replace("-", "_"): "nvapi-revoked" for name in NAMES}) as doctor:
        assert {route["state"] for route in doctor.json("--offline")["routes"]} == {"not called"}
        assert calls(doctor.site) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[local]\nenabled = false\n", "required, but not wholly on: image"),
        ('[local]\nenabled = false\n[router.image]\nurl = "http://127.0.0.1:9/v1"\nkey = "none"\n', "cannot be reached"),
        ('[router.image]\nurl = "http://127.0.0.1:9"\nkeys = 1\n[server]\nprot = 1\n', "router.image.keys: unknown key"),
    ],
)
def test_what_is_required_and_missing(tmp_path: Path, text: str, said: str) -> None:
    with shell(tmp_path, text) as doctor:
        told = doctor("--require", "image", code=2 if "prot" in text else 1)
    assert said in told
    if "prot" in text:
        assert "server.prot: unknown key" in told


CLAUDE = """
[local]
enabled = false
[providers.listed]
kind = "anthropic"
base_url = "{site}/v1"
key = "secret:good"
models = ["good", "refuse-404"]
[providers.open]
kind = "anthropic"
base_url = "{site}/v1"
key = "secret:good"
[providers.locked]
kind = "anthropic"
base_url = "{site}/v1"
key = "secret:bad"
"""


def test_anthropic_is_asked_for_one_token_or_where_any_name_goes_for_its_models(tmp_path: Path) -> None:
    program = Program()
    with serving(program) as base, running() as site:
        doctor = Shell(tmp_path, replace(site, address=base.removeprefix("http://")), CLAUDE)
        doctor.keep(good=THEIRS, bad="sk-ant-other")
        said = doctor("--json", code=1)
    report = json.loads(said[: said.rindex("}") + 1])
    assert {(route["provider"], route["model"]): route["state"] for route in report["routes"]} == {
        ("listed", "good"): "works",
        ("listed", "refuse-404"): "fails",
        ("open", "any name"): "works",
        ("locked", "any name"): "fails",
    }
    assert "401 auth" in report["routes"][3]["detail"]
    assert {(method, path) for method, path, *_ in program.seen} == {("POST", "/v1/messages"), ("GET", "/v1/models")}


def test_the_shipped_models_count_and_a_modality_must_exist(tmp_path: Path) -> None:
    with shell(tmp_path, "") as doctor:
        doctor("--require", "chat, image")
        assert "there is no modality pictures" in doctor("--require", "pictures", code=2)


FAL = """
[local]
enabled = false
[providers.fal]
kind = "fal"
base_url = "{site}/queue.fal.run"
models = [
    {{ id = "fal-ai/nemotron-diffusion-vlm", vision = true }},
    {{ id = "f", modality = "image", upstream = "fal-ai/flux/schnell" }},
    {{ id = "fal-ai/ltx-video", modality = "video" }},
]
"""


@pytest.mark.parametrize(("key", "state"), [(fal_site.KEY, "works"), ("wrong-id:wrong-secret", "fails")])
def test_fal_is_asked_for_a_request_that_does_not_exist(tmp_path: Path, key: str, state: str) -> None:
    with fal_site.running() as site:
        doctor = Shell(tmp_path, Site(site.base.removeprefix("http://"), None, site.clock), FAL)  # type: ignore[arg-type]
        doctor.keep(fal=key)
        report = doctor.json(code=0 if state == "works" else 1)
        assert [(route["modality"], route["state"]) for route in report["routes"]] == [(m, state) for m in ("chat", "image", "video")]
        assert {call.method for call in site.simulator.seen} == {"GET"}
        assert state == "works" or "replace the key fal" in report["routes"][0]["detail"]
