"""The proxy door of fal's JavaScript client: a call of one of fal's hosts, told by a header, becomes a call of our own path for it.

Nothing is called: the request is handed on in this process under another path, so this is never an open proxy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from sensorium.api.router import Entry, Handler
from sensorium.api.visit import Visit
from sensorium.exchange import Receive, Send
from sensorium.wire import fal_errors

PATH: Final = "/fal/proxy"
TARGET: Final = "x-fal-target-url"
PREFIXES: Final = {
    "fal.run": "/fal/run",
    "queue.fal.run": "/fal/queue",
    "rest.fal.ai": "/fal/rest",
    "rest.alpha.fal.ai": "/fal/rest",  # its old name, which clients still have
    "v3.fal.media": "/fal/cdn",
}
METHODS: Final = ("GET", "POST", "PUT", "DELETE")
INVALID: Final = "Invalid request"  # the words of fal's own proxy
_ADVICE: Final = f"send the header {TARGET} once, with a URL of {', '.join(PREFIXES)}"


class FalProxy:
    """An ASGI app around `app`: gives requests for the proxy the path that their target has here. Whatever has no such target goes on as it
    came, to the routes of `entries`, which refuse it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].rstrip("/") == PATH and scope["method"] != "OPTIONS":
            targets = [text.decode("latin-1") for name, text in scope["headers"] if name.decode("latin-1").lower() == TARGET]
            target = here(targets[0]) if len(targets) == 1 else None
            if target is not None:
                path, query = target
                scope = {**scope, "path": unquote(path), "raw_path": path.encode(), "query_string": query.encode()}
        await self.app(scope, receive, send)


def here(url: str) -> tuple[str, str] | None:
    """Our path, still encoded, and the query for a URL of fal's hosts; None for any other."""
    parts = _split(url)
    prefix = PREFIXES.get(parts.hostname or "") if parts else None
    # No steps up and down: what stands below a prefix stays below it, however a server reads the path.
    if parts is None or prefix is None or {".", ".."} & set(unquote(parts.path).replace("\\", "/").split("/")):
        return None
    return prefix + (parts.path or "/"), parts.query


def _split(url: str) -> SplitResult | None:
    if not (url.isascii() and url.isprintable()) or " " in url:
        return None
    try:
        parts = urlsplit(url)
        proper = parts.scheme == "https" and parts.port in (None, 443) and parts.username is None
    except ValueError:
        return None
    return parts if proper else None


async def refuse(visit: Visit) -> None:
    """/fal/proxy without a target that is served here."""
    await visit.drain()
    await visit.answer(msgspec.json.encode({"detail": INVALID, "message": f"{INVALID}: {_ADVICE}"}), status=400)


def entries() -> list[Entry]:
    """The routes of what `FalProxy` has not taken on. Public: they tell nothing, and a caller without a key learns what is wrong first."""
    handler: Handler = refuse
    return [Entry(method, PATH, handler, fal_errors.error, public=True) for method in METHODS]
