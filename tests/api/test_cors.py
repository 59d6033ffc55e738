"""Which pages may call the hub from a browser, at every route and for errors too; what a router does with websockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sensorium.api.auth import Auth
from sensorium.api.cors import EXPOSED, SENT, Cors
from sensorium.api.router import Entry, Router
from sensorium.api.visit import Visit
from sensorium.wire import fal_errors, openai
from tests.api.hubs import Hub
from tests.serving import serving

OWN = ["http://localhost", "http://localhost:3000", "http://127.0.0.1:8080", "http://[::1]:5173"]
ALLOWED = [*OWN, "https://app.example", "https://APP.example"]
FOREIGN = [
    *("https://evil.example", "http://localhost.evil.example", "http://localhost:3000.evil.example", "http://127.0.0.1:1@evil.example"),
    *("https://app.example.evil", "http://app.example", "https://app.example:444", "null", "http://localhost:x", "http://127.0.0.12"),
]
FAL = [
    *("authorization", "content-type", "accept", "x-fal-target-url", "x-fal-queue-priority", "x-fal-request-timeout", "x-fal-runner-hint"),
    *("x-fal-object-lifecycle-preference", "x-fal-store-io", "x-fal-no-retry", "x-fal-retry-config", "x-app-fal-disable-fallback"),
    *("x-fal-cdn-token", "x-app-fal-can-disable-filter", "idempotency-key", "x-fal-file-name", "x-fal-object-lifecycle"),
]


async def hello(visit: Visit) -> None:
    await visit.answer(b'{"hello":1}', {"x-fal-request-id": "one"})


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    entries = [
        Entry("GET", "/hello", hello, openai.error, public=True),
        Entry("POST", "/fal/rest/tokens", hello, fal_errors.error),
        Entry("GET", "/fal/*", hello, fal_errors.error),
    ]
    with serving(Router(entries, Auth("token"), lambda _: openai.error, 100, cors=Cors(("https://app.example/",)))) as base:
        yield Hub(base, [])


def asking(origin: str, headers: str = "authorization,x-fal-target-url", **more: str) -> dict[str, str]:
    asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": headers}
    return asked | {name.replace("_", "-"): text for name, text in more.items()}


@pytest.mark.parametrize("origin", ALLOWED)
@pytest.mark.parametrize("path", ["/hello", "/fal/rest/tokens/", "/no/such"])
def test_an_allowed_page_may_ask_without_a_token(hub: Hub, origin: str, path: str) -> None:
    reply, raw = hub.call("OPTIONS", path, headers=asking(origin))
    assert (reply.status, raw, reply.getheader("access-control-allow-origin"), reply.getheader("vary")) == (204, b"", origin, "origin")
    assert set((reply.getheader("access-control-allow-methods") or "").split(", ")) >= {"GET", "POST", "PUT", "OPTIONS"}
    assert set((reply.getheader("access-control-allow-headers") or "").split(", ")) >= {*FAL}
    assert reply.getheader("access-control-allow-credentials") is None
    assert (reply.getheader("access-control-max-age"), reply.getheader("x-sensorium-source")) == ("600", "hub")


def test_names_that_are_not_listed_are_allowed_to_a_page_that_may_call(hub: Hub) -> None:
    reply, _ = hub.call("OPTIONS", "/hello", headers=asking(OWN[0], "X-Stainless-OS, bad name,x:y, X-Stainless-OS"))
    names = (reply.getheader("access-control-allow-headers") or "").split(", ")
    assert names[len(SENT) :] == ["x-stainless-os"]
    near = hub.call("OPTIONS", "/hello", headers=asking(OWN[0], access_control_request_private_network="true"))[0]
    assert near.getheader("access-control-allow-private-network") == "true"
    assert reply.getheader("access-control-allow-private-network") is None


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_page_is_told_nothing(hub: Hub, origin: str) -> None:
    for method, path in (("OPTIONS", "/hello"), ("GET", "/hello"), ("GET", "/no/such")):
        reply, _ = hub.call(method, path, headers=asking(origin) if method == "OPTIONS" else {"origin": origin})
        assert [name for name in reply.headers if name.lower().startswith("access-control")] == []
        assert reply.getheader("vary") == "origin"
        assert reply.status != 204


@pytest.mark.parametrize(("path", "status"), [("/hello", 200), ("/no/such", 404), ("/fal/x", 401), ("/hello", 405)])
def test_answers_and_errors_can_be_read_by_the_page(hub: Hub, path: str, status: int) -> None:
    reply, _ = hub.call("POST" if status == 405 else "GET", path, headers={"origin": OWN[1]})
    assert (reply.status, reply.getheader("access-control-allow-origin")) == (status, OWN[1])
    exposed = {*(reply.getheader("access-control-expose-headers") or "").split(", ")}
    assert {"x-fal-request-id", "x-fal-request-timeout-type", "x-fal-error-type", "x-request-id", "x-sensorium-source"} <= exposed
    assert exposed == {*EXPOSED}


def test_who_is_no_page_is_not_told_about_pages(hub: Hub) -> None:
    reply, _ = hub.call("GET", "/hello")
    assert (reply.getheader("access-control-allow-origin"), reply.getheader("vary")) == (None, "origin")
    assert hub.call("OPTIONS", "/hello", headers={"origin": OWN[0]})[0].status == 405  # no preflight


def test_every_page_where_the_settings_say_so() -> None:
    assert Cors(("*",)).allows("https://any.example") and not Cors(("*",)).allows("")
    assert not Cors().allows("https://any.example")


def test_paths_of_fal_may_end_in_a_slash_and_the_narrowest_route_wins(hub: Hub) -> None:
    token = {"authorization": "Bearer token"}
    assert [hub.call("POST", f"/fal/rest/tokens{end}", headers=token)[0].status for end in ("", "/", "//")] == [200, 200, 200]
    assert hub.call("GET", "/hello/")[0].status == 404
    assert hub.call("GET", "/fal/rest/tokens", headers=token)[0].status == 405


def talked(router: Router) -> list[Any]:
    """What is sent on a websocket that asks to be opened."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(router({"type": "websocket", "path": "/fal/run/a/b/realtime", "headers": []}, receive, send))
    return sent


def test_websockets_are_handed_on_or_refused() -> None:
    async def sockets(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept", "path": scope["path"]})

    def router(**more: Any) -> Router:
        return Router([], Auth(None), lambda _: openai.error, 100, **more)

    assert talked(router(sockets=sockets)) == [{"type": "websocket.accept", "path": "/fal/run/a/b/realtime"}]
    assert [message["type"] for message in talked(router())] == ["websocket.close"]
