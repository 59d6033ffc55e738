"""Callers who submit at a steady rate and repeat what got no reply, and one who looks at all that is not over; what each of them saw."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException

from tests.durability.hub import Hub

CALLERS = 8
BROKEN = (OSError, HTTPException, ValueError)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A submission that was answered 200, after so many tries."""

    key: str
    id: str
    tries: int
    replayed: bool


@dataclass(slots=True)
class Load:
    """What the callers have seen so far. `refused` are answers that no caller should get."""

    hub: Hub
    hook: str
    acknowledged: list[Acknowledged] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def submitting(self, name: str, every_s: float) -> None:
        """One caller, until all are stopped; its last submission is repeated until it is answered."""
        number = 0
        while not self.stopped.is_set():
            self._submit(f"{name}-{number}")
            number += 1
            self.stopped.wait(random.expovariate(1 / every_s))

    def looking(self) -> None:
        """Look at what is not over, until all are stopped."""
        done, known = set[str](), 0
        waiting: list[str] = []
        while not self.stopped.is_set():
            fresh = self.acknowledged[known:]
            known += len(fresh)
            waiting = [id for id in dict.fromkeys(waiting + [one.id for one in fresh]) if id not in done]
            for id in waiting[:50]:
                if self.look(id):
                    done.add(id)
            self.stopped.wait(0.02)

    def look(self, id: str) -> bool:
        """Look at one request, and at its result when it is over, which is the answer."""
        try:
            if self.hub.status(id)["status"] != "COMPLETED":
                return False
            result = self.hub.result(id)
        except BROKEN:
            return False
        except AssertionError as error:
            self.refused.append(f"status of {id}: {error}")
            return False
        if result.status != 200:
            self.refused.append(f"result of {id}: {result}")
        return True

    def _submit(self, key: str) -> None:
        tries = 0
        while True:
            tries += 1
            try:
                answer = self.hub.submit(key, key=key, hook=self.hook, embedded=int(key.rpartition("-")[2]) % 4 == 0)
            except BROKEN:
                time.sleep(0.02)
                continue
            if answer.status == 200:
                replayed = "idempotent-replayed" in answer.headers
                self.acknowledged.append(Acknowledged(key, answer.json["request_id"], tries, replayed))
                return
            if answer.status != 503:  # which a hub says that has just started
                self.refused.append(f"{key}: {answer}")
                return


@contextmanager
def loaded(hub: Hub, hook: str, rate: float) -> Iterator[Load]:
    """A load of so many submissions a second inside the block; after it everybody has their answer. A hub must run at its end."""
    load = Load(hub, hook)
    threads = [threading.Thread(target=load.submitting, args=(f"caller{n}", CALLERS / rate), daemon=True) for n in range(CALLERS)]
    threads.append(threading.Thread(target=load.looking, daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stopped.set()
        for thread in threads:
            thread.join(60)
    assert not [thread for thread in threads if thread.is_alive()], "a caller still waits for its answer"
