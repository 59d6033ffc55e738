"""The nouns of apps: what an endpoint of fal's protocol is given, and what it makes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from sensorium.errors import NotFound
from sensorium.wire.lifecycle import KEPT, Lifecycle


class UnknownApp(NotFound):
    """No app of this id is served here."""

    code = "app_not_found"


def unlogged(line: str) -> None:
    """Where progress goes that nobody reads."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run of an app. `input` is decoded JSON, `path` what follows owner and alias in the endpoint's id ("" or "/sub/deep").

    Links to files begin with `base_url` (no slash at the end); files that it makes live as `lifecycle` says. `log` takes one line of
    progress.
    """

    id: str
    caller: str
    input: Any
    path: str = ""
    base_url: str = ""
    lifecycle: Lifecycle = KEPT
    log: Callable[[str], None] = unlogged


@dataclass(frozen=True, slots=True)
class Output:
    """What an app made: its JSON, the keys of the files that were stored for it, and what the reply's headers tell (who answered)."""

    body: dict[str, Any]
    files: tuple[str, ...] = ()
    headers: dict[str, str] | None = None


class App(Protocol):
    """One app; `id` is owner and alias."""

    id: str

    def lane(self, path: str) -> str:
        """The model whose turns it takes. Raises UnknownApp for a sub-path that it does not have."""
        ...

    async def run(self, task: Task) -> Output:
        """The whole output. Raises `Refused` for a bad input, and what a dispatch raises."""
        ...

    def stream(self, task: Task) -> AsyncGenerator[Output, None]:
        """The output as it grows, each one whole so far; the last is the full one."""
        ...

    def openapi(self, path: str, base_url: str) -> dict[str, Any]:
        """The OpenAPI description of the endpoint."""
        ...


async def last(outputs: AsyncGenerator[Output, None]) -> Output:
    """The last output of a stream, which is the full one."""
    made = Output({})
    async with aclosing(outputs):
        async for output in outputs:
            made = output
    return made
