"""A call of one of the hub's doors as a request of the queue: kept whole, dispatched like any other, its reply kept as the result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from sensorium.jobs.request import Asked, Made, Rules
from sensorium.jobs.run import Run
from sensorium.routing.call import Call, Modality, Reply
from sensorium.routing.dispatch import Dispatch
from sensorium.routing.origin import attributed
from sensorium.wire import jsonbody

Keep = Callable[[Reply], Awaitable[tuple[bytes, dict[str, Any]]]]
"""What is kept of a reply: the result, and what is told with it."""
WORK: Final = "video"
_KEPT = ("id", "model", "modality", "dialects", "operation", "where", "deadline_s", "changes", "headers")


class CallWork:
    """Runs calls that were submitted whole. `keep` says per modality what is kept of a reply."""

    def __init__(self, dispatch: Dispatch, keep: Mapping[Modality, Keep]) -> None:
        self._dispatch, self._keep = dispatch, keep

    async def __call__(self, run: Run) -> Made:
        """Dispatch the call and keep its reply. Raises what a dispatch raises."""
        request = run.request
        described = {name: request.call[name] for name in _KEPT}
        described |= {name: tuple(described[name]) for name in ("dialects", "changes")}
        if described["deadline_s"] is not None:  # it counts from the submission on
            described["deadline_s"] -= (request.claimed_at or request.created_at) - request.created_at
        call = Call(**described, members=jsonbody.members(run.body), caller=request.caller)
        body, told = await self._keep[call.modality](await self._dispatch(call))
        return Made(body, told=told)


def asked(call: Call, dispatch: Dispatch, remembered: Mapping[str, str]) -> Asked:
    """The submission of a call, under the terms of the request that it is made for; `remembered` is for the door.

    A run of it that fails is its end: its caller may be waiting. Raises Forbidden as `laid` does.
    """
    call = dispatch.laid(attributed(call))
    described = {"asked": dict(remembered), **{name: getattr(call, name) for name in _KEPT}}
    body = jsonbody.encode(call.members)
    return Asked(WORK, call.modality, "", call.model, call.caller, body, described, rules=Rules(no_retry=True))
