"""The program that makes WAV is bounded: it ends with its time, and when its caller leaves. The real one reads what it wrote itself."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sensorium.api import transcode
from sensorium.errors import DeadlineExceeded, Unprocessable
from sensorium.simulators.sound import probe, riff, tone
from sensorium.wire import multipart, speech
from sensorium.wire.multipart import Part
from tests.api import hubs
from tests.routing.hosted import nvidia, provider
from tests.simulators.site import KEY, PARAKEET, running

HANGS = f"#!{sys.executable}\nimport os, pathlib, time\npathlib.Path({{note!r}}).write_text(str(os.getpid()))\ntime.sleep(600)\n"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that notes its process id and then hangs."""
    hangs = tmp_path / "ffmpeg"
    hangs.write_text(HANGS.format(note=str(tmp_path / "pid")), "utf-8")
    hangs.chmod(0o755)
    return hangs


def gone(note: Path) -> bool:
    """Whether the process that wrote `note` has ended; True where it never came that far."""
    if not note.exists() or not note.read_text():
        return True
    try:
        os.kill(int(note.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_it_ends_with_its_time(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcode, "LONGEST_S", 0.01)
    with pytest.raises(DeadlineExceeded, match="send WAV"):
        asyncio.run(transcode.to_wav(b"ID3", "audio/mpeg", str(program)))
    assert gone(program.parent / "pid")


def test_it_ends_when_its_caller_leaves(program: Path) -> None:
    note = program.parent / "pid"

    async def main() -> None:
        working = asyncio.create_task(transcode.to_wav(b"ID3", "audio/mpeg", str(program)))
        async with asyncio.timeout(20):
            while not note.exists() or not note.read_text():
                await asyncio.sleep(0.01)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    asyncio.run(main())
    assert gone(note)


def test_a_result_beyond_the_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = tmp_path / "ffmpeg"
    writes.write_text(f"#!{sys.executable}\nimport sys\nopen(sys.argv[-1].removeprefix('file:'), 'wb').write(bytes(200))\n", "utf-8")
    writes.chmod(0o755)
    assert asyncio.run(transcode.to_wav(b"ID3", "audio/mpeg", str(writes))) == bytes(200)
    monkeypatch.setattr(transcode, "MOST_BYTES", 200)
    with pytest.raises(Unprocessable, match="longer than"):
        asyncio.run(transcode.to_wav(b"ID3", "audio/mpeg", str(writes)))


FFMPEG = transcode.ffmpeg()
real = pytest.mark.skipif(FFMPEG is None, reason="there is no ffmpeg on the PATH")
# media type, and how ffmpeg is told to write it
KINDS = {
    "mp3": ("audio/mpeg", ["-c:a", "libmp3lame"]),
    "bare.mp3": ("audio/mpeg", ["-c:a", "libmp3lame", "-id3v2_version", "0", "-write_xing", "0"]),
    "m4a": ("audio/mp4", ["-c:a", "aac"]),
    "pieces.m4a": ("audio/mp4", ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"]),
    "aac": ("audio/aac", ["-c:a", "aac"]),
    "webm": ("audio/webm", ["-c:a", "libopus"]),
    "opus": ("audio/ogg", ["-c:a", "libopus"]),
    "ogg": ("audio/ogg; codecs=vorbis", ["-c:a", "libvorbis"]),
}


def written(kind: str, folder: Path) -> bytes:
    """A second of a 440 Hz tone at 44.1 kHz, as ffmpeg writes that kind of file."""
    file = folder / f"clip.{kind}"
    command = [FFMPEG or "", "-v", "error", "-f", "wav", "-i", "-", *KINDS[kind][1], str(file)]
    done = subprocess.run(command, input=riff(tone(440, 1.0, 44100), 44100), capture_output=True, check=False)
    if b"Unknown encoder" in done.stderr:
        pytest.skip(f"this ffmpeg cannot write {kind}")
    assert done.returncode == 0, done.stderr
    return file.read_bytes()


@real
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "opus"])
def test_the_real_program_reads_what_it_wrote(kind: str, tmp_path: Path) -> None:
    data = written(kind, tmp_path)
    assert speech.audio_type(data) == KINDS[kind][0]
    wav = asyncio.run(transcode.to_wav(data, KINDS[kind][0], str(FFMPEG)))
    heard = probe(wav)
    assert wav[36:40] == b"data" and wav[22:28] == b"\x01\x00\x80\x3e\x00\x00"  # mono, 16000 Hz, 44 bytes of head
    assert heard.seconds == pytest.approx(1.0, abs=0.1)  # the codecs pad
    assert heard.hertz == pytest.approx(440, abs=50)  # what they pad is no tone


@real
def test_opus_needs_no_change(tmp_path: Path) -> None:
    assert speech.audio_type(written("opus", tmp_path)) in speech.TAKEN


@real
def test_the_real_program_reads_nothing_else(tmp_path: Path) -> None:
    whole = written("m4a", tmp_path)
    damaged = [b"ID3\x04" + bytes(3000), b"ID3#EXTM3U\nfile:///etc/hostname\n", whole[: len(whole) // 2], b"\x1aE\xdf\xa3" + bytes(3000)]
    for data in damaged:
        with pytest.raises(Unprocessable, match="cannot be read"):
            asyncio.run(transcode.to_wav(data, str(speech.audio_type(data)), str(FFMPEG)))


@real
@pytest.mark.parametrize("most", [20_000, 31_999])
def test_what_the_real_program_cuts_off_is_refused_and_not_passed_on(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcode, "MOST_BYTES", most)
    with pytest.raises(Unprocessable, match="longer than"):
        asyncio.run(transcode.to_wav(written("mp3", tmp_path), "audio/mpeg", str(FFMPEG)))


@real
def test_a_callers_mp3_is_transcribed_by_a_service_that_reads_none(tmp_path: Path) -> None:
    with running() as site, hubs.over([nvidia("transcribe", provider(f"http://{site.address}{PARAKEET}/v1", "hears", KEY))]) as hub:
        media, body = multipart.build([Part("file", written("mp3", tmp_path), "clip.mp3", "audio/mpeg"), Part("model", b"any")])
        reply, answer = hub.call("POST", "/v1/audio/transcriptions", body, {"content-type": media})
        sent = bytes(site.simulator.seen[-1].body or b"")
    assert (reply.status, json.loads(answer)["text"][:10]) == (200, "a sound of")
    assert "file made from audio/mpeg into audio/wav" in (reply.getheader("x-sensorium-changed") or "")
    assert b'filename="clip.wav"' in sent and b"Content-Type: audio/wav" in sent
