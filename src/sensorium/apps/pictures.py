"""A picture that a model could not use, told in fal's types. The reasons are the words of the hub's own readers and of fal's apps."""

from __future__ import annotations

import math
import re
from typing import Final

from sensorium.apps.app import Task
from sensorium.apps.files import UNREACHABLE, too_large
from sensorium.errors import SensoriumError
from sensorium.routing.own import MOST_BYTES
from sensorium.wire.fal_errors import Refused, detail

UNREADABLE, TOO_MANY_PIXELS = "Image load error", "Image too large"
CODES: Final = ("invalid_image", "address_refused")
_UNREACHED: Final = re.compile(r"could not be fetched|was not delivered|instead of a picture|address redirects|Failed to download the file")
_BYTES: Final = re.compile(r"bytes; at most (\d+) are fetched|more than (\d+) bytes|File too large")
_PIXELS: Final = re.compile(r"pixels; at most (\d+) are decoded|Image too large")
_OTHERS: Final = re.compile(r"image_url: (Image load error|Image too large|File too large|Failed to download the file)")


def blamed_on(error: SensoriumError, task: Task, field: str, url: str) -> SensoriumError:
    """The error, or a fault of `field` where it tells of the picture in it; its own words go into the log.

    `ctx` of a size has the limit that was really met; a limit on pixels is told as the square of that many.
    """
    if error.code not in CODES and not _OTHERS.match(error.message):
        return error
    task.log(f"{field}: {error.message.rpartition('content[0]: ')[2]}")
    if pixels := _PIXELS.search(error.message):
        side = math.isqrt(int(pixels[1])) if pixels[1] else 8000
        return Refused([detail(field, TOO_MANY_PIXELS, "image_too_large", ctx={"max_height": side, "max_width": side}, input=url)])
    if error.code == "address_refused" or _UNREACHED.search(error.message) or _BYTES.search(error.message):
        return _unreached(error.message, field, url)
    return Refused([detail(field, UNREADABLE, "image_load_error", input=url)])


def unreached(words: str, task: Task, field: str, url: str) -> Refused:
    """The refusal of a file that could not be fetched, for the reason that `words` give; they go into the log."""
    task.log(f"{field}: {words.replace('the picture', 'the file')}")
    return _unreached(words, field, url)


def _unreached(words: str, field: str, url: str) -> Refused:
    if size := _BYTES.search(words):
        return too_large(field, url, int(size[1] or size[2] or MOST_BYTES))
    return Refused([detail(field, UNREACHABLE, "file_download_error", input=url)])
