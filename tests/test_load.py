"""Many mixed calls at once through a real hub and a real simulator with faults: nothing is lost, nothing hangs, each is recorded once."""

from __future__ import annotations

from bench import hosted

CALLS = 600


def test_every_call_ends_in_an_answer_or_one_clear_error_and_is_recorded_once() -> None:
    figures, tally = hosted.measured(CALLS, concurrency=64, faults=0.1, probes=1)
    assert tally.unexplained == []
    assert figures["answered"] + figures["errors"] == figures["recorded_once"] == CALLS
    assert figures["answered"] > 0.8 * CALLS
