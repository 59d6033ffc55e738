"""The simulator's own routes, below /simulator: what was called, and which faults are in force. No key is needed or shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from sensorium.errors import BadRequest
from sensorium.simulators.fal.faults import Faults, Rule
from sensorium.simulators.replies import Reply, json_reply


@dataclass(frozen=True, slots=True)
class Seen:
    """One call that the simulator got, and the status that it answered. `named` is the host that the caller wrote."""

    host: str
    method: str
    path: str
    status: int
    named: str
    headers: dict[str, str] = field(repr=False)
    body: Any = field(repr=False)

    @property
    def keyed(self) -> bool:
        """Whether it came with a key."""
        return "authorization" in self.headers

    def shown(self) -> dict[str, Any]:
        """The call for others to read, without its headers."""
        return {"host": self.host, "method": self.method, "path": self.path, "status": self.status, "keyed": self.keyed, "body": self.body}


def answer(method: str, path: str, body: bytes, faults: Faults, seen: Iterable[Seen]) -> Reply:
    """GET / and /calls, POST and DELETE /faults. Raises BadRequest."""
    match method, path.strip("/"):
        case "GET", "":
            return json_reply({"faults": [asdict(rule) for rule in faults.rules()]})
        case "GET", "calls":
            return json_reply([one.shown() for one in seen])
        case "POST", "faults":
            faults.add(Rule.read(body))
            return Reply(204)
        case "DELETE", "faults":
            faults.clear()
            return Reply(204)
    raise BadRequest("there are GET /simulator, GET /simulator/calls, POST /simulator/faults and DELETE /simulator/faults")
