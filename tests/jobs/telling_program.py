"""A hub that ends one request and tells of it, killed at a named point: `python -m tests.jobs.telling_program FOLDER URL POINT`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

from sensorium.jobs import outbox as outboxes
from sensorium.jobs.outbox import Delivery, Notification, Outbox, State
from sensorium.jobs.webhook_keys import Keys
from sensorium.jobs.webhooks import Way, Webhooks
from sensorium.store.database import Database
from sensorium.store.masterkey import KeyFile
from sensorium.store.signing import Signing
from sensorium.store.vault import Vault
from sensorium.wire.webhook import Ended

POINTS = ("end not committed", "end committed", "webhook made", "webhook sent", "try recorded")
ID = "r-1"


def pass_by(point: str) -> None:
    if point == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)


class DyingOutbox(Outbox):
    """An outbox whose process may die before and after it writes a try down."""

    def delivered(self, tried: Notification, delivery: Delivery) -> None:
        pass_by("webhook sent")
        super().delivered(tried, delivery)
        pass_by("try recorded")


async def payload(id: str) -> Ended:
    pass_by("webhook made")
    return Ended(id, f"{id}.1", True, 200, b"{}", None, "")


async def main(folder: Path, url: str) -> None:
    with closing(Database(folder)) as database:
        outbox = DyingOutbox(database)
        if outbox.log_of(ID) is None:
            with database.write() as db:
                outboxes.add(db, ID, "ann", url, time.time())
                pass_by("end not committed")
        pass_by("end committed")
        keys = Keys(outbox, Signing(Vault(database, KeyFile(folder / "master.key"))))
        running = asyncio.create_task(Webhooks(outbox, keys, payload, Way([url.split("/")[2]]), kept_s=1e9).run())
        while (found := outbox.log_of(ID)) is not None and found[0].state is State.WAITING:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
