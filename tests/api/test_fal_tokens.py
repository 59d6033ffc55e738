"""/fal/rest/tokens over HTTP, with real keys from a vault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensorium.api.auth import Auth
from sensorium.api.fal_tokens import TokenAuth, Tokens, entries
from sensorium.api.router import Entry, Router
from sensorium.api.visit import Visit
from sensorium.errors import Unauthorized
from sensorium.store.signing import Signing
from sensorium.wire import fal_errors
from sensorium.wire.fal_tokens import Wanted
from tests.api.hubs import Hub
from tests.serving import serving
from tests.store.vaults import Clock, opened

BEARER = {"authorization": "Bearer t0ken"}


async def name(visit: Visit) -> None:
    await visit.answer(json.dumps(visit.caller).encode())


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
        routes = [*entries(tokens), *(Entry("POST", path, name, fal_errors.error) for path in ("/fal/run/*", "/fal/rest/else"))]
        router = Router(routes, TokenAuth(Auth("t0ken"), tokens), lambda path: fal_errors.error, 4096)
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


def test_a_token_ends_with_its_caller(tmp_path: Path) -> None:
    with opened(tmp_path) as vault:
        token = Tokens(Signing(vault)).made("bob", Wanted(("rt",), 3600))
        for callers, good in (({"bob": "t"}, True), ({"ann": "t"}, False), ({}, False)):
            tokens = Tokens(Signing(vault), knows=Auth(None, callers).knows)
            if good:
                assert tokens.principal_of(token, "rt") == "bob"
            else:
                with pytest.raises(Unauthorized, match="not known any more"):
                    tokens.principal_of(token, "rt")
        local = Tokens(Signing(vault)).made("local", Wanted(("rt",), 3600))
        assert Tokens(Signing(vault), knows=Auth(None).knows).principal_of(local, "rt") == "local"
        with pytest.raises(Unauthorized):
            Tokens(Signing(vault), knows=Auth("a-token").knows).principal_of(local, "rt")


def test_tokens_outlive_the_process_and_end_with_their_signing_key(tmp_path: Path) -> None:
    with opened(tmp_path) as vault:
        token = Tokens(Signing(vault)).made("bob", Wanted(("rt",), 3600))
    with opened(tmp_path) as vault:
        assert Tokens(Signing(vault)).principal_of(token, "rt") == "bob"
        vault.rotate("hub-signing", "0" * 64, who="tester")
        with pytest.raises(Unauthorized):
            Tokens(Signing(vault)).principal_of(token, "rt")


@pytest.mark.parametrize("path", ["/fal/run/t/rt/stream", "/fal/run/t/rt/sub/stream/", "/fal/run/workflows/own/rt/stream"])
def test_a_token_in_the_url_opens_the_streams_of_its_app(made: Made, path: str) -> None:
    token = made.tokens.made("ann", Wanted(("rt",), 60))
    assert made.ask(f"{path}?fal_jwt_token={token}", headers={}) == (200, "ann")
    assert made.ask(path) == (200, "token")
    assert made.ask(f"{path}?fal_jwt_token={token[:-1]}")[0] == 401, "a bad token is not made good by a key beside it"
    made.clock.now += 60
    assert made.ask(f"{path}?fal_jwt_token={token}", headers={})[0] == 401


@pytest.mark.parametrize(
    "path",
    ["/fal/run/t/rt", "/fal/run/t/other/stream", "/fal/rest/else", "/fal/rest/tokens/", "/fal/run/t/rt/stream/sub", "/fal/run/stream"],
)
def test_it_opens_nothing_else(made: Made, path: str) -> None:
    token = made.tokens.made("ann", Wanted(("rt",), 60))
    assert made.ask(f"{path}?fal_jwt_token={token}", headers={})[0] == 401
