"""The engine of a hub under test: the real one, whose VLM does what the question says. `python -m tests.durability.supervised_engine`.

stuck  never ends and does not let itself be cancelled; the process ends itself when its caller has been gone for a while
poison ends the process, as a crash of a driver would
silent stops the process, so that nothing in it goes on
other  is answered, after a moment

Each beginning of a work is a line in the file that PYTHON_ENGINE_JOURNAL names.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sensorium.engines import server, watchdog
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM

MOMENT_S = 0.05
_answer = DiffusionVLM.answer


def answer(self: DiffusionVLM, job: Any, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Any]:
    """Instead of the model's own."""
    said = str(job.ask.messages)
    word = next((word for word in ("stuck", "poison", "silent") if word in said), "other")
    with Path(os.environ["PYTHON_ENGINE_JOURNAL"]).open("a", encoding="utf-8") as journal:
        journal.write(f"{os.getpid()} {word}\n")
    time.sleep(MOMENT_S)
    if word == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "silent":
        os.kill(os.getpid(), signal.SIGSTOP)
    while word == "stuck":
        time.sleep(MOMENT_S)
    yield from _answer(self, job, cancelled)


if __name__ == "__main__":
    DiffusionVLM.answer = answer  # type: ignore[method-assign]
    watchdog.LET_GO_S = 1.0  # type: ignore[misc]
    server.main()
