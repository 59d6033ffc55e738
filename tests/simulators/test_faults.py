"""Ordered faults: by header, by rule, by flag; how each looks on the wire, and that a seed repeats them."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from http.client import IncompleteRead
from typing import Any

import pytest

from sensorium.errors import SettingsError
from sensorium.simulators.nvidia.faults import STAGES, Faults, Rule
from tests.simulators.site import CHAT, CUBE, HELLO, MAGPIE, SCHNELL, Answer, Site, eventually, running

STREAM = {**HELLO, "stream": True}
CONTROL = "/simulator"


@pytest.fixture
def own() -> Iterator[Site]:
    with running() as site:
        yield site


def part_of(site: Site, path: str, body: Any, fault: str) -> bytes:
    """What arrives of a body that breaks off."""
    with pytest.raises(IncompleteRead) as broken:
        site.post(path, body, x_simulate=fault)
    return broken.value.partial


def test_a_stream_that_is_cut_breaks_off_between_two_frames(site: Site) -> None:
    part = part_of(site, CHAT, STREAM, "cut-stream").decode()
    assert part.endswith("\n\n")
    assert "[DONE]" not in part
    assert [json.loads(line[6:]) for line in part.splitlines() if line]


def test_half_a_stream_breaks_off_inside_a_frame(site: Site) -> None:
    part = part_of(site, CHAT, STREAM, "half-body").decode()
    assert part.startswith("data: {")
    assert not part.endswith("\n\n")


@pytest.mark.parametrize("fault", ["half-body", "cut-stream"])
@pytest.mark.parametrize(("path", "body"), [(CHAT, HELLO), (SCHNELL, CUBE)])
def test_a_whole_body_breaks_off_at_half(site: Site, fault: str, path: str, body: Any) -> None:
    whole, part = site.post(path, body).body, part_of(site, path, body, fault)
    assert 0.4 * len(whole) < len(part) < 0.6 * len(whole)


def test_a_stream_without_its_end(site: Site) -> None:
    frames = site.post(CHAT, STREAM, x_simulate="no-done").frames
    assert (frames[-1] != "[DONE]", frames[-1]["choices"][0]["finish_reason"]) == (True, "stop")


def test_an_error_in_mid_stream(site: Site) -> None:
    answer = site.post(CHAT, STREAM, x_simulate="stream-error")
    *before, last = answer.frames
    assert (answer.status, set(last), last["error"]["object"]) == (200, {"error"}, "error")
    assert before
    assert all("choices" in frame for frame in before)


@pytest.mark.parametrize(("path", "body"), [(CHAT, HELLO), (CHAT, STREAM), (SCHNELL, CUBE)])
def test_garbage_is_a_200_that_nobody_can_read(site: Site, path: str, body: Any) -> None:
    answer = site.post(path, body, x_simulate="garbage")
    assert (answer.status, len(answer.body)) == (200, 512)
    with pytest.raises(ValueError):
        json.loads(answer.body)


@pytest.mark.parametrize(("path", "body"), [(CHAT, HELLO), (CHAT, STREAM), (SCHNELL, CUBE)])
def test_an_empty_answer_has_a_good_status(site: Site, path: str, body: Any) -> None:
    answer = site.post(path, body, x_simulate="empty")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(("path", "body"), [(CHAT, HELLO), (SCHNELL, CUBE)])
def test_malformed_json_is_whole_on_the_wire(site: Site, path: str, body: Any) -> None:
    answer = site.post(path, body, x_simulate="malformed-json")
    assert (answer.status, answer.headers["content-type"], answer.body[:1]) == (200, "application/json", b"{")
    with pytest.raises(ValueError):
        json.loads(answer.body)


def test_a_malformed_frame_stands_in_a_stream_that_goes_on(site: Site) -> None:
    lines = [line for line in site.post(CHAT, STREAM, x_simulate="malformed-json").body.decode().splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    assert [line for line in lines[:-1] if not line.endswith("}")]


def test_slow_answers_sleep_on_the_injected_clock(own: Site) -> None:
    assert own.post(CHAT, HELLO, x_simulate="slow-first-byte=30").status == 200
    assert own.clock.slept == [0, 30]
    own.clock.slept.clear()
    frames = own.post(CHAT, STREAM, x_simulate="slow-stream=0.25").frames
    assert own.clock.slept == [0, *[0.25] * (len(frames) - 1)]
    own.clock.slept.clear()
    assert own.post(SCHNELL, CUBE, x_simulate="slow-stream").status == 200
    assert own.clock.slept == [0, *[0.5] * 7]


def test_the_worker_takes_as_long_as_ordered(own: Site) -> None:
    assert own.post(CHAT, HELLO, x_simulate="slow-work=299").status == 200
    answer = own.post(CHAT, HELLO, x_simulate="slow-work=301")
    assert (answer.status, answer.body, own.clock.slept) == (504, b"", [299, 302])


def test_no_answer_sends_nothing_and_notices_who_leaves(own: Site) -> None:
    connection = own.connect()
    connection.request("POST", CHAT, json.dumps(HELLO), {"Authorization": "Bearer nvapi-simulated", "x-simulate": "no-answer"})
    eventually(lambda: len(own.simulator.seen) == 1)
    assert connection.sock is not None
    connection.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        connection.sock.recv(1)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    eventually(lambda: own.simulator.counters["callers who left"] == 1)


def test_several_faults_on_one_call(own: Site) -> None:
    answer = own.post(CHAT, STREAM, x_simulate="slow-first-byte=2, stream-error")
    assert ("error" in answer.frames[-1], own.clock.slept[-1]) == (True, 2)


def ordered(site: Site, **rule: Any) -> Answer:
    return site.post(f"{CONTROL}/faults", rule, Authorization=None)


def test_a_rule_for_the_next_calls_of_a_model(own: Site) -> None:
    assert ordered(own, kind="429", model="meta/*", times=2).status == 204
    assert own.post(SCHNELL, CUBE).status == 200
    assert [own.post(CHAT, HELLO).status for _ in range(3)] == [429, 429, 200]


def test_a_rule_for_a_key() -> None:
    with running(keys=("nvapi-one", "nvapi-two")) as site:
        ordered(site, kind="degraded", key="nvapi-two")
        statuses = [site.post(CHAT, HELLO, Authorization=f"Bearer nvapi-{key}").status for key in ("one", "two", "one")]
        assert statuses == [200, 400, 200]
        assert b"nvapi" not in site.get(CONTROL).body


def test_rules_leave_lists_and_wrong_keys_alone(own: Site) -> None:
    ordered(own, kind="no-answer")
    ordered(own, kind="500")
    assert own.get("/integrate.api.nvidia.com/v1/models").status == 200
    own.call("DELETE", f"{CONTROL}/faults")
    ordered(own, kind="500", times=1)
    assert own.post(CHAT, HELLO, Authorization="Bearer nvapi-wrong").status == 403
    assert [own.post(CHAT, HELLO).status for _ in range(2)] == [500, 200]


def test_control_shows_what_happened(own: Site) -> None:
    ordered(own, kind="slow-stream", rate=0, seconds=1)
    own.post(CHAT, {**HELLO, "max_tokens": 300})
    own.post(f"{MAGPIE}/v1/audio/synthesize", b"\xff\xfe")
    state = own.get(CONTROL, Authorization=None).json
    assert state["counters"] == {"invoked": 2, "answered 200": 1, "answered 400": 1}
    assert state["faults"] == [{"kind": "slow-stream", "rate": 0.0, "model": "*", "key": "*", "times": None, "seconds": 1.0}]
    chat, speech = own.get(f"{CONTROL}/calls").json
    assert (chat["model"], chat["status"], chat["body"]["max_tokens"]) == ("meta/llama-3.1-8b-instruct", 200, 300)
    assert (speech["path"], speech["status"], speech["body"]) == ("/v1/audio/synthesize", 400, None)
    assert b"nvapi" not in own.get(f"{CONTROL}/calls").body
    assert own.call("DELETE", f"{CONTROL}/faults").status == 204
    assert own.get(CONTROL).json["faults"] == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "fire"}, "unknown"),
        ({"kind": "429", "rate": 2}, "from 0 to 1"),
        ({"kind": "429", "rate": "all"}, "Expected `float`"),
        ({"kind": "slow-stream", "seconds": -1}, "negative"),
        ({}, "kind"),
        (b"{", "a fault is an object"),
    ],
)
def test_rules_that_cannot_be(site: Site, body: Any, said: str) -> None:
    answer = site.post(f"{CONTROL}/faults", body)
    assert (answer.status, said in answer.json["error"]) == (400, True)
    assert site.get(f"{CONTROL}/nothing").status == 400


def test_a_seed_repeats_the_faults() -> None:
    def drawn(seed: int) -> list[bool]:
        faults = Faults([Rule("429", 0.3), Rule("500", 0.2)], seed)
        return [faults.pick("service", "", "any") is not None for _ in range(200)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert 50 < sum(drawn(1)) < 130


def test_one_rule_does_not_change_what_another_draws() -> None:
    alone, beside = Faults([Rule("429", 0.3)], 5), Faults([Rule("429", 0.3), Rule("slow-stream", 0.5)], 5)
    for _ in range(100):
        beside.pick("delivery", "", "any")
        assert alone.pick("service", "", "any") == beside.pick("service", "", "any")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("429", Rule("429")), ("429=0.05", Rule("429", 0.05)), ("slow-stream=0.5:2", Rule("slow-stream", 0.5, seconds=2.0))],
)
def test_rules_from_words(text: str, expected: Rule) -> None:
    assert Rule.parsed(text) == expected


@pytest.mark.parametrize("text", ["", "fire", "429=often", "429=1.5", "slow-stream=1:soon", "slow-stream=1:-2"])
def test_words_that_are_no_rule(text: str) -> None:
    with pytest.raises(SettingsError):
        Rule.parsed(text)


@pytest.mark.parametrize("kind", sorted(STAGES))
def test_every_kind_can_be_ordered_by_header(kind: str) -> None:
    stages = {stage for stage in STAGES.values() if Faults([], 0).pick(stage, kind, "any")}
    assert stages == {STAGES[kind]}


def test_faults_by_flag_hit_their_share() -> None:
    with running(faults=(Rule("exhausted", 0.5),), seed=7) as site:
        hits = [site.post(CHAT, HELLO).status == 503 for _ in range(30)]
        draw = random.Random("7:0:exhausted")
        assert hits == [draw.random() < 0.5 for _ in range(30)]
