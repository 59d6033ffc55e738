"""A link to an uploaded file as a picture, at the doors that talk about pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sensorium import app
from sensorium.settings import Settings
from sensorium.store.files import Files
from sensorium.wire.lifecycle import Lifecycle
from tests.api.hubs import Hub, LazyUpstream, living
from tests.serving import serving
from tests.store.vaults import opened
from tests.upstream_program import PNG, Provider

DATA = f"data:image/png;base64,{PNG}"
SOURCE = {"type": "base64", "media_type": "image/png", "data": PNG}
WHAT = {"type": "text", "text": "What is this?"}


@dataclass(frozen=True, slots=True)
class Place:
    """A hub, what its providers were sent, and its files."""

    hub: Hub
    provider: Provider
    files: Files

    def sent(self) -> Any:
        return json.loads(self.provider.seen[-1][2])


@contextmanager
def place(folder: Path, inline_urls: bool = False) -> Iterator[Place]:
    provider, upstream = Provider(), LazyUpstream()
    with serving(provider) as at, opened(folder) as vault:
        table = {
            "talk": {"kind": "openai", "base_url": f"{at}/v1", "models": [{"id": "good", "vision": True, "inline_urls": inline_urls}]},
            "paint": {"kind": "genai", "base_url": f"{at}/v1/genai", "models": [{"id": "my/editor", "modality": "image", "edit": True}]},
            "claude": {"kind": "anthropic", "base_url": f"{at}/v1", "models": [{"id": "claude", "vision": True}]},
        }
        configured = Settings.model_validate({"local": {"enabled": False}, "providers": table, "server": {"data_dir": folder}})
        built = app.build(configured, None, upstream.send, vault)
        with serving(living(built.router, built.durable.jobs, upstream)) as base:
            hub = Hub(base, [])
            try:
                yield Place(hub, provider, built.durable.files)
            finally:
                hub.close()


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path) as made:
        yield made


def uploaded(at: Place) -> str:
    """A link as an upload answers it."""
    headers = {"content-type": "image/png", "x-fal-file-name": "a.png"}
    return str(at.hub.json("POST", "/fal/cdn/files/upload", base64.b64decode(PNG), headers)[1]["access_url"])


def chat(url: str) -> dict[str, Any]:
    return {"model": "good", "messages": [{"role": "user", "content": [WHAT, {"type": "image_url", "image_url": {"url": url}}]}]}


def message(url: str, model: str) -> dict[str, Any]:
    picture = {"type": "image", "source": {"type": "url", "url": url}}
    return {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": [WHAT, picture]}]}


def test_the_chat_door_sends_the_picture_itself_and_says_so(at: Place) -> None:
    reply, _ = at.hub.call("POST", "/v1/chat/completions", chat(uploaded(at)))
    assert (reply.status, at.sent()["messages"]) == (200, chat(DATA)["messages"])
    assert reply.headers["x-sensorium-changed"] == "messages[0].content[1]: read from the store"


def test_so_it_does_for_a_model_whose_pictures_the_hub_fetches(tmp_path: Path) -> None:
    with place(tmp_path, inline_urls=True) as at:
        assert at.hub.json("POST", "/v1/chat/completions", chat(uploaded(at)))[0] == 200
        assert at.sent()["messages"] == chat(DATA)["messages"]


def test_anthropics_door_does_so_for_both_kinds_of_routes(at: Place) -> None:
    url = uploaded(at)
    at.hub.call("POST", "/v1/messages", message(url, "claude"))
    assert at.sent()["messages"][0]["content"] == [WHAT, {"type": "image", "source": SOURCE}]
    at.hub.call("POST", "/v1/messages", message(url, "good"))
    assert at.sent()["messages"] == chat(DATA)["messages"]


def test_the_media_door_does_so(at: Place) -> None:
    body = {"prompt": "What is this?", "image": uploaded(at), "model": "good"}
    assert at.hub.json("POST", "/v1/media/image.understand", body)[0] == 200
    assert at.sent()["messages"][0]["content"][1] == {"type": "image_url", "image_url": {"url": DATA}}


@pytest.mark.parametrize("named", ["image", "images"])
def test_an_edit_in_json_does_so(at: Place, named: str) -> None:
    url = uploaded(at)
    given = [{"image_url": url}] if named == "images" else url
    assert at.hub.json("POST", "/v1/images/edits", {"model": "my/editor", "prompt": "blue", named: given})[0] == 200
    assert at.sent()["image"] == DATA


def test_an_altered_link_is_refused_before_anybody_is_asked(at: Place) -> None:
    url = uploaded(at)
    sig = url.split("/")[-5]
    status, answer = at.hub.json("POST", "/v1/chat/completions", chat(url.replace(sig, sig[:-2] + ("AA" if sig[-2:] != "AA" else "BA"))))
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "invalid_image", "messages[0].content[1]")
    assert answer["error"]["message"] == "messages[0].content[1]: there is no such file, or its link has expired"
    assert sig not in json.dumps(answer) and not at.provider.seen


def test_somebody_elses_list_is_obeyed(at: Place) -> None:
    for acl, status in (({"default": "forbid"}, 400), ({"default": "hide"}, 400), ({"default": "allow"}, 200)):
        file = at.files.put(
            base64.b64decode(PNG), owner="bob", content_type="image/png", name="a.png", lifecycle=Lifecycle(acl={**acl, "rules": []})
        )
        assert at.hub.json("POST", "/v1/chat/completions", chat(at.files.url(file, "http://elsewhere:1")))[0] == status
    assert len(at.provider.seen) == 1
