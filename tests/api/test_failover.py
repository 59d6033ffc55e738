"""Failover over real connections: what callers see of it, and what becomes of those who were asked in vain."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from sensorium.routing.call import Route
from tests.api import hubs
from tests.api.hubs import Hub, Scripted
from tests.routing.hosted import chat, image, nvidia, provider
from tests.serving import serving

CHAT = {"model": "good", "messages": [{"role": "user", "content": "hi"}]}
PICTURE = json.dumps({"artifacts": [{"base64": "iVBORw0KGgo" + "A" * 3000, "finishReason": "SUCCESS", "seed": 1}]}).encode()


class Mute:
    """A provider that reads calls and never answers. `left` is set when a caller closed its connection."""

    def __init__(self) -> None:
        self.left = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while scope["type"] == "http" and (await receive())["type"] != "http.disconnect":
            pass
        if scope["type"] == "http":
            self.left.set()


@contextmanager
def between(route: Any, *programs: Any, **first: Any) -> Iterator[Hub]:
    """A hub with one route to each program; `first` changes the first one's provider."""
    with ExitStack() as stack:
        routes: list[Route] = []
        for number, program in enumerate(programs):
            at = provider(f"{stack.enter_context(serving(program))}/v1", f"p{number}")
            routes.append(route(replace(at, **first) if number == 0 else at))
        yield stack.enter_context(hubs.over(routes))


def said(body: bytes, media: bytes = b"application/json") -> Scripted:
    program = Scripted()
    program.body, program.media = body, media
    return program


def test_of_two_the_slow_one_is_hung_up_on_and_one_record_names_both() -> None:
    mute, quick = Mute(), said(b'{"choices": []}')
    with between(lambda at: chat("good", at), mute, quick, hedge_after_s=0.01) as hub:
        reply, raw = hub.call("POST", "/v1/chat/completions", CHAT)
        assert mute.left.wait(20)
    assert (reply.status, raw, reply.getheader("x-sensorium-source")) == (200, quick.body, "p1")
    assert reply.getheader("x-sensorium-passed-over") == "p0 good: overtaken, given up before it answered"
    assert [[str(attempt) for attempt in record.attempts] for record in hub.records] == [["p0 good: overtaken"]]


def test_a_stream_is_asked_for_once() -> None:
    quick = said(b"data: 1\n\ndata: [DONE]\n\n", b"text/event-stream")
    with between(lambda at: chat("good", at), quick, said(b"{}"), hedge_after_s=0.000001) as hub:
        reply, raw = hub.call("POST", "/v1/chat/completions", {**CHAT, "stream": True})
    assert (raw, reply.getheader("x-sensorium-passed-over"), len(quick.asked)) == (quick.body, None, 1)


def test_an_empty_picture_goes_to_the_next_and_a_large_one_stays_as_it_is() -> None:
    empty, drawn = said(b'{"artifacts": []}'), said(PICTURE)
    with between(lambda at: image("org/m", at), empty, drawn) as hub:
        reply, raw = hub.call("POST", "/v1/genai/org/m", {"prompt": "x"})
    assert (raw, reply.getheader("x-sensorium-source")) == (PICTURE, "p1")
    assert "no picture" in (reply.getheader("x-sensorium-passed-over") or "")


def test_audio_of_no_bytes_goes_to_the_next() -> None:
    with between(lambda at: nvidia("speech", at), said(b"", b"audio/wav"), said(b"RIFF....WAVE", b"audio/wav")) as hub:
        reply, raw = hub.call("POST", "/v1/audio/synthesize", {"text": "hi", "voice": "v"})
    assert (reply.status, raw) == (200, b"RIFF....WAVE")


def test_an_empty_transcript_is_an_answer() -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
    heard = said(b'{"text": ""}')
    with between(lambda at: nvidia("transcribe", at), heard) as hub:
        reply, raw = hub.call("POST", "/v1/audio/transcriptions", form, {"content-type": "multipart/form-data; boundary=b"})
    assert (reply.status, raw) == (200, heard.body)


def test_when_all_are_down_the_answer_comes_at_once_and_lists_them() -> None:
    with hubs.over([chat("good", provider("http://127.0.0.1:1/v1", name)) for name in ("one", "two")]) as hub:
        for _ in range(4):
            status, told = hub.json("POST", "/v1/chat/completions", CHAT)
            assert status == 503
    assert "one: its last calls failed; two: its last calls failed" in told["error"]["message"]
    assert [[attempt.asked for attempt in record.attempts] for record in hub.records] == [[True, True]] * 3 + [[False, False]]


def test_a_turn_that_would_come_too_late_is_refused_at_once() -> None:
    program = said(b'{"choices": []}')
    with between(lambda at: chat("good", replace(at, per_minute=0.001, burst=1)), program) as hub:
        assert hub.call("POST", "/v1/chat/completions", CHAT)[0].status == 200
        reply, raw = hub.call("POST", "/v1/chat/completions", CHAT)
    assert (reply.status, json.loads(raw)["error"]["code"], reply.getheader("retry-after")) == (429, "rate_limited", "60000")
    assert len(program.asked) == 1
