"""Pictures on their way to models with rules about them, and to models without."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from sensorium.errors import AddressRefused, BadRequest, InvalidImage
from sensorium.routing.call import Route
from sensorium.routing.inline import fitted
from sensorium.routing.payload import Payload
from sensorium.wire import dataurl, picture
from tests.routing.hosted import chat, provider
from tests.wire.test_decoding import noisy, png

PLAIN = chat("good", provider("http://upstream/v1"))
SMALL = replace(PLAIN, inline_limit=180_000)
DEAF = replace(PLAIN, inline_urls=True)
LITTLE, LARGE = png(noisy(40, 30)), png(noisy(700, 500))


async def nobody(url: str) -> bytes:
    raise AssertionError(f"{url} was fetched")


def sent(*urls: str) -> Payload:
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "What is this?"},
        *({"type": "image_url", "image_url": {"url": u}} for u in urls),
    ]
    return Payload(
        "http://upstream/v1/chat/completions", "application/json", json.dumps({"n": 1.50, "messages": [{"content": parts}]}).encode()
    )


def fit(asked: Payload, route: Route, fetch: Callable[[str], Awaitable[bytes]] = nobody) -> Payload:
    return asyncio.run(fitted(asked, route, fetch))


def urls(made: Payload) -> list[str]:
    assert made.data is not None
    return [part["image_url"]["url"] for part in json.loads(made.data)["messages"][0]["content"][1:]]


def fetching(data: bytes) -> Callable[[str], Awaitable[bytes]]:
    async def fetch(url: str) -> bytes:
        assert url == "https://pictures.test/a"
        return data

    return fetch


def test_a_route_without_rules_gets_what_came() -> None:
    asked = sent(dataurl.build("image/png", LARGE), "https://pictures.test/a")
    assert fit(asked, PLAIN) is asked


def test_a_picture_within_the_limit_stays_as_it_is() -> None:
    asked = sent(dataurl.build("image/png", LITTLE))
    assert fit(asked, SMALL) is asked


def test_a_picture_beyond_the_limit_is_made_smaller_and_told() -> None:
    little = dataurl.build("image/png", LITTLE)
    made = fit(sent(little, dataurl.build("image/png", LARGE)), SMALL)
    kept, shrunk = urls(made)
    assert kept == little
    assert len(shrunk.partition(",")[2]) <= 180_000
    assert picture.media_type(dataurl.parse(shrunk).data) == "image/jpeg"
    assert len(made.changes) == 1 and made.changes[0].startswith("messages[0].content[2]: 700x500")
    assert made.data is not None and b'"n":1.5' in made.data


def test_a_url_is_fetched_only_for_a_model_that_reads_none() -> None:
    asked = sent("https://pictures.test/a")
    assert fit(asked, SMALL) is asked
    made = fit(asked, DEAF, fetching(LITTLE))
    assert urls(made) == [f"data:image/png;base64,{base64.b64encode(LITTLE).decode()}"]
    assert made.changes == ("messages[0].content[1]: fetched",)


def test_a_fetched_picture_obeys_the_limit_too() -> None:
    made = fit(sent("https://pictures.test/a"), replace(DEAF, inline_limit=180_000), fetching(LARGE))
    assert len(urls(made)[0]) < 180_100
    assert made.changes[0].startswith("messages[0].content[1]: fetched, 700x500")


@pytest.mark.parametrize("data", [b"<html>", b"", b"\x00" * 40])
def test_what_was_fetched_and_is_no_picture_is_refused_with_its_place(data: bytes) -> None:
    with pytest.raises(InvalidImage, match=r"^messages\[0\]\.content\[1\]: ") as refused:
        fit(sent("https://pictures.test/a"), DEAF, fetching(data))
    assert refused.value.param == "messages[0].content[1]"


def test_an_undecodable_picture_beyond_the_limit_names_its_part() -> None:
    with pytest.raises(InvalidImage, match=r"^messages\[0\]\.content\[2\]: "):
        fit(sent(dataurl.build("image/png", LITTLE), dataurl.build("image/png", LARGE[:150_000])), SMALL)


@pytest.mark.parametrize("refusal", [AddressRefused("10.0.0.1 is private", hint="list it"), BadRequest("nobody there")])
def test_a_refused_address_names_its_part(refusal: BadRequest) -> None:
    async def fetch(url: str) -> bytes:
        raise refusal

    with pytest.raises((AddressRefused, InvalidImage), match=r"^messages\[0\]\.content\[1\]: ") as refused:
        fit(sent("https://pictures.test/a"), DEAF, fetch)
    assert refused.value.hint == refusal.hint


@pytest.mark.parametrize(
    "messages",
    [
        "no",
        [1],
        [{"content": "text"}],
        [{"content": [{"type": "image_url"}]}],
        [{"content": [{"type": "image_url", "image_url": {"url": 3}}]}],
    ],
)
def test_what_is_no_picture_part_is_the_models_to_judge(messages: object) -> None:
    asked = Payload("u", "application/json", json.dumps({"messages": messages, "x": "image_url"}).encode())
    assert fit(asked, DEAF) is asked
