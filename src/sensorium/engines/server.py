"""The engine process: loads models and serves them over HTTP, to whoever started it or to the hub on the same machine.

parent -- stdin: one line of JSON (`orders.Orders`); its end of file means that the parent is gone
       -- a listening socket, in which calls wait while a fresh engine starts
       <- stdout: lines of JSON: how far the models are, then ready, or why they cannot be loaded, and every second that it lives;
          stderr is the log

Models that take long to load are loaded behind an open door, which tells how far they are. Small ones are there before it opens.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec
import uvicorn

from sensorium.engines.endpoint import EngineApp
from sensorium.engines.hosted import Hosted
from sensorium.engines.loading import Loading
from sensorium.engines.orders import Orders
from sensorium.engines.watchdog import Watchdog
from sensorium.errors import SensoriumError, SettingsError
from sensorium.webserver import Calls, Server

GRACE_S: Final = 5
PULSE_S: Final = 1.0
STDIN, STDOUT, STDERR = 0, 1, 2
UNUSABLE: Final = 78  # exit code: starting again will not help
BROKEN: Final = 70  # exit code: it may
LET_GO: Final = 75  # the same, and what ran was not wanted any more: calls that waited behind it are not to blame
Report = Callable[[dict[str, Any]], None]
log = logging.getLogger("sensorium.engine")


def main() -> NoReturn:
    """Run until told to stop, and end the process."""
    report = _reporter()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    orders = msgspec.json.decode(_first_line(), type=Orders)
    threading.Thread(target=_die_with_the_parent, name="parent", daemon=True).start()
    threading.Thread(target=_pulse, args=(report,), name="pulse", daemon=True).start()
    process = Process(orders, report)
    leave(process.run(_listener(orders.socket)), process.clean)


class Process:
    """What runs in the process. `report` hears events: "loading" with its models, "ready" with seconds, "failed" with problems.

    `hosted` are its models. `clean` says at the end that no thread of it is left behind; `interrupted`, that Ctrl-C ended it.
    """

    def __init__(self, orders: Orders, report: Report) -> None:
        self._orders, self._report = orders, report
        self._begun = time.perf_counter()
        self._code = 0
        self.interrupted, self.clean = False, True
        self.hosted: list[Hosted] = []
        self._behind: threading.Thread | None = None

    def run(self, listener: socket.socket) -> int:
        """Load, serve calls on `listener` until told to stop, and close; the exit code."""
        try:
            loading = Loading(self._orders, lambda models: self._report({"event": "loading", "models": models}))
        except SettingsError as error:
            return self._fail(error.problems, UNUSABLE)
        self.hosted = loading.hosted
        if loading.quick and not self._loaded(loading, None):
            return self._code
        server = Server(self._configured(loading), self._ready if loading.quick else lambda: self._begin(loading, server))
        Watchdog(lambda: loading.lanes, self._orders.hang_s, lambda reason: self._give_up(reason, loading)).start()
        server.run(sockets=[listener])
        self.interrupted = server.interrupted
        self.clean = loading.close(GRACE_S) and not (self._behind and self._behind.is_alive())
        return self._code

    def _configured(self, loading: Loading) -> uvicorn.Config:
        orders = self._orders
        app = EngineApp(loading.hosted, orders.token, frozenset(orders.allow_egress), orders.deadline_s)
        return uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=Calls,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=75,
        )

    def _begin(self, loading: Loading, server: Server) -> None:
        """Load while calls are answered already, and stop the server when that fails."""
        loop = asyncio.get_running_loop()

        def behind() -> None:
            if self._loaded(loading, loop):
                self._ready()
            else:
                server.should_exit = True

        self._behind = threading.Thread(target=behind, name="loading", daemon=True)
        self._behind.start()

    def _give_up(self, reason: str, loading: Loading) -> None:
        """A device is stuck, and with it the thread that would have to end."""
        self._report({"event": "failed", "problems": [reason]})
        unwanted = any(lane.abandoned_since is not None for lane in loading.lanes)
        leave(LET_GO if unwanted else BROKEN, clean=False)

    def _loaded(self, loading: Loading, loop: asyncio.AbstractEventLoop | None) -> bool:
        try:
            loading.run(loop)
        except SettingsError as error:
            self._fail(error.problems, UNUSABLE)
        except SensoriumError as error:
            self._fail([error.message], BROKEN)
        except Exception as error:  # outermost: the parent must hear of it, whatever a library raises
            log.exception("the models cannot be loaded")
            self._fail([f"the models cannot be loaded: {type(error).__name__}; the log has the details"], BROKEN)
        else:
            return True
        return False

    def _ready(self) -> None:
        self._report({"event": "ready", "seconds": round(time.perf_counter() - self._begun, 3)})

    def _fail(self, problems: list[str], code: int) -> int:
        self._report({"event": "failed", "problems": problems})
        self._code = code
        return code


def leave(code: int, clean: bool) -> NoReturn:
    """End the process. A thread that is left behind in a library would abort the interpreter's own way of ending."""
    if not clean:
        logging.shutdown()
        os._exit(code)
    sys.exit(code)


def _listener(given: int | str) -> socket.socket:
    if sys.platform == "win32":
        return socket.fromshare(base64.b64decode(str(given)))
    return socket.socket(fileno=int(given))


def _reporter() -> Callable[[dict[str, Any]], None]:
    """Keeps the real stdout for reports to the parent; whatever else is printed goes to the log."""
    channel = os.fdopen(os.dup(STDOUT), "w", encoding="utf-8")
    os.dup2(STDERR, STDOUT)

    one_at_a_time = threading.Lock()

    def report(event: dict[str, Any]) -> None:
        with one_at_a_time:
            print(json.dumps(event), file=channel, flush=True)

    return report


def _pulse(report: Report) -> None:
    """A sign of life from a thread of its own: a parent that hears nothing knows that the whole process stands still."""
    while True:
        time.sleep(PULSE_S)
        try:
            report({"event": "alive"})
        except OSError:  # the parent is gone, and so is this process in a moment
            return


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(STDIN, 65536)
        if not more:
            os._exit(0)
        line += more
    return line


def _die_with_the_parent() -> None:
    # Read past Python's own buffer: a thread that holds its lock would abort the interpreter's shutdown.
    while os.read(STDIN, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
