"""Drawings of engines on this machine, which tell every step: logged, and asked for again when they break off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sensorium.errors import SensoriumError, UpstreamFailed
from sensorium.routing import terms
from sensorium.routing.call import Call, Route
from sensorium.wire import sse
from tests.apps.stands import Bench, Says
from tests.apps.test_drawing import CUBE, FAL, FLUX, NVIDIA, SCHNELL, TOY, TOY_DEV, drawing
from tests.routing.hosted import image


def events(call: Call, route: Route) -> list[bytes]:
    steps = [json.dumps({"step": number, "steps": 2}).encode() for number in (1, 2)]
    return [sse.event(one) for one in (*steps, bytes(drawing(call, route).body))]


class Engine:
    """Tells steps when it is asked to; the first stream breaks off with `error` after its first step."""

    def __init__(self, error: Exception | dict[str, Any] | None = None) -> None:
        self.error, self.asked = error, list[bool]()

    def __call__(self, call: Call, route: Route) -> Says:
        self.asked.append(call.stream)
        if not call.stream:
            return drawing(call, route)
        error, self.error = self.error, None
        return Says(self._pieces(events(call, route), error), "text/event-stream")  # type: ignore[arg-type]

    def _pieces(self, told: list[bytes], error: Exception | dict[str, Any] | None) -> Iterator[bytes]:
        yield told[0]
        if isinstance(error, Exception):
            raise error
        if error is not None:
            yield sse.event(json.dumps({"detail": "full", "error": error}).encode())
            return
        whole = b"".join(told[1:])
        yield whole[:7]  # pieces end where they like
        yield whole[7:]


def test_every_step_is_logged() -> None:
    plain = Bench((TOY, TOY_DEV), drawing)
    whole = plain.run(SCHNELL, CUBE | {"seed": 7})
    running = Bench((TOY, TOY_DEV), Engine())
    made = running.run(SCHNELL, CUBE | {"seed": 7, "num_images": 2})
    steps = ["step 1 of 2", "step 2 of 2"]
    assert running.lines[1:-1] == ["picture 1 of 2", *steps, "picture 2 of 2", *steps]
    assert (made.body["seed"], len(made.body["images"])) == (7, 2)
    assert running.store.at(made.body["images"][0]["url"]).data == plain.store.at(whole.body["images"][0]["url"]).data
    assert running.models.closed == 2


@pytest.mark.parametrize("provider", [NVIDIA, FAL])
def test_a_hosted_service_is_asked_for_the_whole(provider: Any) -> None:
    model = Engine()
    Bench((image(FLUX, provider),), model).run(SCHNELL, CUBE | {"image_size": "square_hd"})
    assert model.asked == [False]


def test_a_deadline_holds_for_the_whole_answer() -> None:
    model = Engine()
    with terms.under(terms.Terms(deadline_s=60.0)):
        Bench((TOY,), model).run(SCHNELL, CUBE)
    assert model.asked == [False]


def death() -> UpstreamFailed:
    error = UpstreamFailed("the engine broke off in the middle of its reply")
    error.cause = "death"
    return error


@pytest.mark.parametrize("error", [death(), UpstreamFailed("lost"), {"code": "out_of_memory", "message": "full"}])
def test_what_breaks_off_is_asked_for_once_more_in_one_piece(error: Any) -> None:
    model = Engine(error)
    running = Bench((TOY,), model)
    made = running.run(SCHNELL, CUBE | {"seed": 7})
    assert (model.asked, made.body["seed"], running.models.closed) == ([True, False], 7, 2)


def test_an_engine_that_dies_under_a_run_of_the_queue_is_not_asked_again() -> None:
    model = Engine(death())
    with terms.under(terms.Terms(attempt=("r1", 1))), pytest.raises(SensoriumError) as caught:
        Bench((TOY,), model).run(SCHNELL, CUBE)
    assert (model.asked, caught.value.cause) == ([True], "death")


def test_a_stream_without_an_answer_is_asked_for_once_more() -> None:
    class Silent(Engine):
        def _pieces(self, told: list[bytes], error: Any) -> Iterator[bytes]:
            yield told[0]

    model = Silent()
    Bench((TOY,), model).run(SCHNELL, CUBE)
    assert model.asked == [True, False]
