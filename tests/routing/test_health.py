"""What a failure of each class changes, and that what is remembered stays bounded, however many names callers think of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sensorium.routing import health
from sensorium.routing.call import Credential, Provider
from sensorium.routing.health import Admission, Closed, Condition, Health
from sensorium.wire.failure import Failure, FailureClass
from tests.routing.hosted import chat, image, provider

AT = provider("http://one")
GONE, OUTAGE = Failure("model_unavailable", 404, "none"), Failure("provider_outage", 500, "down")
BUSY = Failure("rate_limited", 429, "too many")


def test_names_without_end_are_forgotten_but_open_breakers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_PLACES", 10)
    known = Health(lambda: 0.0)
    for _ in range(3):
        _failed(known, "broken", OUTAGE)
    for number in range(50):
        _failed(known, f"name-{number}", GONE)
        _failed(known, f"busy-{number}", BUSY)
    assert len(known._breakers) <= 10
    assert len(known._pauses) <= 50  # every one of them is still on
    assert len(known._marks) <= 10
    assert isinstance(known.closed_to(chat("broken", AT)), Closed)
    assert isinstance(known.closed_to(chat("name-49", AT)), Closed)


@pytest.mark.parametrize("kind", ["auth", "quota_exhausted", "model_unavailable"])
def test_what_a_provider_said_about_one_call_is_not_told_to_the_next_caller(kind: FailureClass) -> None:
    known = Health(lambda: 0.0)
    _failed(known, "m", Failure(kind, 403, 'I do not serve the prompt "a private matter"'))
    closed = known.closed_to(chat("m", AT))
    assert closed is not None
    assert closed.reason == health.REASONS[kind] and "private" not in repr(known._marks)


def _failed(known: Health, model: str, failure: Failure, after_s: float | None = None, at: Provider = AT) -> None:
    admission = known.enter(chat(model, at))
    assert isinstance(admission, Admission)
    admission.failed(failure, after_s)


def test_a_429_pauses_one_model_and_opens_no_breaker() -> None:
    known = Health(lambda: 0.0)
    for _ in range(10):
        _failed(known, "hot", BUSY, after_s=7)
        known._pauses.clear()
    _failed(known, "hot", BUSY, after_s=7)
    closed = known.closed_to(chat("hot", AT))
    assert closed is not None and (closed.kind, closed.retry_after_s) == ("rate_limited", 7)
    assert known._breaker(chat("hot", AT)).state == "closed"
    assert known.closed_to(chat("cool", AT)) is None


def test_broken_connections_to_an_engine_of_the_hub_open_no_breaker_but_its_errors_do() -> None:
    known, own = Health(lambda: 0.0), replace(AT, local=True, own=True)
    for _ in range(10):
        _failed(known, "m", Failure("transport", 502, "broke off"), at=own)
    assert known.closed_to(chat("m", own)) is None
    assert known.condition(chat("m", own)).last_error == "transport"
    for _ in range(3):
        _failed(known, "m", OUTAGE, at=own)
    assert isinstance(known.closed_to(chat("m", own)), Closed)


def test_an_outage_of_one_modality_blocks_no_other() -> None:
    known, draws = Health(lambda: 0.0), replace(chat("both", AT), modality="image")
    for _ in range(3):
        admission = known.enter(draws)
        assert isinstance(admission, Admission)
        admission.failed(OUTAGE)
    assert known.closed_to(draws) is not None
    assert known.closed_to(chat("both", AT)) is None


def test_a_trial_whose_caller_leaves_lets_the_next_try() -> None:
    seconds = [0.0]
    known, route = Health(lambda: seconds[0]), chat("m", AT)
    for _ in range(3):
        _failed(known, "m", OUTAGE)
    seconds[0] = 30.0
    trial, second = known.enter(route), known.enter(route)
    assert isinstance(trial, Admission) and isinstance(second, Closed)
    trial.released()
    assert isinstance(known.enter(route), Admission)


def test_an_old_call_that_ends_without_a_verdict_is_no_trial_that_ends() -> None:
    seconds = [0.0]
    known, route = Health(lambda: seconds[0]), chat("m", AT)
    old = [known.enter(route) for _ in range(2)]
    for _ in range(3):
        _failed(known, "m", OUTAGE)
    seconds[0] = 30.0
    assert isinstance(known.enter(route), Admission)
    assert isinstance(old[0], Admission) and isinstance(old[1], Admission)
    old[0].released()
    old[1].failed(BUSY, 0.0)
    assert isinstance(known.enter(route), Closed)


def test_what_was_never_sent_costs_nothing_of_the_limit() -> None:
    known, route = Health(lambda: 0.0), chat("m", replace(AT, per_minute=1.0, burst=1))
    admission = known.enter(route)
    assert isinstance(admission, Admission) and isinstance(known.enter(route), Closed)
    admission.unused()
    admission.unused()
    assert isinstance(known.enter(route), Admission) and isinstance(known.enter(route), Closed)


class Time:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_condition_of_a_route_tells_state_reason_and_times() -> None:
    time = Time()
    known, route = Health(time), chat("good", replace(AT, per_minute=60, burst=2))
    assert known.condition(route) == Condition("open", None, None, None, None, None, 2.0)
    for _ in range(3):
        _failed(known, "good", OUTAGE, at=route.provider)
        time.now += 1
    out = known.condition(route)
    assert (out.state, out.since_s, out.next_try_s, out.last_error, out.last_error_s) == ("out", 1.0, 29.0, "provider_outage", 1.0)
    time.now += 29
    assert known.condition(route).state == "trying"
    admission = known.enter(route)
    assert isinstance(admission, Admission)
    admission.failed(Failure("rate_limited", 429, "slow down"), 7.0)
    limited = known.condition(route)
    assert (limited.state, limited.next_try_s) == ("limited", 7.0)


def test_looking_does_not_use_up_the_trial() -> None:
    time = Time()
    known, route = Health(time), chat("good", AT)
    for _ in range(3):
        _failed(known, "good", OUTAGE)
    time.now = 31.0
    for _ in range(5):
        assert known.condition(route).state == "trying"
    assert isinstance(known.enter(route), Admission)


def test_a_refusal_tells_since_when_and_a_new_key_ends_it() -> None:
    time, version = Time(), [1]
    at = replace(AT, credential=Credential("nvidia-upstream", lambda: "k", lambda: version[0]))
    known, route = Health(time), chat("good", at)
    _failed(known, "good", Failure("auth", 401, "no"), at=at)
    time.now = 5.0
    assert known.condition(route) == Condition("out", "it refused the hub's key", 5.0, None, "auth", 5.0, None)
    version[0] = 2
    assert known.condition(route).state == "open"


def test_what_is_forgotten_is_all_that_concerns_a_provider_and_calls_still_out_do_not_count() -> None:
    known, other = Health(lambda: 0.0), provider("http://two", "other")
    for _ in range(2):
        _failed(known, "good", OUTAGE, at=other)
    _failed(known, "good", Failure("quota_exhausted", 402, "empty"))
    late = known.enter(chat("late", other))
    known.forget(["hosted"])
    early = known.enter(chat("good", AT))
    known.forget(["hosted"])
    assert isinstance(late, Admission) and isinstance(early, Admission)
    early.failed(Failure("auth", 401, "the key before"))
    assert known.condition(chat("good", AT)).state == "open"
    late.failed(OUTAGE)
    assert known.condition(chat("good", other)).last_error == "provider_outage"
    assert set(known.failed_names(chat("*", other))) == {"good", "late"}


def test_the_last_answer_is_that_of_the_provider_in_its_modality() -> None:
    time = Time()
    known = Health(time)
    assert known.answered_at(chat("good", AT)) is None
    time.now = 3.0
    admission = known.enter(chat("good", AT))
    assert isinstance(admission, Admission)
    admission.answered()
    assert (known.answered_at(chat("other", AT)), known.answered_at(image("x", AT))) == (3.0, None)
