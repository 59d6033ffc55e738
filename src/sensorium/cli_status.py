"""`sensorium status`: the state of a running hub as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sensorium.overview import Standing, columns, modalities


def table(told: Mapping[str, Any]) -> str:
    """The answer of GET /v1/status as text."""
    blocks = [list(_head(told)), ["modalities", *modalities(_standings(told))], ["routes", *columns(list(_routes(told)))]]
    engines = [_engine(name, one) for name, one in told["engines"].items()]
    return "\n\n".join("\n".join(block) for block in [*blocks, *([["engines", *engines]] if engines else [])])


def _head(told: Mapping[str, Any]) -> Iterator[str]:
    data, settings = told["data"], told["settings"]
    free = "" if data["free_bytes"] is None else f", {data['free_bytes'] / 1e9:.1f} GB free"
    at = datetime.fromtimestamp(settings["loaded_at"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    yield f"sensorium {told['version']}, up {_time(told['uptime_s'])}"
    yield f"data      {'ok' if data['ok'] else data['problem']}{free}"
    if any(told["jobs"].values()):
        yield f"jobs      {told['jobs']['waiting']} waiting, {told['jobs']['running']} running"
    yield f"settings  {settings['file'] or 'no file'}, in force since {at}"
    yield from (f"          not taken over: {problem}" for problem in settings["problems"])
    if settings["needs_restart"]:
        yield f"          wait for a restart: {', '.join(settings['needs_restart'])}"


def _standings(told: Mapping[str, Any]) -> list[Standing]:
    return [Standing(name, one["on"], one["detail"], tuple(one["trouble"])) for name, one in told["modalities"].items()]


def _routes(told: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "  PROVIDER", "MODEL", "MODALITY", "STATE", "SINCE", "NEXT TRY", "TOKENS", "IN FLIGHT", "REASON"
    for one in told["routes"]:
        tokens = "" if one["tokens"] is None else f"{one['tokens']:g}"
        since = "" if one["since_s"] is None else f"{_time(one['since_s'])} ago"
        again = "" if one["next_try_s"] is None else f"in {_time(one['next_try_s'])}"
        model = "any name" if one["model"] == "*" else one["model"]
        where = (f"  {one['provider']}", model, one["modality"], one["state"])
        yield (*where, since, again, tokens, str(one["in_flight"] or ""), one["reason"] or _tried(one) or _last(one))


def _tried(route: Mapping[str, Any]) -> str:
    tried = route["tried"]
    return f"tried: {tried['detail']}" if tried is not None and tried["state"] in ("fails", "off") else ""


def _last(route: Mapping[str, Any]) -> str:
    last = route["last_error"]
    return f"last error {last['class']}, {_time(last['ago_s'])} ago" if last is not None else ""


def _engine(name: str, one: Mapping[str, Any]) -> str:
    again = f", started again {one['restarts']} times" if one["restarts"] else ""
    silent = f", silent for {_time(one['silent_s'])}" if one.get("silent_s") else ""
    loading = "".join(f"; {_model(model)}" for model in one.get("loading", ()))
    return f"  {name}: {one['state']}{again}{silent}{loading}" + "".join(f"; {problem}" for problem in one["problems"])


def _model(one: Mapping[str, Any]) -> str:
    sizes = f" {one['loaded_bytes'] / 1e9:.1f} of {one['total_bytes'] / 1e9:.1f} GB" if one["total_bytes"] else ""
    return f"{one['model']} {one['state']}{sizes}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
