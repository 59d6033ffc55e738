"""What holds when several have a say in where a call goes, and how long a request may take altogether."""

from __future__ import annotations

import asyncio

import pytest

from sensorium.errors import Forbidden
from sensorium.routing.call import Where
from sensorium.routing.terms import Terms, agreed, laid_on, under
from tests.routing.hosted import call


@pytest.mark.parametrize(
    ("wheres", "expected"),
    [
        ((), "any"),
        ((None, None), "any"),
        (("any", None, "local_first"), "local_first"),
        (("local_first", None), "local_first"),
        (("local_first", "any"), "any"),
        (("local_first", "hosted_first"), "hosted_first"),
        (("local_only", "any"), "local_only"),
        (("local_only", "hosted_first"), "local_only"),
        (("any", "local_only", "local_only"), "local_only"),
        (("hosted_first", "local_only"), "local_only"),
    ],
)
def test_the_nearest_wish_counts_but_an_exclusion_holds(wheres: tuple[Where | None, ...], expected: Where) -> None:
    assert agreed(*wheres) == expected


def test_two_exclusions_leave_no_place() -> None:
    with pytest.raises(Forbidden, match="hosted_only and local_only"):
        agreed("local_only", None, "hosted_only")


def test_without_terms_a_call_stays_as_it_is() -> None:
    asked = call()
    assert laid_on(asked, "any", 0.0) is asked
    assert laid_on(asked, "local_first", 0.0).where == "local_first"
    assert laid_on(call(where="hosted_first"), "local_first", 0.0).where == "hosted_first"


def test_one_deadline_holds_for_all_calls_of_a_request() -> None:
    with under(Terms(deadline_s=10.0)):
        assert [laid_on(call(), "any", now).deadline_s for now in (5.0, 8.0, 20.0)] == [10, 7, -5]
        assert laid_on(call(deadline_s=2.0), "any", 5.0).deadline_s == 2
    assert laid_on(call(), "any", 5.0).deadline_s is None


def test_tasks_that_begin_under_terms_stay_under_them() -> None:
    async def asked() -> Where:
        return laid_on(call(), "any", 0.0).where

    async def main() -> tuple[Where, Where]:
        with under(Terms(("local_only", None), headers={"traceparent": "00"})):
            inside = asyncio.ensure_future(asked())
        return await inside, await asked()

    assert asyncio.run(main()) == ("local_only", "any")
