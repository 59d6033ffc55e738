"""From the records of dispatched calls to one row for each request of a caller, and to one for each call that no request is waiting for.

A fault in here is counted as a lost record and never reaches the call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any

from sensorium.routing.call import ANY_MODEL, Attempt, Call, Record
from sensorium.routing.metering import asked
from sensorium.routing.origin import ORIGIN, Origin
from sensorium.store.calls import Attribution, Calls, Finished
from sensorium.wire.usage import UNKNOWN, Usage

CLIENT_CLOSED = 499
REPEATED = 16  # characters of a call's body that no kept message may hold
LOOKED_AT = 128 * 1024  # bytes of each member in which they are looked for
log = logging.getLogger("sensorium.hub")
Ended = tuple[Record, float]


class Ledger:
    """Writes into `calls`, and tells `log` of every dispatched call. `clock` is in seconds, `now` in seconds since the epoch."""

    def __init__(
        self,
        calls: Calls,
        log: Callable[[Record], None],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._calls, self._log, self._clock, self._now = calls, log, clock, now

    def record(self, done: Record) -> None:
        """A dispatched call has ended."""
        self._log(done)
        origin = ORIGIN.get()
        if origin is None or origin.over:
            alone = origin or Origin(done.call.id, caller=done.call.caller)
            self._keep(lambda: self._row(alone, [(done, self._clock())], done.status, None, done.bytes_out))
        else:
            origin.records.append((done, self._clock()))
            origin.ended = self._request_ended

    def _request_ended(self, origin: Origin, status: int, received: int, sent: int) -> None:
        self._keep(lambda: self._row(origin, origin.records, status or CLIENT_CLOSED, received, sent))

    def _keep(self, made: Callable[[], Finished]) -> None:
        try:
            self._calls.add(made())
        except Exception as error:  # outermost: a recorder's fault must not become the call's; it is counted
            log.warning("a finished call could not be recorded: %s", type(error).__name__)
            self._calls.lose()

    def _row(self, origin: Origin, records: Sequence[Ended], status: int, received: int | None, sent: int) -> Finished:
        main, ended = _main(records, status)
        call, began = main.call, min(at - record.total_s for record, at in records)
        total = max(at for _, at in records) - began
        first = ended - main.total_s + main.first_byte_s - began
        return Finished(
            id=call.id,
            began=self._now() - (self._clock() - began),
            caller=origin.caller or call.caller,
            door=origin.door or call.operation.partition("?")[0],
            asked=call.model,
            model=main.route.answers if main.route and main.route.answers != ANY_MODEL else None,
            provider=main.route.provider.name if main.route else None,
            modality=call.modality,
            status=status,
            outcome=_outcome(main, status),
            stream=call.stream,
            first_byte_s=first if main.first_byte_s else None,
            total_s=total,
            bytes_in=received,
            bytes_out=sent,
            usage=reduce(add, (_used(record) for record, _ in records), UNKNOWN),
            attribution=Attribution(**origin.attribution),
            attempts=[_told(attempt, record.call) for record, _ in records for attempt in record.attempts],
        )


def _main(records: Sequence[Ended], status: int) -> Ended:
    """The call that decided the answer: the last that was answered, or where the answer is an error the last that was not."""
    wanted = [one for one in records if (one[0].outcome == "answered") == (status < 400)]
    return wanted[-1] if wanted else records[-1]


def _outcome(main: Record, status: int) -> str:
    if status >= 400:
        return "client_closed" if status == CLIENT_CLOSED else "failed" if status >= 500 else "refused"
    return main.outcome if main.outcome in ("client_closed", "failed") else "answered"


def _used(record: Record) -> Usage:
    if record.route is None or record.status >= 400 or record.call.method == "GET":
        return record.usage
    return asked(record.call).updated(record.usage)


def _told(attempt: Attempt, call: Call) -> dict[str, Any]:
    failure, route = attempt.failure, attempt.route
    return {
        "provider": route.provider.name,
        "model": None if route.upstream == ANY_MODEL else route.upstream,
        "class": failure.kind,
        "status": failure.status or None if failure.kind != "transport" else None,
        "asked": attempt.asked,
        "message": "(it repeats the call)" if _repeats(failure.message, call) else failure.message,
        "retry_after_s": attempt.retry_after_s,
    }


def _repeats(message: str, call: Call) -> bool:
    """Whether a provider's words hold a longer piece of what it was sent: some quote the prompt that they refuse."""
    said, half = message.encode(), REPEATED // 2  # a piece holds one of half its length that begins at a multiple of that
    sent = [bytes(memoryview(raw)[:LOOKED_AT]) for name, raw in call.members.items() if name != "model"]
    sent += [bytes(part.data[:LOOKED_AT]) for part in call.form or () if part.filename is None and part.name != "model"]
    return any(
        said[start : start + REPEATED] in member
        for member in sent
        for place in range(0, len(said) - half + 1, half)
        if said[place : place + half] in member
        for start in range(max(0, place - half), min(place, len(said) - REPEATED) + 1)
    )
