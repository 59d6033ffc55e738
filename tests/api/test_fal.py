"""A hub in front of the simulated fal: pictures, a chat about a picture, videos; failover, cancelling, and where the key goes."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sensorium import app
from sensorium.routing.call import Provider, Route
from sensorium.settings import load
from tests.api import hubs
from tests.api.hubs import Hub, LazyUpstream, Scripted
from tests.routing.hosted import image, provider
from tests.serving import serving
from tests.simulators.fal.site import KEY, LTX, OTHER_KEY, SCHNELL, VLM, FalSite, png
from tests.simulators.fal.site import running as simulating
from tests.simulators.site import eventually
from tests.store.vaults import opened

FLUX = "black-forest-labs/flux.1-schnell"
DRAW, FILM, ASK = f"/v1/genai/{FLUX}", f"/v1/video/{LTX}", "/v1/chat/completions"
CUBE = {"prompt": "a red cube", "width": 768, "height": 832, "seed": 7, "steps": 2}
QUESTION = {
    "model": VLM,
    "messages": [{"role": "user", "content": [{"type": "text", "text": "How large?"}, {"type": "image_url", "image_url": {"url": png()}}]}],
    "max_tokens": 64,
}


def at(site: FalSite, key: str | None = KEY) -> Provider:
    return replace(provider(site.queue, "fal", key), timeout_s=60.0, idle_s=60.0)


def routes(there: Provider) -> list[Route]:
    return [
        Route(FLUX, "image", "fal", frozenset(), there, SCHNELL),
        Route(SCHNELL, "image", "fal", frozenset(), there, SCHNELL),
        Route(VLM, "chat", "fal", frozenset({"vision"}), there, VLM),
        Route(LTX, "video", "fal", frozenset(), there, LTX),
    ]


@contextmanager
def calling(*more: Route, key: str | None = KEY, **options: Any) -> Iterator[tuple[FalSite, Hub]]:
    """A simulator, and a hub that lives on the simulator's clock; `more` routes come after fal's."""
    with simulating(**options) as site:
        upstream = LazyUpstream(site.clock.now, site.clock.sleep)
        with hubs.over([*routes(at(site, key)), *more], upstream=upstream) as hub:
            yield site, hub


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_a_picture_at_the_genai_door() -> None:
    with calling() as (site, hub):
        reply, body = hub.call("POST", DRAW, CUBE)
        (artifact,) = json.loads(body)["artifacts"]
        assert (reply.status, artifact["finishReason"], artifact["seed"]) == (200, "SUCCESS", 7)
        assert (decoded(artifact["base64"]).format, decoded(artifact["base64"]).size) == ("JPEG", (768, 832))
        assert [reply.getheader(f"x-sensorium-{name}") for name in ("source", "model", "changed")] == ["fal", FLUX, None]
        (sent,) = site.seen(method="POST")
        assert sent.body == {
            "sync_mode": True,
            "prompt": "a red cube",
            "num_inference_steps": 2,
            "seed": 7,
            "image_size": {"width": 768, "height": 832},
        }
        assert (sent.headers["authorization"], sent.headers["x-fal-request-timeout"]) == (f"Key {KEY}", "60")
        assert sent.path == f"/{SCHNELL}" and reply.getheader("x-upstream-request-id")
        assert site.seen(host="v3.fal.media") == []  # the picture came inside the result
        picture = hub.call("POST", DRAW, CUBE, {"accept": "image/png"})[1]
        assert picture[:4] == b"\x89PNG"


def test_pictures_at_the_openai_door() -> None:
    with calling() as (site, hub):
        body = {"model": FLUX, "prompt": "a red cube", "n": 2, "seed": 7, "size": "800x800", "quality": "high"}
        reply, raw = hub.call("POST", "/v1/images/generations", body)
        first, second = (one["b64_json"] for one in json.loads(raw)["data"])
        assert (reply.status, decoded(first).size, first != second) == (200, (768, 768), True)
        assert reply.getheader("x-sensorium-changed") == "quality dropped; size 800x800 -> 768x768"
        assert [one.body["seed"] for one in site.seen(method="POST")] == [7, 8]
        reply, raw = hub.call("POST", "/v1/images/generations", {"model": "*", "prompt": "nsfw"})
        assert (reply.status, json.loads(raw)["error"]["code"]) == (422, "content_policy_violation")


def test_a_filtered_picture_is_flagged() -> None:
    with calling() as (_, hub):
        reply, body = hub.call("POST", DRAW, {"prompt": "nsfw"})
        assert (reply.getheader("x-sensorium-filtered"), json.loads(body)["artifacts"][0]["finishReason"]) == ("1", "CONTENT_FILTERED")


def test_a_picture_behind_a_link_is_fetched_without_the_key() -> None:
    with calling() as (site, hub):
        status, answer = hub.json("POST", f"/v1/genai/{SCHNELL}", {"prompt": "a red cube", "sync_mode": False})
        assert (status, decoded(answer["artifacts"][0]["base64"]).size) == (200, (1024, 1024))
        (file,) = site.seen(host="v3.fal.media")
        assert not file.keyed


def test_a_chat_about_a_picture() -> None:
    with calling() as (site, hub):
        reply, raw = hub.call("POST", ASK, QUESTION)
        answer = json.loads(raw)
        assert answer["choices"][0]["message"] == {
            "role": "assistant",
            "content": 'The picture has 5 x 3 pixels. You asked: "How large?"',
        }
        assert (answer["object"], answer["model"], answer["choices"][0]["finish_reason"]) == ("chat.completion", VLM, "stop")
        assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
        assert "total_time" in answer["timings"] and reply.getheader("x-sensorium-changed") is None
        assert site.seen(method="POST")[0].body == {"image_url": png(), "prompt": "How large?", "max_tokens": 64}


def test_a_streamed_chat_and_what_is_dropped() -> None:
    with calling() as (_, hub):
        body = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.5, "max_tokens": 3}
        reply, raw = hub.call("POST", ASK, body)
        frames = [line[6:] for line in raw.decode().splitlines() if line.startswith("data: ")]
        told = [json.loads(frame) for frame in frames[:-1]]
        assert (reply.getheader("content-type"), frames[-1]) == ("text/event-stream", "[DONE]")
        assert told[0]["choices"][0]["delta"]["content"] == "The picture has"
        assert (told[1]["choices"][0]["finish_reason"], told[2]["usage"]["completion_tokens"]) == ("length", 3)
        assert reply.getheader("x-sensorium-changed") == "temperature dropped"


def test_a_video() -> None:
    with calling(work_s=40.0) as (site, hub):
        reply, raw = hub.call("POST", FILM, {"prompt": "waves", "seed": 3, "num_frames": 9})
        answer = json.loads(raw)
        assert (reply.status, answer["seed"], answer["artifacts"][0]["seed"]) == (200, 3, 3)
        assert base64.b64decode(answer["artifacts"][0]["base64"])[4:8] == b"ftyp"
        assert site.seen(method="POST")[0].body == {"prompt": "waves", "seed": 3, "num_frames": 9}
        assert [one.keyed for one in site.seen(host="v3.fal.media")] == [False]
        assert 10 < len(site.seen(ending="/status")) < 40


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a", "steps": 9}, "steps"),  # by the model's published rules, before anything is sent
        ({"prompt": "a", "width": 100}, "width"),
    ],
)
def test_a_well_known_model_keeps_its_rules(body: dict[str, Any], param: str) -> None:
    with calling() as (site, hub):
        status, answer = hub.json("POST", DRAW, body)
        assert (status, answer["error"]["param"], len(site.simulator.seen)) == (422, param, 0)


def test_what_the_app_refuses_is_the_callers_answer() -> None:
    with calling() as (_, hub):
        reply, raw = hub.call("POST", ASK, {**QUESTION, "max_tokens": 9000})
        error = json.loads(raw)["error"]
        assert (reply.status, error["message"]) == (422, "max_tokens: Input should be less than or equal to 8192")
        assert reply.getheader("x-sensorium-source") == "fal"


def test_what_is_no_call_for_this_app() -> None:
    with calling() as (site, hub):
        two = [*QUESTION["messages"], *QUESTION["messages"]]
        status, answer = hub.json("POST", ASK, {"model": VLM, "messages": two})
        assert (status, "2 pictures" in answer["error"]["message"]) == (422, True)
        status, answer = hub.json("POST", ASK, {"model": VLM, "messages": [{"role": "user", "content": "hello"}]})
        assert (status, answer["error"]["code"], len(site.simulator.seen)) == (400, "invalid_model", 0)


def test_the_next_route_answers_where_fal_does_not() -> None:
    other = Scripted()
    other.body = json.dumps({"artifacts": [{"base64": base64.b64encode(b"\xff\xd8\xff..").decode(), "finishReason": "SUCCESS"}]}).encode()
    with serving(other) as base, calling(image(FLUX, provider(base, "second"))) as (site, hub):
        site.fault("503", times=1)
        reply, _ = hub.call("POST", DRAW, CUBE)
        assert (reply.status, reply.getheader("x-sensorium-source")) == (200, "second")
        assert json.loads(other.asked[0][1]) == CUBE  # in its own dialect
        site.fault("error", times=1)
        reply, _ = hub.call("POST", "/v1/images/generations", {"model": FLUX, "prompt": "a red cube"})
        assert (reply.status, reply.getheader("x-sensorium-source")) == (200, "second")
        reply, _ = hub.call("POST", DRAW, CUBE)
        assert reply.getheader("x-sensorium-source") == "fal"


def test_the_end_of_patience_cancels_the_request() -> None:
    with calling() as (site, hub):
        site.fault("never", times=1)
        status, answer = hub.json("POST", DRAW, CUBE)
        assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
        eventually(lambda: [one.status for one in site.seen(method="PUT")] == [202])


def test_a_caller_that_hangs_up_cancels_the_request() -> None:
    with calling() as (site, hub):
        site.clock.held = True  # the hub waits for its next look at the status for ever
        connection = HTTPConnection(hub.address, timeout=10)
        connection.request("POST", DRAW, json.dumps(CUBE))
        eventually(lambda: bool(site.seen(method="POST")))
        connection.close()
        eventually(lambda: bool(site.seen(method="PUT", ending="/cancel")))
        assert site.seen(method="PUT")[0].keyed
        eventually(lambda: [record.outcome for record in hub.records] == ["client_closed"])


def test_addresses_on_another_host_are_refused_and_never_get_the_key() -> None:
    with calling() as (site, hub):
        site.fault("wrong-host")
        reply, raw = hub.call("POST", DRAW, CUBE)
        assert (reply.status, "on another host (localhost)" in json.loads(raw)["error"]["message"]) == (502, True)
        assert {one.named for one in site.simulator.seen} == {site.base.removeprefix("http://")}
        assert [one.method for one in site.simulator.seen] == ["POST"]


def test_a_lost_request_is_not_made_again() -> None:
    with calling() as (site, hub):
        site.fault("lost", times=1)
        status, answer = hub.json("POST", DRAW, CUBE)
        assert (status, answer["error"]["code"], len(site.seen(method="POST"))) == (502, "result_lost", 1)
        site.fault("no-file")
        status, answer = hub.json("POST", FILM, {"prompt": "waves", "num_frames": 9})
        assert (status, answer["error"]["code"]) == (502, "result_lost")


def test_passing_troubles_are_borne() -> None:
    with calling() as (site, hub):
        site.fault("status-500", times=3)
        site.fault("result-503", times=1)
        assert hub.json("POST", DRAW, CUBE)[0] == 200
        assert len(site.seen(method="POST")) == 1


def test_a_submit_that_is_refused_says_when_to_come_back() -> None:
    with calling() as (site, hub):
        site.fault("429", times=1)
        reply, raw = hub.call("POST", FILM, {"prompt": "waves"})
        assert (reply.status, reply.getheader("retry-after"), json.loads(raw)["error"]["code"]) == (429, "7", "rate_limited")


def test_a_balance_that_is_spent_is_no_wrong_key() -> None:
    with calling(key="locked-id:locked-secret") as (_, hub):
        status, answer = hub.json("POST", DRAW, CUBE)
        assert (status, answer["error"]["code"]) == (402, "quota_exhausted")


SETTINGS = """
[local]
enabled = false
[providers.fal]
kind = "fal"
base_url = "{queue}"
models = [{{ id = "{flux}", modality = "image", upstream = "fal-ai/flux/schnell" }}]
"""


def test_a_refused_key_is_named_and_a_new_one_cures_it_without_a_restart(tmp_path: Path) -> None:
    with simulating() as site, opened(tmp_path) as vault:
        vault.put("fal", "wrong-id:wrong-secret", [site.base], who="test")
        file = tmp_path / "hub.toml"
        file.write_text(SETTINGS.format(queue=site.queue, flux=FLUX), "utf-8")
        upstream = LazyUpstream(site.clock.now, site.clock.sleep)
        hub_app = app.build(load(file, {}, data_dir=tmp_path), None, upstream.send, vault)
        with hubs.over(hub_app.dispatch.catalog.routes, upstream=upstream) as hub:
            status, answer = hub.json("POST", DRAW, CUBE)
            assert (status, answer["error"]["code"]) == (401, "upstream_key_rejected")
            assert "the hub's key fal" in answer["error"]["message"] and "wrong-secret" not in json.dumps(answer)
            vault.put("fal", OTHER_KEY, [site.base], who="test")
            assert hub.json("POST", DRAW, CUBE)[0] == 200
            vault.put("fal", KEY, ["elsewhere.example"], who="test")  # bound to another host: not sent at all
            before = len(site.simulator.seen)
            assert hub.json("POST", DRAW, CUBE)[0] == 503
            assert len(site.simulator.seen) == before
