"""`sensorium status` shows what a running hub says of itself, and is not misled by what is no hub."""

from __future__ import annotations

import json
from typing import Any

from sensorium.cli_status import table
from tests.serving import serving
from tests.test_cli import one_line, run

ROUTE: dict[str, Any] = {
    "model": "*", "provider": "router.image", "modality": "image", "dialect": "genai", "local": False, "answered_by": "*", "state": "out",
    "reason": "its last calls failed", "since_s": 200.0, "next_try_s": 12.4, "last_error": {"class": "transport", "ago_s": 3.0},
    "tokens": 9.5, "in_flight": 2, "tried": None,
}  # fmt: skip
TOLD: dict[str, Any] = {
    "object": "status",
    "version": "9.9",
    "uptime_s": 7500.0,
    "data": {"ok": False, "problem": "the hub's database cannot be read", "free_bytes": None},
    "jobs": {"waiting": 2, "running": 1},
    "settings": {"file": "hub.toml", "loaded_at": 0, "problems": ["router.chat.prot: unknown key"], "needs_restart": ["server.port"]},
    "modalities": {"image": {"on": True, "detail": "any name at router.image", "trouble": ["other: no key"]}},
    "routes": [ROUTE, {**ROUTE, "state": "open", "reason": None, "model": "m", "tried": {"state": "fails", "detail": "403 auth"}}],
    "engines": {
        "local": {"state": "failed", "restarts": 2, "problems": ["no weights"]},
        "gpu": {
            "state": "starting",
            "restarts": 0,
            "problems": [],
            "loading": [
                {"model": "acme/eye", "state": "loading", "loaded_bytes": 4_000_000_000, "total_bytes": 16_000_000_000},
                {"model": "flux", "state": "waiting", "loaded_bytes": 0, "total_bytes": 0},
            ],
        },
        "still": {"state": "ready", "restarts": 0, "problems": [], "silent_s": 42.0},
    },
}


def test_the_table_says_what_is_wrong_where() -> None:
    text = table(TOLD)
    for said in (
        "sensorium 9.9, up 2.1 h",
        "data      the hub's database cannot be read",
        "jobs      2 waiting, 1 running",
        "settings  hub.toml, in force since 1970-01-01 00:00:00 UTC",
        "not taken over: router.chat.prot: unknown key",
        "wait for a restart: server.port",
        "without other: no key",
        "local: failed, started again 2 times; no weights",
        "gpu: starting; acme/eye loading 4.0 of 16.0 GB; flux waiting",
        "still: ready, silent for 42 s",
    ):
        assert said in text
    out, tried = (line.split() for line in text.splitlines() if line.startswith("  router.image"))
    assert " ".join(out) == "router.image any name image out 3 min ago in 12 s 9.5 2 its last calls failed"
    assert " ".join(tried[-3:]) == "tried: 403 auth"


def test_a_running_hub_is_shown(hub: str) -> None:
    shown = run("status", hub=hub)
    assert shown.returncode == 0 and b"local: ready" in shown.stdout and b"sensorium/scenes-flow" in shown.stdout
    told = json.loads(run("status", "--json", hub=hub).stdout)
    assert (told["object"], told["settings"]["file"], told["engines"]["local"]["state"]) == ("status", None, "ready")


def test_what_is_no_hub_is_told_in_one_line() -> None:
    async def other(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b'{"status": "ok"}'})

    with serving(other) as base:
        result = run("status", hub=base)
    assert (result.returncode, "is this a Sensorium hub?" in one_line(result)) == (1, True)
