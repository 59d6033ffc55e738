"""What a caller asks of every call that one request of its makes: where it may go, how long it may take, which headers go along.

The terms lie around the request (`under`), and `Dispatch` lays them on each call, so that no door can forget them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from sensorium.errors import Forbidden
from sensorium.routing.call import Call, Where

BINDING = ("local_only", "hosted_only")  # a wish further in may change an order, never one of these


@dataclass(slots=True)
class Terms:
    """The terms of one request. `wheres` are wishes from the widest to the nearest: the token's, then the request's (None: none).

    `deadline_s` counts from the first call on, so that what the caller takes to send its body is its own time. `attempt` says whose run
    the calls are, where the request is one of the queue's: its id, and the number of the run.
    """

    wheres: tuple[Where | None, ...] = ()
    deadline_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    attempt: tuple[str, int] | None = None
    _until: float | None = None

    @property
    def plain(self) -> bool:
        """Whether they ask for nothing."""
        return self.deadline_s is None and not self.headers and not any(self.wheres) and self.attempt is None

    def left(self, now: float) -> float | None:
        """Seconds that are left; None when there is no deadline. The first look starts the clock."""
        if self.deadline_s is None:
            return None
        if self._until is None:
            self._until = now + self.deadline_s
        return self._until - now


_TERMS: ContextVar[Terms | None] = ContextVar("terms", default=None)


@contextmanager
def under(terms: Terms) -> Iterator[None]:
    """Every call that is made inside, also by tasks that begin inside, is made under `terms`."""
    token = _TERMS.set(terms)
    try:
        yield
    finally:
        _TERMS.reset(token)


def captured() -> dict[str, Any]:
    """The terms of the request under way, as JSON, for calls that are made later. A deadline is not among them: it is the connection's."""
    terms = _TERMS.get()
    return {} if terms is None or terms.plain else {"wheres": list(terms.wheres), "headers": dict(terms.headers)}


def restored(kept: Mapping[str, Any] | None, attempt: tuple[str, int]) -> Terms:
    """Terms as `captured` gave them, for a run of the queue's."""
    return Terms(tuple(kept["wheres"]), headers=kept["headers"], attempt=attempt) if kept else Terms(attempt=attempt)


def laid_on(call: Call, order: Where, now: float) -> Call:
    """The call under the hub's order and the terms of its request. Raises Forbidden when two of them exclude each other."""
    terms = _TERMS.get()
    own = None if call.where == "any" else call.where
    if terms is None or terms.plain:
        return call if order == "any" else replace(call, where=agreed(order, own))
    left = terms.left(now)
    deadline = min((one for one in (left, call.deadline_s) if one is not None), default=None)
    headers, runs = {**terms.headers, **call.headers}, terms.attempt is None  # the queue repeats its own runs
    where = agreed(order, *terms.wheres, own)
    return replace(call, where=where, deadline_s=deadline, headers=headers, attempt=terms.attempt, repeatable=call.repeatable and runs)


def agreed(*wheres: Where | None) -> Where:
    """Where a call goes that several have a say in, from the widest to the nearest: the nearest order, unless somebody excludes a place.

    Raises Forbidden when one excludes this machine and another the hosted providers.
    """
    bound = {where for where in wheres if where in BINDING}
    if len(bound) > 1:
        raise Forbidden(f"this call may go nowhere: {' and '.join(sorted(map(str, bound)))} hold at once", code="placement")
    given = [where for where in wheres if where is not None]
    return next(iter(bound)) if bound else (given[-1] if given else "any")
