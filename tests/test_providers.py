"""Settings become routes: which modalities at which address, in which dialect, with which key, limits and deadlines."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensorium import app
from sensorium.errors import Unavailable
from sensorium.providers import routes
from sensorium.routing.call import Call, Reply, Route
from sensorium.settings import Settings
from sensorium.store.vault import Vault
from tests.api.hubs import Hub
from tests.serving import serving
from tests.store.vaults import opened

NVIDIA = 'kind = "nvidia"\nbase_url = "https://a.example/v1"\nai_url = "https://b.example/v1"\n'


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with opened(tmp_path) as vault:
        yield vault


def routed(text: str, vault: Vault) -> list[Route]:
    return routes(Settings.model_validate(tomllib.loads(text)), vault)


def shape(found: list[Route]) -> list[tuple[str, ...]]:
    return [(route.id, route.modality, route.dialect, route.provider.base_url) for route in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[router.image]\nurl = "https://x/genai"', [("*", "image", "genai", "https://x/genai")]),
        (
            '[router.chat]\nurl = "https://x/v1"\nmodels = ["m"]',
            [("m", "chat", "openai", "https://x/v1"), ("*", "chat", "openai", "https://x/v1")],
        ),
        (
            '[router.audio]\nurl = "https://x/v1/audio"\nasr_url = "https://y/v1"',
            [("*", "speech", "nvidia", "https://x/v1"), ("*", "transcribe", "nvidia", "https://y/v1")],
        ),
        ('[router.video]\nurl = "https://x/v1/cosmos"', [("*", "video", "genai", "https://x/v1/cosmos")]),
        ('[router.embeddings]\nurl = "https://x/v1"', [("*", "embed", "nvidia", "https://x/v1")]),
        ('[router.embeddings]\nurl = "https://x/v1"\ndialect = "openai"', [("*", "embed", "openai", "https://x/v1")]),
        (
            f"[providers.p]\n{NVIDIA}",
            [
                ("*", "chat", "openai", "https://a.example/v1"),
                ("*", "embed", "nvidia", "https://a.example/v1"),
                ("*", "image", "genai", "https://b.example/v1/genai"),
                ("*", "rerank", "nvidia", "https://b.example/v1/retrieval/nvidia"),
            ],
        ),
        (
            '[providers.p]\nkind = "engine"\nbase_url = "http://127.0.0.1:8000/v1"\nmodels = ["m", {id = "i", modality = "image"}]',
            [("m", "chat", "openai", "http://127.0.0.1:8000/v1"), ("i", "image", "openai", "http://127.0.0.1:8000/v1")],
        ),
        (
            '[providers.p]\nkind = "hub"\nbase_url = "https://h/v1"\nmodels = ["m", {id = "i", modality = "image"}]',
            [("m", "chat", "openai", "https://h/v1"), ("i", "image", "genai", "https://h/v1/genai")],
        ),
        ('[providers.p]\nkind = "anthropic"', [("*", "chat", "anthropic", "https://api.anthropic.com/v1")]),
        ('[providers.p]\nkind = "anthropic"\nmodels = ["claude"]', [("claude", "chat", "anthropic", "https://api.anthropic.com/v1")]),
        (
            '[providers.p]\nkind = "hub"\nbase_url = "https://h/v1"',
            [
                ("*", "chat", "openai", "https://h/v1"),
                ("*", "embed", "openai", "https://h/v1"),
                ("*", "image", "genai", "https://h/v1/genai"),
            ],
        ),
    ],
)
def test_what_a_table_serves(text: str, expected: list[tuple[str, ...]], vault: Vault) -> None:
    assert shape(routed(text, vault)) == expected


def test_listed_models_come_before_any_name_and_modalities_before_providers(vault: Vault) -> None:
    text = f'[providers.p]\n{NVIDIA}models = ["m"]\n[router.chat]\nurl = "https://x/v1"\nmodels = [{{id = "v", vision = true}}]'
    found = routed(text, vault)
    assert [(route.provider.name, route.id) for route in found[:3]] == [("router.chat", "v"), ("router.chat", "*"), ("p", "m")]
    assert found[0].capabilities == {"text", "vision"} and found[2].capabilities == {"text"}


def test_deadlines_follow_the_modality_unless_they_are_set(vault: Vault) -> None:
    text = "".join(f'[router.{name}]\nurl = "https://x/v1"\n' for name in ("chat", "image", "audio", "video"))
    assert {route.modality: route.provider.timeout_s for route in routed(text, vault)} == {
        "chat": 60,
        "image": 180,
        "speech": 120,
        "transcribe": 120,
        "video": 600,
    }
    (own,) = routed('[router.image]\nurl = "https://x"\ntimeout_s = 9\nper_minute = 3\nburst = 2\nidle_s = 4', vault)
    assert (own.provider.timeout_s, own.provider.per_minute, own.provider.burst, own.provider.idle_s) == (9, 3, 2, 4)


def test_an_anthropic_model_takes_pictures_and_its_time(vault: Vault) -> None:
    (route,) = routed('[providers.p]\nkind = "anthropic"\nmodels = ["claude"]', vault)
    assert (route.capabilities, route.provider.timeout_s, route.provider.credential.name) == ({"text", "vision"}, 600, "anthropic")
    (short,) = routed('[providers.p]\nkind = "anthropic"\ntimeout_s = 9', vault)
    assert short.provider.timeout_s == 9


def test_fals_apps_are_called_through_its_queue_and_its_chat_needs_a_picture(vault: Vault) -> None:
    models = '["a/see", {id = "m", modality = "image", upstream = "a/draw"}, {id = "a/film", modality = "video"}]'
    found = routed(f'[providers.p]\nkind = "fal"\nmodels = {models}', vault)
    assert {route.modality: (route.dialect, route.upstream, route.provider.base_url) for route in found} == {
        "chat": ("fal", "a/see", "https://queue.fal.run"),
        "image": ("fal", "a/draw", "https://queue.fal.run"),
        "video": ("fal", "a/film", "https://queue.fal.run"),
    }
    assert found[0].capabilities == {"vision"}
    assert "there is no secret fal" in str(found[0].provider.down())


def test_one_nvidia_key_is_one_provider_with_one_limit(vault: Vault) -> None:
    found = routed(f"[providers.p]\n{NVIDIA}", vault)
    assert {(route.provider.name, route.provider.per_minute, route.provider.credential.name) for route in found} == {
        ("p", 35, "nvidia-upstream")
    }


def test_only_an_engine_is_local(vault: Vault) -> None:
    kinds = {
        kind: f'[providers.p]\nkind = "{kind}"\nbase_url = "http://127.0.0.1:1/v1"\nmodels = ["m"]' for kind in ("openai", "engine", "hub")
    }
    assert {kind: routed(text, vault)[0].provider.local for kind, text in kinds.items()} == {"openai": False, "engine": True, "hub": False}


def test_a_key_is_revealed_to_its_own_modality_and_a_missing_one_takes_the_route_out(vault: Vault) -> None:
    vault.put("nvidia-image", "nvapi-1", ["x.example"], who="test")
    text = '[router.image]\nurl = "https://x.example/v1"\n[router.chat]\nurl = "https://x.example/v1"\n[router.video]\nurl = "https://y.example"'
    image, video = (next(r for r in routed(text + '\nkey = "secret:nvidia-image"', vault) if r.modality == m) for m in ("image", "video"))
    assert (image.provider.down(), image.provider.credential.reveal()) == (None, "nvapi-1")
    assert "is not sent to y.example" in str(video.provider.down())
    chat = next(route for route in routed(text, vault) if route.modality == "chat")
    assert "there is no secret nvidia-upstream" in str(chat.provider.down())


def test_the_speech_settings_reach_the_provider(vault: Vault) -> None:
    text = '[router.audio]\nurl = "https://x"\nlanguage = "de-DE"\nvoices = {a = "B"}\nasr_model = "m"\nstatus_url = "https://x/s"'
    provider = routed(text, vault)[0].provider
    assert (provider.language, provider.voices, provider.speech_model, provider.status_url) == ("de-DE", {"a": "B"}, "m", "https://x/s")


def test_a_sealed_key_needs_a_vault() -> None:
    with pytest.raises(ValueError, match="secret:nvidia-image needs the vault"):
        routes(Settings.model_validate({"router": {"image": {"url": "https://x"}}}), None)


def test_a_models_own_times_go_over_its_providers(vault: Vault) -> None:
    own = "timeout_s = 9, first_byte_s = 3, connect_s = 1, idle_s = 2, hedge_after_s = 1.5"
    text = f'[router.chat]\nurl = "https://x/v1"\nkey = "none"\ntimeout_s = 30\nqueue = 7\nmodels = ["slow", {{ id = "quick", {own} }}]'
    slow, quick, anything = (route.provider for route in routed(text, vault))
    assert (quick.timeout_s, quick.first_byte_s, quick.connect_s, quick.idle_s, quick.hedge_after_s) == (9, 3, 1, 2, 1.5)
    for at in (slow, anything):
        assert (at.timeout_s, at.first_byte_s, at.connect_s, at.idle_s, at.hedge_after_s) == (30, None, 10, 300, None)
    assert {at.queue for at in (slow, quick, anything)} == {7}


def test_what_is_private(vault: Vault) -> None:
    engine = '[providers.box]\nkind = "engine"\nbase_url = "http://127.0.0.1:1/v1"\nmodels = ["a"]\n'
    assert [route.private for route in routed(f"{engine}private = true", vault)] == [True]
    models = 'models = ["a", { id = "b", private = true }]'
    assert [route.private for route in routed(engine.replace('models = ["a"]', models), vault)] == [False, True]


def test_the_file_says_where_calls_go_that_wish_nothing(vault: Vault) -> None:
    text = (
        '[router]\norder = "local_first"\n[router.chat]\nurl = "https://x/v1"\nkey = "none"\nmodels = ["m"]\n'
        '[providers.box]\nkind = "engine"\nbase_url = "http://127.0.0.1:1/v1"\nmodels = ["m"]\n'
    )
    settings = Settings.model_validate(tomllib.loads(text))
    asked: list[str] = []

    async def send(call: Call, route: Route) -> Reply:
        asked.append(route.provider.name)
        raise Unavailable("down")

    at = settings.model_copy(update={"server": settings.server.model_copy(update={"data_dir": vault.database.path.parent})})
    with serving(app.build(at, None, send, vault).router) as base:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        assert Hub(base, []).json("POST", "/v1/chat/completions", body)[0] == 503
    assert asked == ["box", "router.chat"]
