"""Makes the files that run.sh sends, and looks at those that come back.

look.py make                          path/to/image.png, large.png and clip.wav in this folder
look.py SOURCE KIND FILE [WORDS]      says in one line what FILE is; exit status 1 when the last reply, whose head is in the file
                                      `head`, is not 200 from SOURCE, or FILE is no KIND, or WORDS are not in it
"""

from __future__ import annotations

import base64
import io
import json
import math
import random
import struct
import sys
import wave
from pathlib import Path
from typing import Any

from PIL import Image

LEVEL, RATE, PITCH_HZ = 20_000, 16_000, 440


def make() -> None:
    """A picture of 90 kB, one of 3 MB, and a second of sound; noise, since it cannot be packed any smaller."""
    noise = random.Random(0)
    Path("path/to").mkdir(parents=True, exist_ok=True)
    Image.frombytes("L", (300, 298), noise.randbytes(300 * 298)).save("path/to/image.png", compress_level=0)
    Image.frombytes("RGB", (1000, 1000), noise.randbytes(3_000_000)).save("large.png", compress_level=0)
    with wave.open("clip.wav", "wb") as clip:
        clip.setnchannels(1)
        clip.setsampwidth(2)
        clip.setframerate(RATE)
        samples = (round(LEVEL * math.sin(2 * math.pi * PITCH_HZ * i / RATE)) for i in range(RATE))
        clip.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))


def answer(data: bytes) -> str:
    return str(json.loads(data)["choices"][0]["message"]["content"])


def artifact(data: bytes) -> str:
    return picture(base64.b64decode(json.loads(data)["artifacts"][0]["base64"]))


def picture(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return f"{image.format}, {image.width} x {image.height}"


def transcript(data: bytes) -> str:
    return str(json.loads(data)["text"])


def wave_file(data: bytes) -> str:
    with wave.open(io.BytesIO(data)) as sound:
        if not sound.getnframes():
            raise ValueError("no sound")
        return f"WAVE, {sound.getnframes() / sound.getframerate():.2f} s at {sound.getframerate()} Hz"


def video(data: bytes) -> str:
    film = base64.b64decode(json.loads(data)["artifacts"][0]["base64"])
    if film[4:8] != b"ftyp":
        raise ValueError("no MP4")
    return f"MP4, {len(film)} bytes"


def vector(data: bytes) -> str:
    numbers = json.loads(data)["data"][0]["embedding"]
    return f"{len(numbers)} numbers of length {math.hypot(*numbers):.2f}"


KINDS = {
    "answer": answer,
    "artifact": artifact,
    "picture": picture,
    "transcript": transcript,
    "wave": wave_file,
    "video": video,
    "vector": vector,
}


def told(data: bytes) -> str:
    """The code and the message of an error reply, else the beginning of whatever it is."""
    try:
        error = json.loads(data)["error"]
        return f"{error['code']}: {error['message']}"
    except (ValueError, LookupError, TypeError):
        return data[:200].decode("utf-8", "replace")


def look(source: str, kind: str, file: str, words: str = "") -> str:
    """One line about a file. Raises for what is not as it should be, with the reply's own words where it was an error."""
    lines = Path("head").read_text("latin-1").splitlines()
    status = next((line.split()[1] for line in reversed(lines) if line.startswith("HTTP/")), "none")
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    data = Path(file).read_bytes() if Path(file).exists() else b"nothing"
    if status != "200" or headers.get("x-sensorium-source") != source:
        raise ValueError(f"{status} from {headers.get('x-sensorium-source')}: {told(data)}")
    seen = KINDS[kind](data)
    if words not in seen:
        raise ValueError(f"{words!r} is not in {seen!r}")
    return f"{seen} ({source})"


def main(arguments: list[str]) -> Any:
    if arguments == ["make"]:
        return make()
    try:
        print(look(*arguments))
    except (OSError, ValueError, LookupError, EOFError, wave.Error) as error:
        return str(error) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
