"""Sound that the speech services do not read, made into WAV by the operator's own ffmpeg: a process without a shell, bounded in time and
size, that reads and writes files in a folder of its own and opens nothing else."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from sensorium.errors import DeadlineExceeded, Unprocessable
from sensorium.wire import speech

RATE: Final = 16_000  # Hz, mono
LONGEST_S: Final = 60.0  # of ffmpeg's work
MOST_BYTES: Final = 256 * 1024 * 1024  # of WAV: more than two hours
# media types that can be made into WAV, and the reader that ffmpeg is told to use: it does not guess, so a playlist is never followed
READERS: Final = {"audio/mpeg": "mp3", "audio/aac": "aac", "audio/mp4": "mov", "audio/webm": "matroska", speech.VORBIS: "ogg"}


def ffmpeg() -> str | None:
    """The program, None when there is none on the PATH."""
    return shutil.which("ffmpeg")


async def to_wav(data: bytes | memoryview, media: str, program: str) -> bytes:
    """`data`, of a media type in READERS, as a WAV file of 16 kHz mono.

    Raises Unprocessable when ffmpeg cannot read it or the result is too long, DeadlineExceeded when it takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="sensorium-") as folder:
        source, target = Path(folder, "in"), Path(folder, "out.wav")
        await asyncio.to_thread(source.write_bytes, data)
        code = await _run(program, *_arguments(source, target, READERS[media]))
        if code != 0 or not target.is_file():
            raise Unprocessable(f"the audio, {media}, cannot be read; is the file damaged?", param="file")
        if target.stat().st_size >= MOST_BYTES:
            raise Unprocessable(f"the audio is longer than {MOST_BYTES // (2 * RATE)} seconds", param="file")
        return await asyncio.to_thread(target.read_bytes)


def _arguments(source: Path, target: Path, reader: str) -> list[str]:
    read = ["-nostdin", "-v", "quiet", "-protocol_whitelist", "file", "-f", reader, "-i", f"file:{source}"]
    # bitexact: no note of the writer between format and samples, where simple readers expect none
    made = ["-vn", "-map_metadata", "-1", "-fflags", "+bitexact", "-ac", "1", "-ar", str(RATE), "-c:a", "pcm_s16le"]
    return [*read, *made, "-f", "wav", "-fs", str(MOST_BYTES), f"file:{target}"]


async def _run(program: str, *arguments: str) -> int:
    """The exit status. The process does not outlive this call, however it ends."""
    nothing = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(program, *arguments, stdin=nothing, stdout=nothing, stderr=nothing)
    try:
        async with asyncio.timeout(LONGEST_S):
            return await process.wait()
    except TimeoutError:
        raise DeadlineExceeded(f"making the audio into WAV took longer than {LONGEST_S:g} seconds; send WAV, Opus or FLAC") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
