"""Who calls fal's doors: whoever shows a key, and at the door of direct calls also whoever a token of ours speaks for.

A page that may not know the key makes such a token on its server, and streams with `?fal_jwt_token=` and no Authorization header.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sensorium.api.auth import Principal
from sensorium.api.fal_tokens import Tokens
from sensorium.api.visit import Visit
from sensorium.errors import TokenMissing
from sensorium.wire import fal_tokens
from sensorium.wire.fal_submit import parameters

RUN: Final = "/fal/run/"
PARAMETER: Final = "fal_jwt_token"


class FalAuth:
    """`Auth` for every route, and fal's tokens for direct calls without a key."""

    def __init__(self, auth: Callable[[Visit], Principal], tokens: Tokens) -> None:
        self._auth, self._tokens = auth, tokens

    def __call__(self, visit: Visit) -> Principal:
        """The caller's principal. Raises as `Auth` does, and Unauthorized for a token that is not good for this app."""
        try:
            return self._auth(visit)
        except TokenMissing:
            token = parameters(visit.query).get(PARAMETER, "") if visit.path.startswith(RUN) else ""
            if not token:
                raise
            return Principal(self._tokens.principal_of(token, fal_tokens.alias(visit.path.removeprefix(RUN))))
