"""The start-up table says what is on, what stands in, and which setting turns on the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sensorium.overview import overview, standings
from sensorium.routing.shipped import ShippedModel, routes
from tests.routing.hosted import chat, image, provider

MODELS = [ShippedModel("sensorium/flow", "flow_image", "synthetic-scenes")]
ROUTES = routes(MODELS, provider("http://engine", "local", local=True), stand_ins=True, taken=())


def line(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(start))


def test_it_tells_stand_ins_modalities_and_switches() -> None:
    told = overview(["http://127.0.0.1:8789"], ROUTES, standings(ROUTES), token=False, log=Path("hub.log"))
    assert "STAND-IN, answered by sensorium/flow" in line(told, "black-forest-labs/flux.1-dev")
    assert "* = sensorium/flow" in line(told, "image")
    assert "off  not configured; turn on: router.chat (URL + key)" in line(told, "chat ")
    assert "router.audio" in line(told, "audio")
    assert 'export MAC_HUB_URL="http://127.0.0.1:8789"' in told
    assert "no token is set" in told


def test_a_modality_is_on_when_one_of_its_routes_can_be_asked_and_says_what_is_out() -> None:
    out = replace(provider("https://x", "router.image"), down=lambda: "there is no secret nvidia-image")
    (hosted,) = standings([image("*", out)])[1:2]
    assert (hosted.on, hosted.said) == (False, "router.image: there is no secret nvidia-image")
    (both,) = standings([image("*", out), *ROUTES])[1:2]
    assert (both.on, both.trouble) == (True, ("router.image: there is no secret nvidia-image",))
    assert both.said == "* = sensorium/flow"
    (open_one,) = standings([image("*", provider("https://x", "router.image"))])[1:2]
    assert open_one.said == "any name at router.image"
    (tried,) = standings([image("*", provider("https://x", "router.image"))], lambda route: "403 auth: no")[1:2]
    assert (tried.on, tried.said) == (False, "router.image: 403 auth: no")


def test_star_at_the_chat_door_is_told_before_that_of_the_messages_door() -> None:
    claude = replace(chat("claude", provider("https://x", "anthropic")), dialect="anthropic")
    assert standings([claude])[0].said == "* = claude at POST /v1/messages (text, vision input)"
    assert standings([claude, chat("m", provider("https://y"))])[0].said.startswith("* = m (")


def test_it_never_shows_a_token() -> None:
    assert 'export MAC_API_TOKEN="..."' in overview(["http://h"], [], [], token=True, log=Path("hub.log"))
