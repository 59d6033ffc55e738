"""fal's tokens: made for a caller who has shown its key, and later believed from a websocket or a stream that can send none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

import msgspec

from sensorium.api.auth import Auth, Principal, anybody
from sensorium.api.router import Entry
from sensorium.api.visit import Visit
from sensorium.errors import Unauthorized
from sensorium.store.signing import Signing
from sensorium.wire import fal_errors, fal_tokens
from sensorium.wire.fal_tokens import HINT, Claims, Wanted

PURPOSE: Final = "realtime"
PATH: Final = "/fal/rest/tokens"
QUERY: Final = "fal_jwt_token"
RUN: Final = "/fal/run/"
STREAM: Final = "/stream"


class Tokens:
    """Makes tokens and reads them. `now` gives seconds since the epoch, `knows` tells whether there is a caller of a name."""

    def __init__(self, signing: Signing, now: Callable[[], float] = time.time, knows: Callable[[str], bool] = anybody) -> None:
        self._signing, self._now, self._knows = signing, now, knows

    def made(self, caller: str, wanted: Wanted) -> str:
        """A token that speaks for `caller`. Raises what `Signing.key` does."""
        claims = Claims(caller, wanted.apps, int(self._now() + wanted.seconds))
        return fal_tokens.written(claims, self._signing.key(PURPOSE))

    def principal_of(self, token: str, alias: str) -> str:
        """The name of the caller for whom `token` speaks to the app `alias` (without its owner).

        Raises Unauthorized when the token is none of ours, was altered, has expired, is for other apps, or its caller is gone.
        """
        claims = fal_tokens.read(token, self._signing.key(PURPOSE), self._now())
        if not self._knows(claims.caller):
            raise Unauthorized("this token's caller is not known any more", hint=HINT)
        if alias not in claims.apps:
            raise Unauthorized(f"this token is not for the app {alias[:80]}", hint=HINT)
        return claims.caller


class TokenAuth:
    """As `auth`, and a token in the query opens the stream of its apps: browsers that stream send it there (fal.md, section 4.7)."""

    def __init__(self, auth: Auth, tokens: Tokens) -> None:
        self._auth, self._tokens = auth, tokens

    def __call__(self, visit: Visit) -> Principal:
        """The caller's principal. Raises as `auth` does."""
        given = parse_qs(visit.query.decode("latin-1")).get(QUERY, [""])[-1] if visit.query else ""
        if not given or not visit.path.startswith(RUN) or not visit.path.rstrip("/").endswith(STREAM):
            return self._auth(visit)
        return Principal(self._tokens.principal_of(given, fal_tokens.alias(visit.path.removeprefix(RUN).rstrip("/").removesuffix(STREAM))))


class TokensDoor:
    """Handlers of /fal/rest/tokens."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def create(self, visit: Visit) -> None:
        """POST: `{"allowed_apps": [...], "token_expiration": seconds}`; answers the token as a JSON string."""
        asked = fal_tokens.wanted(await visit.whole_body())
        await visit.answer(msgspec.json.encode(self._tokens.made(visit.caller, asked)), {"cache-control": "no-store"})


def entries(tokens: Tokens) -> list[Entry]:
    """The routes: the one that the clients call, and the one of fal's documentation."""
    door = TokensDoor(tokens)
    return [Entry("POST", path, door.create, fal_errors.error) for path in (PATH, f"{PATH}/realtime")]
