"""The official `openai` package, unmodified, against a hub whose every modality is hosted: the simulated service behind it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from PIL import Image

from sensorium import app, doors, durable
from sensorium.routing.dispatch import Dispatch, Parts
from sensorium.routing.health import Health
from sensorium.settings import load
from sensorium.simulators.sound import riff, tone
from tests.api.hubs import LazyUpstream, living
from tests.serving import serving
from tests.simulators.site import KEY, PARAKEET, SETTINGS, Site, running
from tests.store.vaults import opened

CHAT, EMBED, DRAWS = "meta/llama-3.1-8b-instruct", "nvidia/nv-embedqa-e5-v5", "black-forest-labs/flux.1-schnell"
LISTED = SETTINGS.replace('/v1/genai"', f'/v1/genai"\nmodels = ["{DRAWS}"]')
WHISPER = LISTED.replace(PARAKEET, "/nim/openai/whisper-large-v3")
TOKEN = "sesame"
HELLO: Any = [{"role": "user", "content": "hello"}]
WAV = riff(tone(440, 1.25, 16000), 16000)
ARIA = "Magpie-Multilingual.EN-US.Aria"


@contextmanager
def hosted(folder: Path, text: str = LISTED) -> Iterator[tuple[str, Site]]:
    """A hub that lives on the simulator's clock, and the simulator; yields the hub's base URL for clients."""
    with running() as site, opened(folder) as vault:
        for name in ("nvidia-upstream", "nvidia-image", "nvidia-audio", "nvidia-video"):
            vault.put(name, KEY, [f"http://{site.address}"], who="test")
        file = folder / "hub.toml"
        file.write_text(text.format(site=f"http://{site.address}"), "utf-8")
        configured = load(file, {"MAC_API_TOKEN": TOKEN}, data_dir=folder)
        now, sleep = site.clock.now, site.clock.sleep
        upstream = LazyUpstream(now, sleep)
        parts = Parts(upstream.send, lambda record: None, Health(now), now, sleep)
        dispatch = Dispatch(app.catalog(configured, None, vault), parts)
        jobs = durable.queue(configured, dispatch, vault.database, folder)
        status: Any = SimpleNamespace(live=SimpleNamespace(current=configured, reloaded=None), report=None, loaded=dict)
        router = doors.router(configured, dispatch, dict, jobs, doors.Operators(vault, status))
        with serving(living(router, jobs, upstream)) as base:
            yield f"{base}/v1", site


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Site]]:
    with hosted(tmp_path_factory.mktemp("hosted")) as running:
        yield running


@pytest.fixture
def client(hub: tuple[str, Site]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=hub[0], api_key=TOKEN, max_retries=0, timeout=30) as made:
        yield made


@pytest.mark.parametrize("model", [CHAT, "*"])
def test_chat(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=2, temperature=0.5)
    assert (answer.model, answer.choices[0].message.content, answer.choices[0].finish_reason) == (CHAT, "You wrote: ", "length")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (1, 2, 3)


def test_a_stream_says_the_same_and_counts_for_those_who_ask(client: openai.OpenAI) -> None:
    for options in ({}, {"stream_options": {"include_usage": True}}):
        chunks = list(client.chat.completions.create(model=CHAT, messages=HELLO, stream=True, **options))  # type: ignore[call-overload]
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert (said, {chunk.model for chunk in chunks}) == ('You wrote: "hello"', {CHAT})
        counted = [chunk.usage.total_tokens for chunk in chunks if chunk.usage is not None]
        assert counted == ([4] if options else [])
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"


def test_the_asynchronous_client_streams_too(hub: tuple[str, Site]) -> None:
    async def said() -> str:
        async with openai.AsyncOpenAI(base_url=hub[0], api_key=TOKEN, max_retries=0, timeout=30) as client:
            stream = await client.chat.completions.create(model="*", messages=HELLO, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(said()) == 'You wrote: "hello"'


def test_embeddings_as_numbers_and_as_the_base64_that_the_package_asks_for(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model=EMBED, input=["a red cube", "a blue ball"])
    plain = client.embeddings.create(model="*", input=["a red cube", "a blue ball"], encoding_format="float")
    assert [len(item.embedding) for item in packed.data] == [1024, 1024]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert packed.data[0].embedding != packed.data[1].embedding
    raw = client.embeddings.with_raw_response.create(model=EMBED, input="a", encoding_format="base64")
    assert len(base64.b64decode(json.loads(raw.text)["data"][0]["embedding"])) == 4 * 1024


def test_pictures(client: openai.OpenAI) -> None:
    drawn = client.images.generate(model=DRAWS, prompt="a red cube", n=2, size="1024x1024", response_format="b64_json")
    assert drawn.data is not None
    pictures = [base64.b64decode(item.b64_json or "") for item in drawn.data]
    assert [Image.open(io.BytesIO(data)).size for data in pictures] == [(1024, 1024)] * 2
    assert pictures[0] != pictures[1]


def test_transcription(client: openai.OpenAI) -> None:
    heard = client.audio.transcriptions.create(model="whisper-1", file=("clip.wav", WAV))
    plain = client.audio.transcriptions.create(model="whisper-1", file=("clip.wav", WAV), language="en", response_format="text")
    assert heard.text.startswith("a sound of 1.25 seconds at 44")
    assert plain.strip() == heard.text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the package's own, of this method
def test_translation_where_the_recogniser_can_and_where_it_cannot(client: openai.OpenAI, tmp_path: Path) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.translations.create(model="whisper-1", file=("clip.wav", WAV))
    assert caught.value.code == "model_unavailable"
    with hosted(tmp_path, WHISPER) as (base, _), openai.OpenAI(base_url=base, api_key=TOKEN, max_retries=0, timeout=30) as other:
        assert other.audio.translations.create(model="whisper-1", file=("clip.wav", WAV)).text.startswith("a sound of 1.25 seconds")


def test_speech_whole_and_as_it_arrives(client: openai.OpenAI, tmp_path: Path) -> None:
    whole = client.audio.speech.create(model="tts-1", voice=ARIA, input="hello").read()
    with client.audio.speech.with_streaming_response.create(model="tts-1", voice=ARIA, input="hello", response_format="wav") as reply:
        reply.stream_to_file(tmp_path / "speech.wav")
    assert (tmp_path / "speech.wav").read_bytes() == whole
    with wave.open(io.BytesIO(whole)) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (22050, round(0.3 * 22050))
    with client.audio.speech.with_streaming_response.create(model="tts-1", voice=ARIA, input="hello", response_format="pcm") as reply:
        assert sum(len(piece) for piece in reply.iter_bytes(1024)) == 2 * round(0.3 * 24000)


def test_the_model_list(client: openai.OpenAI) -> None:
    models = {model.id: model.model_dump() for model in client.models.list()}
    assert {id: (told["modality"], told["callable"], told["local"]) for id, told in models.items()} == {
        CHAT: ("chat", True, False),
        EMBED: ("embed", True, False),
        DRAWS: ("image", True, False),
    }
    assert client.models.retrieve(DRAWS).owned_by == "black-forest-labs"


def test_a_callers_bad_token_and_a_refused_key_are_told_apart(tmp_path: Path) -> None:
    with hosted(tmp_path) as (base, _), openai.OpenAI(base_url=base, api_key=TOKEN, max_retries=0, timeout=30) as client:
        with pytest.raises(openai.AuthenticationError) as ours:
            client.with_options(api_key="wrong").models.list()
        client.put("/secrets/nvidia-image", body={"value": "nvapi-revoked"}, cast_to=object)
        with pytest.raises(openai.AuthenticationError) as theirs:
            client.images.generate(model=DRAWS, prompt="a red cube")
        assert (ours.value.code, theirs.value.code) == ("invalid_token", "upstream_key_rejected")
        assert "nvidia-image" in theirs.value.message and theirs.value.request_id
        client.put("/secrets/nvidia-image", body={"value": KEY}, cast_to=object)
        assert client.images.generate(model=DRAWS, prompt="a red cube").data


def test_refusals_are_the_packages_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody/nothing", messages=HELLO)
    with pytest.raises(openai.UnprocessableEntityError, match=r"5\.\.100") as steps:
        client.images.generate(model="black-forest-labs/flux.1-dev", prompt="a red cube", extra_body={"steps": 4})
    with pytest.raises(openai.UnprocessableEntityError, match="max_tokens") as theirs:
        client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=0)
    with pytest.raises(openai.BadRequestError) as voice:
        client.audio.speech.create(model="tts-1", voice="Arja", input="hello")
    with pytest.raises(openai.InternalServerError) as outage:
        client.chat.completions.create(model="simulated/exhausted", messages=HELLO)
    told = [caught.value for caught in (missing, steps, theirs, voice, outage)]
    assert [error.status_code for error in told] == [404, 422, 422, 400, 503]
    assert [error.code for error in told[:4]] == ["model_unavailable", "invalid_parameter", "upstream_rejected_request", "unknown_voice"]
    assert all(error.request_id and error.body for error in told)


def test_too_many_requests_are_retried_as_often_as_the_client_says_after_the_time_that_the_hub_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    with hosted(tmp_path) as (base, site), openai.OpenAI(base_url=base, api_key=TOKEN, max_retries=2, timeout=30) as client:

        def passing(seconds: float) -> None:
            slept.append(seconds)
            site.clock.at += seconds

        monkeypatch.setattr("openai._base_client.time", SimpleNamespace(sleep=passing, time=time.time, monotonic=time.monotonic))
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="simulated/429", messages=HELLO)
        asked = [call["status"] for call in site.get("/simulator/calls").json]
        assert client.chat.completions.create(model=CHAT, messages=HELLO).choices[0].message.content
    assert caught.value.code == "rate_limited"
    assert (asked, len(slept)) == ([429] * 3, 2)
    assert int(caught.value.response.headers["retry-after"]) >= max(slept) >= 1
