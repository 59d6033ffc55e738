"""POST /v1/images/edits and, with it, everything that pictures in OpenAI's words need on routes that speak genai: one call, one record."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from PIL import Image

from sensorium.routing.call import Route
from sensorium.wire import multipart
from sensorium.wire.multipart import Part
from tests.api import hubs
from tests.api.hubs import Hub, Scripted, form_of
from tests.routing.hosted import image, provider
from tests.serving import serving
from tests.simulators.site import AI, KEY, Site, eventually
from tests.simulators.site import running as simulating

EDITS, GENERATIONS = "/v1/images/edits", "/v1/images/generations"
KONTEXT, SCHNELL = "black-forest-labs/flux.1-kontext-dev", "black-forest-labs/flux.1-schnell"
QWEN, CHANGED = "qwen/qwen-image", "x-sensorium-changed"
SAMPLE = b"data:image/png;example_id,0"


def png(color: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(out, "PNG")
    return out.getvalue()


def routes(site: Site) -> list[Route]:
    """Two hosted models, an image container that speaks OpenAI's protocol and edits, and one that speaks genai."""
    paint = replace(provider(f"http://{site.address}{AI}/v1/genai", "paint", KEY), timeout_s=60.0)
    own = replace(provider(f"http://{site.address}/nim/{QWEN}/v1", "own", None), timeout_s=60.0)
    nim = replace(provider(f"http://{site.address}/nim/{KONTEXT}/v1", "nim", None), timeout_s=60.0)
    edit = frozenset({"edit"})
    return [
        image(SCHNELL, paint),
        image(KONTEXT, paint),
        replace(image(QWEN, own), dialect="openai", capabilities=edit),
        replace(image("my/kontext", nim, "infer"), capabilities=edit),
    ]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with simulating() as site:
        yield site


@pytest.fixture
def hub(site: Site) -> Iterator[Hub]:
    with hubs.over(routes(site)) as hub:
        yield hub


@pytest.fixture
def client(hub: Hub) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{hub.address}/v1", api_key="any", max_retries=0, timeout=60) as made:
        yield made


def drawn(reply: Any) -> list[bytes]:
    assert reply.data
    return [base64.b64decode(one.b64_json) for one in reply.data]


def sent(hub: Hub, *parts: Part, path: str = EDITS) -> tuple[Any, Any]:
    reply, raw = hub.form(path, *parts)
    return reply, json.loads(raw)


def test_the_official_package_edits_through_openais_dialect(client: openai.OpenAI) -> None:
    """`*` takes a model that is known to edit; different pictures give different results."""
    results = {
        drawn(client.images.edit(image=("a.png", png(color)), prompt="make it blue", model="*", size="256x256"))[0]
        for color in ("red", "green")
    }
    assert [Image.open(io.BytesIO(data)).size for data in results] == [(256, 256)] * 2
    several = client.images.edit(image=[png(), png("blue")], mask=png(), prompt="mix", model=QWEN, n=2, size="64x64")
    assert len(drawn(several)) == 2


def test_the_official_package_edits_through_genai(client: openai.OpenAI, hub: Hub, site: Site) -> None:
    raw = client.images.with_raw_response.edit(image=("a", SAMPLE), prompt="add a hat", model=KONTEXT, n=2, size="1024x1024")
    assert len(set(drawn(raw.parse()))) == 2
    assert (raw.headers["x-sensorium-model"], raw.headers["x-sensorium-source"]) == (KONTEXT, "paint")
    eventually(lambda: len(hub.records) == 1)  # two pictures, one call
    assert (hub.records[0].outcome, hub.records[0].status) == ("answered", 200)
    own = client.images.edit(image=("a.png", png()), prompt="add a hat", model="my/kontext")
    assert Image.open(io.BytesIO(drawn(own)[0])).format == "JPEG"


def test_a_hosted_preview_says_that_it_takes_samples_only(hub: Hub) -> None:
    reply, body = sent(hub, Part("image", png(), "a.png"), Part("prompt", b"x"), Part("model", KONTEXT.encode()))
    assert (reply.status, body["error"]["param"], "samples only" in body["error"]["message"]) == (422, "image", True)


@pytest.mark.parametrize("picture", [{"image": SAMPLE.decode()}, {"images": [{"image_url": SAMPLE.decode()}]}])
def test_json_is_taken_too(hub: Hub, picture: dict[str, Any]) -> None:
    status, body = hub.json("POST", EDITS, {"prompt": "x", "model": KONTEXT, **picture})
    assert (status, len(body["data"])) == (200, 1)


def test_a_form_reaches_openais_dialect_as_it_came() -> None:
    program = Scripted()
    program.body = b'{"created": 1, "data": [{"b64_json": "QUJD"}], "more": 1.50}'
    parts = [Part("image[]", b"\x89PNG\r\n--", "\xe9.png", "image/png"), Part("model", b"any"), Part("prompt", b"x"), Part("odd", b"1")]
    with serving(program) as base:
        named = replace(image("any", provider(f"{base}/v1"), "their-name"), dialect="openai")
        with hubs.over([named]) as hub:
            media, form = multipart.build(parts)
            reply, body = hub.call("POST", f"{EDITS}?api-version=1", form, {"content-type": media})
    assert (reply.status, body, reply.getheader(CHANGED), program.asked[0][0]) == (200, program.body, None, b"api-version=1")
    raw = program.asked[0][1]
    got = form_of(raw)
    assert [(p.name, bytes(p.data), p.filename, p.media) for p in got] == [
        (p.name, b"their-name" if p.name == "model" else p.data, p.filename, p.media) for p in parts
    ]


