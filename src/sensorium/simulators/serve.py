"""Run a simulator until Ctrl-C. It knows the web server, and nothing of what is simulated."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import uvicorn

from sensorium.webserver import Server, address, listen

GRACE_S = 2


def serve(app: Any, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve `app`, tell `say` the base URL once calls are taken, and stop on Ctrl-C or SIGTERM; calls in flight get two seconds.

    `port` 0 takes a free one. Raises SettingsError when the address cannot be had, KeyboardInterrupt after Ctrl-C.
    """
    listener = listen(host, port)
    # Answers that break off on purpose are errors to the web server.
    logging.getLogger("uvicorn.error").disabled = True
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none", timeout_graceful_shutdown=GRACE_S
    )
    server = Server(config)
    say(address(listener))
    server.run(sockets=[listener])
    if server.interrupted:
        raise KeyboardInterrupt
