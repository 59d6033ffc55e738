"""The start-up table says what is on, what stands in, and which setting turns on the rest."""

from __future__ import annotations

from pathlib import Path

from sensorium.overview import overview
from sensorium.routing.shipped import ShippedModel, routes
from tests.routing.hosted import provider

MODELS = [ShippedModel("sensorium/flow", "flow_image", "synthetic-scenes")]
ROUTES = routes(MODELS, provider("http://engine", "local", local=True), stand_ins=True, taken=())


def line(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(start))


def test_it_tells_stand_ins_modalities_and_switches() -> None:
    told = overview("http://127.0.0.1:8789", ROUTES, token=False, log=Path("hub.log"))
    assert "STAND-IN, answered by sensorium/flow" in line(told, "black-forest-labs/flux.1-dev")
    assert "* = sensorium/flow" in line(told, "image")
    assert "turn on: [providers.NAME]" in line(told, "chat ")
    assert "router.audio" in line(told, "audio")
    assert 'export MAC_HUB_URL="http://127.0.0.1:8789"' in told
    assert "no token is set" in told


def test_it_never_shows_a_token() -> None:
    assert 'export MAC_API_TOKEN="..."' in overview("http://h", [], token=True, log=Path("hub.log"))
