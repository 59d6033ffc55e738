"""What really goes over the wire to a provider, and what its failures become."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import Any

import pytest

from sensorium import egress
from sensorium.errors import DeadlineExceeded, Unavailable, UpstreamFailed, UpstreamRefused
from sensorium.routing.call import Call, Reply, Route
from sensorium.routing.upstream import Upstream
from sensorium.wire import jsonbody
from tests.routing.hosted import call, chat, image, provider
from tests.serving import serving
from tests.upstream_program import Provider

SCHNELL = "black-forest-labs/flux.1-schnell"


def sent(call: Call, route: Route) -> tuple[Reply, bytes]:
    async def main() -> tuple[Reply, bytes]:
        upstream = Upstream()
        try:
            reply = await upstream.send(call, route)
            try:
                return reply, b"".join([chunk async for chunk in reply.chunks])
            finally:
                await reply.close()
        finally:
            await upstream.close()

    return asyncio.run(main())


def test_the_model_is_renamed_and_the_key_added() -> None:
    program = Provider()
    with serving(program) as base:
        _, body = sent(call(), chat("good", provider(f"{base}/v1", key="secret"), upstream="their/name"))
    path, headers, got = program.seen[0]
    assert (path, headers["authorization"]) == ("/v1/chat/completions", "Bearer secret")
    assert got == b'{"messages":[1, 2.50],"model":"their/name"}'
    assert json.loads(body)["model"] == "their/name"


def test_response_headers_are_kept_by_an_allow_list() -> None:
    with serving(Provider()) as base:
        reply, _ = sent(call(), chat("good", provider(base)))
    assert reply.headers["retry-after"] == "7"
    assert reply.headers["x-upstream-request-id"] == "theirs"
    assert (reply.headers["x-ratelimit-remaining"], reply.headers["ratelimit-policy"]) == ("3", "40;w=60")
    assert not {"set-cookie", "connection", "x-request-id"} & set(reply.headers)


def test_genai_goes_to_the_models_own_path_without_a_model_member() -> None:
    program = Provider()
    asked = call(model=SCHNELL, modality="image", dialects=("genai",), members=jsonbody.members(b'{"prompt":"x"}'))
    with serving(program) as base:
        sent(asked, image(SCHNELL, provider(f"{base}/v1/genai")))
        sent(asked, image(SCHNELL, provider(f"{base}/v1", local=True), "sensorium/flow", stand_in=True))
    assert [path for path, _, _ in program.seen] == [f"/v1/genai/{SCHNELL}", "/v1/genai/sensorium/flow"]
    assert [json.loads(body) for _, _, body in program.seen] == [
        {"prompt": "x"},
        {"prompt": "x", "width": 1024, "height": 1024, "steps": 4, "cfg_scale": 0},
    ]


def test_a_reply_that_is_cut_off() -> None:
    with serving(Provider()) as base, pytest.raises(UpstreamFailed, match="middle of its reply"):
        sent(call(stream=True, members=jsonbody.members(b'{"stream":true}')), chat("cut", provider(base)))


def test_a_connection_that_closes_before_the_reply() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        hang_up = threading.Thread(target=lambda: server.accept()[0].close())
        hang_up.start()
        with pytest.raises(UpstreamFailed, match="before answering"):
            sent(call(), chat("good", provider(f"http://127.0.0.1:{server.getsockname()[1]}")))
        hang_up.join()


def test_nobody_at_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="hosted cannot be reached"):
            sent(call(), chat("good", provider(f"http://127.0.0.1:{taken.getsockname()[1]}")))


def test_a_provider_that_never_answers() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        at = provider(f"http://127.0.0.1:{silent.getsockname()[1]}")
        quick = type(at)(at.name, at.base_url, at.credential, timeout_s=0.05, idle_s=0.05)
        with pytest.raises(DeadlineExceeded, match="did not answer in time"):
            sent(call(), chat("good", quick))


def test_redirects_are_passed_on_not_followed() -> None:
    with serving(Provider()) as base:
        reply, _ = sent(call(), chat("refuse-302", provider(base)))
    assert reply.status == 302


class FinishedQueue:
    """A queue of fal's whose every request is over at once. Its result links to `link`."""

    def __init__(self, link: str) -> None:
        self.link = link

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        at = f"http://127.0.0.1:{scope['server'][1]}/requests/1"
        told: dict[str, Any] = {"images": [{"url": self.link}]}
        if scope["method"] == "POST":
            told = {"request_id": "1", "status_url": f"{at}/status", "response_url": at, "cancel_url": f"{at}/cancel"}
        elif scope["path"].endswith("/status"):
            told = {"status": "COMPLETED"}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})


def test_a_name_that_points_elsewhere_after_it_was_checked_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[str] = []

    async def turning(host: str, port: int) -> list[str]:
        resolved.append(host)
        return ["93.184.216.34"] if len(resolved) == 1 else ["127.0.0.1"]

    async def at_once(seconds: float) -> None:
        """Time passes."""

    async def main(base: str) -> None:
        upstream = Upstream(sleep=at_once)
        draw = call(modality="image", dialects=("fal",), members=jsonbody.members(b'{"prompt":"x"}'))
        try:
            await upstream.send(draw, Route("m", "image", "fal", frozenset(), provider(base), "a/b"))
        finally:
            await upstream.close()

    monkeypatch.setattr(egress, "by_system", turning)
    with socket.create_server(("127.0.0.1", 0)) as inside:
        link = f"https://files.example:{inside.getsockname()[1]}/a.png"
        with serving(FinishedQueue(link)) as base, pytest.raises(UpstreamRefused, match="this machine itself"):
            asyncio.run(main(base))
        inside.settimeout(0)
        with pytest.raises(BlockingIOError):
            inside.accept()
    assert resolved == ["files.example"] * 4  # once to decide, and at each of three tries
