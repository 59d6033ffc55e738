"""Sound as the simulators make and judge it: a tone in a WAVE file, and what a WAVE, Ogg Opus or FLAC file says about itself."""

from __future__ import annotations

import array
import io
import itertools
import math
import struct
import sys
import wave
from dataclasses import dataclass

SAMPLE_BYTES = 2
LEVEL = 8000
OPUS_HZ = 48_000


class UnknownSound(Exception):
    """The bytes are no WAVE, Ogg Opus or FLAC file; the message says what they are or what is broken."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound file's container, its length in seconds and its pitch in hertz (0 where it was not measured)."""

    kind: str
    seconds: float
    hertz: float = 0.0


def tone(hertz: float, seconds: float, rate: int) -> bytes:
    """PCM s16le mono of a sine at `rate` samples per second."""
    second = array.array("h", (round(LEVEL * math.sin(2 * math.pi * hertz * step / rate)) for step in range(rate)))
    if sys.byteorder == "big":
        second.byteswap()
    whole = second.tobytes() * (int(seconds) + 1)
    return whole[: SAMPLE_BYTES * round(seconds * rate)]


def riff(pcm: bytes, rate: int) -> bytes:
    """A RIFF/WAVE file of mono s16le samples."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(SAMPLE_BYTES)
        file.setframerate(rate)
        file.writeframes(pcm)
    return out.getvalue()


def probe(data: bytes) -> Sound:
    """What a file says about itself. Raises UnknownSound."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _wave(data)
    if data[:4] == b"OggS" and b"OpusHead" in data[:80]:
        at = data.rfind(b"OggS")
        return Sound("opus", struct.unpack_from("<q", data, at + 6)[0] / OPUS_HZ if at + 14 <= len(data) else 0.0)
    if data[:4] == b"fLaC" and len(data) >= 42:
        packed = int.from_bytes(data[18:26], "big")
        rate, samples = packed >> 44, packed & (2**36 - 1)
        return Sound("flac", samples / rate if rate else 0.0)
    if data[:3] == b"ID3" or data[:2] in (b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"):
        raise UnknownSound("MP3 is not supported")
    raise UnknownSound("the audio format is not supported")


def _wave(data: bytes) -> Sound:
    try:
        with wave.open(io.BytesIO(data)) as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError, ZeroDivisionError) as error:
        raise UnknownSound(f"the WAVE file is broken: {error}") from None
    seconds = len(raw) / (rate * channels * width) if rate else 0.0
    return Sound("wav", seconds, _pitch(raw, rate) if (channels, width) == (1, SAMPLE_BYTES) else 0.0)


def _pitch(raw: bytes, rate: int) -> float:
    """Hertz of a clean tone, from the samples between which it rises through zero."""
    samples = array.array("h", raw[: len(raw) // 2 * 2])
    if sys.byteorder == "big":
        samples.byteswap()
    rises = [place for place, (before, after) in enumerate(itertools.pairwise(samples)) if before < 0 <= after]
    return rate * (len(rises) - 1) / (rises[-1] - rises[0]) if len(rises) > 1 else 0.0
