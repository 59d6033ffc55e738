"""Who is let in: with tokens, their bearers; without any, this machine and no web page of another site."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sensorium.api.auth import Auth
from sensorium.api.visit import Visit
from sensorium.errors import Forbidden, TokenMissing, Unauthorized
from sensorium.wire import openai
from tests.api.hubs import Hub, running


@pytest.fixture(scope="module")
def guarded() -> Iterator[Hub]:
    with running("http://127.0.0.1:9", token="s3cret") as hub:
        yield hub


def test_the_token_opens_the_hub(guarded: Hub) -> None:
    assert guarded.call("GET", "/v1/models", headers={"authorization": "Bearer s3cret"})[0].status == 200


@pytest.mark.parametrize("header", [{}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}, {"authorization": "Basic s3cret"}])
def test_anything_else_is_a_401_of_the_hub_itself(guarded: Hub, header: dict[str, str]) -> None:
    reply, raw = guarded.call("POST", "/v1/chat/completions", b"{}", header)
    assert (reply.status, reply.getheader("www-authenticate"), reply.getheader("x-sensorium-source")) == (401, "Bearer", "hub")
    assert b"invalid_token" in raw and b"s3cret" not in raw


def test_health_is_open(guarded: Hub) -> None:
    assert guarded.call("GET", "/healthz")[0].status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_without_a_token_pages_of_other_sites_are_kept_out(hub: Hub, headers: dict[str, str]) -> None:
    status, reply = hub.json("GET", "/v1/models", headers=headers)
    assert (status, reply["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost:8789"},
        {"host": "[::1]:8789"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://localhost:3000", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
def test_without_a_token_this_machine_is_served(hub: Hub, headers: dict[str, str]) -> None:
    assert hub.call("GET", "/v1/models", headers=headers)[0].status == 200


def test_without_a_token_other_machines_are_not_served() -> None:
    scope = {"method": "GET", "path": "/", "client": ("192.0.2.7", 1), "headers": []}
    with pytest.raises(Forbidden, match="its own machine only"):
        Auth(None)(Visit(scope, None, None, openai.error, 1))  # type: ignore[arg-type]


CALLERS = {"alice": "a1:s", "bob": "b2:s"}


def visit(*headers: tuple[str, str], peer: str = "127.0.0.1") -> Visit:
    raw = [(name.encode(), text.encode("latin-1")) for name, text in headers]
    return Visit({"method": "GET", "path": "/", "client": (peer, 1), "headers": raw}, None, None, openai.error, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ([("authorization", "Bearer s3cret")], "token"),
        ([("authorization", "Key s3cret")], "token"),
        ([("authorization", "Key a1:s")], "alice"),
        ([("authorization", " KEY \t b2:s \t")], "bob"),
        ([("authorization", "bearer a1:s")], "alice"),
        ([("x-api-key", " b2:s ")], "bob"),
        ([("authorization", "Key not-needed"), ("x-api-key", "b2:s")], "bob"),
        ([("authorization", "Key a1:s"), ("x-api-key", "b2:s")], "alice"),
    ],
)
@pytest.mark.parametrize("peer", ["127.0.0.1", "192.0.2.7"])
def test_a_token_of_its_own_makes_a_caller_of_its_own(headers: list[tuple[str, str]], name: str, peer: str) -> None:
    assert Auth("s3cret", CALLERS)(visit(*headers, peer=peer)).name == name


@pytest.mark.parametrize("key", ["", "Key", "Key ", "Bearer", "a1:s", "Basic a1:s"])
def test_nothing_that_is_a_token(key: str) -> None:
    with pytest.raises(TokenMissing):
        Auth("s3cret", CALLERS)(visit(("authorization", key)))


@pytest.mark.parametrize("key", ["Key a1", "Key a1:s2", "Key A1:S", "Key \xe9", "Key alice", "Key a1:s, b2:s"])
def test_a_token_that_nobody_has(key: str) -> None:
    with pytest.raises(Unauthorized, match="does not know") as caught:
        Auth("s3cret", CALLERS)(visit(("authorization", key)))
    assert not isinstance(caught.value, TokenMissing)


def test_with_callers_this_machine_too_needs_a_token() -> None:
    auth = Auth(None, CALLERS)
    assert auth(visit(("authorization", "Key a1:s"))).name == "alice"
    with pytest.raises(TokenMissing):
        auth(visit())


def test_without_a_token_any_key_is_taken_on_this_machine() -> None:
    assert Auth(None)(visit(("authorization", "Key whatever:it-is"))).name == "local"
