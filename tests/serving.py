"""Serve an ASGI app with uvicorn on a free loopback port, in a thread, for as long as a `with` block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
import uvicorn.server

from sensorium.webserver import Calls, Tls, address, configured, listen


class Hurried:
    """asyncio as uvicorn's server sees it here: it looks twenty times as often whether it shall stop, and whether its connections have
    ended. Hundreds of tests wait for that."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 20)


uvicorn.server.asyncio = Hurried()  # type: ignore[assignment]


@contextmanager
def serving(app: Any, *, websockets: bool = False, tls: Tls | None = None, most_message: int = 1 << 20) -> Iterator[str]:
    """Yields the base URL. The server stops at the end of the block; a hang is an error after 10 s.

    With `websockets`, or a certificate for TLS, it is configured as the hub is.
    """
    listener = listen("127.0.0.1", 0)
    if websockets or tls:
        config = configured(app, grace_s=2, most_message=most_message, tls=tls)
    else:
        config = uvicorn.Config(app, log_config=None, access_log=False, http=Calls, ws="none", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    try:
        yield address(listener, "https" if tls else "http")
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"
