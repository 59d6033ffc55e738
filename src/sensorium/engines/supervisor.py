"""Starts the engine process, watches it, and starts it again when it dies. The listening socket belongs to the supervisor,
so a call that arrives while no engine lives waits for the next one instead of being refused.

It knows no model and reads no environment of its own.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from sensorium.engines.orders import ModelOrder, Orders
from sensorium.engines.patience import Patience
from sensorium.errors import SettingsError, Unavailable

State = Literal["stopped", "starting", "ready", "restarting", "broken", "failed"]
BACKLOG = 512
UNUSABLE = 78
LET_GO = 75  # exit code of a process that ended itself because a cancelled job did not stop
FATE_S = 2.0
LOOK_EVERY_S = 1.0
LOG_CAP = 4 * 1024 * 1024
REPORT_CAP = 4 * 1024 * 1024
# -P: a file in the folder where the hub was started must not pass for a module; PYTHONPATH still counts.
COMMAND = ("-P", "-m", "sensorium.engines.server")
THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# An engine needs to find Python, libraries and folders; it needs no tokens and no keys.
_PLACES = ("PATH", "HOME", "USERPROFILE", "TMP", "TEMP", "TMPDIR", "SYSTEMROOT", "WINDIR", "COMSPEC", "PATHEXT", "APPDATA", "LOCALAPPDATA")
_LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "PROGRAMDATA", "SSL_CERT_FILE", "SSL_CERT_DIR")
# What torch looks for: a place for what it compiles, a compiler, and devices.
_TORCH = ("USER", "LOGNAME", "XDG_CACHE_HOME", "CC", "CXX", "CPATH", "LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
PASSED = frozenset((*_PLACES, *_LIBRARIES, *_TORCH, "LANG", "LANGUAGE", "TZ"))
PASSED_PREFIXES = ("LC_", "PYTHON", "CUDA_", "HIP_", "TORCH", "PYTORCH_", "TRITON_")
log = logging.getLogger("sensorium.engines")


class Progress(msgspec.Struct, frozen=True):
    """How far the loading of one model is."""

    name: str
    state: Literal["waiting", "loading", "ready", "failed"]
    loaded_bytes: int = 0
    total_bytes: int = 0


class Report(msgspec.Struct):
    """What an engine says on its standard output: how far it is, ready after so many seconds, why it cannot be, or only that it lives."""

    event: Literal["loading", "ready", "failed", "alive"]
    seconds: float = 0.0
    problems: list[str] = []
    models: list[Progress] = []


class EngineProcess:
    """One engine. `base_url` and `token` are good from construction to `stop`, however often the process is replaced.

    `folders` are folders of small models, `models` further models with what is ordered for each. `environment` is what the child may
    inherit (filtered), `queue` the calls that may wait, `deadline_s` what a call may take; `memory_gb` and `hang_s` are as in `Orders`.
    `log` is the file that the child's stderr is added to (None: this process's own stderr). `grace_s` is the time between asking it to
    stop and killing it. `pause` waits between restarts, in seconds.

    A process that is not ready after `start_s`, or of which nothing is heard for `hang_s`, is killed. After three in a row that were
    never ready the engine is "broken": callers are told why, and it is tried again every five minutes.
    `progress` tells how far the models are, while they are loaded; `patience` since when, and whether it is silent.
    """

    def __init__(
        self,
        name: str,
        folders: Sequence[Path] = (),
        *,
        models: Sequence[ModelOrder] = (),
        environment: Mapping[str, str],
        allow_egress: Collection[str] = (),
        queue: int = 32,
        deadline_s: float | None = 120.0,
        memory_gb: float | None = None,
        hang_s: float | None = None,
        start_s: float | None = None,
        log: Path | None = None,
        grace_s: float = 7.0,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name, self.token = name, secrets.token_urlsafe(32)
        self.state: State = "stopped"
        self.restarts = 0
        self.problems: list[str] = []
        self.progress: list[Progress] = []
        self._orders = Orders(
            token=self.token,
            models=[*(ModelOrder(path=str(folder)) for folder in folders), *models],
            socket=-1,
            allow_egress=sorted(allow_egress),
            queue=queue,
            deadline_s=deadline_s,
            memory_gb=memory_gb,
            hang_s=hang_s,
        )
        small = all(model.device == "numpy" for model in models)
        self._environment, self._log, self._grace_s, self._pause = passed_on(environment, small), log, grace_s, pause
        self.patience = Patience(time.monotonic, start_s, hang_s)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._death: asyncio.Future[int] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the engine, None while there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def silent_s(self) -> float | None:
        """For how long nothing was heard of the process, once that is unusual."""
        return self.patience.silent_s if self.patience.suspect and self.pid is not None else None

    def fate(self) -> Callable[[], Awaitable[bool]]:
        """Watch the process that lives now, or the next one: what is returned waits for its end, a moment at most, and tells whether it
        ended itself because a cancelled job did not stop."""
        self._death = self._death or asyncio.get_running_loop().create_future()
        death = self._death

        async def let_go() -> bool:
            await asyncio.wait({death}, timeout=FATE_S)
            return death.done() and not death.cancelled() and death.result() == LET_GO

        return let_go

    async def start(self) -> None:
        """Start the process and keep it running; returns before it is ready."""
        if self._keeper is None:
            self.state = "starting"
            self._keeper = asyncio.create_task(self._keep(), name=f"engine-{self.name}")

    async def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Return once the engine is ready. Raises SettingsError when its models cannot be loaded, Unavailable after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            raise Unavailable(f"the engine {self.name} is not ready after {timeout_s:g} seconds; it is {self.state}, see its log") from None
        if self.state in ("failed", "broken"):
            raise SettingsError(self.problems)

    async def stop(self) -> None:
        """Ask the process to end, kill it when it does not, and close the socket. Stopping twice is harmless."""
        keeper, self._keeper = self._keeper, None
        process = self._process
        if keeper is not None:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
        await self._end(process)
        self._socket.close()
        self.state = "stopped"

    async def __aenter__(self) -> EngineProcess:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def _keep(self) -> None:
        """Start, watch, start again; the pauses grow while the engine keeps dying young."""
        while True:
            self.progress = []
            self.patience.born()
            try:
                code = await self._live()
            except OSError as error:
                self.problems = [f"the engine cannot be started: {error.strerror}"]
                code = UNUSABLE if isinstance(error, FileNotFoundError | PermissionError) else -1
            except Exception:  # outermost: callers must not wait for a keeper that is gone
                log.exception("engine %s cannot be watched", self.name)
                self.problems = ["the engine sent a report that cannot be read; the log has the details"]
                await self._end(self._process)
                code = UNUSABLE
            if code == UNUSABLE:
                self._give_up()
                return
            self.restarts += 1
            if self._death is not None:
                self._death.set_result(code)
                self._death = None
            wait = self.patience.died()
            self._stand(code)
            log.warning("engine %s ended with code %s; starting it again in %.1f s", self.name, code, wait)
            await self._pause(wait)

    def _stand(self, code: int) -> None:
        """What callers meet after a death: they wait for the next process, or are told that there is no hope for now."""
        if not self.patience.broken:
            self._settled.clear()
            self.state = "restarting"
            return
        self.problems = self.problems or [f"it ended with code {code} before its models were loaded, again and again; its log says why"]
        self.state = "broken"
        self._settled.set()
        log.error("engine %s is broken and tried again from time to time: %s", self.name, "; ".join(self.problems))

    def _give_up(self) -> None:
        """No engine will come: callers are refused from now on instead of being left waiting."""
        self.problems = self.problems or ["its models cannot be used; its log says why"]
        self.state = "failed"
        self._socket.close()
        self._settled.set()
        log.error("engine %s cannot run: %s", self.name, "; ".join(self.problems))

    async def _live(self) -> int:
        """One process from birth to death; its exit code."""
        with self._log_file() as log_file:
            process = self._process = await self._spawn(log_file)
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(ConnectionError):
            orders = msgspec.structs.replace(self._orders, socket=self._handed_to(process.pid))
            process.stdin.write(msgspec.json.encode(orders) + b"\n")
            await process.stdin.drain()
        watch = asyncio.create_task(self._watch(process), name=f"watch-{self.name}")
        try:
            async for line in process.stdout:
                self._hear(line)
            return await process.wait()
        finally:
            watch.cancel()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill a process that takes too long to be ready, or that has fallen silent. A stopped one hears no milder signal."""
        while (fault := self.patience.look()) is None:
            await asyncio.sleep(LOOK_EVERY_S)
        self.problems = [fault]
        log.error("engine %s: %s", self.name, fault)
        _kill(process)

    async def _spawn(self, log_file: IO[bytes] | None) -> asyncio.subprocess.Process:
        # A session of its own: Ctrl-C in a terminal reaches the hub alone, which then stops its engines in order.
        apart: dict[str, Any] = {"start_new_session": True, "pass_fds": (self._socket.fileno(),)}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, *COMMAND),
            limit=REPORT_CAP,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=self._environment,
            **apart,
        )

    def _handed_to(self, pid: int) -> int | str:
        """The listening socket as the child can open it."""
        if sys.platform == "win32":
            return base64.b64encode(self._socket.share(pid)).decode()
        return self._socket.fileno()

    def _log_file(self) -> AbstractContextManager[IO[bytes] | None]:
        if self._log is None:
            return nullcontext()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        too_long = self._log.exists() and self._log.stat().st_size > LOG_CAP
        return self._log.open("wb" if too_long else "ab")

    def _hear(self, line: bytes) -> None:
        """Take a report of the child."""
        try:
            report = msgspec.json.decode(line, type=Report)
        except msgspec.DecodeError:
            return
        self.patience.heard()
        if report.event == "loading":
            self.progress = report.models
        elif report.event == "ready":
            self.state, self.problems = "ready", []
            self.patience.ready()
            self._settled.set()
            log.info("engine %s is ready after %.2f s (process %s)", self.name, report.seconds, self.pid)
        elif report.event == "failed":
            self.problems = report.problems

    async def _end(self, process: asyncio.subprocess.Process | None) -> None:
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._grace_s):
                await process.wait()
        except TimeoutError:
            log.warning("engine %s did not stop within %.0f s and is killed", self.name, self._grace_s)
            _kill(process)
            await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    """End it and whatever it has started."""
    if process.returncode is not None:  # its number may be another process's by now
        return
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)  # its session is its own


def passed_on(environment: Mapping[str, str], small: bool = True) -> dict[str, str]:
    """The part of an environment that an engine gets: where to find things, no secrets, and where all models are small one thread."""
    kept = {name: text for name, text in environment.items() if name.upper() in PASSED or name.upper().startswith(PASSED_PREFIXES)}
    return kept | (THREADS if small else {})
