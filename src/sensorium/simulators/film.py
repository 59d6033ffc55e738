"""Placeholder videos: a still picture that moves to and fro, as an MP4 file of JPEG frames."""

from __future__ import annotations

from PIL import Image

from sensorium.simulators import drawing
from sensorium.simulators.mp4 import mp4

DRAWN = 8  # frames that are really drawn; the file shows them forth and back
SHIFT = 16


def film(still: Image.Image, frames: int, fps: float) -> bytes:
    """An MP4 file of `frames` frames at `fps` frames per second, as large as `still`."""
    drawn = [drawing.jpeg(drawing.shifted(still, SHIFT * number)) for number in range(min(frames, DRAWN))]
    there_and_back = [*range(len(drawn)), *range(len(drawn) - 2, 0, -1)]
    return mp4(drawn, [there_and_back[number % len(there_and_back)] for number in range(frames)], *still.size, fps)
