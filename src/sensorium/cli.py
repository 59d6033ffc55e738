"""The `sensorium` command: parse, call, print. `serve` runs the hub; `see`, `draw` and `models` are callers of one."""

from __future__ import annotations

import json
import os
import sys
import urllib.parse
from pathlib import Path
from typing import Annotated, Any

import typer

from sensorium import (
    __version__,
    cli_calls,
    cli_checkpoint,
    cli_client,
    cli_doctor,
    cli_engine,
    cli_import,
    cli_jobs,
    cli_provider,
    cli_secret,
    cli_set,
    cli_setup,
    cli_tls,
    client,
    failpoints,
)
from sensorium.cli_outcome import USAGE, fail, outcome

SUFFIXES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}

app = typer.Typer(
    help="See and draw through one endpoint. The commands talk to the hub at MAC_HUB_URL, with MAC_API_TOKEN when it is set.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
simulate = typer.Typer(help="Play a hosted API on this machine, for tests.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(simulate, name="simulate")


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(help="Port to listen on.  [default: 8789]", show_default=False)] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]", show_default=False)] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for what the hub keeps.", show_default=False)] = None,
    settings: Annotated[Path | None, typer.Option(help="TOML settings file.", show_default=False)] = None,
    allow_egress: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Private address that image URLs and webhooks may reach (repeatable).", show_default=False),
    ] = None,
    require: Annotated[
        str, typer.Option(metavar="MODALITY,...", help="Do not start unless these are on, such as image,audio.", show_default=False)
    ] = "",
) -> None:
    """Run the hub until Ctrl-C."""
    with outcome():
        # Start-up cost: the hub and its web server take longer to import than every other command takes to run.
        from sensorium import app as hub
        from sensorium import settings as config
        from sensorium.live import Source
        from sensorium.overview import required

        def read() -> config.Settings:
            return config.load(settings, os.environ, port=port, host=host, data_dir=data_dir, allow_egress=allow_egress)

        failpoints.arm(os.environ.get(failpoints.VARIABLE, "").strip())
        hub.serve(Source(settings, read), lambda text: print(text, flush=True), required(require))


@app.command()
def see(
    image: Annotated[str, typer.Argument(help="File, http(s) URL, or - for standard input.", show_default=False)],
    question: Annotated[str, typer.Argument(help="What to ask.")] = "Describe this image.",
    model: Annotated[str, typer.Option(help="Model to ask; * lets the hub choose.")] = "*",
) -> None:
    """Ask the vision model about a picture."""
    with outcome():
        for piece in _hub().see(_image_url(image), question, model):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")


@app.command()
def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .png, .jpg or .jpeg.", show_default=False)],
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same picture.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's default when left out.", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="Model that draws.")] = "black-forest-labs/flux.1-schnell",
) -> None:
    """Draw a picture from a sentence."""
    with outcome():
        media_type = SUFFIXES.get(output.suffix.lower())
        if media_type is None:
            fail(f"{output} must end in {', '.join(SUFFIXES)}", USAGE)
        if not output.parent.is_dir():
            fail(f"{output.parent} is not a folder", USAGE)
        picture = _hub().draw(prompt, media_type, model, seed=seed, steps=steps)
        output.write_bytes(picture.data)
        if picture.ignored:
            print(f"sensorium: not understood and left out: {picture.ignored}", file=sys.stderr)
        print(f"{output}" + (f" (drawn by {picture.model})" if picture.model not in ("", model) else ""))


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the hub's list as it is.")] = False,
) -> None:
    """List what the hub serves."""
    with outcome():
        entries = _hub().models()
        print(json.dumps(entries, indent=2) if as_json else _table(entries))


@app.command()
def explain(
    request_id: Annotated[str, typer.Argument(help="The x-request-id of the call's reply.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as it is.")] = False,
) -> None:
    """Tell who was asked for a finished call, who answered, and why the others did not."""
    with outcome():
        call = _hub().call(request_id)
        print(json.dumps(call, indent=2) if as_json else cli_calls.explained(call))


@app.command()
def calls(
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many, at most 1000.")] = 20,
    caller: Annotated[str, typer.Option(help="Only those of this caller.", show_default=False)] = "",
    ended: Annotated[
        str, typer.Option("--outcome", help="Only those answered, refused, failed or client_closed.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the hub's list as it is.")] = False,
) -> None:
    """List the latest finished calls, newest first."""
    with outcome():
        told = _hub().calls(limit, caller=caller, outcome=ended)
        print(json.dumps(told, indent=2) if as_json else cli_calls.table(told))


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print the hub's answer as it is.")] = False,
) -> None:
    """Show what works in a running hub, and why the rest does not."""
    with outcome():
        told = _hub().status()
        if as_json:
            print(json.dumps(told, indent=2))
            return
        # Start-up cost: the table takes longer to import than the other commands take to run.
        from sensorium.cli_status import table

        print(table(told))


