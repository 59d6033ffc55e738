"""`sensorium set`: one option of the settings file, comments and everything else kept; a hub that runs with the file takes it over."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sensorium.cli_outcome import USAGE, fail, outcome

if TYPE_CHECKING:
    from sensorium.settings import Settings

TAKEN_OVER = "a hub that runs with this file takes it over within a few seconds"


def set_option(
    ctx: typer.Context,
    given: Annotated[list[str], typer.Argument(metavar="TABLE.OPTION=VALUE...", help="Such as router.audio.url=URL.", show_default=False)],
    settings: Annotated[Path, typer.Option(help="The settings file.")] = Path("sensorium.toml"),
) -> None:
    """Change options of the settings file, if the whole then loads."""
    with outcome():
        # Start-up cost: the settings take longer to import than most commands take to run.
        from sensorium import settings_text as text
        from sensorium.live import settled
        from sensorium.settings import load_for_vault

        before = load_for_vault(settings if settings.exists() else None, ctx.obj)
        changed = settings.read_text("utf-8") if settings.exists() else ""
        for one in given:
            path, equals, value = one.partition("=")
            if not equals or "." not in path:
                fail(f"{one!r}: write it as TABLE.OPTION=VALUE, such as router.audio.url=https://host/v1/audio", USAGE)
            changed = text.assigned(changed, path.strip(), _value(value.strip()))
        written = text.replaced(settings, changed, ctx.obj)
        print(f"{settings}: {', '.join(one.partition('=')[0].strip() for one in given)} set")
        _tell_keys(settings, before, written)
        _, fixed = settled(before, written)
        print(f"these wait for the hub's restart: {', '.join(fixed)}" if fixed else TAKEN_OVER)


def _value(text: str) -> Any:
    """A TOML value that JSON has too; anything else stands for itself as text."""
    try:
        found = tomllib.loads(f"value = {text}")
        json.dumps(found)
    except (tomllib.TOMLDecodeError, TypeError):
        return text
    return found["value"] if list(found) == ["value"] else text


def _tell_keys(settings: Path, before: Settings, written: Settings) -> None:
    new: Sequence[str] = [name for name in written.secrets if name not in before.secrets]
    for name in new:
        print(f"its key:  sensorium secret --settings {settings} put {name}   # goes to {', '.join(written.hosts_of(name))}")
