"""A call at fal's doors: which app its path names, and the submission that its headers and query make of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, Protocol

from sensorium.api.visit import Visit
from sensorium.apps.app import App
from sensorium.apps.queued import NAME
from sensorium.jobs.request import Asked, Rules
from sensorium.wire.fal import endpoint
from sensorium.wire.fal_submit import Submission
from sensorium.wire.paths import checked

REQUESTS: Final = "requests"  # the segment that ends an app's id; no app may use it


class Apps(Protocol):
    """Where apps are found (`apps.registry.Apps`)."""

    def find(self, endpoint: str) -> tuple[App, str]:
        """The app of a whole id, and the sub-path. Raises UnknownApp."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """An app that a path names: `id` is owner and alias as the caller wrote them, `path` the rest ("" or "/sub/deep")."""

    app: App
    id: str
    path: str


@dataclass(frozen=True, slots=True)
class Place:
    """A path below the queue's door that names requests of an app: one of them with what follows its id, or all (`id` "")."""

    app: str
    id: str
    tail: tuple[str, ...]


def target(apps: Apps, visit: Visit, name: str) -> Target:
    """The app of a path, which may end in slashes. Raises BadRequest for a path that is not plain, UnknownApp."""
    whole = checked(name.rstrip("/"), visit.raw_path)
    app, path = apps.find(whole)
    return Target(app, whole[: len(whole) - len(path)], path)


def place(path: str) -> Place | None:
    """The requests that a path names; None when it names none. A sub-path before the reserved segment is passed over, as fal does."""
    parts = [part for part in path.split("/") if part]
    if REQUESTS not in parts:
        return None
    at = parts.index(REQUESTS)
    id, *tail = parts[at + 1 :] or [""]
    return Place(endpoint("/".join(parts[:at])), id, tuple(tail))


def asked(visit: Visit, there: Target, wishes: Submission, body: bytes, base_url: str) -> Asked:
    """The submission; `call` is read by `apps.queued`. Raises UnknownApp for a sub-path that the app does not have."""
    return Asked(
        work=NAME,
        app=there.id,
        path=there.path,
        lane=there.app.lane(there.path),
        caller=visit.caller,
        body=body,
        call={"base_url": base_url, "lifecycle": asdict(wishes.lifecycle)},
        prio=wishes.prio,
        start_within_s=wishes.start_within_s,
        webhook_url=wishes.webhook_url,
        idempotency_key=wishes.idempotency_key,
        most_waiting=wishes.most_waiting,
        rules=Rules(no_retry=wishes.no_retry, retries=wishes.retries, hint=wishes.hint, kept=wishes.kept),
    )
