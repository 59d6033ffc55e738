"""Records calls until it is killed: `python -m tests.store.recording_program FOLDER`. Prints the id of each call once it is written."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sensorium.store.calls import Calls
from sensorium.store.database import Database
from tests.store.test_calls import finished


async def main() -> None:
    calls = Calls(Database(Path(sys.argv[1])), keep_s=1e9, keep=1_000_000)
    writing = asyncio.create_task(calls.keep_writing())
    number = 0
    while not writing.done():
        calls.add(finished(f"c{number}"))
        while calls.waiting:
            await asyncio.sleep(0.001)
        print(f"c{number}", flush=True)
        number += 1


if __name__ == "__main__":
    asyncio.run(main())
