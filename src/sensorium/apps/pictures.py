"""A picture that a model could not use, told to the caller in fal's types and to the log in our own words."""

from __future__ import annotations

from sensorium.apps.app import Task
from sensorium.errors import SensoriumError
from sensorium.routing.own import MOST_BYTES
from sensorium.wire import fal_pictures
from sensorium.wire.fal_errors import Refused


def blamed_on(error: SensoriumError, task: Task, field: str, url: str) -> SensoriumError:
    """The error, or a fault of `field` where it tells of the picture in it; its own words go into the log."""
    fault = fal_pictures.fault(error, field, url, MOST_BYTES)
    if fault is None:
        return error
    task.log(f"{field}: {error.message.rpartition('content[0]: ')[2]}")
    return fault


def unreached(words: str, task: Task, field: str, url: str) -> Refused:
    """The refusal of a file that could not be fetched, for the reason that `words` give; they go into the log."""
    task.log(f"{field}: {words.replace('the picture', 'the file')}")
    return fal_pictures.unreached(words, field, url, MOST_BYTES)
