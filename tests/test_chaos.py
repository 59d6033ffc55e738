"""Every way in which a provider fails, in every modality: the caller gets the next route's answer or one clear error, and it recovers.

Two simulators, a faulty and a good one, behind a hub in this process. What is silent waits on short timeouts; clocks are injected.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from typing import Any

import pytest

from sensorium.routing.call import Credential, Provider, Record, Route
from sensorium.routing.health import Health
from sensorium.simulators.sound import riff, tone
from sensorium.wire import multipart
from sensorium.wire.multipart import Part
from tests.api import hubs
from tests.api.hubs import Hub
from tests.routing.hosted import chat, image, nvidia, provider
from tests.simulators.site import AI, INTEGRATE, KEY, MAGPIE, PARAKEET, Site, eventually
from tests.simulators.site import running as simulating

LLAMA, E5, RERANK = "meta/llama-3.1-8b-instruct", "nvidia/nv-embedqa-e5-v5", "nvidia/llama-3.2-nv-rerankqa-1b-v2"
SCHNELL, COSMOS = "black-forest-labs/flux.1-schnell", "nvidia/cosmos-predict1-7b"
HELLO = {"model": LLAMA, "messages": [{"role": "user", "content": "hello"}]}
FILM = {"prompt": "a forest", "seed": 7, "video_params": {"height": 64, "width": 96, "frames_count": 5, "frames_per_sec": 24}}
VOICE = "Magpie-Multilingual.EN-US.Aria"
SHORT_S, LONG_S = 0.15, 60.0
SILENT = ("no-answer", "slow-first-byte")
BROKEN = ("reset", "half-body")
REFUSING = ("500", "429", "401")
SPOILT = ("garbage", "empty", "malformed-json")
FAULTS = (*REFUSING, *SILENT, *BROKEN, *SPOILT)

Answer = tuple[int, dict[str, str], bytes]


class Modality:
    """How a modality is called, where it is at the simulator, and what its answer must be."""

    def __init__(self, where: str, route: Callable[[Provider], Route], path: str, body: Any, good: Callable[[bytes], bool]) -> None:
        self.where, self.route, self.path, self.good = where, route, path, good
        form = isinstance(body, tuple)
        self.media, self.body = body if form else ("application/json", json.dumps(body).encode())


def told(*places: Any) -> Callable[[bytes], bool]:
    """Whether there is something at that place of a JSON answer."""

    def there(raw: bytes) -> bool:
        found = json.loads(raw)
        for place in places:
            found = found[place]
        return bool(found)

    return there


def filmed(raw: bytes) -> bool:
    return base64.b64decode(json.loads(raw)["artifacts"][0]["base64"])[4:8] == b"ftyp"


FORM = multipart.build([Part("file", riff(tone(440, 0.25, 16000), 16000), "clip.wav", "audio/wav")])
MODALITIES = {
    "chat": Modality(
        f"{INTEGRATE}/v1", lambda at: chat(LLAMA, at), "/v1/chat/completions", HELLO, told("choices", 0, "message", "content")
    ),
    "stream": Modality(
        f"{INTEGRATE}/v1",
        lambda at: chat(LLAMA, at),
        "/v1/chat/completions",
        {**HELLO, "stream": True},
        lambda raw: raw.endswith(b"data: [DONE]\n\n") and b'"error"' not in raw,
    ),
    "embeddings": Modality(
        f"{INTEGRATE}/v1",
        lambda at: nvidia("embed", at, E5),
        "/v1/embeddings",
        {"model": E5, "input": "hello"},
        told("data", 0, "embedding"),
    ),
    "rerank": Modality(
        f"{AI}/v1/retrieval/nvidia",
        lambda at: nvidia("rerank", at, RERANK),
        "/v1/rerank",
        {"model": RERANK, "query": "red", "documents": ["a", "red"]},
        told("results", 0),
    ),
    "image": Modality(
        f"{AI}/v1/genai",
        lambda at: image(SCHNELL, at),
        f"/v1/genai/{SCHNELL}",
        {"prompt": "a red cube", "width": 768, "height": 768},
        told("artifacts", 0, "base64"),
    ),
    "speech": Modality(
        f"{MAGPIE}/v1",
        lambda at: nvidia("speech", at),
        "/v1/audio/synthesize",
        {"text": "hello", "voice": VOICE},
        lambda raw: raw[:4] == b"RIFF",
    ),
    "transcription": Modality(f"{PARAKEET}/v1", lambda at: nvidia("transcribe", at), "/v1/audio/transcriptions", FORM, told("text")),
    "video": Modality(f"{AI}/v1/cosmos", lambda at: nvidia("video", at, dialect="genai"), f"/v1/video/{COSMOS}", FILM, filmed),
}


@contextmanager
def resetting() -> Iterator[str]:
    """A server that reads what is sent and answers with a reset of the connection; yields its base URL."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                caller, _ = server.accept()
                caller.settimeout(5)
                with suppress(OSError), caller:
                    caller.recv(1024)
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


@pytest.fixture(scope="module")
def faulty() -> Iterator[Site]:
    with simulating() as site:
        yield site


@pytest.fixture(scope="module")
def good() -> Iterator[Site]:
    with simulating() as site:
        yield site


@pytest.fixture(scope="module")
def reset() -> Iterator[str]:
    with resetting() as base:
        yield base


