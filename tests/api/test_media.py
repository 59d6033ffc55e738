"""POST /v1/media/{op}: the same body on every binding, in front of the simulator and of a provider whose answers are written here."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from sensorium.routing.call import Provider, Route
from sensorium.simulators.sound import riff, tone
from sensorium.wire import dataurl
from tests.api import hubs
from tests.api.hubs import Hub, Scripted, form_of
from tests.routing.hosted import chat, image, nvidia, provider
from tests.serving import serving
from tests.simulators.site import AI, INTEGRATE, KEY, MAGPIE, PARAKEET, Site, eventually
from tests.simulators.site import running as simulating
from tests.simulators.test_video import still

SCHNELL, QWEN = "black-forest-labs/flux.1-schnell", "qwen/qwen-image"
SEES, ARIA = "meta/llama-3.2-11b-vision-instruct", "Magpie-Multilingual.EN-US.Aria"
COSMOS, COSMOS3, SVD = "nvidia/cosmos-predict1-7b", "nvidia/cosmos3-nano", "stabilityai/stable-video-diffusion"
WAV = riff(tone(440, 1.25, 16000), 16000)
OPS = ("image.generate", "image.understand", "audio.tts", "audio.asr", "video.generate", "audio.music")
CHANGED = "x-sensorium-changed"


def at(site: Site, path: str, name: str) -> Provider:
    return replace(provider(f"http://{site.address}{path}", name, KEY), timeout_s=60.0, idle_s=60.0)


def routes(site: Site) -> list[Route]:
    """Every operation at NVIDIA, and pictures at a container of OpenAI's dialect as well."""
    paint, films = at(site, f"{AI}/v1/genai", "paint"), at(site, f"{AI}/v1/cosmos", "films")
    return [
        image(SCHNELL, paint),
        replace(image(QWEN, at(site, f"/nim/{QWEN}/v1", "own")), dialect="openai"),
        chat(SEES, at(site, f"{INTEGRATE}/v1", "sees")),
        nvidia("speech", at(site, f"{MAGPIE}/v1", "says")),
        nvidia("transcribe", at(site, f"{PARAKEET}/v1", "hears")),
        nvidia("video", films, dialect="genai"),
        nvidia("video", paint, SVD, "genai"),
    ]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with simulating() as site:
        yield site


@pytest.fixture
def hub(site: Site) -> Iterator[Hub]:
    with hubs.over(routes(site)) as hub:
        yield hub


def made(hub: Hub, op: str, body: Any) -> tuple[dict[str, Any], str]:
    """The answer of a call that worked and left one record, and what was changed for it."""
    reply, raw = hub.call("POST", f"/v1/media/{op}", body)
    assert reply.status == 200, raw
    answer = json.loads(raw)
    assert (reply.getheader("content-type"), answer["provider"]) == ("application/json", reply.getheader("x-sensorium-source"))
    eventually(lambda: len(hub.records) == 1)
    assert hub.records[0].outcome == "answered"
    return answer, reply.getheader(CHANGED) or ""


def size(artifact: dict[str, Any]) -> tuple[int, int]:
    with Image.open(io.BytesIO(base64.b64decode(artifact["base64"]))) as picture:
        assert artifact["content_type"] == f"image/{(picture.format or '').lower()}"
        return picture.size


DRAWING = {"prompt": "a red cube", "width": 768, "height": 1024, "steps": 4, "seed": 9, "cfg_scale": 0, "n": 2}


@pytest.mark.parametrize(
    ("model", "provider", "changed"),
    [("*", "paint", ""), (SCHNELL, "paint", ""), (QWEN, "own", "steps, seed, cfg_scale dropped: OpenAI's protocol has none")],
)
def test_the_same_drawing_on_every_binding(hub: Hub, model: str, provider: str, changed: str) -> None:
    answer, told = made(hub, "image.generate", {**DRAWING, "model": model})
    assert [size(one) for one in answer["artifacts"]] == [(768, 1024)] * 2
    assert (answer["provider"], answer["model"], told) == (provider, SCHNELL if model == "*" else model, changed)
    assert sorted(answer) == ["artifacts", "model", "provider"]


def test_a_picture_is_understood(hub: Hub) -> None:
    data = base64.b64decode(still().partition(",")[2])
    said = [
        made(hub, "image.understand", {"prompt": "What is it?", "image": sent, "max_tokens": 50})[0] | {"records": hub.records.clear()}
        for sent in (dataurl.build("image/png", data), base64.b64encode(data).decode())
    ]
    assert said[0] == said[1]
    assert (said[0]["provider"], said[0]["model"]) == ("sees", SEES)
    assert said[0]["text"]


