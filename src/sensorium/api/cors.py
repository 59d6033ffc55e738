"""Which web pages may call the hub from a browser, and what they may send and read (the Fetch standard's CORS protocol)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

METHODS: Final = "GET, POST, PUT, DELETE, OPTIONS"
KEPT_S: Final = 600  # how long a browser may remember a preflight
EXPOSED: Final = (
    *("x-fal-request-id", "x-fal-request-timeout-type", "x-fal-error-type", "x-fal-retryable", "x-fal-needs-retry"),
    *("x-request-id", "idempotent-replayed", "retry-after", "etag", "x-upstream-request-id"),
    *(
        f"x-sensorium-{name}"
        for name in ("source", "model", "place", "passed-over", "changed", "stand-in", "ignored", "caption", "scope", "filtered", "job")
    ),
)
# A `*` would not cover authorization, so every name is listed: what fal's clients send, and what the hub itself reads.
SENT: Final = (
    *("authorization", "content-type", "accept", "x-api-key", "idempotency-key", "range", "x-request-id"),
    *("x-fal-target-url", "x-fal-queue-priority", "x-fal-request-timeout", "x-fal-runner-hint", "x-fal-store-io", "x-fal-no-retry"),
    *("x-fal-object-lifecycle", "x-fal-object-lifecycle-preference", "x-fal-retry-config", "x-fal-file-name", "x-fal-client-proxy"),
    *("x-fal-cdn-token", "x-app-fal-disable-fallback", "x-app-fal-can-disable-filter"),
    *("x-sensorium-where", "x-sensorium-deadline-s", "anthropic-version", "anthropic-beta", "openai-beta"),
)
MOST_NAMES: Final = 4096  # characters of the names that a preflight asks for
# Pages of this machine: their server runs beside the hub, whatever its port.
_OWN: Final = re.compile(r"http://(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?")
_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")


class Cors:
    """`origins` are allowed pages as `https://app.example`, beside those of this machine; `*` allows every page."""

    def __init__(self, origins: Collection[str] = ()) -> None:
        self._every = "*" in origins
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)

    def allows(self, origin: str) -> bool:
        """Whether pages of `origin` may call."""
        named = origin.lower()
        return bool(named) and (named in self._origins or _OWN.fullmatch(named) is not None or self._every)

    def headers(self, origin: str) -> Mapping[str, str]:
        """What every answer carries for a caller of `origin` ("" for one that is no page). Nothing but `Vary` for a foreign page."""
        if not self.allows(origin):
            return _VARIES
        return {**_VARIES, "access-control-allow-origin": origin, "access-control-expose-headers": ", ".join(EXPOSED)}

    def preflight(self, method: str, header: Callable[[str], str]) -> Mapping[str, str] | None:
        """The headers of the answer to an allowed page's question whether it may call; None when the request is no such question.

        Names that are asked for and not in the list are allowed as well: a page that may call may say what it likes.
        """
        asked = header("access-control-request-method")
        if method != "OPTIONS" or not asked or not self.allows(header("origin")):
            return None
        wanted = header("access-control-request-headers")[:MOST_NAMES].lower().split(",")
        more = [name for part in wanted if _NAME.fullmatch(name := part.strip()) and name not in SENT]
        near = {"access-control-allow-private-network": "true"} if header("access-control-request-private-network") else {}
        return {
            "access-control-allow-methods": METHODS,
            "access-control-allow-headers": ", ".join((*SENT, *dict.fromkeys(more))),
            "access-control-max-age": str(KEPT_S),
            **near,
        }


_VARIES: Final[Mapping[str, str]] = {"vary": "origin"}
