"""Faults that are ordered: by a header on one call, or by rules with a rate, a model, a key and a number of times. A seed decides.

A kind belongs to one stage of a call. `x-simulate: KIND` or `KIND=SECONDS`, several with commas between them, orders faults for that
call alone and comes before all rules.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

from sensorium.errors import BadRequest
from sensorium.simulators.nvidia.call import Manner, half
from sensorium.simulators.nvidia.incidents import INCIDENTS
from sensorium.simulators.replies import JSON, Reply
from sensorium.simulators.rules import Order

Stage = Literal["gateway", "service", "work", "result", "spoil", "delivery", "poll", "container"]
STAGES: dict[str, Stage] = {
    **{name: incident.stage for name, incident in INCIDENTS.items()},
    "slow-work": "work",  # the job takes SECONDS
    "no-worker": "work",  # nobody picks the job up
    "lost-worker": "poll",
    "not-ready": "container",  # local containers only
    "filtered": "result",
    "finish-error": "result",
    "empty-artifacts": "result",
    "drift": "result",  # artifacts in one of the shapes that trellis once drifted to
    "zip": "result",  # a 302 to a zip with extra files, where the route runs in compatibility mode
    "hostile-zip": "result",  # the same, with a path that climbs out of its folder
    "garbage": "spoil",
    "empty": "spoil",  # a good status, and nothing after it
    "malformed-json": "spoil",
    "stream-error": "spoil",
    "no-done": "spoil",  # the stream ends without its last frame
    "slow-first-byte": "delivery",
    "slow-stream": "delivery",
    "cut-stream": "delivery",
    "half-body": "delivery",
    "no-answer": "delivery",
}
SECONDS = {"slow-work": 90.0, "slow-first-byte": 10.0, "slow-stream": 0.5}
HEADER = "x-simulate"
GARBAGE_BYTES = 512
STREAM_ERROR = b'data: {"error":{"object":"error","message":"the worker failed in mid-stream","type":"internal_server_error"}}\n\n'


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that a call meets, with its seconds where it has some."""

    kind: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Rule(Order):
    """An order for the calls of a model, a glob, and of a key, a whole one or *."""

    kinds: ClassVar[Collection[str]] = STAGES
    model: str = "*"
    key: str = "*"


class Faults:
    """The rules in force. The n-th call that fits a rule always draws the same number, whatever other rules there are."""

    def __init__(self, rules: Iterable[Rule], seed: int) -> None:
        self._seed = seed
        self._rules: list[tuple[Rule, random.Random]] = []
        for found in rules:
            self.add(found)

    def rules(self) -> list[Rule]:
        """The rules, with the times that are left."""
        return [rule for rule, _ in self._rules]

    def add(self, rule: Rule) -> None:
        """Put a rule behind the others."""
        self._rules.append((rule, random.Random(f"{self._seed}:{len(self._rules)}:{rule.kind}")))

    def clear(self) -> None:
        """Forget all rules."""
        self._rules.clear()

    def pick(self, stage: Stage, ordered: str, model: str, key: str = "") -> Fault | None:
        """The fault of a call at `stage`, if it meets one; `ordered` is its x-simulate header.

        Rules apply to calls of a model and to polls. Raises BadRequest for an unknown kind.
        """
        for fault in _ordered(ordered):
            if STAGES[fault.kind] == stage:
                return fault
        for place, (rule, draw) in enumerate(self._rules if model or stage == "poll" else ()):
            fits = STAGES[rule.kind] == stage and rule.times != 0 and fnmatchcase(model, rule.model) and rule.key in ("*", key)
            if fits and draw.random() < rule.rate:
                if rule.times is not None:
                    self._rules[place] = (replace(rule, times=rule.times - 1), draw)
                return Fault(rule.kind, SECONDS.get(rule.kind, 0.0) if rule.seconds is None else rule.seconds)
        return None


def _ordered(header: str) -> list[Fault]:
    found = []
    for order in filter(None, (part.strip() for part in header.split(","))):
        kind, _, seconds = order.partition("=")
        if kind not in STAGES or (seconds and not seconds.replace(".", "", 1).isdecimal()):
            raise BadRequest(f"{HEADER}: {order[:60]!r} is not KIND or KIND=SECONDS; the kinds are {', '.join(sorted(STAGES))}")
        found.append(Fault(kind, float(seconds) if seconds else SECONDS.get(kind, 0.0)))
    return found


def spoiled(kind: str, reply: Reply, draw: random.Random) -> Reply:
    """What a spoiling fault makes of an answer. The transport stays whole."""
    if kind == "garbage":
        return replace(reply, body=draw.randbytes(GARBAGE_BYTES), frames=())
    if kind == "empty":
        return replace(reply, body=b"", frames=())
    middle = len(reply.frames) // 2
    if kind == "malformed-json" and reply.frames:
        torn = reply.frames[middle][: len(reply.frames[middle]) // 2] + b"\n\n"
        return replace(reply, frames=(*reply.frames[:middle], torn, *reply.frames[middle + 1 :]))
    if kind == "malformed-json":
        textual = reply.headers.get("content-type", "").startswith(JSON)
        torn = reply.body[: len(reply.body) // 2] if textual else b'{"detail": "torn'
        return replace(reply, body=torn, headers={**reply.headers, "content-type": JSON})
    if kind == "stream-error" and reply.frames:
        return replace(reply, frames=(*reply.frames[:middle], STREAM_ERROR))
    if kind == "no-done" and reply.frames:
        return replace(reply, frames=reply.frames[:-1])
    return reply


def mannered(fault: Fault | None, reply: Reply) -> tuple[Reply, Manner]:
    """The answer, and the manner in which a delivery fault has it sent."""
    kind, seconds = (fault.kind, fault.seconds) if fault else ("", 0.0)
    if kind == "half-body" and reply.frames:  # inside a frame, where cut-stream breaks off between two
        stream = b"".join(reply.frames)
        return replace(reply, frames=(stream[: len(stream) // 2 + 1], b"")), Manner(pieces=1)
    return reply, {
        "slow-first-byte": Manner(first_byte_s=seconds),
        "slow-stream": Manner(pace_s=seconds),
        "cut-stream": Manner(pieces=half(reply)),
        "half-body": Manner(pieces=half(reply)),
        "no-answer": Manner(silent=True),
    }.get(kind, Manner())
