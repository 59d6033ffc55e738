"""`sensorium secret`: the vault of the data folder, managed beside a hub that may be running and sees every change at once.

Values come from standard input, a file or a prompt, never from the command line, which other users of the machine can read.
"""

from __future__ import annotations

import getpass
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sensorium.settings import Settings
    from sensorium.store.secret import Entry
    from sensorium.store.vault import Vault

VALUE_BYTES = 65536
Outcome = Callable[[], AbstractContextManager[None]]
Name = Annotated[str, typer.Argument(help="The secret's name, such as nvidia-image.", show_default=False)]
File = Annotated[Path | None, typer.Option("--file", "-f", help="Read the value from this file.", show_default=False)]

app = typer.Typer(help="Store provider keys in the hub's vault, sealed and bound to hosts.", rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Opened:
    """The vault that a command works on, the settings that led there, and who works on it, for the audit."""

    vault: Vault
    settings: Settings
    who: str


@app.callback(no_args_is_help=True)
def place(
    ctx: typer.Context,
    settings: Annotated[Path | None, typer.Option(help="TOML settings file of the hub.", show_default=False)] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data folder of the hub.", show_default=False)] = None,
) -> None:
    environ, outcome = ctx.obj
    ctx.obj = lambda: opened(environ, outcome, settings, data_dir)


@app.command()
def put(
    ctx: typer.Context,
    name: Name,
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", help="Where it may be sent: HOST[:PORT], *.SUFFIX, http://HOST:PORT (repeatable).", show_default=False
        ),
    ] = None,
    file: File = None,
) -> None:
    """Store a secret, or a new version of it. In force at once; the version before is kept for rollback."""
    with ctx.obj() as opened:
        value = _value(name, file)
        stored(opened.vault.put(name, value, host or (), otherwise=opened.settings.hosts_of(name), who=opened.who), value)


@app.command()
def rotate(ctx: typer.Context, name: Name, file: File = None) -> None:
    """Store a new version of a secret that is there, with the hosts that it has."""
    with ctx.obj() as opened:
        opened.vault.entry(name)
        value = _value(name, file)
        stored(opened.vault.rotate(name, value, who=opened.who), value)


@app.command()
def rollback(ctx: typer.Context, name: Name) -> None:
    """Bring back the version before, value and hosts. Twice leads back."""
    with ctx.obj() as opened:
        stored(opened.vault.rollback(name, who=opened.who))


@app.command("list")
def listed(ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the secrets, without their values."""
    with ctx.obj() as opened:
        entries = opened.vault.entries()
    if as_json:
        print(json.dumps([entry.shown() for entry in entries], indent=2))
        return
    rows = [(e.name, str(e.version), e.standing.status, _time(e.created_at), ", ".join(e.hosts)) for e in entries]
    _print_table([("NAME", "VERSION", "STATE", "STORED", "BOUND TO"), *rows])


@app.command()
def disable(ctx: typer.Context, name: Name) -> None:
    """Keep a secret, but let nothing use it."""
    with ctx.obj() as opened:
        stored(opened.vault.disable(name, who=opened.who))


@app.command()
def enable(ctx: typer.Context, name: Name) -> None:
    """Undo disable."""
    with ctx.obj() as opened:
        stored(opened.vault.enable(name, who=opened.who))


@app.command()
def remove(ctx: typer.Context, name: Name) -> None:
    """Erase a secret with all its versions. Its audit stays."""
    with ctx.obj() as opened:
        opened.vault.remove(name, who=opened.who)
        print(f"{name}: removed")


@app.command()
def rekey(
    ctx: typer.Context,
    new_key_file: Annotated[Path | None, typer.Option(help="The new master key; a random one when left out.", show_default=False)] = None,
) -> None:
    """Put all secrets under a new master key. A running hub goes on."""
    with ctx.obj() as opened:
        # Start-up cost: the vault takes longer to import than most commands take to run.
        from sensorium.errors import SettingsError
        from sensorium.settings import MASTER_KEY
        from sensorium.store.masterkey import read_key

        given = opened.settings.master_key is not None
        if given and new_key_file is None:
            raise SettingsError([f"{MASTER_KEY} holds the master key; write the new one into a file and name it with --new-key-file"])
        count = opened.vault.rekey(read_key(new_key_file) if new_key_file else None, who=opened.who)
        print(f"{count} sealed values are under the new master key")
        if given:
            print(f"start the hub with the new {MASTER_KEY} from now on; one that runs reveals what it has used before")


@app.command()
def audit(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Only this secret.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many rows at most.")] = 50,
) -> None:
    """Show who did what with secrets, newest first. Uses are counted per minute."""
    with ctx.obj() as opened:
        rows = opened.vault.audit(limit, name)
    told = [(_time(r.at), r.who, r.action, r.name, str(r.version or ""), r.host, str(r.count)) for r in rows]
    _print_table([("TIME", "WHO", "DID", "SECRET", "VERSION", "HOST", "TIMES"), *told])


@contextmanager
def opened(environ: Mapping[str, str], outcome: Outcome, file: Path | None, data_dir: Path | None) -> Iterator[Opened]:
    """The vault that settings and data folder lead to; `outcome` says how a failure ends."""
    with outcome():
        # Start-up cost: the vault takes longer to import than most commands take to run.
        from sensorium.settings import load_for_vault
        from sensorium.store.database import Database
        from sensorium.store.masterkey import keeper
        from sensorium.store.vault import Vault

        settings = load_for_vault(file, environ, data_dir=data_dir)
        user = next((environ[variable] for variable in ("LOGNAME", "USER", "USERNAME") if environ.get(variable)), "unknown")
        database = Database(settings.data_dir)
        try:
            yield Opened(Vault(database, keeper(settings)), settings, f"cli:{user}")
        finally:
            database.close()


def _value(name: str, file: Path | None) -> str:
    """The value, without the line end of the file or the program that it came from."""
    if file is not None:
        with file.open("rb") as source:
            raw = source.read(VALUE_BYTES)
    elif sys.stdin.isatty():
        with suppress(EOFError):
            return getpass.getpass(f"Value of {name} (not shown): ")
        return ""
    else:
        raw = sys.stdin.buffer.read(VALUE_BYTES)
    return raw.decode("ascii", "replace").rstrip("\r\n")


def stored(entry: Entry, value: str | None = None) -> None:
    """Say what was stored, and what is odd about the value."""
    # Start-up cost: the vault takes longer to import than most commands take to run.
    from sensorium.store.secret import concerns

    print(f"{entry.name}: version {entry.version}, {entry.standing.status}, bound to {', '.join(entry.hosts)}")
    if value is not None:
        if entry.previous:
            print(f"the version before is kept: sensorium secret rollback {entry.name}")
        for concern in concerns(value, entry.hosts):
            print(f"sensorium: {concern}", file=sys.stderr)


def _time(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) if at else ""


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print("\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows))
