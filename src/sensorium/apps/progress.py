"""What a run says of itself: every one at least its start and its end (fal page, section 11: a silent request looks like a lost one)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sensorium.apps.app import Task
from sensorium.errors import SensoriumError


@contextmanager
def told(task: Task, model: str) -> Iterator[None]:
    """The lines around a run on `model`: started, and finished, given up, or why not."""
    begun = time.monotonic()
    task.log(f"started: {model}")
    try:
        yield
    except SensoriumError as error:
        task.log(f"failed: {error.message}")
        raise
    except (asyncio.CancelledError, GeneratorExit):
        task.log("given up")
        raise
    except Exception:
        task.log("failed")
        raise
    task.log(f"finished after {time.monotonic() - begun:.2f} s")
