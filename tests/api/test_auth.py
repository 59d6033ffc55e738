"""Who is let in: with a token, its bearers; without one, this machine and no web page of another site."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sensorium.api.auth import Auth
from sensorium.api.visit import Visit
from sensorium.errors import Forbidden
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


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}])
def test_without_a_token_pages_of_other_sites_are_kept_out(hub: Hub, headers: dict[str, str]) -> None:
    status, reply = hub.json("GET", "/v1/models", headers=headers)
    assert (status, reply["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize("headers", [{"host": "localhost:8789"}, {"host": "[::1]:8789"}, {"origin": "http://localhost:3000"}])
def test_without_a_token_this_machine_is_served(hub: Hub, headers: dict[str, str]) -> None:
    assert hub.call("GET", "/v1/models", headers=headers)[0].status == 200


def test_without_a_token_other_machines_are_not_served() -> None:
    scope = {"method": "GET", "path": "/", "client": ("192.0.2.7", 1), "headers": []}
    with pytest.raises(Forbidden, match="its own machine only"):
        Auth(None)(Visit(scope, None, None, openai.error, 1))  # type: ignore[arg-type]
