"""`sensorium set`: one option of the settings file, comments and everything else kept; a hub that runs with the file takes it over."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sensorium.cli_outcome import USAGE, fail, outcome
from sensorium.errors import SettingsError

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

        changed = settings.read_text("utf-8") if settings.exists() else ""
        for one in given:
            path, equals, value = one.partition("=")
            if not equals or "." not in path:
                fail(f"{one!r}: write it as TABLE.OPTION=VALUE, such as router.audio.url=https://host/v1/audio", USAGE)
            changed = text.assigned(changed, path.strip(), _value(value.strip()))
        before = _loaded(settings, ctx.obj)
        written = text.replaced(settings, changed, ctx.obj)
        print(f"{settings}: {', '.join(one.partition('=')[0].strip() for one in given)} set")
        for name in written.secrets:
            if name not in before.secrets:
                print(f"its key:  sensorium secret --settings {settings} put {name}   # goes to {', '.join(written.hosts_of(name))}")
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


def _loaded(file: Path, environ: Mapping[str, str]) -> Settings:
    """The settings in the file; those of an empty one, when there is none or when it does not load, which may be why it is changed."""
    # Start-up cost: the settings take longer to import than most commands take to run.
    from sensorium.settings import load_for_vault

    try:
        return load_for_vault(file if file.exists() else None, environ)
    except SettingsError:
        return load_for_vault(None, environ)
