"""What this hub can do right now, as the table that is printed at start: doors, models, modalities and how to turn them on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sensorium.routing.call import Route

DOORS = (
    ("POST /v1/chat/completions", "see, talk", "OpenAI"),
    ("POST /v1/images/generations", "draw", "OpenAI"),
    ("POST /v1/genai/<org>/<model>", "draw", "NVIDIA genai"),
    ("POST /v1/embeddings", "embed", "OpenAI"),
    ("GET  /v1/models", "what there is", "OpenAI"),
    ("GET  /healthz, /readyz", "state", ""),
)
SWITCHES = {
    "chat": '[providers.NAME] kind = "openai" with a model of modality "chat"',
    "image": '[providers.NAME] kind = "genai" with a model of modality "image"',
    "embed": '[providers.NAME] kind = "openai" with a model of modality "embed"',
    "audio": "router.audio (URL + key), not in this version",
    "video": "router.video (URL + key), not in this version",
}


def overview(address: str, routes: Sequence[Route], token: bool, log: Path) -> str:
    """The start-up table as text. `address` is the hub's base URL, `log` the file that gets a line per call."""
    lines = [f"Sensorium serves {address}", "", "doors"]
    lines += _columns([(f"  {path}", does, dialect) for path, does, dialect in DOORS])
    lines += ["", "models"]
    lines += _columns([(f"  {route.id}", route.modality, _said(route)) for route in routes])
    lines += ["", "modalities"]
    lines += _columns([(f"  {name}", *_state(name, routes)) for name in SWITCHES])
    lines += ["", "callers"]
    lines += [f'  export MAC_HUB_URL="{address}"']
    lines += [
        '  export MAC_API_TOKEN="..."   # the token this hub was started with'
        if token
        else "  no token is set: only this machine is served"
    ]
    lines += ["", f"log  {log}"]
    return "\n".join(lines)


def _said(route: Route) -> str:
    if route.stand_in:
        return f"STAND-IN, answered by {route.answers} ({route.scope}); local.stand_ins = false turns it off"
    return f"{route.provider.name}, {route.scope}"


def _state(modality: str, routes: Iterable[Route]) -> tuple[str, str]:
    mine = [route for route in routes if route.modality == modality and not route.stand_in]
    if not mine:
        return "off", f"turn on: {SWITCHES[modality]}"
    reason = mine[0].provider.down()
    if reason is not None:
        return "off", reason
    able = sorted({capability for route in mine for capability in route.capabilities})
    return "on", f"* = {mine[0].id}" + (f" ({', '.join(able)} input)" if able else "")


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(max((len(row) for row in rows), default=0))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
