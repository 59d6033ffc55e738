"""A hub whose modalities have a URL and a key each, in front of the simulated service: every key goes to its own place only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sensorium import app
from sensorium.settings import load
from sensorium.store.vault import Vault
from tests.api.hubs import Hub, LazyUpstream, living
from tests.serving import serving
from tests.simulators.site import CUBE, HELLO, SETTINGS, Site, running
from tests.store.vaults import opened

OWN_KEY = SETTINGS.replace("[router.embeddings]", '[router.embeddings]\nkey = "secret:embeddings"')
NAMES = ("nvidia-upstream", "embeddings", "nvidia-image", "nvidia-audio", "nvidia-video")
KEYS = {name: f"nvapi-of-{name}" for name in NAMES}
SPEECH = {"text": "hello", "voice": "Magpie-Multilingual.EN-US.Aria"}


@contextmanager
def hub(folder: Path) -> Iterator[tuple[Hub, Site, Vault]]:
    """A hub with all modalities and no shipped model, and a vault with a key for each."""
    with running(keys=frozenset(KEYS.values())) as site, opened(folder) as vault:
        for name, key in KEYS.items():
            vault.put(name, key, [f"http://{site.address}"], who="test")
        file = folder / "hub.toml"
        file.write_text(OWN_KEY.format(site=f"http://{site.address}"), "utf-8")
        upstream = LazyUpstream()
        built = app.build(load(file, {}, data_dir=folder), None, upstream.send, vault)
        with serving(living(built.router, built.durable.jobs, upstream)) as base:
            made = Hub(base, [])
            try:
                yield made, site, vault
            finally:
                made.close()


def test_each_modality_is_answered_with_its_own_key(tmp_path: Path) -> None:
    with hub(tmp_path) as (caller, _, vault):
        calls = {
            "/v1/chat/completions": {**HELLO, "model": "*"},
            "/v1/embeddings": {"model": "*", "input": "hello"},
            "/v1/genai/black-forest-labs/flux.1-schnell": CUBE,
            "/v1/audio/synthesize": SPEECH,
        }
        answers = {path: caller.call("POST", path, body) for path, body in calls.items()}
        vault.flush()
        used = {row.name for row in vault.audit() if row.action == "reveal"}
    assert {path: reply.status for path, (reply, _) in answers.items()} == dict.fromkeys(calls, 200)
    assert used == {"nvidia-upstream", "embeddings", "nvidia-image", "nvidia-audio"}
    assert answers["/v1/audio/synthesize"][1][:4] == b"RIFF"


def test_a_name_that_nobody_listed_goes_on_as_it_is(tmp_path: Path) -> None:
    with hub(tmp_path) as (caller, _, _vault):
        status, answer = caller.json("POST", "/v1/chat/completions", {**HELLO, "model": "openai/gpt-oss-120b"})
        assert (status, answer["model"]) == (200, "openai/gpt-oss-120b")
        assert caller.json("POST", "/v1/chat/completions", {**HELLO, "model": "no/such-model"})[0] == 404


def test_a_refused_image_key_is_named_and_a_new_one_cures_it_while_chat_goes_on(tmp_path: Path) -> None:
    with hub(tmp_path) as (caller, site, vault):
        draw, where = "/v1/genai/black-forest-labs/flux.1-schnell", [f"http://{site.address}"]
        vault.put("nvidia-image", "nvapi-expired", where, who="test")
        status, answer = caller.json("POST", draw, CUBE)
        assert (status, answer["error"]["code"]) == (401, "upstream_key_rejected")
        assert "nvidia-image" in json.dumps(answer) and "nvapi-expired" not in json.dumps(answer)
        assert caller.json("POST", "/v1/chat/completions", HELLO)[0] == 200
        vault.put("nvidia-image", KEYS["nvidia-image"], where, who="test")
        assert caller.json("POST", draw, CUBE)[0] == 200


def test_a_missing_key_takes_its_modality_out_and_nothing_is_sent(tmp_path: Path) -> None:
    with hub(tmp_path) as (caller, site, vault):
        vault.remove("nvidia-image", who="test")
        status, answer = caller.json("POST", "/v1/genai/black-forest-labs/flux.1-schnell", CUBE)
        assert (status, "nvidia-image" in json.dumps(answer)) == (503, True)
        assert site.get("/simulator/calls").json == []
