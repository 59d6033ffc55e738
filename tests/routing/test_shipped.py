"""Stand-ins: they exist where nothing better is configured, and say so."""

from __future__ import annotations

from sensorium.routing.catalog import Catalog
from sensorium.routing.shipped import ShippedModel, routes
from tests.routing.hosted import provider

MODELS = [
    ShippedModel("sensorium/flow", "flow_image", "synthetic-scenes"),
    ShippedModel("sensorium/vlm", "diffusion_vlm", "synthetic-scenes"),
]
LOCAL = provider("http://engine", "local", local=True)


def test_stand_ins_come_before_the_model_that_answers_for_them() -> None:
    found = routes(MODELS, LOCAL, stand_ins=True, taken=())
    assert [route.id for route in found] == [
        "black-forest-labs/flux.1-schnell",
        "black-forest-labs/flux.1-dev",
        "sensorium/flow",
        "fal-ai/nemotron-diffusion-vlm",
        "sensorium/vlm",
    ]
    assert [route.answers for route in found] == ["sensorium/flow"] * 3 + ["sensorium/vlm"] * 2


def test_one_setting_turns_them_off() -> None:
    assert [route.id for route in routes(MODELS, LOCAL, stand_ins=False, taken=())] == ["sensorium/flow", "sensorium/vlm"]


def test_a_configured_id_has_no_stand_in() -> None:
    found = routes(MODELS, LOCAL, stand_ins=True, taken={"black-forest-labs/flux.1-dev"})
    assert "black-forest-labs/flux.1-dev" not in {route.id for route in found}


def test_the_list_flags_them() -> None:
    entry = Catalog(routes(MODELS, LOCAL, True, ())).entry("black-forest-labs/flux.1-dev")
    assert (entry["stand_in"], entry["answered_by"], entry["scope"]) == (True, "sensorium/flow", "synthetic-scenes")
