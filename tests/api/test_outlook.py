"""What a waiting caller is told to expect."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sensorium.api.outlook import Outlook
from sensorium.jobs.request import Request, State
from sensorium.routing.call import Route
from sensorium.routing.catalog import Catalog
from tests.api.fal_fakes import NOW, FakeQueue, asked
from tests.routing.hosted import image, provider


def request(state: State = State.QUEUED, began: float | None = None) -> Request:
    return replace(FakeQueue().add(asked()), lane="org/draws", state=state, claimed_at=began)


def route(name: str, down: str | None = None) -> Route:
    return image("org/draws", replace(provider("http://nowhere", name), down=lambda: down))


def outlook(*routes: Route, cost: float | None = 4.0) -> Outlook:
    """Two run at once; the local engine begins, which for its callers is loading."""
    catalog = Catalog(routes)
    return Outlook(lambda: catalog, lambda lane: cost, lambda lane: 2, lambda: {"local": "starting"}, lambda: NOW)


@pytest.mark.parametrize(("position", "seconds"), [(0, 4.0), (1, 4.0), (2, 8.0), (5, 12.0)])
def test_a_waiting_request_counts_those_before_it(position: int, seconds: float) -> None:
    assert outlook()(request(), position)[0] == seconds
    assert outlook(cost=None)(request(), position)[0] is None


@pytest.mark.parametrize(("began", "seconds"), [(NOW - 1, 3.0), (NOW - 60, 0.0), (None, 4.0)])
def test_a_running_request_counts_what_is_left(began: float | None, seconds: float) -> None:
    assert outlook()(request(State.RUNNING, began), 0)[0] == seconds


@pytest.mark.parametrize(
    ("routes", "state"),
    [
        ((), None),
        ((route("local"),), "loading"),
        ((route("far"),), "ready"),
        ((route("local"), route("far")), "ready"),
        ((route("local"), route("far", down="it is")), "loading"),
        ((route("far", down="it is"),), "down"),
    ],
)
def test_the_state_of_the_model_is_that_of_its_best_route(routes: tuple[Route, ...], state: str | None) -> None:
    assert outlook(*routes)(request(), 0)[1] == state
