"""The simulator's own routes, below /simulator: what happened, what was sent, and which faults are in force. No key is needed or shown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from sensorium.errors import BadRequest
from sensorium.simulators.nvidia.call import Call
from sensorium.simulators.nvidia.faults import Faults, Rule
from sensorium.simulators.replies import Reply, json_reply

KEPT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Seen:
    """One call that the simulator got, and the status that it answered. `size` is the body's in bytes."""

    host: str
    method: str
    path: str
    model: str
    status: int
    size: int
    headers: dict[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)

    @classmethod
    def of(cls, call: Call, body: bytes, status: int) -> Seen:
        """What is kept of a call: its body only when it is short."""
        place, kept = call.place, body if len(body) <= KEPT_BYTES else None
        return cls(place.host, call.method, place.path, call.model, status, len(body), call.headers, kept)

    def shown(self) -> dict[str, Any]:
        """The call for others to read: with its body where that was JSON, and without headers."""
        told = {name: getattr(self, name) for name in ("host", "method", "path", "model", "status", "size")}
        try:
            return told | {"body": None if self.body is None else json.loads(self.body)}
        except ValueError:
            return told | {"body": None}


class Control:
    """Answers below /simulator."""

    def __init__(self, faults: Faults, counters: Counter[str], seen: Iterable[Seen]) -> None:
        self._faults, self._counters, self._seen = faults, counters, seen

    async def answer(self, call: Call, body: bytes) -> Reply:
        """GET / and /calls, POST and DELETE /faults. Raises BadRequest."""
        match call.method, call.place.path.rstrip("/"):
            case "GET", "":
                return json_reply({"counters": dict(self._counters), "faults": [_shown(rule) for rule in self._faults.rules()]})
            case "GET", "/calls":
                return json_reply([seen.shown() for seen in self._seen])
            case "POST", "/faults":
                self._faults.add(Rule.read(body))
                return Reply(204)
            case "DELETE", "/faults":
                self._faults.clear()
                return Reply(204)
        raise BadRequest("there are GET /simulator, GET /simulator/calls, POST /simulator/faults and DELETE /simulator/faults")


def _shown(rule: Rule) -> dict[str, Any]:
    return asdict(rule) | {"key": rule.key if rule.key == "*" else "(one key)"}
