"""What becomes of the records of dispatched calls: one row for a request, one for a call that no request waits for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sensorium.routing.call import Attempt, Record
from sensorium.routing.ledger import REPEATED, Ledger
from sensorium.routing.origin import ORIGIN, Origin
from sensorium.store.calls import Attribution, Finished
from sensorium.wire import jsonbody
from sensorium.wire.failure import Failure
from sensorium.wire.usage import Usage
from tests.routing.hosted import call, chat, provider

ONE, TWO = chat("good", provider("http://one", "one")), chat("good", provider("http://two", "two"))
PROMPT = "a purple ring upon a wooden table"
CALL = call(caller="token", members=jsonbody.members(b'{"model": "meta/llama-3.1-8b", "prompt": "%s"}' % PROMPT.encode()))
ANSWERED = Record(CALL, ONE, 200, "answered", 0.5, 2.0, 100, usage=Usage(1, 2))


class Kept(list[Finished]):
    """Takes the place of the store."""

    lost = 0

    def add(self, row: Finished) -> None:
        self.append(row)

    def lose(self) -> None:
        self.lost += 1


class Recorder:
    """A ledger whose clock stands where it is put; the epoch began 1000 seconds before it."""

    def __init__(self) -> None:
        self.kept, self.at, self.logged = Kept(), 10.0, list[Record]()
        calls: Any = self.kept
        self.record = Ledger(calls, self.logged.append, lambda: self.at, lambda: self.at + 1000).record

    def request(self, *done: tuple[Record, float], status: int = 200) -> Finished:
        origin = Origin("r1", {"agent": "a"}, "/v1/door", "token")
        within = ORIGIN.set(origin)
        for record, at in done:
            self.at = at
            self.record(record)
        ORIGIN.reset(within)
        assert not self.kept
        origin.end(status, 30, 400)
        return self.kept.pop()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    assert (recorder.kept, recorder.kept.lost) == ([], 0)


def test_a_request_is_one_row_over_all_its_calls(recorder: Recorder) -> None:
    late = replace(ANSWERED, route=TWO, total_s=1.0, first_byte_s=0.25, usage=Usage(3))
    row = recorder.request((ANSWERED, 12.0), (late, 15.0))
    assert (row.id, row.door, row.caller, row.provider, row.asked) == ("r1", "/v1/door", "token", "two", "good")
    assert (row.began, row.first_byte_s, row.total_s) == (1010.0, 4.25, 5.0)
    assert (row.bytes_in, row.bytes_out, row.usage) == (30, 400, Usage(4, 2))
    assert row.attribution == Attribution(agent="a")
    assert len(recorder.logged) == 2


def test_a_request_without_calls_leaves_nothing(recorder: Recorder) -> None:
    Origin("r1").end(404, 0, 0)


def test_a_call_that_no_request_waits_for_is_a_row_of_its_own(recorder: Recorder) -> None:
    recorder.record(ANSWERED)
    alone = recorder.kept.pop()
    assert (alone.door, alone.caller, alone.bytes_in, alone.bytes_out) == ("chat/completions", "token", None, 100)
    origin = Origin("r1", {"agent": "a"}, "/v1/door", "token")
    within = ORIGIN.set(origin)
    recorder.record(ANSWERED)
    origin.end(200, 1, 2)
    recorder.record(ANSWERED)
    ORIGIN.reset(within)
    late, early = recorder.kept.pop(), recorder.kept.pop()
    assert (early.bytes_in, late.bytes_in, late.attribution) == (1, None, Attribution(agent="a"))


@pytest.mark.parametrize(
    ("dispatched", "status", "outcome"),
    [
        ("answered", 200, "answered"),
        ("refused", 422, "refused"),
        ("failed", 401, "refused"),
        ("failed", 503, "failed"),
        ("failed", 200, "failed"),
        ("answered", 502, "failed"),
        ("client_closed", 200, "client_closed"),
        ("answered", 0, "client_closed"),
        ("client_closed", 503, "failed"),
    ],
)
def test_the_outcome_is_what_the_caller_saw(recorder: Recorder, dispatched: str, status: int, outcome: str) -> None:
    row = recorder.request((replace(ANSWERED, outcome=dispatched), 12.0), status=status)
    assert (row.outcome, row.status) == (outcome, status or 499)


def test_the_call_that_decided_is_told(recorder: Recorder) -> None:
    failed = replace(ANSWERED, route=None, status=422, outcome="failed", usage=Usage())
    assert recorder.request((failed, 11.0), (ANSWERED, 12.0), status=400).provider is None
    assert recorder.request((failed, 11.0), (ANSWERED, 12.0), status=200).provider == "one"
    assert recorder.request((ANSWERED, 11.0), (failed, 12.0), status=422).provider is None


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("no such model: meta/llama-3.1-8b", True),
        (f"flagged: {PROMPT[:REPEATED]}", False),
        (f"x{PROMPT[3 : 3 + REPEATED]}yz", False),
        (f"it ends in {PROMPT[-REPEATED:]}", False),
        (f"flagged: {PROMPT[: REPEATED - 1]}?", True),
        ("", True),
    ],
)
def test_a_message_that_repeats_the_call_is_not_kept(recorder: Recorder, message: str, kept: bool) -> None:
    attempt = Attempt(TWO, Failure("semantic", 400, message), True, 2.5)
    row = recorder.request((replace(ANSWERED, attempts=(attempt,)), 12.0))
    told = {"provider": "two", "model": "good", "class": "semantic", "status": 400, "asked": True, "retry_after_s": 2.5}
    assert row.attempts == [{**told, "message": message if kept else "(it repeats the call)"}]


def test_a_status_of_our_own_is_not_the_providers(recorder: Recorder) -> None:
    attempt = Attempt(TWO, Failure("transport", 503, "gone"), True)
    assert recorder.request((replace(ANSWERED, attempts=(attempt,)), 12.0)).attempts[0]["status"] is None
