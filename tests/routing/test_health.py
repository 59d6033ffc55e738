"""What is remembered of routes stays bounded, however many names callers think of."""

from __future__ import annotations

import pytest

from sensorium.routing import health
from sensorium.routing.health import Admission, Closed, Health
from sensorium.wire.failure import Failure, FailureClass
from tests.routing.hosted import chat, provider

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


@pytest.mark.parametrize("kind", ["auth", "quota_exhausted", "model_unavailable"])
def test_what_a_provider_said_about_one_call_is_not_told_to_the_next_caller(kind: FailureClass) -> None:
    known = Health(lambda: 0.0)
    _failed(known, "m", Failure(kind, 403, 'I do not serve the prompt "a private matter"'))
    closed = known.closed_to(chat("m", AT))
    assert closed is not None
    assert closed.reason == health.REASONS[kind] and "private" not in repr(known._marks)


def _failed(known: Health, model: str, failure: Failure) -> None:
    admission = known.enter(chat(model, AT))
    assert isinstance(admission, Admission)
    admission.failed(failure)
