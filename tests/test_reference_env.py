"""The reference router's variables become settings that load; what it ignored silently is said; no key is repeated."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.reference_env import KNOWN, Import
from sensorium.settings import Settings, problems_of
from tests.hub_process import hub_environment

CANARY = "nvapi-CANARY-q7Jx2"
NVIDIA = "https://integrate.api.nvidia.com/v1"


def read(**environ: object) -> Import:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in environ.items()}
    found = Import(texts)
    told = "\n".join([found.text, *found.warnings, *found.stores])
    assert "CANARY" not in told
    assert problems_of(found.text) == []
    return found


def settings(found: Import) -> Settings:
    return Settings.model_validate(tomllib.loads(found.text))


def test_providers_and_the_models_of_the_star() -> None:
    found = read(
        MAC_ROUTER_PROVIDERS=[{"name": "nvidia", "base_url": NVIDIA, "key_env": "NVK", "timeout": 90}],
        MAC_ROUTER_DEFAULT_MODEL="z/default",
        MAC_ROUTER_WILDCARD_MODELS="a/one, z/default, b/two",
        NVK=CANARY,
    )
    provider = settings(found).providers["nvidia"]
    assert (provider.kind, provider.base_url, provider.timeout_s) == ("nvidia", NVIDIA, 90)
    assert [model.id for model in provider.models] == ["z/default", "a/one", "b/two"]
    assert found.stores == ['printf %s "$NVK" | sensorium secret put nvidia-upstream']


def test_each_modality_keeps_its_own_url_and_key() -> None:
    found = read(
        MAC_ROUTER_IMAGE_KEY=CANARY,
        MAC_ROUTER_AUDIO_UPSTREAM="https://a.example/v1/audio",
        MAC_ROUTER_AUDIO_KEY="nvidia-audio",
        MAC_ROUTER_VIDEO_UPSTREAM="https://v.example/v1",
        MAC_ROUTER_VIDEO_TIMEOUT="900",
    )
    router = settings(found).router.given
    assert {name: (table.url, str(table.key), table.timeout_s) for name, table in router.items()} == {
        "image": ("https://ai.api.nvidia.com/v1/genai", "secret:nvidia-image", None),
        "audio": ("https://a.example/v1/audio", "secret:nvidia-audio", None),
        "video": ("https://v.example/v1", "secret:nvidia-video", 900),
    }
    assert 'printf %s "$MAC_ROUTER_IMAGE_KEY" | sensorium secret put nvidia-image' in found.stores
    assert found.warnings == []


def test_media_bindings_fill_what_is_not_set() -> None:
    found = read(
        MAC_ROUTER_VIDEO_UPSTREAM="https://v.example/v1",
        MAC_ROUTER_MEDIA_JSON={
            "audio.tts": {"url": "https://a.example/v1", "key": CANARY},
            "video.generate": {"url": "https://other.example"},
            "audio.music": {"url": "https://m.example"},
            "smell": {"url": "https://s.example"},
        },
    )
    assert {name: table.url for name, table in settings(found).router.given.items()} == {
        "audio": "https://a.example/v1",
        "video": "https://v.example/v1",
    }
    told = "\n".join(found.warnings)
    assert "video.generate: router.video is set already" in told
    assert "audio.music: router.audio is set already" in told
    assert "smell has no equal here" in told


@pytest.mark.parametrize(
    ("environ", "warning"),
    [
        ({"MAC_ROUTER_PROVIDERS": "[{"}, "MAC_ROUTER_PROVIDERS: is not valid JSON; that router would have ignored it silently"),
        ({"MAC_ROUTER_PROVIDERS": ["x"]}, "an entry is no object"),
        ({"MAC_ROUTER_PROVIDERS": "nvidia,foo", "MAC_ROUTER_DEFAULT_MODEL": "m"}, "foo has no name or no URL"),
        ({"MAC_ROUTER_PROVIDERS": {"p": {"url": "ftp://x", "models": ["m"]}}}, "left out: providers.p.base_url: must look like"),
        ({"MAC_ROUTER_PROVIDERS": {"p": {"url": "https://x", "models": ["m"], "weight": 3}}}, "p: weight not understood"),
        ({"MAC_ROUTER_PROVIDERS": {"p": {"url": "https://x", "models": ["m"], "key_env": "UNSET"}}}, "names UNSET, which is empty"),
        ({"MAC_ROUTER_PROVIDERS": {"p": {"url": f"https://x/{CANARY}", "models": ["m"]}}}, "holds what looks like a key"),
        ({"MAC_ROUTER_IMAGE_TIMEOUT": "soon", "MAC_ROUTER_IMAGE_KEY": CANARY}, "the timeout is no number of seconds"),
        ({"MAC_ROUTER_IMAGE_UPSTREAM": "https://x"}, "that router sent the chat key there"),
        ({"MAC_ROUTER_AUDIO_KEY": CANARY}, "MAC_ROUTER_AUDIO_UPSTREAM: is not set, so audio stays off"),
        ({"MAC_ROUTER_DEFAULT_MODEL": "m"}, "no provider is left to serve it"),
        ({"MAC_ROUTER_WILDCARD_MODELS": f"../x,{CANARY}"}, "a name that no model can have"),
        ({"MAC_ROUTER_MEDIA_JSON": "{"}, "MAC_ROUTER_MEDIA_JSON: is not valid JSON"),
        ({"MAC_API_TOKENS": CANARY}, "this hub has one token"),
        ({"MAC_ROUTER_PORT": "1"}, "MAC_ROUTER_PORT: is not known here"),
    ],
)
def test_what_that_router_ignored_is_said(environ: dict[str, object], warning: str) -> None:
    assert any(warning in one for one in read(**environ).warnings), read(**environ).warnings


MEMBERS = ("name", "url", "key", "models", "p", "image.x")
SPOILED = st.text(max_size=40) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4),
    max_leaves=8,
).map(json.dumps)


@given(st.dictionaries(st.sampled_from(sorted(KNOWN)), SPOILED, max_size=6))
def test_anything_at_all_becomes_settings_that_load(environ: dict[str, str]) -> None:
    read(**environ)


def test_the_command_prints_settings_and_warns_beside_them() -> None:
    env = hub_environment(MAC_ROUTER_IMAGE_KEY=CANARY, MAC_ROUTER_FOO="1")
    command = [sys.executable, "-m", "sensorium.cli", "import-env"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "CANARY" in done.stdout + done.stderr) == (0, False)
    assert problems_of(done.stdout) == []
    assert "[router.image]" in done.stdout and "MAC_ROUTER_FOO: is not known" in done.stderr
