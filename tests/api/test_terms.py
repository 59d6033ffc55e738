"""The headers by which a caller says where any of its calls goes and how long it may take, at every door."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sensorium.api import terms
from sensorium.api.auth import Auth, Principal
from sensorium.routing.call import Route, Where
from tests.api import hubs
from tests.api.hubs import DRAWS
from tests.routing.hosted import chat, image, nvidia, provider
from tests.serving import serving
from tests.upstream_program import Provider

CHAT = {"model": "good", "messages": [{"role": "user", "content": "hi"}]}
DOORS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/completions", {"model": "good", "prompt": "hi"}),
    ("POST", "/v1/responses", {"model": "good", "input": "hi"}),
    ("POST", "/v1/embeddings", {"model": "vector", "input": "hi"}),
    ("POST", "/v1/rerank", {"model": "ranks", "query": "q", "documents": ["a"]}),
    ("POST", "/v1/images/generations", {"model": DRAWS[0], "prompt": "x"}),
    ("POST", "/v1/genai/" + DRAWS[0], {"prompt": "x"}),
    ("POST", "/v1/audio/synthesize", {"text": "hi", "voice": "v"}),
    ("POST", "/v1/audio/speech", {"model": "m", "input": "hi", "voice": "v"}),
    ("GET", "/v1/audio/list_voices", None),
    ("POST", "/v1/video/org/film", {"prompt": "x"}),
]


def routes(base: str) -> list[Route]:
    """One hosted route of each modality."""
    at = provider(f"{base}/v1")
    made = [chat("good", at), replace(chat("vector", at), modality="embed", capabilities=frozenset[str]())]
    return [*made, image(DRAWS[0], at), *(nvidia(kind, at) for kind in ("rerank", "speech", "transcribe", "video"))]


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[Provider, str]]:
    program = Provider()
    with serving(program) as base:
        yield program, base


@pytest.mark.parametrize(("method", "path", "body"), DOORS, ids=[path for _, path, _ in DOORS])
def test_no_door_sends_what_must_stay_here(asked: tuple[Provider, str], method: str, path: str, body: Any) -> None:
    program, base = asked
    before = len(program.seen)
    with hubs.over(routes(base)) as hub:
        status, told = hub.json(method, path, body, {terms.WHERE: "local_only"})
    assert (status, told["error"]["code"], "local_only" in told["error"]["message"]) == (403, "placement", True)
    assert len(program.seen) == before


def test_a_form_stays_here_too(asked: tuple[Provider, str]) -> None:
    program, base = asked
    before = len(program.seen)
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
    headers = {terms.WHERE: "local_only", "content-type": "multipart/form-data; boundary=b"}
    with hubs.over(routes(base)) as hub:
        assert hub.json("POST", "/v1/audio/transcriptions", form, headers)[0] == 403
    assert len(program.seen) == before


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/genai/org/good", "/v1/audio/speech", "/v1/video/org/film"])
@pytest.mark.parametrize(
    ("header", "value", "allowed"),
    [
        (terms.WHERE, "nearby", "local_only"),
        (terms.DEADLINE, "soon", "number above 0"),
        (terms.DEADLINE, "0", "number above 0"),
        (terms.DEADLINE, "-3", "number above 0"),
        (terms.DEADLINE, "nan", "number above 0"),
        (terms.DEADLINE, "inf", "86400"),
    ],
)
def test_what_cannot_be_read_is_named(asked: tuple[Provider, str], path: str, header: str, value: str, allowed: str) -> None:
    with hubs.over(routes(asked[1])) as hub:
        status, told = hub.json("POST", path, CHAT, {header: value})
    message = told["error"]["message"]
    assert (status, told["error"]["param"]) == (400, header)
    assert header in message and value in message and allowed in message


def both(base: str) -> list[Route]:
    return [chat("good", provider(f"{base}/v1", "far")), chat("good", provider(f"{base}/v1", "near", local=True))]


@pytest.mark.parametrize(
    ("where", "order", "source", "place"),
    [
        (None, "any", "far", "hosted"),
        ("any", "local_first", "far", "hosted"),
        ("local_first", "any", "near", "local"),
        (None, "local_first", "near", "local"),
        ("LOCAL_ONLY", "any", "near", "local"),
        ("hosted_first", "local_first", "far", "hosted"),
        ("hosted_only", "any", "far", "hosted"),
        ("hosted_first", "local_only", "near", "local"),
    ],
)
def test_where_a_call_goes_and_that_it_is_told(
    asked: tuple[Provider, str], where: str | None, order: Where, source: str, place: str
) -> None:
    with hubs.over(both(asked[1]), order=order) as hub:
        reply, _ = hub.call("POST", "/v1/chat/completions", CHAT, {terms.WHERE: where} if where else {})
    assert (reply.status, reply.getheader("x-sensorium-source"), reply.getheader("x-sensorium-place")) == (200, source, place)


def test_who_was_passed_over_and_why_is_in_a_header(asked: tuple[Provider, str]) -> None:
    near, far = provider(f"{asked[1]}/v1", "near", local=True), provider(f"{asked[1]}/v1", "far")
    broken = replace(near, down=lambda: "its warm-up failed")
    with hubs.over([chat("good", broken), chat("good", far)]) as hub:
        reply, _ = hub.call("POST", "/v1/chat/completions", CHAT)
        alone, _ = hub.call("POST", "/v1/chat/completions", CHAT, {terms.WHERE: "hosted_only"})
        strict = hub.json("POST", "/v1/chat/completions", CHAT, {terms.WHERE: "local_only"})
    assert reply.getheader("x-sensorium-passed-over") == "near good: provider_outage (not asked), its warm-up failed"
    assert (reply.getheader("x-sensorium-source"), alone.getheader("x-sensorium-passed-over")) == ("far", None)
    assert (strict[0], "its warm-up failed" in strict[1]["error"]["message"]) == (503, True)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/genai/org/slow"])
def test_a_deadline_that_passes_is_a_504_that_lists_who_was_asked(path: str) -> None:
    class Silent(hubs.Scripted):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            while scope["type"] == "http" and (await receive())["type"] != "http.disconnect":
                pass

    with serving(Silent()) as base, hubs.over([chat("good", provider(base, "mute")), image("org/slow", provider(base, "mute"))]) as hub:
        reply, raw = hub.call("POST", path, CHAT, {terms.DEADLINE: "0.05"})
        told = json.loads(raw)
    assert (reply.status, told["error"]["code"]) == (504, "deadline_exceeded")
    assert "0.05 seconds" in told["error"]["message"] and "mute" in told["error"]["message"]
    assert ("detail" in told) == path.startswith("/v1/genai")
    assert [(record.status, len(record.attempts)) for record in hub.records] == [(504, 1)]


def test_only_listed_headers_go_on(asked: tuple[Provider, str]) -> None:
    program, base = asked
    sent = {
        "traceparent": "00-1-2-03",
        "openai-beta": "x=1",
        "cookie": "a=b",
        "x-api-key": "k",
        "authorization": "Bearer mine",
        "te": "trailers",
    }
    with hubs.over([chat("good", provider(f"{base}/v1"))]) as hub:
        hub.call("POST", "/v1/chat/completions", CHAT, sent)
    _, headers, _ = program.seen[-1]
    assert (headers["traceparent"], headers["openai-beta"], headers["authorization"]) == ("00-1-2-03", "x=1", "Bearer k")
    assert not {"cookie", "x-api-key", "te", terms.WHERE} & set(headers)


def test_an_error_keeps_the_providers_id_of_the_call(asked: tuple[Provider, str]) -> None:
    with hubs.over([chat("refuse-429", provider(f"{asked[1]}/v1"))]) as hub:
        reply, _ = hub.call("POST", "/v1/chat/completions", {**CHAT, "model": "refuse-429"})
    assert (reply.status, reply.getheader("retry-after"), reply.getheader("x-upstream-request-id")) == (429, "7", "theirs")


def test_a_tokens_place_holds_for_its_calls(asked: tuple[Provider, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Auth, "__call__", lambda self, visit: Principal("kept", "local_only"))
    with hubs.over(both(asked[1])) as hub:
        reply, _ = hub.call("POST", "/v1/chat/completions", CHAT, {terms.WHERE: "hosted_first"})
        status, told = hub.json("POST", "/v1/chat/completions", CHAT, {terms.WHERE: "hosted_only"})
    assert reply.getheader("x-sensorium-source") == "near"
    assert (status, told["error"]["code"]) == (403, "placement")


def test_pictures_go_to_the_next_model_when_a_provider_refuses_for_now(asked: tuple[Provider, str]) -> None:
    at = provider(f"{asked[1]}/v1/genai")
    with hubs.over([image("org/refuse-429", at), image("org/good", at)]) as hub:
        reply, raw = hub.call("POST", "/v1/images/generations", {"prompt": "x"})
    assert (reply.status, len(json.loads(raw)["data"])) == (200, 1)
