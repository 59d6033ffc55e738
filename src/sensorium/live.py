"""The settings in force, and a changed file taken over while the hub runs: all of it that can change, or, when anything is wrong, nothing.

What is done with the settings is the business of whoever is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sensorium.errors import SettingsError
from sensorium.settings import FROM_ENVIRONMENT, ROUTER, Settings

# What a running hub takes over; anything else that differs needs a restart. `keys` are read from the environment anew.
LIVE_TABLES: Final = frozenset({"router", "providers", "keys"})
LIVE_OPTIONS: Final = frozenset({"local.stand_ins", "server.max_body_bytes"})
PROVIDERS: Final = "providers."
LOOK_EVERY_S: Final = 1.0
log = logging.getLogger("sensorium.hub")


@dataclass(frozen=True, slots=True)
class Source:
    """Where settings come from: the file (None: there is none), and reading it anew, which raises SettingsError."""

    file: Path | None
    read: Callable[[], Settings]


@dataclass(frozen=True, slots=True)
class Change:
    """What the settings before and after differ in. `options` are names of tables and options, `providers` those whose address, key or
    limits are others now, as routes name them."""

    options: tuple[str, ...]
    providers: tuple[str, ...]


Apply = Callable[[Settings, Change], None]


class LiveSettings:
    """The settings of a running hub. `apply` gets new ones and what has changed; `now` is the time in seconds since the epoch.

    `problems` are those of the last reading, `needs_restart` the options that differ from the file because the hub cannot change them.
    """

    def __init__(
        self, running: Settings, source: Source | None, apply: Callable[[Settings, Change], None], now: Callable[[], float]
    ) -> None:
        self.current, self.loaded_at = running, now()
        self.problems: list[str] = []
        self.needs_restart: list[str] = []
        self._source, self._apply, self._now = source, apply, now
        self._taken = _stamp(self.file)

    @property
    def file(self) -> Path | None:
        """The settings file, if there is one."""
        return self._source.file if self._source is not None else None

    def reload(self) -> Change:
        """Read the file and take it over. Raises SettingsError with every problem found; then the settings are what they were."""
        if self._source is None or self.file is None:
            raise SettingsError(["this hub was started without a settings file; start it with --settings FILE"])
        self._taken = _stamp(self.file)
        try:
            settings, fixed = settled(self.current, self._source.read())
            change = difference(self.current, settings)
            if change.options:
                self._apply(settings, change)
        except SettingsError as error:
            self.problems = error.problems
            log.warning("%s is not taken over, the settings before go on: %s", self.file, "; ".join(error.problems))
            raise
        self.current, self.loaded_at, self.problems, self.needs_restart = settings, self._now(), [], fixed
        log.info("%s is taken over; changed: %s", self.file, ", ".join(change.options) or "nothing")
        if fixed:
            log.warning("%s: not taken over before a restart: %s", self.file, ", ".join(fixed))
        return change

    def reloaded(self) -> dict[str, Any]:
        """`reload`, and what became of it, ready for JSON."""
        changed = self.reload().options
        return {"object": "settings", "changed": changed, "needs_restart": self.needs_restart, "loaded_at": int(self.loaded_at)}

    async def watch(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Take the file over whenever it has changed, until cancelled. A file that is still being written is left alone until it rests."""
        seen = self._taken
        while self.file is not None:
            await sleep(LOOK_EVERY_S)
            before, seen = seen, _stamp(self.file)
            if seen == before and seen != self._taken:
                self.reload_if_good()

    def reload_if_good(self) -> None:
        """`reload` for whoever can do no more about problems than to have them logged."""
        try:
            self.reload()
        except SettingsError:
            pass
        except Exception:  # outermost: the hub goes on, and so does the watch
            self.problems = ["it could not be taken over; the log says why"]
            log.exception("%s could not be taken over", self.file)


def settled(running: Settings, read: Settings) -> tuple[Settings, list[str]]:
    """What was read, but with what cannot change as it runs, and the names of the options that differ there."""
    kept: dict[str, Any] = {}
    fixed: list[str] = []
    for name in type(running).model_fields:
        if name in LIVE_TABLES:
            continue
        was, wanted = getattr(running, name), getattr(read, name)
        options = _options(was)
        if options is None or _options(wanted) is None:
            kept[name] = was
            fixed += [name] if was != wanted and name not in FROM_ENVIRONMENT else []
            continue
        stays = {option: value for option, value in options.items() if f"{name}.{option}" not in LIVE_OPTIONS}
        kept[name] = wanted.model_copy(update=stays)
        fixed += [f"{name}.{option}" for option, value in stays.items() if getattr(wanted, option) != value]
    return read.model_copy(update=kept), fixed


def difference(before: Settings, after: Settings) -> Change:
    """What a running hub has to take over, to have `after` instead of `before`."""
    old, new = _tables(before), _tables(after)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    others = [name.removeprefix(PROVIDERS) for name in names if _connection(old.get(name)) != _connection(new.get(name))]
    others += [name for name, key in {**before.keys, **after.keys}.items() if before.keys.get(name) != after.keys.get(name)]
    if not names and list(before.providers) != list(after.providers):
        names.append("providers")  # their order
    names += [path for path in sorted(LIVE_OPTIONS) if _option(before, path) != _option(after, path)]
    return Change(tuple(names), tuple(dict.fromkeys(others)))


def _tables(settings: Settings) -> dict[str, Any]:
    return {f"{ROUTER}{name}": table for name, table in settings.router.given.items()} | {
        f"{PROVIDERS}{name}": table for name, table in settings.providers.items()
    }


def _connection(table: Any) -> Any:
    return None if table is None else table.model_copy(update={"models": ()})


def _options(table: Any) -> Mapping[str, Any] | None:
    """The options of a table of the file by name; None for anything else."""
    return {name: getattr(table, name) for name in type(table).model_fields} if hasattr(type(table), "model_fields") else None


def _option(settings: Settings, path: str) -> Any:
    table, _, option = path.partition(".")
    return getattr(getattr(settings, table), option)


def _stamp(file: Path | None) -> tuple[int, ...] | None:
    """What differs when the file is another one; None while there is none."""
    if file is None:
        return None
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