BAD: list[tuple[tuple[Part, ...], int, str]] = [
    ((Part("prompt", b"x"),), 400, "image is missing"),
    ((Part("image", png(), "a.png"),), 422, "prompt is missing"),
    ((Part("image", png(), "a.png"), Part("prompt", b"x"), Part("model", SCHNELL.encode())), 422, "cannot edit pictures"),
    ((Part("image", b"no", "a.png"), Part("prompt", b"x"), Part("model", KONTEXT.encode())), 400, "not a picture"),
    ((Part("image", SAMPLE), Part("prompt", b"x"), Part("n", b"0"), Part("model", KONTEXT.encode())), 422, "n is 0"),
    ((Part("image", png(), "a.png"), Part("prompt", b"x"), Part("model", b"../x")), 400, "is not a model name"),
    ((Part("image", png(), "a.png"), Part("prompt", b"x"), Part("model", b"no/such")), 404, "no model"),
    ((Part("image", png(), "a.png"), Part("mask", png(), "m.png"), Part("prompt", b"x"), Part("model", b"my/kontext")), 422, "mask"),
]


@pytest.mark.parametrize(("parts", "status", "said"), BAD, ids=[row[2] for row in BAD])
def test_bad_edits_say_what_is_missing(hub: Hub, parts: tuple[Part, ...], status: int, said: str) -> None:
    reply, body = sent(hub, *parts)
    assert (reply.status, said in body["error"]["message"]) == (status, True), body
    assert body["error"]["request_id"]


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [(b"", "multipart/form-data; boundary=x", 400), (b"[]", "application/json", 400), (b'{"prompt": "x"}', "application/json", 400),
     (b'{"prompt": 1, "image": "data:,"}', "application/json", 422)],
)  # fmt: skip
def test_bodies_that_are_neither_form_nor_call(hub: Hub, body: bytes, media: str, status: int) -> None:
    reply, raw = hub.call("POST", EDITS, body, {"content-type": media})
    assert (reply.status, bool(json.loads(raw)["error"]["message"])) == (status, True)


def test_without_an_editor_star_names_the_setting(site: Site) -> None:
    with hubs.over(routes(site)[:1]) as hub:
        reply, body = sent(hub, Part("image", png(), "a.png"), Part("prompt", b"x"))
    assert (reply.status, body["error"]["code"], "edit = true" in body["error"]["hint"]) == (400, "invalid_model", True)


def test_a_picture_call_fails_over_inside_one_record(site: Site) -> None:
    """The first route answers with an outage, the second in another dialect draws: one walk, one record, all attempts in it."""
    at = provider(f"http://{site.address}{AI}/v1/genai", "paint", KEY)
    good = replace(at, name="other")
    both = [image(SCHNELL, at, "simulated/degraded"), image(SCHNELL, good)]
    with hubs.over(both) as hub:
        status, body = hub.json("POST", GENERATIONS, {"model": SCHNELL, "prompt": "x", "n": 2, "size": "768x768"})
        eventually(lambda: bool(hub.records))
        assert (status, len(body["data"]), len(hub.records)) == (200, 2, 1)
        assert [(attempt.route.provider.name, attempt.failure.kind) for attempt in hub.records[0].attempts] == [
            ("paint", "provider_outage")
        ]


class Series(Scripted):
    """Answers each call with the next of `bodies`."""

    def __init__(self, *bodies: bytes) -> None:
        super().__init__()
        self.bodies = list(bodies)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.body = self.bodies.pop(0)
        await super().__call__(scope, receive, send)


DRAWN = b'{"artifacts":[{"base64":"QUJD","finishReason":"SUCCESS","seed":1}]}'


def test_what_was_drawn_before_a_failure_is_kept_and_counted() -> None:
    with serving(Series(DRAWN, DRAWN, b'{"artifacts":[]}', DRAWN)) as base, hubs.over([image("org/a", provider(base, "paint"))]) as hub:
        reply, raw = hub.call("POST", GENERATIONS, {"model": "org/a", "prompt": "x", "n": 4, "size": "768x768"})
        eventually(lambda: bool(hub.records))
        assert (reply.status, len(json.loads(raw)["data"]), len(hub.records)) == (200, 2, 1)
    assert (reply.getheader(CHANGED) or "").startswith("n 4 -> 2: paint answered without a picture")


def test_an_empty_first_picture_asks_the_next_route() -> None:
    with serving(Series(b'{"artifacts":[]}', DRAWN)) as base:
        both = [image("org/a", provider(base, name)) for name in ("first", "second")]
        with hubs.over(both) as hub:
            reply, _ = hub.call("POST", GENERATIONS, {"model": "org/a", "prompt": "x", "size": "64x64"})
    assert (reply.status, reply.getheader("x-sensorium-source")) == (200, "second")


def test_every_picture_counts_against_the_providers_rate() -> None:
    """Ten pictures use up a burst of ten: the next call would have to wait longer than it may."""
    with serving(Series(*[DRAWN] * 11)) as base:
        limited = replace(provider(base, "paint"), per_minute=0.5, burst=10)
        with hubs.over([image("org/a", limited)]) as hub:
            call = {"model": "org/a", "prompt": "x", "size": "64x64"}
            assert hub.json("POST", GENERATIONS, {**call, "n": 10})[0] == 200
            status, body = hub.json("POST", GENERATIONS, call)
    assert (status, body["error"]["code"]) == (429, "rate_limited")
