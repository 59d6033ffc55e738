"""What one would pick instead of the hub's queue, measured in the same way: SAQ on Redis, procrastinate and PgQueuer on PostgreSQL.

Each in its usual set-up, with one worker in this process that takes up to 64 jobs at once. `REDIS_URL` and `POSTGRES_DSN` say where the
servers are; what is not installed or does not answer is left out and named. Name a database of its own: tables of procrastinate and of
PgQueuer that stand there are dropped.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/9")
POSTGRES_DSN = os.environ.get("POSTGRES_DSN", "postgresql://postgres@127.0.0.1:5432/test")
AT_ONCE = 64
Figures = dict[str, float]


def measured(starts: int, submits: int, submitters: int) -> dict[str, Figures]:
    """The figures of every peer that can be run here."""
    found: dict[str, Figures] = {}
    for name, module, run in (("saq", "saq", saq), ("procrastinate", "procrastinate", procrastinate), ("pgqueuer", "pgqueuer", pgqueuer)):
        if importlib.util.find_spec(module) is None:
            print(f"{name}: not installed, left out")
            continue
        try:
            found[name] = asyncio.run(run(starts, submits, submitters))
        except (OSError, ConnectionError) as error:
            print(f"{name}: its server does not answer, left out: {error}")
    return found


async def saq(starts: int, submits: int, submitters: int) -> Figures:
    """SAQ. Redis as it runs here: how durable that is depends on its append-only file."""
    import saq

    queue = saq.Queue.from_url(REDIS_URL, name=f"bench-{time.time_ns()}")
    await queue.connect()
    began: dict[str, float] = {}

    async def job(ctx: Any, *, name: str) -> None:
        began[name] = time.perf_counter()

    worker = saq.Worker(queue, functions=[("job", job)], concurrency=AT_ONCE)
    working = asyncio.create_task(worker.start())
    try:
        return await figures(began, lambda name: queue.enqueue("job", name=name), starts, submits, submitters)
    finally:
        await worker.stop()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        async for key in queue.redis.scan_iter(f"saq:*{queue.name}*"):
            await queue.redis.delete(key)
        await queue.disconnect()


async def procrastinate(starts: int, submits: int, submitters: int) -> Figures:
    """procrastinate, through psycopg."""
    import procrastinate

    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=POSTGRES_DSN, min_size=4, max_size=16))
    began: dict[str, float] = {}

    @app.task(name="job")
    async def job(name: str) -> None:
        began[name] = time.perf_counter()

    async with app.open_async():
        await dropped(app.connector.execute_query_async, "procrastinate%")
        await app.schema_manager.apply_schema_async()
        working = asyncio.create_task(app.run_worker_async(concurrency=AT_ONCE, install_signal_handlers=False))
        try:
            return await figures(began, lambda name: job.defer_async(name=name), starts, submits, submitters)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await dropped(app.connector.execute_query_async, "procrastinate%")


async def pgqueuer(starts: int, submits: int, submitters: int) -> Figures:
    """PgQueuer, through asyncpg."""
    import asyncpg
    from pgqueuer import AsyncpgDriver, AsyncpgPoolDriver, PgQueuer, Queries

    listening = await asyncpg.connect(POSTGRES_DSN)
    pool = await asyncpg.create_pool(POSTGRES_DSN, min_size=4, max_size=16)
    queries = Queries(AsyncpgPoolDriver(pool))
    with suppress(Exception):
        await queries.uninstall()
    await queries.install()
    queuer, began = PgQueuer(AsyncpgDriver(listening)), dict[str, float]()

    @queuer.entrypoint("job")
    async def job(found: Any) -> None:
        began[found.payload.decode()] = time.perf_counter()

    working = asyncio.create_task(queuer.run(max_concurrent_tasks=2 * AT_ONCE, batch_size=AT_ONCE))
    try:
        return await figures(began, lambda name: queries.enqueue("job", name.encode()), starts, submits, submitters)
    finally:
        queuer.shutdown.set()
        await asyncio.gather(working, return_exceptions=True)
        await queries.uninstall()
        await listening.close()
        await pool.close()


async def figures(began: dict[str, float], submit: Callable[[str], Awaitable[Any]], starts: int, submits: int, submitters: int) -> Figures:
    """Submit to start at 100 a second, and submits with many submitters."""
    await submit("warm-up")
    while "warm-up" not in began:
        await asyncio.sleep(0.01)
    asked, due = dict[str, float](), time.perf_counter()
    for number in range(starts):
        due += 0.01
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asked[f"n{number}"] = time.perf_counter()
        await submit(f"n{number}")
    while len(began) < starts + 1:
        await asyncio.sleep(0.01)
    taken = sorted(began[name] - asked[name] for name in asked)

    async def submitter(which: int) -> None:
        for number in range(submits // submitters):
            await submit(f"s{which}-{number}")

    first = time.perf_counter()
    await asyncio.gather(*(submitter(which) for which in range(submitters)))
    per_s = submits // submitters * submitters / (time.perf_counter() - first)
    return {"submit_to_start_p50_ms": round(1000 * taken[len(taken) // 2], 3), "submits_per_s": round(per_s)}


async def dropped(execute: Callable[..., Awaitable[Any]], like: str) -> None:
    """Remove the tables, types and functions of an earlier run."""
    named = f"LIKE '{like.replace('%', '%%')}'"
    for kind, query in (
        ("TABLE", f"SELECT relname::text AS name FROM pg_class WHERE relkind = 'r' AND relname {named}"),
        ("TYPE", f"SELECT typname::text AS name FROM pg_type WHERE typtype IN ('e', 'c') AND typname {named}"),
        ("FUNCTION", f"SELECT oid::regprocedure::text AS name FROM pg_proc WHERE proname {named}"),
    ):
        drop = f"EXECUTE 'DROP {kind} IF EXISTS ' || r.name || ' CASCADE'"
        await execute(f"DO $$ DECLARE r record; BEGIN FOR r IN {query} LOOP {drop}; END LOOP; END $$")
