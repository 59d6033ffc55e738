"""Serve an ASGI app with uvicorn on a free loopback port, in a thread, for as long as a `with` block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from sensorium.webserver import address, listen


class Server(uvicorn.Server):
    """Looks twenty times as often whether it shall stop: hundreds of tests wait for that."""

    async def main_loop(self) -> None:
        while not self.should_exit:
            await asyncio.sleep(0.005)


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Yields the base URL. The server stops at the end of the block; a hang is an error after 10 s."""
    listener = listen("127.0.0.1", 0)
    server = Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    try:
        yield address(listener)
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"
