"""A picture or file of an input that could not be used, told in fal's types. The reasons are the words of our own readers and of fal's
apps. Pure.
"""

from __future__ import annotations

import math
import re
from typing import Final

from sensorium.errors import SensoriumError
from sensorium.wire.fal_errors import INPUT_SHOWN, Refused, detail

UNREACHABLE: Final = "Failed to download the file. Please check if the URL is accessible and try again."
TOO_LARGE, UNREADABLE, TOO_MANY_PIXELS = "File too large", "Image load error", "Image too large"
CODES: Final = ("invalid_image", "address_refused")
_UNREACHED: Final = re.compile(r"could not be fetched|was not delivered|instead of a picture|address redirects|Failed to download the file")
_BYTES: Final = re.compile(r"bytes; at most (\d+) are fetched|more than (\d+) bytes|File too large")
_PIXELS: Final = re.compile(r"pixels; at most (\d+) are decoded|Image too large")
_OTHERS: Final = re.compile(r"image_url: (Image load error|Image too large|File too large|Failed to download the file)")


def fault(error: SensoriumError, field: str, url: str, most: int) -> Refused | None:
    """The error as a fault of `field` where it tells of the picture in it; None for any other error.

    `ctx` of a size has the limit that was really met, `most` bytes where the error names none; a limit on pixels is told as the square
    of that many.
    """
    if error.code not in CODES and not _OTHERS.match(error.message):
        return None
    if pixels := _PIXELS.search(error.message):
        side = math.isqrt(int(pixels[1])) if pixels[1] else 8000
        return Refused([detail(field, TOO_MANY_PIXELS, "image_too_large", ctx={"max_height": side, "max_width": side}, input=url)])
    if error.code == "address_refused" or _UNREACHED.search(error.message) or _BYTES.search(error.message):
        return unreached(error.message, field, url, most)
    return Refused([detail(field, UNREADABLE, "image_load_error", input=url)])


def unreached(words: str, field: str, url: str, most: int) -> Refused:
    """The refusal of a file that could not be fetched, for the reason that `words` give."""
    if size := _BYTES.search(words):
        return too_large(field, url, int(size[1] or size[2] or most))
    return Refused([detail(field, UNREACHABLE, "file_download_error", input=url)])


def too_large(field: str, url: str, most: int) -> Refused:
    """The refusal of a file of more than `most` bytes."""
    return Refused([detail(field, TOO_LARGE, "file_too_large", ctx={"max_size": most}, input=url[:INPUT_SHOWN])])