def test_a_text_is_spoken_and_heard(hub: Hub) -> None:
    answer, told = made(hub, "audio.tts", {"input": "hello there", "voice": ARIA, "format": "wav"})
    (artifact,) = answer["artifacts"]
    assert (answer["provider"], answer["model"], artifact["content_type"]) == ("says", None, "audio/wav")
    assert "language en-US added" in told
    with wave.open(io.BytesIO(base64.b64decode(artifact["base64"]))) as file:
        assert file.getnframes() > 0
    hub.records.clear()
    heard, _ = made(hub, "audio.asr", {"audio": artifact["base64"]})
    assert (heard["provider"], heard["text"].startswith("a sound of 0.6")) == ("hears", True)


def test_sound_as_a_data_url_with_a_model_and_a_language(hub: Hub) -> None:
    heard, told = made(hub, "audio.asr", {"audio": dataurl.build("audio/wav", WAV), "model": "parakeet", "language": "en"})
    assert (heard["text"].startswith("a sound of 1.25 seconds"), heard["model"]) == (True, "parakeet")
    assert told == "model parakeet dropped: this upstream serves one model; language en sent as en-US"


FILM = {"prompt": "a drone shot", "width": 96, "height": 64, "duration": 0.2, "seed": 7, "cfg_scale": 3, "steps": 5}


@pytest.mark.parametrize(
    ("model", "body", "changed"),
    [
        (COSMOS, FILM, ""),
        (COSMOS3, FILM, "size 96x64 -> resolution 256_4_3; duration -> 5 frames at 24 a second"),
        (SVD, {**FILM, "image": still()}, "prompt, width, height, duration, steps dropped"),
    ],
)
def test_the_same_film_on_every_model(hub: Hub, model: str, body: dict[str, Any], changed: str) -> None:
    answer, told = made(hub, "video.generate", {**body, "model": model})
    (artifact,) = answer["artifacts"]
    assert (artifact["content_type"], base64.b64decode(artifact["base64"])[4:8], answer["model"]) == ("video/mp4", b"ftyp", model)
    assert told == changed


def test_a_film_that_is_not_waited_for_is_a_job(hub: Hub) -> None:
    body = {"prompt": "a drone shot over a forest", "width": 256, "height": 144, "duration": 1, "model": COSMOS}
    reply, raw = hub.call("POST", "/v1/media/video.generate", body, {"Prefer": "respond-async"})
    job = json.loads(raw)
    assert (reply.status, reply.getheader("preference-applied"), job["status"]) == (202, "respond-async", "queued")
    path = f"/v1/media/jobs/{job['job_id']}"
    eventually(lambda: hub.json("GET", path)[1]["status"] == "completed")
    done = hub.json("GET", path)[1]
    assert base64.b64decode(done["artifacts"][0]["base64"])[4:8] == b"ftyp"
    assert (done["job_id"], done["provider"], done["model"]) == (job["job_id"], "films", COSMOS)
    assert hub.json("GET", f"/v1/videos/{job['job_id']}")[1]["status"] == "completed"


def test_a_job_that_failed_says_why_and_an_unknown_one_is_not_there(hub: Hub) -> None:
    _, raw = hub.call("POST", "/v1/media/video.generate", {"prompt": "x", "model": "nvidia/nobody"}, {"Prefer": "respond-async"})
    path = f"/v1/media/jobs/{json.loads(raw)['job_id']}"
    eventually(lambda: hub.json("GET", path)[1]["status"] == "failed")
    assert hub.json("GET", path)[1]["error"]["code"] == "model_unavailable"
    assert [hub.json("GET", f"/v1/media/jobs/{id}")[0] for id in ("video_none", "none", "")] == [404, 404, 404]


@pytest.mark.parametrize("op", OPS)
def test_what_nobody_serves_names_the_operation_and_the_setting(op: str) -> None:
    with hubs.over([]) as hub:
        status, body = hub.json("POST", f"/v1/media/{op}", {})
    wanted = {"image.generate": "router.image", "image.understand": "vision = true", "video.generate": "router.video", "audio.music": "fal"}
    assert (status, body["error"]["code"], op in body["error"]["message"]) == (404, "not_configured", True)
    assert wanted.get(op, "router.audio") in body["error"]["message"]


def test_a_blind_chat_model_does_not_understand_pictures(site: Site) -> None:
    with hubs.over([chat("blind", at(site, f"{INTEGRATE}/v1", "sees"), {"text"})]) as hub:
        assert hub.json("POST", "/v1/media/image.understand", {"prompt": "x", "image": still()})[0] == 404


