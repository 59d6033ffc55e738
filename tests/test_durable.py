"""What is composed for requests that outlive a connection."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

from sensorium import durable
from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.policy import Outside
from sensorium.jobs.request import Asked, Made, State
from sensorium.jobs.requests import Requests
from sensorium.jobs.results import Results
from sensorium.routing.repeat import verdict
from sensorium.store.database import Database
from sensorium.store.writer import Writer


def test_a_notification_that_is_read_before_memory_knows_of_the_end_is_told(tmp_path: Path) -> None:
    async def scene(requests: Requests) -> None:
        jobs = Jobs(requests, Results(tmp_path), {}, Lanes(1, lambda lane: 1), Outside(verdict))
        request, _ = await requests.submit("an-id", Asked("w", "o/a", "", "m", "ann", b"{}", {"base_url": "http://hub"}), 0.0, {})
        assert await durable.ended(jobs, request.id, "") is None
        ((running, _),) = await requests.claim([("m", 1)])
        assert not (await jobs.of(None, request.id)).done  # a caller who looks now
        await requests.finish(running, State.SUCCEEDED, Made(b'{"made": 1}'))
        told = await durable.ended(jobs, request.id, "http://hub")
        assert told is not None and (told.request_id, told.body) == ("an-id", b'{"made": 1}')
        assert await durable.ended(jobs, "forgotten", "") is None

    with closing(Database(tmp_path)) as database:
        requests = Requests(database, Writer(database))
        try:
            asyncio.run(scene(requests))
        finally:
            requests.close()
