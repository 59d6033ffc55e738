"""Send the notifications of the outbox: each until its receiver takes it, none faster than its receiver can bear.

A try that nobody recorded was none: whoever dies between the two sends again, under the same `webhook-id`. Every try is signed anew, as
receivers refuse a signature after five minutes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from sensorium import __version__, egress, failpoints
from sensorium.errors import AddressRefused, SensoriumError
from sensorium.exchange import JSON
from sensorium.jobs import receivers, webhook_tries
from sensorium.jobs.outbox import BATCH, Delivery, Notification, Outbox
from sensorium.jobs.webhook_keys import Keys
from sensorium.routing.breaker import Breaker, Trip
from sensorium.wire import webhook

log = logging.getLogger("sensorium.webhooks")
Payload = Callable[[str], Awaitable[webhook.Ended | None]]
"""What became of a request, by its id; None when it is not over (it runs again), or known no more."""

PER_PLACE, AT_ONCE = 4, 128  # tries at the same time, to one place and in all
RESULTS_AT_ONCE = 4  # results in memory; what is sent of one is at most a megabyte
FIRST_S, LATER_S, CONNECT_S = 15.0, 30.0, 10.0  # how long a receiver may take, at the first try and after it
READ_BYTES, KEPT_BYTES = 64 * 1024, 1024  # of a reply
TRIP: Final = Trip(threshold=5, cooldown_s=60.0)
TIDY_EVERY_S, TIDY_PAUSE_S, STORE_RETRY_S = 3600.0, 0.1, 2.0
NEVER: Final = float("inf")


@dataclass(slots=True)
class _Place:
    """What is known of a caller's endpoint while something waits for it: whether it answers, and the requests it is being told of."""

    breaker: Breaker
    flying: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    @property
    def free(self) -> bool:
        """Whether one more may be sent there now."""
        state = self.breaker.state
        return state != "open" and len(self.flying) < (PER_PLACE if state == "closed" else 1)


@dataclass(slots=True)
class _Answer:
    """What has come of a try so far."""

    address: str | None = None
    status: int | None = None
    retry_after: str | None = None
    reply: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """How receivers are reached: the operator's list of private "host:port", who resolves names, callers' `whsec_` secrets as bytes."""

    allow: Collection[str] = ()
    resolve: egress.Resolve | None = None
    secrets: Mapping[str, bytes] = field(default_factory=dict)


