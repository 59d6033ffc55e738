"""The history checker (J-32): what clients did and saw, what engines did, what was delivered, and the rows that remain, held against the
promises of the queue. Pure: whoever runs a hub under load, and kills it, collects a `History` and asks for `violations`.

Times are seconds on one clock, whatever it is. A list may be empty where a run has nothing to say: what cannot be judged is not judged,
except that every acknowledged request must have its row.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

Kind = Literal["lost", "doubled", "overwritten", "fell back", "over limit", "no hook", "started after cancel", "log gap", "position"]
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class Submitted:
    """A submission that was acknowledged (200) at this time. `key` is its idempotency key and caller."""

    at: float
    id: str
    lane: str = ""
    webhook: bool = False
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw of a request: its state by its internal name, the attempt, its position while it waits, the hash of its result.

    Order in the list is the order in which replies came to one client; `client` tells several apart. `reason` names why a position may
    have grown (a retry, a higher priority, another caller's share).
    """

    at: float
    id: str
    state: str
    attempt: int = 0
    position: int | None = None
    result: str | None = None
    client: str = ""
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A cancel was answered with 202 at this time. `waiting` says that the request was still waiting, by the same reply."""

    at: float
    id: str
    waiting: bool


@dataclass(frozen=True, slots=True)
class Ran:
    """One run as the engine's journal has it. `ended` is None where no end was written: the engine or its holder was killed.

    `cut_off` is when its holder was killed, stopped or cut off (None: it was not): from then on it is nobody's, and counts for no limit.
    """

    id: str
    attempt: int
    began: float
    ended: float | None
    lane: str = ""
    cut_off: float | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """One try of a webhook that its receiver saw."""

    at: float
    id: str
    webhook_id: str
    result: str | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """One line as a stream showed it, in its order. `stream` tells several apart."""

    id: str
    attempt: int
    number: int
    stream: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What is on disk of a request at the end, and `runs` the attempts that its table of attempts has."""

    id: str
    state: str
    attempt: int
    result: str | None = None
    runs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """Everything that was collected. `removed` are requests that were deleted on purpose; `limits` are runs at once by lane."""

    submitted: Sequence[Submitted] = ()
    seen: Sequence[Seen] = ()
    cancelled: Sequence[Cancelled] = ()
    runs: Sequence[Ran] = ()
    delivered: Sequence[Delivered] = ()
    logged: Sequence[Logged] = ()
    rows: Sequence[Row] = ()
    removed: frozenset[str] = frozenset()
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, by which request (or lane), and how."""

    kind: Kind
    of: str
    what: str


def violations(history: History) -> list[Violation]:
    """Every promise that this history breaks; none is what every run must give."""
    checks = (_lost, _doubled, _overwritten, _fallen_back, _over_limit, _hooks, _after_cancel, _log_gaps, _positions)
    return [violation for check in checks for violation in check(history)]


def _lost(history: History) -> Iterator[Violation]:
    """(1) Acknowledged once, over at the end."""
    rows = {row.id: row for row in history.rows}
    for id in {one.id for one in history.submitted} - history.removed:
        row = rows.get(id)
        if row is None:
            yield Violation("lost", id, "acknowledged, and there is no row")
        elif row.state not in TERMINAL:
            yield Violation("lost", id, f"acknowledged, and {row.state} at the end")


def _doubled(history: History) -> Iterator[Violation]:
    """(1, 4) One request of a key; one run at a time, but for those whose holder was cut off before the next began."""
    made = defaultdict[str, set[str]](set)
    for one in history.submitted:
        if one.key is not None:
            made[one.key].add(one.id)
    for key, ids in made.items():
        if len(ids) > 1:
            yield Violation("doubled", sorted(ids)[0], f"one key ({key}) made {len(ids)} requests")
    for id, count in Counter(row.id for row in history.rows).items():
        if count > 1:
            yield Violation("doubled", id, f"{count} rows")
    for id, runs in _runs_of(history).items():
        attempts = [run.attempt for run in runs]
        if len(attempts) != len(set(attempts)):
            yield Violation("doubled", id, f"an attempt ran twice: {attempts}")
        for before, after in pairwise(runs):
            until = _until(before)
            if until is None or until > after.began:
                yield Violation("doubled", id, f"attempt {after.attempt} began while {before.attempt} ran")
            if after.attempt <= before.attempt:
                yield Violation("doubled", id, f"attempt {after.attempt} began after {before.attempt}")


def _overwritten(history: History) -> Iterator[Violation]:
    """(2) One end, and one result of it for ever: as every client, every receiver and the row have it."""
    found = defaultdict[str, set[tuple[str, str | None]]](set)
    for one in history.seen:
        if one.state in TERMINAL:
            found[one.id].add(("state", one.state))
            found[one.id].add(("result", one.result))
    for row in history.rows:
        if row.state in TERMINAL:
            found[row.id].add(("state", row.state))
            found[row.id].add(("result", row.result))
    for told in history.delivered:
        found[told.id].add(("result", told.result))
    for id, ends in found.items():
        for name in ("state", "result"):
            values = {value for what, value in ends if what == name and value is not None}
            if len(values) > 1:
                yield Violation("overwritten", id, f"more than one {name}: {sorted(values)}")


def _fallen_back(history: History) -> Iterator[Violation]:
    """(3) Nothing leaves its end, and no attempt falls: as one client sees it, and from there to the row."""
    last = dict[tuple[str, str], Seen]()
    for one in history.seen:
        before = last.get((one.client, one.id))
        if before is not None and before.state in TERMINAL and one.state not in TERMINAL:
            yield Violation("fell back", one.id, f"{before.state}, then {one.state}")
        if before is not None and one.attempt < before.attempt:
            yield Violation("fell back", one.id, f"attempt {before.attempt}, then {one.attempt}")
        last[one.client, one.id] = one
    rows = {row.id: row for row in history.rows}
    for (_, id), one in last.items():
        row = rows.get(id)
        if row is not None and (one.attempt > row.attempt or (one.state in TERMINAL and row.state not in TERMINAL)):
            yield Violation("fell back", id, f"seen {one.state} in attempt {one.attempt}, on disk {row.state} in {row.attempt}")


def _over_limit(history: History) -> Iterator[Violation]:
    """(5) No lane runs more than it may; what its holder lost counts no more."""
    for lane, limit in history.limits.items():
        moments = list[tuple[float, int]]()
        for run in history.runs:
            if run.lane == lane:
                until = _until(run)
                moments += [(run.began, 1)] + ([(until, -1)] if until is not None else [])
        running = 0
        for at, change in sorted(moments):  # at the same moment an end comes before a beginning
            running += change
            if running > limit:
                yield Violation("over limit", lane, f"{running} ran at {at:g}, of {limit}")
                break


def _hooks(history: History) -> Iterator[Violation]:
    """(7) Told exactly where that was asked for, under one id."""
    wanted = {one.id: one.webhook for one in history.submitted}
    over = {row.id for row in history.rows if row.state in TERMINAL}
    told = defaultdict[str, set[str]](set)
    for one in history.delivered:
        told[one.id].add(one.webhook_id)
    for id, hook in wanted.items():
        if hook and id in over and not told[id]:
            yield Violation("no hook", id, "over, and nobody was told")
        if not hook and told[id]:
            yield Violation("no hook", id, "told, and nobody had asked for it")
    for id, names in told.items():
        if len(names) > 1:
            yield Violation("no hook", id, f"told under {len(names)} ids")


def _after_cancel(history: History) -> Iterator[Violation]:
    """(8) What was cancelled while it waited never begins; what was cancelled while it ran does not begin again."""
    runs = _runs_of(history)
    for one in history.cancelled:
        late = [run for run in runs.get(one.id, []) if run.began > one.at]
        if late:
            yield Violation("started after cancel", one.id, f"attempt {late[0].attempt} began {late[0].began - one.at:g} s after the 202")
    states = {row.id: row.state for row in history.rows}
    for one in history.cancelled:
        if one.waiting and states.get(one.id, "CANCELLED") != "CANCELLED":
            yield Violation("started after cancel", one.id, f"cancelled while it waited, and {states[one.id]}")


def _log_gaps(history: History) -> Iterator[Violation]:
    """(9) Lines of each attempt are numbered from 1 on without a gap, each stream shows them once and in order."""
    last = dict[tuple[str, str], tuple[int, int]]()
    for line in history.logged:
        attempt, number = last.get((line.stream, line.id), (0, 0))
        follows = (line.attempt == attempt and line.number == number + 1) or (line.attempt > attempt and line.number == 1)
        if not follows:
            yield Violation("log gap", line.id, f"line {line.number} of attempt {line.attempt} after {number} of {attempt}")
        last[line.stream, line.id] = line.attempt, line.number


def _positions(history: History) -> Iterator[Violation]:
    """(6) A place that a client was told grows only for a reason."""
    last = dict[tuple[str, str], Seen]()
    for one in history.seen:
        if one.position is None:
            continue
        before = last.get((one.client, one.id))
        grew = before is not None and before.position is not None and one.position > before.position
        if grew and before is not None and one.attempt == before.attempt and one.reason is None:
            yield Violation("position", one.id, f"{before.position}, then {one.position}")
        last[one.client, one.id] = one


def _runs_of(history: History) -> dict[str, list[Ran]]:
    found = defaultdict[str, list[Ran]](list)
    for run in sorted(history.runs, key=lambda run: run.began):
        found[run.id].append(run)
    return found


def _until(run: Ran) -> float | None:
    """When a run was over, or nobody's; None: never."""
    return min((moment for moment in (run.ended, run.cut_off) if moment is not None), default=None)
