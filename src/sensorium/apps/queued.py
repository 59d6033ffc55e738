"""Apps as work of the queue: a request of fal's is one run of the app that its endpoint names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from sensorium.apps.app import App, Task
from sensorium.jobs.request import Made
from sensorium.jobs.run import Run, Work
from sensorium.wire.fal_submit import decoded
from sensorium.wire.lifecycle import Lifecycle

NAME: Final = "fal"  # of this work, in a submission
Find = Callable[[str], tuple[App, str]]


def work(find: Find) -> Work:
    """The work of these requests; `find` gives an endpoint's app and sub-path. Raises what apps raise."""

    async def run(job: Run) -> Made:
        request = job.request
        app, path = find(request.app + request.path)
        given = decoded(job.body)
        task = Task(request.id, request.caller, given, path, request.call["base_url"], _lifecycle(request.call["lifecycle"]), job.log)
        made = await app.run(task)
        return Made(msgspec.json.encode(made.body), 200, {"headers": made.headers or {}}, made.files)

    return run


def _lifecycle(told: dict[str, Any]) -> Lifecycle:
    return Lifecycle(told["expires_s"], told["acl"])