@contextmanager
def ordered(site: Site, fault: str) -> Iterator[None]:
    """The fault meets every call to the simulator; `slow-first-byte` means one that never comes."""
    if fault != "reset":
        assert site.call("POST", "/simulator/faults", {"kind": fault, "seconds": 1.0}).status == 204
    site.clock.held = fault == "slow-first-byte"
    try:
        yield
    finally:
        site.clock.held = False
        site.call("DELETE", "/simulator/faults")


def asked(hub: Hub, modality: Modality) -> Answer | None:
    """The whole answer; None for a body that is visibly cut short."""
    try:
        reply, raw = hub.call("POST", modality.path, modality.body, {"content-type": modality.media})
    except (HTTPException, ConnectionError):
        return None
    finally:
        hub.close()
    return reply.status, {name.lower(): text for name, text in reply.getheaders()}, raw


def clear(answer: Answer, path: str) -> dict[str, Any]:
    """The `error` object of one clear error in the dialect of the door."""
    status, headers, raw = answer
    assert status >= 400, (status, raw[:200])
    reply = json.loads(raw)
    error: dict[str, Any] = reply["error"]
    assert error["message"] and error["code"] and error["request_id"] == headers["x-request-id"]
    assert ("detail" in reply) == path.startswith(("/v1/genai", "/v1/audio", "/v1/video"))
    return error


def broken_off(answer: Answer | None) -> bool:
    """Whether the caller can see that what it got is not all: a cut body, or a stream that ends with an error event."""
    if answer is None:
        return True
    status, headers, raw = answer
    last = raw.strip().rpartition(b"\n\n")[2].removeprefix(b"data: ")
    return status == 200 and headers["content-type"].startswith("text/event-stream") and "error" in json.loads(last)


# a torn frame inside a stream and torn JSON of large answers are seen when the answer is already on its way
LATE = {("stream", "malformed-json"), ("image", "malformed-json"), ("video", "malformed-json")}
TABLE = [(name, fault) for name in MODALITIES for fault in FAULTS if (name, fault) not in LATE]


@pytest.mark.parametrize(("name", "fault"), TABLE)
def test_a_fault(faulty: Site, good: Site, reset: str, name: str, fault: str) -> None:
    modality, version = MODALITIES[name], [0]
    base = reset if fault == "reset" else f"http://{faulty.address}{modality.where}"
    key = Credential("the-key", lambda: KEY, lambda: version[0])
    bad = replace(provider(base, "bad"), credential=key, timeout_s=LONG_S, idle_s=LONG_S)
    hasty = replace(bad, timeout_s=SHORT_S, idle_s=SHORT_S) if fault in SILENT else bad
    fine = replace(provider(f"http://{good.address}{modality.where}", "fine", KEY), timeout_s=LONG_S, idle_s=LONG_S)

    with ordered(faulty, fault):
        _with_another_route(modality, fault, [modality.route(hasty), modality.route(fine)])
        now, health = [0.0], Health(lambda: now[0])
        _alone(modality, fault, modality.route(hasty), health, now)
    now[0], version[0] = 3600.0, 1
    back = replace(bad, base_url=f"http://{faulty.address}{modality.where}")
    with hubs.over([modality.route(back)], health=health) as hub:
        answer = asked(hub, modality)
        assert answer is not None and answer[0] == 200, answer
        assert modality.good(answer[2])


def _with_another_route(modality: Modality, fault: str, routes: list[Route]) -> None:
    with hubs.over(routes) as hub:
        answer = asked(hub, modality)
        if fault == "half-body" and (answer is None or answer[1]["x-sensorium-source"] != "fine"):
            # Some of it was on its way already: never a second model's words behind it.
            assert broken_off(answer) or clear(answer or (0, {}, b""), modality.path)
            eventually(lambda: bool(hub.records))
            assert [record.outcome for record in hub.records] == ["failed"]
            return
        assert answer is not None
        assert (answer[0], answer[1]["x-sensorium-source"]) == (200, "fine"), answer
        assert modality.good(answer[2])
        eventually(lambda: bool(hub.records))
        (record,) = hub.records
        assert [attempt.route.provider.name for attempt in record.attempts] == ["bad"]


def _alone(modality: Modality, fault: str, route: Route, health: Health, now: list[float]) -> None:
    async def sleep(seconds: float) -> None:
        now[0] += seconds

    with hubs.over([route], health=health, sleep=sleep) as hub:
        for _ in range(4):
            before = len(hub.records)
            answer = asked(hub, modality)
            if not (fault == "half-body" and broken_off(answer)):
                assert answer is not None
                error = clear(answer, modality.path)
                assert KEY not in json.dumps(error)
                assert answer[0] == {"429": 429, "401": 401}.get(fault, answer[0])
            eventually(partial(more_than, hub.records, before))  # one is written once its reply is out
            assert len(hub.records) == before + 1
            assert hub.records[-1].outcome != "answered"


def more_than(records: list[Record], before: int) -> bool:
    return len(records) > before


def test_torn_json_of_a_picture_is_one_clear_error(faulty: Site) -> None:
    modality = MODALITIES["image"]
    at = replace(provider(f"http://{faulty.address}{modality.where}", "bad", KEY), timeout_s=LONG_S, idle_s=LONG_S)
    with ordered(faulty, "malformed-json"), hubs.over([modality.route(at)]) as hub:
        answer = asked(hub, modality)
    assert answer is not None and answer[0] == 502
    clear(answer, modality.path)
