"""`sensorium tls`: the certificate for clients that speak TLS only, and the lines that make them use it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sensorium.cli_outcome import outcome

if TYPE_CHECKING:
    from sensorium.certificates import Made

PORT = 8443  # what is proposed when the settings name none


def tls(
    ctx: typer.Context,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="A further name or address that callers use (repeatable).", show_default=False),
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="TOML settings file of the hub.", show_default=False)] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data folder of the hub.", show_default=False)] = None,
) -> None:
    """Make a certificate for this machine, or renew it, and print how clients use it."""
    with outcome():
        # Start-up cost: the settings and the cryptography take longer to import than most commands take to run.
        from sensorium.certificates import FOLDER, ensure
        from sensorium.settings import load_for_vault

        found = load_for_vault(settings, ctx.obj, data_dir=data_dir)
        made = ensure(found.data_dir.resolve() / FOLDER, name or ())
        port = found.server.tls_port
        print(_told(made))
        if found.server.tls_cert is not None:
            print(f"\n# the settings name another certificate, which the hub shows instead: {found.server.tls_cert}")
        if port is None:
            print(f"\n# the hub listens with TLS from its next start on, once its settings name a port:\n{_set(settings)}")
        place = "127.0.0.1:PORT" if port == 0 else f"127.0.0.1:{port or PORT}"
        print(f"\n{lines(made.ca, place)}")


def lines(ca: Path, place: str) -> str:
    """What to paste where a client is started; `place` is HOST:PORT."""
    file = shlex.quote(str(ca))
    return "\n".join(
        [
            "# Python. For the whole process these authorities replace the system's",
            f"export SSL_CERT_FILE={file}",
            f"export FAL_RUN_HOST={place}/fal/run FAL_QUEUE_RUN_HOST={place}/fal/queue",
            "# Node. This one is added to the system's",
            f"export NODE_EXTRA_CA_CERTS={file}",
        ]
    )


def _told(made: Made) -> str:
    authority = "new: whoever trusted one before must be given this one" if made.new_ca else "as before"
    state = "new" if made.new_certificate else "as before"
    return f"{made.ca}: the authority, {authority}\n{made.certificate}: {state}, until {made.expires:%Y-%m-%d}, for {', '.join(made.names)}"


def _set(settings: Path | None) -> str:
    return f"sensorium set server.tls_port={PORT} --settings {shlex.quote(str(settings or Path('sensorium.toml')))}"
