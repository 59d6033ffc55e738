"""`sensorium jobs`: the queue's requests, listed, shown, cancelled and run again, by way of the hub."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from sensorium.cli_outcome import outcome
from sensorium.client import CallFailed, Hub

HEADINGS = ("CREATED (UTC)", "ID", "CALLER", "APP", "STATE", "STATUS", "RUNS", "SECONDS")
TIMES = (
    ("created", "created_at"),
    ("claimed", "claimed_at"),
    ("to begin before", "start_deadline"),
    ("cancel asked for", "cancel_at"),
    ("ended", "finished_at"),
)

app = typer.Typer(
    help="List, show, cancel and repeat the requests of a hub's queue; the token sees its own, an administrator's all.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Id = Annotated[str, typer.Argument(help="The request's id.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the hub's answer as it is.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many, at most 1000.")] = 20,
    state: Annotated[
        str,
        typer.Option(help="Only those queued, running, delayed, succeeded, failed, cancelled; several with commas.", show_default=False),
    ] = "",
    of: Annotated[str, typer.Option("--app", help="Only those of this app.", show_default=False)] = "",
    caller: Annotated[str, typer.Option(help="Only those of this caller.", show_default=False)] = "",
    after: Annotated[str, typer.Option(metavar="ID", help="Only those submitted before this one.", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """List requests, newest first."""
    with outcome():
        told = _hub(ctx).jobs(limit, after=after, app=of, state=state, caller=caller)
        print(json.dumps(told, indent=2) if as_json else table(told))


@app.command()
def show(ctx: typer.Context, request_id: Id, as_json: AsJson = False) -> None:
    """Tell of one request: where it stands, when what happened, what it logged."""
    with outcome():
        told = _hub(ctx).job(request_id)
        print(json.dumps(told, indent=2) if as_json else shown(told))


@app.command()
def cancel(ctx: typer.Context, request_id: Id, as_json: AsJson = False) -> None:
    """Cancel a request that is not over."""
    with outcome():
        told = _hub(ctx).cancel(request_id)
        print(json.dumps(told, indent=2) if as_json else stands(told))


@app.command()
def retry(ctx: typer.Context, request_id: Id, as_json: AsJson = False) -> None:
    """Run a request that failed again."""
    with outcome():
        told = _hub(ctx).retry(request_id)
        print(json.dumps(told, indent=2) if as_json else stands(told))


def table(told: dict[str, Any]) -> str:
    """One line per request. Raises CallFailed for what is no list of requests."""
    try:
        rows = [HEADINGS, *(_row(request) for request in told["data"])]
        more = ["there are more: --after ID goes on"] if told["has_more"] else []
    except (KeyError, TypeError, ValueError, OverflowError):
        raise CallFailed("the hub did not send a list of requests") from None
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *more])


def shown(request: dict[str, Any]) -> str:
    """A request, line by line. Raises CallFailed for what is none."""
    try:
        return "\n".join(_lines(request))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise CallFailed("the hub did not send a request") from None


def stands(request: dict[str, Any]) -> str:
    """Where a request stands now, in one line. Raises CallFailed for what is none."""
    try:
        asked = "cancelling, " if request["cancel_at"] and request["state"] == "running" else ""
        return f"{request['id']}: {asked}{request['state']}"
    except (KeyError, TypeError):
        raise CallFailed("the hub did not send a request") from None


def _lines(request: dict[str, Any]) -> list[str]:
    position = "" if request["position"] is None else f", {request['position']} before it"
    path = _endpoint(request)
    lines = [f"request {request['id']} of {request['caller']}: {request['state']}{position}", f"  {path}, priority {request['priority']}"]
    lines += [f"  {label} {_time(request[name])}" for label, name in TIMES if request[name] is not None]
    lines.append(f"  runs {request['runs']}, of these {request['deaths']} ended with their engine")
    if request["status"] is not None:
        took = "" if request["inference_s"] is None else f", {request['inference_s']:.3f} s of work"
        lines.append(f"  answered with {request['status']}{took}")
    if request["error"]:
        lines.append(f"  {request['error']['type']}: {request['error']['message']}")
    if request["payload_gone"]:
        lines.append("  its input and its result are erased")
    if request["webhook"]:
        lines.append(f"  webhook {request['webhook']}")
    return [*lines, *(f"  {_time(line['at'])} {line['level']} {line['message']}" for line in request["logs"])]


def _row(request: dict[str, Any]) -> tuple[str, ...]:
    began, ended = request["claimed_at"], request["finished_at"]
    took = "-" if began is None or ended is None else f"{ended - began:.3f}"
    status = "-" if request["status"] is None else str(request["status"])
    told = (_time(request["created_at"]), request["id"], request["caller"], _endpoint(request), request["state"], status)
    return (*(str(cell) for cell in told), str(request["runs"]), took)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _hub(ctx: typer.Context) -> Hub:
    """The hub that is called; `cli` hands on how it is found."""
    found: Hub = ctx.obj()
    return found


def _endpoint(request: dict[str, Any]) -> str:
    """What was called: its app, and the sub-path there."""
    return f"{request['app']}{request['path']}"