@pytest.mark.parametrize("op", ["image.sing", "", "image.generate/x", "..", "image", "Image.Generate"])
def test_an_unknown_operation_lists_those_there_are(hub: Hub, op: str) -> None:
    status, body = hub.json("POST", f"/v1/media/{op}", {})
    assert (status, body["error"]["code"], body["error"]["hint"]) == (404, "unknown_route", f"there are {', '.join(OPS)}")
    assert hub.json("GET", "/v1/media/image.generate")[0] == 405


BAD: list[tuple[str, Any, int, str]] = [
    ("image.generate", b"", 400, "empty"),
    ("image.generate", b"[1]", 400, "not an object"),
    ("image.generate", {}, 422, "prompt is missing"),
    ("image.generate", {"prompt": "x", "stpes": 4}, 422, "stpes: extra inputs are not permitted; image.generate takes prompt"),
    ("image.generate", {"prompt": "x", "width": 768}, 422, "width and height go together"),
    ("image.generate", {"prompt": "x", "n": 11}, 422, "n is 11"),
    ("image.generate", {"prompt": "x", "steps": 9, "model": SCHNELL}, 422, "steps is 9; black-forest-labs/flux.1-schnell takes"),
    ("image.generate", {"prompt": "x", "model": "../x"}, 400, "not a model name"),
    ("image.generate", {"prompt": "x", "model": "no/such"}, 404, "no model 'no/such'"),
    ("image.generate", {"prompt": "nsfw"}, 422, "content filter"),
    ("image.understand", {"prompt": "x"}, 422, "image is missing"),
    ("image.understand", {"prompt": "x", "image": "ä@"}, 400, "image is no picture"),
    ("audio.tts", {"input": ""}, 422, "input is"),
    ("audio.tts", {"input": "x", "format": "mp3"}, 422, "'mp3' cannot be made"),
    ("audio.tts", {"input": "x", "voice": "Arja"}, 400, "no voice 'Arja'"),
    ("audio.asr", {"audio": "@@"}, 400, "base64 is damaged"),
    ("audio.asr", {"audio": "https://a.example/a.wav"}, 422, "a link, which is not followed"),
    ("audio.asr", {"audio": "aGVsbG8="}, 415, "unknown format"),
    ("video.generate", {"prompt": "x", "model": SVD}, 422, "image is missing"),
    ("video.generate", {"prompt": "x", "duration": 0, "model": COSMOS}, 422, "duration is 0"),
]


@pytest.mark.parametrize(("op", "body", "status", "said"), BAD, ids=[f"{row[0]}: {row[3]}" for row in BAD])
def test_bad_calls_get_one_clear_error(hub: Hub, op: str, body: Any, status: int, said: str) -> None:
    got, answer = hub.json("POST", f"/v1/media/{op}", body)
    assert (got, said in answer["error"]["message"]) == (status, True), answer
    assert answer["error"]["request_id"]


def test_a_service_of_any_film_wants_a_name(site: Site) -> None:
    with hubs.over([nvidia("video", at(site, f"{AI}/v1/cosmos", "films"), dialect="genai")]) as hub:
        status, answer = hub.json("POST", "/v1/media/video.generate", {"prompt": "x"})
    assert (status, "name a model" in answer["error"]["message"]) == (400, True)


def test_nulls_and_a_fleets_own_context_go_nowhere(hub: Hub, site: Site) -> None:
    made(hub, "image.generate", {"prompt": "x", "width": 768, "height": 768, "seed": None, "_mac_context": {"agent": "canary"}})
    assert b"canary" not in site.call("GET", "/simulator/calls").body


SHAPES: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    ({"b64_json": "iVBORw0KGgpB"}, [{"base64": "iVBORw0KGgpB", "content_type": "image/png"}]),
    ({"url": "https://a.example/b.webp?x=1"}, [{"url": "https://a.example/b.webp?x=1", "content_type": "image/webp"}]),
    ({"url": "data:image/jpeg;base64,/9j/QUJD"}, [{"base64": "/9j/QUJD", "content_type": "image/jpeg"}]),
    ({"b64_json": "QUJD", "url": None}, [{"base64": "QUJD", "content_type": None}]),
]


