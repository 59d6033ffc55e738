"""What this hub can do right now, as the table that is printed at start: doors, models, modalities and how to turn them on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sensorium.errors import SettingsError
from sensorium.providers import MODALITIES
from sensorium.routing.call import Route

DOORS = (
    ("POST /v1/chat/completions", "see, talk", "OpenAI"),
    ("POST /v1/messages", "see, talk", "Anthropic"),
    ("POST /v1/images/generations, /edits", "draw, edit", "OpenAI"),
    ("POST /v1/genai/<org>/<model>", "draw", "NVIDIA genai"),
    ("POST /v1/embeddings", "embed", "OpenAI"),
    ("POST /v1/rerank", "rank", ""),
    ("POST /v1/audio/speech, /transcriptions, /synthesize", "speak, listen", "OpenAI, NVIDIA"),
    ("POST /v1/video/<org>/<model>", "film", "NVIDIA genai"),
    ("POST /v1/media/<operation>", "all of these", ""),
    ("POST /fal/run/<app>, /fal/queue/<app>", "all of these", "fal"),
    ("GET  /v1/models", "what there is", "OpenAI"),
    ("GET  /v1/status, /metrics, /healthz, /readyz", "state", ""),
)


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether one modality is served, as far as it is known without a call. `said` is how, or why not; `trouble` what part of it is out."""

    name: str
    on: bool
    said: str
    trouble: tuple[str, ...] = ()

    @property
    def lack(self) -> str | None:
        """Why it is not wholly on; None when it is."""
        return "; ".join(self.trouble) or (None if self.on else self.said)


def standings(routes: Sequence[Route], why: Callable[[Route], str | None] = lambda route: route.provider.down()) -> list[Standing]:
    """Every modality that the settings' `router` has, in its words. `why` tells why a route is out, None for one that is not."""
    return [_standing(name, [route for route in routes if route.modality in kinds], why) for name, kinds in MODALITIES.items()]


def required(text: str) -> list[str]:
    """Modalities that somebody insists on, from a list with commas. Raises SettingsError for one that there is not."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in MODALITIES]
    if unknown:
        raise SettingsError([f"--require: there is no modality {', '.join(unknown)}; there are {', '.join(MODALITIES)}"])
    return names


def overview(places: Sequence[str], routes: Sequence[Route], told: Sequence[Standing], token: bool, log: Path) -> str:
    """The start-up table as text. `places` are the hub's base URLs, `told` its modalities, `log` the file that gets a line per call."""
    lines = [f"Sensorium serves {' and '.join(places)}", "", "doors"]
    lines += columns([(f"  {path}", does, dialect) for path, does, dialect in DOORS])
    lines += ["", "models"]
    lines += columns([(f"  {'any name' if route.open else route.id}", route.modality, _said(route)) for route in routes])
    lines += ["", "modalities", *modalities(told)]
    lines += ["", "callers"]
    lines += [f'  export MAC_HUB_URL="{places[0]}"']
    lines += [
        '  export MAC_API_TOKEN="..."   # the token this hub was started with'
        if token
        else "  no token is set: only this machine is served"
    ]
    lines += ["", f"log  {log}"]
    return "\n".join(lines)


def modalities(told: Iterable[Standing]) -> list[str]:
    """The lines of all modalities: on or off, and why; then what part of one is out."""
    rows = []
    for one in told:
        rows.append((f"  {one.name}", "on" if one.on else "off", one.said))
        rows += [("", "", f"without {part}") for part in one.trouble]
    return columns(rows)


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines, their cells below each other."""
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(max((len(row) for row in rows), default=0))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _said(route: Route) -> str:
    if route.stand_in:
        return f"STAND-IN, answered by {route.answers} ({route.scope}); local.stand_ins = false turns it off"
    return f"{route.provider.name}, {route.scope}"


def _standing(name: str, routes: Sequence[Route], why: Callable[[Route], str | None]) -> Standing:
    mine = [route for route in routes if not route.stand_in]
    if not mine:
        return Standing(name, False, f"not configured; turn on: router.{name} (URL + key)")
    told = [(route, why(route)) for route in mine]
    trouble = tuple(dict.fromkeys(f"{route.provider.name}: {reason}" for route, reason in told if reason is not None))
    able = [route for route, reason in told if reason is None]
    if not able:
        return Standing(name, False, "; ".join(trouble))
    picked = next((route for route in sorted(able, key=_at_one_door) if not route.open), None)
    takes = sorted({capability for route in able for capability in route.capabilities} - {"edit"})
    anything = list(dict.fromkeys(route.provider.name for route in able if route.open))
    said = [f"* = {picked.id}" + (" at POST /v1/messages" if _at_one_door(picked) else "")] if picked else []
    said += [f"any name at {' and '.join(anything)}"] if anything else []
    return Standing(name, True, ", ".join(said) + (f" ({', '.join(takes)} input)" if takes else ""), trouble)


def _at_one_door(route: Route) -> bool:
    return route.dialect == "anthropic"