@app.callback(invoke_without_command=True)
def root(ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"sensorium {__version__}")
        raise typer.Exit
    ctx.obj = os.environ


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="sensorium")


def _hub() -> client.Hub:
    url = os.environ.get("MAC_HUB_URL", "").strip() or client.DEFAULT_URL
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        fail(f"MAC_HUB_URL is {url!r}; it must look like {client.DEFAULT_URL}", USAGE)
    token = os.environ.get("MAC_API_TOKEN", "").strip()
    if not token.isascii() or not token.isprintable():
        fail("MAC_API_TOKEN holds characters that no header can carry", USAGE)
    return client.Hub(url, token)


def _image_url(image: str) -> str:
    if image.lower().startswith(("http://", "https://", "data:")):
        return image
    if image == "-":
        return client.data_url(sys.stdin.buffer.read())
    if not Path(image).is_file():
        fail(f"{image} is neither a file nor an http(s) URL", USAGE)
    return client.data_url(Path(image).read_bytes())


def _table(entries: list[dict[str, Any]]) -> str:
    rows: list[tuple[str, ...]] = [("MODEL", "MODALITY", "CAN", "SCOPE", "ANSWERED BY")]
    for entry in entries:
        told = (entry.get(name) for name in ("id", "modality", "capabilities", "scope", "answered_by"))
        rows.append(tuple(", ".join(map(str, cell)) if isinstance(cell, list) else str(cell or "") for cell in told))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


@simulate.command()
def nvidia(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8780,
    key: Annotated[
        list[str] | None, typer.Option(help="Accepted key (repeatable).  [default: nvapi-simulated]", show_default=False)
    ] = None,
    rpm: Annotated[int, typer.Option(help="Calls per minute and key; 0 for no limit.")] = 40,
    fault: Annotated[list[str] | None, typer.Option(metavar="KIND=RATE[:SECONDS]", help="Fault (repeatable).", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same faults.")] = 0,
    cap: Annotated[
        list[str] | None, typer.Option(metavar="MODEL=RPM", help="Hidden limit of a model (repeatable).", show_default=False)
    ] = None,
    work: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=SECONDS", help="How long a model works, or all with * (repeatable).", show_default=False),
    ] = None,
    pexec: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Model that answers 202 when it is slow (repeatable).", show_default=False)
    ] = None,
) -> None:
    """Play NVIDIA's hosted API until Ctrl-C: no network, no quota, failures to order."""
    with outcome():
        # Start-up cost: the web server takes longer to import than every other command takes to run.
        from sensorium.simulators import serve as simulators
        from sensorium.simulators.nvidia.options import options
        from sensorium.simulators.nvidia.overview import overview
        from sensorium.simulators.nvidia.server import Simulator

        chosen = options(keys=key or (), rpm=rpm, caps=cap or (), faults=fault or (), work=work or (), pexec=pexec or (), seed=seed)
        simulator = Simulator(chosen)
        simulators.serve(simulator, host, port, lambda url: print(overview(url, simulator.catalog, bool(key)), flush=True))


@simulate.command()
def fal(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8781,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="ID:SECRET", help="Accepted key (repeatable).  [default: simulated-id:simulated-secret]", show_default=False),
    ] = None,
    slots: Annotated[int, typer.Option(help="Requests of one key that run at a time.")] = 2,
    work: Annotated[float, typer.Option(help="Seconds that every app works.")] = 0.2,
    fault: Annotated[list[str] | None, typer.Option(metavar="KIND=RATE[:SECONDS]", help="Fault (repeatable).", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same faults.")] = 0,
) -> None:
    """Play fal's queue until Ctrl-C: no network, no quota, failures to order."""
    with outcome():
        # Start-up cost: the web server takes longer to import than every other command takes to run.
        from sensorium.simulators import serve as simulators
        from sensorium.simulators.fal.options import options
        from sensorium.simulators.fal.overview import overview
        from sensorium.simulators.fal.server import Simulator

        chosen = options(keys=key or (), slots=slots, work=work, faults=fault or (), seed=seed)
        simulators.serve(Simulator(chosen), host, port, lambda url: print(overview(url, bool(key)), flush=True))


app.command()(cli_setup.init)
app.command("set")(cli_set.set_option)
app.command()(cli_doctor.doctor)
app.command("import-env")(cli_import.import_env)
app.command("client")(cli_client.print_lines)
app.command()(cli_tls.tls)
app.command()(cli_checkpoint.pull)
app.command()(cli_engine.engine)
app.command("verify-checkpoint")(cli_checkpoint.verify_checkpoint)
app.add_typer(cli_provider.app, name="provider")
app.add_typer(cli_jobs.app, name="jobs", context_settings={"obj": _hub})
app.add_typer(cli_secret.app, name="secret", context_settings={"obj": (os.environ, outcome)})

if __name__ == "__main__":
    main()