@pytest.mark.parametrize(("given", "artifacts"), SHAPES)
def test_pictures_of_openais_dialect_are_artifacts(scripted: tuple[Scripted, Hub], given: Any, artifacts: Any) -> None:
    program, hub = scripted
    program.body = json.dumps({"created": 1, "data": [given]}).encode()
    body = {"prompt": "x", "model": "good-picture", "n": 2, "width": 64, "height": 32}
    answer, _ = made(hub, "image.generate", body)
    assert answer["artifacts"] == artifacts
    assert answer["short"] == "1 of 2: talk gave no more"
    assert json.loads(program.asked[0][1]) == {"prompt": "x", "model": "good-picture", "n": 2, "size": "64x32"}


@pytest.mark.parametrize("body", [b'{"data": []}', b'{"data": [{}]}', b"{}", b"[]", b"no", b'{"data": {"b64_json": "QUJD"}}'])
def test_an_answer_without_a_picture_is_a_failure(scripted: tuple[Scripted, Hub], body: bytes) -> None:
    program, hub = scripted
    program.body = body
    status, answer = hub.json("POST", "/v1/media/image.generate", {"prompt": "x", "model": "good-picture"})
    assert status >= 500
    assert ("JSON" if body == b"no" else "picture") in answer["error"]["message"]


@pytest.mark.parametrize(
    ("body", "artifact"),
    [
        (
            b'{"video_url": 1, "data": [{"url": "https://a.example/f.mp4"}]}',
            {"url": "https://a.example/f.mp4", "content_type": "video/mp4"},
        ),
        (b'{"video": "AAAA"}', {"base64": "AAAA", "content_type": "video/mp4"}),
    ],
)
def test_a_film_elsewhere(body: bytes, artifact: dict[str, Any]) -> None:
    program = Scripted()
    program.body = body
    with serving(program) as base, hubs.over([nvidia("video", provider(base, "films"), "org/film", "openai")]) as hub:
        answer, _ = made(hub, "video.generate", {"prompt": "x", "duration": 2})
    assert (answer["artifacts"], json.loads(program.asked[0][1])) == ([artifact], {"prompt": "x", "duration": 2})


def test_speech_of_openais_dialect() -> None:
    """The same bodies as for NVIDIA's services: `format` is OpenAI's `response_format`, and a `language` it does not know stays behind."""
    program = Scripted()
    with serving(program) as base:
        at = provider(f"{base}/v1", "theirs")
        with hubs.over([replace(nvidia(kind, at, "any", "openai"), upstream="their-own") for kind in ("speech", "transcribe")]) as hub:
            program.body, program.media = WAV, b"audio/wav"
            answer, told = made(hub, "audio.tts", {"input": "x", "voice": "alloy", "format": "wav", "language": "en", "model": "any"})
            assert (answer["artifacts"][0]["content_type"], told) == ("audio/wav", "language dropped: OpenAI's protocol has none")
            assert json.loads(program.asked[0][1]) == {"input": "x", "voice": "alloy", "response_format": "wav", "model": "their-own"}
            hub.records.clear()
            program.body, program.media = b'{"text": "a b"}', b"application/json"
            heard, _ = made(hub, "audio.asr", {"audio": base64.b64encode(WAV).decode(), "language": "en"})
    form = form_of(program.asked[1][1])
    assert [(part.name, part.filename) for part in form] == [("file", "audio.wav"), ("language", None), ("model", None)]
    assert (bytes(form[0].data), form[2].text(), heard) == (WAV, "their-own", {"text": "a b", "provider": "theirs", "model": "any"})


def test_a_filtered_film_is_an_error() -> None:
    program = Scripted()
    program.body = b'{"video": "AAAA", "finish_reason": "CONTENT_FILTERED"}'
    with serving(program) as base, hubs.over([nvidia("video", provider(base), "org/film", "genai")]) as hub:
        status, answer = hub.json("POST", "/v1/media/video.generate", {"prompt": "x"})
    assert (status, answer["error"]["code"]) == (422, "content_policy_violation")


def test_star_goes_on_where_a_models_rules_forbid_the_call(hub: Hub) -> None:
    answer, told = made(hub, "image.generate", {**DRAWING, "steps": 9})
    assert (answer["model"], told) == (QWEN, "steps, seed, cfg_scale dropped: OpenAI's protocol has none")


def test_an_outage_of_one_binding_is_answered_by_the_next(site: Site) -> None:
    broken = image(SCHNELL, at(site, f"{AI}/v1/genai", "paint"), "simulated/degraded")
    with hubs.over([broken, *routes(site)[1:]]) as hub:
        answer, told = made(hub, "image.generate", {**DRAWING, "model": "*"})
    assert (answer["provider"], answer["model"], len(answer["artifacts"])) == ("own", QWEN, 2)
    assert "steps, seed, cfg_scale dropped" in told
