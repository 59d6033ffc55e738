"""Callers who submit at a steady rate and repeat what got no reply, and one who looks at all that is not over; what each of them saw."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException

from tests.durability.hub import APP, Hub

CALLERS = 8
BROKEN = (OSError, HTTPException, ValueError)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A submission that was answered 200, after so many tries."""

    at: float
    key: str
    id: str
    tries: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What somebody who looked was told of a request; `result` is the hash of its result, once it is over."""

    at: float
    id: str
    status: str
    attempt: int
    result: str | None = None


@dataclass(slots=True)
class Load:
    """What the callers have seen so far. `refused` are answers that no caller should get."""

    hub: Hub
    hook: str
    acknowledged: list[Acknowledged] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    refused: list[tuple[str, int, bytes]] = field(default_factory=list)
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
                if (found := self.look(id)) is not None and found.status == "COMPLETED":
                    done.add(id)
            self.stopped.wait(0.02)

    def look(self, id: str) -> Seen | None:
        """Look at one request, and at its result when it is over; None when the hub is dead."""
        try:
            answer = self.hub.call("GET", f"{APP}/requests/{id}/status?wait=0", timeout=10)
            if answer.status == 503:  # it has just started
                return None
            if answer.status >= 400:
                self.refused.append((f"status of {id}", answer.status, answer.body))
                return None
            told, sha256 = answer.json, None
            if told["status"] == "COMPLETED":
                result = self.hub.result(id)
                sha256 = hashlib.sha256(result.body).hexdigest()
                if result.status != 200:
                    self.refused.append((f"result of {id}", result.status, result.body))
        except BROKEN:
            return None
        seen = Seen(time.monotonic(), id, told["status"], told["sensorium"]["attempt"], sha256)
        self.seen.append(seen)
        return seen

    def _submit(self, key: str) -> None:
        tries = 0
        while True:
            tries += 1
            try:
                answer = self.hub.submit(key, key=key, hook=self.hook, embedded=int(key.rpartition("-")[2]) % 4 == 0)
                told = answer.json
            except BROKEN:
                time.sleep(0.02)
                continue
            if answer.status == 200:
                replayed = "idempotent-replayed" in answer.headers
                self.acknowledged.append(Acknowledged(time.monotonic(), key, told["request_id"], tries, replayed))
                return
            if answer.status != 503:  # which a hub says that has just started
                self.refused.append((key, answer.status, answer.body))
                return

    def results(self) -> dict[str, set[str]]:
        """Every hash that a result was seen with, by request."""
        found: dict[str, set[str]] = defaultdict(set)
        for one in self.seen:
            if one.result is not None:
                found[one.id].add(one.result)
        return found

    def regressions(self) -> list[tuple[Seen, Seen]]:
        """Two looks at a request, one after the other, of which the second may not follow on the first."""
        last: dict[str, Seen] = {}
        wrong = []
        for now in sorted(self.seen, key=lambda seen: seen.at):
            before = last.get(now.id)
            if before is not None and (now.attempt < before.attempt or (before.status == "COMPLETED" and now.status != "COMPLETED")):
                wrong.append((before, now))
            last[now.id] = now
        return wrong


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