class Webhooks:
    """The loop of deliveries; `in_flight` of them are under way, `tries` counts those that ended: delivered, failed (another follows),
    given_up. Run `run` once per process.

    `now` is in seconds since the epoch, `sleep` waits seconds, `chance` is evenly between 0 and 1; `kept_s` is how long the record of
    deliveries is kept.
    """

    def __init__(
        self,
        outbox: Outbox,
        keys: Keys,
        payload: Payload,
        way: Way,
        *,
        kept_s: float,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._outbox, self._keys, self._payload, self._way, self._kept_s = outbox, keys, payload, way, kept_s
        self._now, self._sleep, self._chance = now, sleep, chance
        self._places: dict[str, _Place] = {}
        self.in_flight, self.tries = 0, Counter[str]()
        self._wake, self._reading = asyncio.Event(), asyncio.Semaphore(RESULTS_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    def wake(self) -> None:
        """A notification was written, or is to be sent again. For the event loop's thread."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. What is in flight then is sent again by the next run."""
        tidied = -NEVER
        self._session = _session()
        try:
            while True:
                self._wake.clear()
                try:
                    if self._now() - tidied >= TIDY_EVERY_S:
                        await self._tidy()
                        tidied = self._now()
                    look_at = await self._start_due()
                except SensoriumError as error:
                    log.warning("webhooks stand still: %s", error.message)
                    await self._sleep(STORE_RETRY_S)
                    continue
                await self._first(self._wake.wait(), min(look_at, tidied + TIDY_EVERY_S) - self._now())
        finally:
            flying = [task for place in self._places.values() for task in place.flying.values()]
            for task in flying:
                task.cancel()
            await asyncio.gather(*flying, return_exceptions=True)
            await self._session.close()

    async def _tidy(self) -> None:
        while await asyncio.to_thread(self._outbox.sweep, self._kept_s) >= BATCH:
            await self._sleep(TIDY_PAUSE_S)
        waiting = {place for place, _ in await asyncio.to_thread(self._outbox.waiting)}
        self._places = {name: place for name, place in self._places.items() if place.flying or name in waiting}

    async def _start_due(self) -> float:
        """Start what is due and may go; when to look again, if nobody wakes the loop first."""
        now, look_at, free = self._now(), NEVER, []
        # A row that is read while its try ends looks as if it were still to be sent.
        flying = {id for place in self._places.values() for id in place.flying}
        for name, first in await asyncio.to_thread(self._outbox.waiting):
            place = self._places.get(name)
            if first > now:
                look_at = min(look_at, first)
                break
            if place is None or place.free:
                free.append(name)
            elif place.breaker.state == "open":
                look_at = min(look_at, now + place.breaker.retry_after_s)
        # As many places may have nothing to send but what is in flight.
        for name, found in (await asyncio.to_thread(self._outbox.first, free[: 2 * AT_ONCE], PER_PLACE + 1)).items():
            look_at = min(look_at, self._start(name, [one for one in found if one.request_id not in flying], now))
        return look_at

    def _start(self, name: str, found: list[Notification], now: float) -> float:
        place = self._places.setdefault(name, _Place(Breaker(self._now, TRIP)))
        for notification in found:
            if notification.due_at > now:
                return notification.due_at
            if len(place.flying) >= PER_PLACE or self.in_flight >= AT_ONCE or not place.breaker.admit():
                return NEVER  # the end of a try wakes the loop
            self.in_flight += 1
            place.flying[notification.request_id] = asyncio.create_task(self._fly(notification, place))
        return NEVER

    async def _fly(self, notification: Notification, place: _Place) -> None:
        answers = False
        try:
            answers = await self._try(notification, place)
        except asyncio.CancelledError:
            raise
        except SensoriumError as error:  # of the hub, not of the receiver: this was no try
            log.warning("the webhook of request %s waits: %s", notification.request_id, error.message)
            place.breaker.released()
            await self._sleep(STORE_RETRY_S)
        except Exception as error:
            # outermost: one notification that cannot even be made must not stop all others
            log.error("the webhook of request %s failed: %s", notification.request_id, type(error).__name__)
            place.breaker.released()
            await self._record(notification, _Answer(error="the hub failed on this delivery"), self._now())
        finally:
            del place.flying[notification.request_id]
            self.in_flight -= 1
            if answers and not place.flying:
                self._places.pop(notification.place, None)  # there is nothing to remember of it
            self._wake.set()

    async def _try(self, notification: Notification, place: _Place) -> bool:
        """Send it and write down what came of it. Whether it was taken."""
        async with self._reading:
            ended = await self._payload(notification.request_id)
            signed = None if ended is None else await asyncio.to_thread(self._signed, notification, ended)
            del ended
        began = self._now()
        if signed is None:
            place.breaker.released()
            await self._record(notification, _Answer(error="the request runs again, or is known no more"), began, last=True)
            return False
        answer = await self._asked(notification, *signed)
        taken = webhook_tries.taken(answer.status)
        if taken:
            place.breaker.succeeded()
        else:
            place.breaker.failed()
        await self._record(notification, answer, began)
        return taken

    def _signed(self, notification: Notification, ended: webhook.Ended) -> tuple[bytes, dict[str, str]]:
        body = webhook.notification(ended)
        sender = webhook.Sender(self._keys.seed(), self._way.secrets.get(notification.caller), notification.caller)
        return body, webhook.headers(sender, notification.request_id, notification.webhook_id, int(self._now()), body)

    async def _asked(self, notification: Notification, body: bytes, said: Mapping[str, str]) -> _Answer:
        """One call. A status that has come counts, whatever becomes of the rest of the reply."""
        answer, longest = _Answer(), LATER_S if notification.tries else FIRST_S
        if not await self._first(self._post(notification.url, body, said, answer), longest) and answer.status is None:
            answer.error = f"no answer within {longest:g} seconds"
        return answer

    async def _first(self, work: Awaitable[object], seconds: float) -> bool:
        """Do `work` for at most so long. Whether it came to its end; raises what it raises."""
        doing = asyncio.ensure_future(work)
        timer = asyncio.ensure_future(self._sleep(max(0.0, seconds)))
        try:
            await asyncio.wait({doing, timer}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                doing.result()
            return doing.done()
        finally:
            doing.cancel()
            timer.cancel()
            await asyncio.gather(doing, timer, return_exceptions=True)

    async def _post(self, url: str, body: bytes, said: Mapping[str, str], answer: _Answer) -> None:
        try:
            target = receivers.receiver(url, self._way.allow)
            found = await receivers.addresses(target, self._way.allow, self._way.resolve)
        except AddressRefused as error:
            answer.error = error.message
            return
        lines = {
            **said,
            "host": target.netloc,
            "content-type": JSON,
            "user-agent": f"sensorium/{__version__}",
            "accept-encoding": "identity",
        }
        for address in found:
            answer.address = address
            plain = "".join(letter if letter.isascii() else quote(letter) for letter in target.at(address))
            at = URL(plain, encoded=True)  # as the caller wrote it
            try:
                await self._read(at, body, lines, target.host, answer)
                return
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                answer.error = f"cannot be reached: {type(error).__name__}"
            except aiohttp.ClientError as error:
                answer.error = None if answer.status is not None else f"broke off: {type(error).__name__}"
                return

    async def _read(self, at: URL, body: bytes, lines: Mapping[str, str], host: str, answer: _Answer) -> None:
        assert self._session is not None
        async with self._session.post(at, data=body, headers=lines, allow_redirects=False, server_hostname=host) as response:
            answer.status, answer.error = response.status, None
            answer.retry_after = response.headers.get("retry-after")
            read = bytearray()
            async for chunk in response.content.iter_any():
                read += chunk
                answer.reply = read[:KEPT_BYTES].decode("utf-8", "replace")
                if len(read) >= READ_BYTES:
                    response.close()
                    return

    async def _record(self, tried: Notification, answer: _Answer, began: float, last: bool = False) -> None:
        """Write a try down, however long the database cannot be written: a try that is forgotten is made again."""
        failpoints.reach("webhook_sent")
        now = self._now()
        delivery = Delivery(began, answer.address, answer.status, 1000 * (now - began), answer.reply, answer.error)
        said = webhook_tries.retry_after_s(answer.retry_after, now)
        wait = None if last else webhook_tries.delay_s(tried.tries + 1, answer.status, said, self._chance())
        due_at = None if wait is None or now + wait > tried.asked_at + webhook_tries.LONGEST_S else now + wait
        while True:
            try:
                if webhook_tries.taken(answer.status):
                    await asyncio.to_thread(self._outbox.delivered, tried, delivery)
                    self.tries["delivered"] += 1
                else:
                    await asyncio.to_thread(self._outbox.failed, tried, delivery, due_at, answer.status == webhook_tries.GONE)
                    self.tries["given_up" if due_at is None else "failed"] += 1
                return
            except SensoriumError as error:
                log.warning("a delivery for request %s cannot be written yet: %s", tried.request_id, error.message)
                await self._sleep(STORE_RETRY_S)


def _session() -> aiohttp.ClientSession:
    """Without cookies, proxies and connections that are kept: each goes to the address that was checked for it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        read_bufsize=READ_BYTES,
        max_line_size=16 * 1024,
        max_field_size=16 * 1024,
    )
