"""Asking the next route too when one is slow, where that does no harm: the first valid answer wins, the other one is given up.

The two never mix: what goes on is one reply, and the other's connection is closed before it goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from sensorium.routing.call import Call, Reply, Route

# Calls that leave nothing behind and cost little twice. Pictures, speech and video are paid for each, and a stream has begun when it is
# first heard of; the Responses protocol stores what it answers.
SAFE: Final = ("chat", "embed", "rerank", "transcribe")
STORED: Final = "responses"

Asking = Coroutine[Any, Any, Reply | None]


def after_s(call: Call, route: Route) -> float | None:
    """Seconds after which the next route is asked too; None where it is not."""
    safe = call.modality in SAFE and call.repeatable and not call.stream and call.operation.partition("?")[0] != STORED
    return route.provider.hedge_after_s if safe else None


async def raced(asking: Asking, others: Callable[[], Asking], late: Awaitable[None], lost: Callable[[Route], None]) -> Reply | None:
    """What `asking` answers, or what `others()` do, which are asked when it has not answered by `late`; None when nobody does.

    Raises what the first of them raises. `lost` is told of a route whose answer came, but second.
    """
    first, timer = asyncio.ensure_future(asking), asyncio.ensure_future(late)
    running, reply = [first], None
    try:
        await asyncio.wait({first, timer}, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            running.append(asyncio.ensure_future(others()))
        while running and reply is None:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            task = next(task for task in running if task.done())
            running.remove(task)
            reply = task.result()
        return reply
    finally:
        timer.cancel()
        await _given_up(running, timer, reply, lost)


async def _given_up(
    running: Sequence[asyncio.Future[Reply | None]], timer: asyncio.Future[None], won: Reply | None, lost: Callable[[Route], None]
) -> None:
    for task in running:
        if task.done() and not task.cancelled() and task.exception() is None and (late := task.result()) is not None:
            lost(late.route)
            await late.close()
        task.cancel()
    try:
        await asyncio.gather(timer, *running, return_exceptions=True)
    except asyncio.CancelledError:
        if won is not None:
            await won.close()
        raise
