"""/fal/rest/tokens over HTTP, with real keys from a vault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensorium.api.auth import Auth
from sensorium.api.fal_tokens import Tokens, entries
from sensorium.api.router import Router
from sensorium.errors import Unauthorized
from sensorium.store.signing import Signing
from sensorium.wire import fal_errors
from sensorium.wire.fal_tokens import Wanted
from tests.api.hubs import Hub
from tests.serving import serving
from tests.store.vaults import Clock, opened

BEARER = {"authorization": "Bearer t0ken"}


class Made:
    def __init__(self, hub: Hub, tokens: Tokens, clock: Clock) -> None:
        self.hub, self.tokens, self.clock = hub, tokens, clock

    def ask(self, path: str = "/fal/rest/tokens/", body: Any = None, headers: Any = BEARER) -> tuple[int, Any]:
        return self.hub.json("POST", path, {"allowed_apps": ["rt"]} if body is None else body, headers)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    clock = Clock()
    with opened(tmp_path) as vault:
        tokens = Tokens(Signing(vault), clock)
        router = Router(entries(tokens), Auth("t0ken"), lambda path: fal_errors.error, 4096)
        with serving(router) as base:
            yield Made(Hub(base, []), tokens, clock)


@pytest.mark.parametrize("path", ["/fal/rest/tokens", "/fal/rest/tokens/", "/fal/rest/tokens/realtime", "/fal/rest/tokens/realtime/"])
def test_a_token_speaks_for_its_caller_to_its_apps(made: Made, path: str) -> None:
    status, token = made.ask(path)
    assert status == 200 and token.startswith("eyJ")
    assert made.tokens.principal_of(token, "rt") == "token"
    with pytest.raises(Unauthorized, match="not for the app other"):
        made.tokens.principal_of(token, "other")


@pytest.mark.parametrize("name", ["token_expiration", "duration"])
def test_its_time_is_as_asked(made: Made, name: str) -> None:
    _, token = made.ask(body={"allowed_apps": ["rt"], name: 60})
    made.clock.now += 59
    assert made.tokens.principal_of(token, "rt") == "token"
    made.clock.now += 1
    with pytest.raises(Unauthorized, match="expired"):
        made.tokens.principal_of(token, "rt")


def test_without_the_hubs_token_there_is_none(made: Made) -> None:
    status, body = made.ask(headers={})
    assert (status, body["error_type"]) == (401, "invalid_token")


def test_a_bad_request_is_told_in_fals_dialect(made: Made) -> None:
    status, body = made.ask(body={"allowed_apps": [], "token_expiration": 0})
    assert status == 422
    assert [fault["type"] for fault in body["detail"]] == ["sequence_too_short", "greater_than_equal"]
    reply, raw = made.hub.call("POST", "/fal/rest/tokens/", b"nonsense", BEARER)
    assert reply.status == 400 and "not valid JSON" in json.loads(raw)["detail"]


def test_it_is_kept_by_no_cache(made: Made) -> None:
    reply, _ = made.hub.call("POST", "/fal/rest/tokens/", {"allowed_apps": ["rt"]}, BEARER)
    assert reply.getheader("cache-control") == "no-store"


def test_tokens_outlive_the_process_and_end_with_their_signing_key(tmp_path: Path) -> None:
    with opened(tmp_path) as vault:
        token = Tokens(Signing(vault)).made("bob", Wanted(("rt",), 3600))
    with opened(tmp_path) as vault:
        assert Tokens(Signing(vault)).principal_of(token, "rt") == "bob"
        vault.rotate("hub-signing", "0" * 64, who="tester")
        with pytest.raises(Unauthorized):
            Tokens(Signing(vault)).principal_of(token, "rt")
