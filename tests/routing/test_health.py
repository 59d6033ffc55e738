"""What is remembered of routes stays bounded, however many names callers think of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sensorium.routing import health
from sensorium.routing.call import Credential, Provider
from sensorium.routing.health import Admission, Closed, Condition, Health
from sensorium.wire.failure import Failure
from tests.routing.hosted import chat, image, provider

AT = provider("http://one")
GONE, OUTAGE = Failure("model_unavailable", 404, "none"), Failure("provider_outage", 500, "down")


def test_names_without_end_are_forgotten_but_open_breakers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_PLACES", 10)
    known = Health(lambda: 0.0)
    for _ in range(3):
        _failed(known, "broken", OUTAGE)
    for number in range(50):
        _failed(known, f"name-{number}", GONE)
    assert len(known._breakers) <= 10
    assert len(known._marks) <= 10
    assert isinstance(known.closed_to(chat("broken", AT)), Closed)
    assert isinstance(known.closed_to(chat("name-49", AT)), Closed)


def _failed(known: Health, model: str, failure: Failure, at: Provider = AT) -> None:
    admission = known.enter(chat(model, at))
    assert isinstance(admission, Admission)
    admission.failed(failure)


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
        _failed(known, "good", OUTAGE, route.provider)
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
    _failed(known, "good", Failure("auth", 401, "no"), at)
    time.now = 5.0
    assert known.condition(route) == Condition("out", "no", 5.0, None, "auth", 5.0, None)
    version[0] = 2
    assert known.condition(route).state == "open"


def test_what_is_forgotten_is_all_that_concerns_a_provider_and_calls_still_out_do_not_count() -> None:
    known, other = Health(lambda: 0.0), provider("http://two", "other")
    for _ in range(2):
        _failed(known, "good", OUTAGE, other)
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
