"""Speech over HTTP: forms with real sound, what the hosted functions refuse, and synthesis that plays."""

from __future__ import annotations

import io
import json
import struct
import wave
from typing import Any

import pytest

from sensorium.simulators.sound import riff, tone
from tests.simulators.site import MAGPIE, PARAKEET, Answer, Site

WAV = riff(tone(440, 1.25, 16000), 16000)
FLAC = b"fLaC\x80\x00\x00\x22" + bytes(10) + ((16000 << 44) | (1 << 41) | (15 << 36) | 48000).to_bytes(8, "big") + bytes(16)
OPUS = b"OggS" + bytes(24) + b"OpusHead" + bytes(60) + b"OggS\x00\x04" + struct.pack("<q", 96000) + bytes(14)
ASR, TTS = f"{PARAKEET}/v1/audio/transcriptions", f"{MAGPIE}/v1/audio/synthesize"
CHATTERBOX = "/ddacc747-1269-4fab-bfd9-8f593dead106.invocation.api.nvcf.nvidia.com"
HELLO = {"text": "hello there", "language": "en-US"}
CONNECTION = "Inference connection error while making inference request"


def form(site: Site, path: str, fields: dict[str, str], file: bytes | None = None, **headers: str) -> Answer:
    """A multipart POST."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    if file is not None:
        head = b'Content-Disposition: form-data; name="file"; filename="clip.wav"\r\nContent-Type: application/octet-stream\r\n\r\n'
        parts.append(head + file)
    body = b"".join(b"--sim\r\n" + part + b"\r\n" for part in parts) + b"--sim--\r\n"
    said: dict[str, str] = {"Content-Type": "multipart/form-data; boundary=sim", **headers}
    return site.call("POST", path, body, {name.replace("_", "-"): text for name, text in said.items()})


@pytest.mark.parametrize(
    ("file", "heard"),
    [(WAV, "a sound of 1.25 seconds at 44"), (FLAC, "a sound of 3.00 seconds"), (OPUS, "a sound of 2.00 seconds")],
    ids=["wav", "flac", "opus"],
)
def test_a_transcript_tells_what_was_heard(site: Site, file: bytes, heard: str) -> None:
    answer = form(site, ASR, {"language": "en-US"}, file)
    assert (answer.status, list(answer.json), answer.headers["content-type"]) == (200, ["text"], "application/json")
    assert answer.json["text"].startswith(heard)
    text = form(site, ASR, {"language": "en-US", "response_format": "text", "word_time_offsets": "True"}, file)
    assert (text.body.decode().startswith(heard), text.headers["content-type"]) == (True, "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("fields", "file", "status", "said"),
    [
        ({"language": "en-US", "model": "parakeet-ctc"}, WAV, 400, "model parakeet-ctc is not available"),
        ({}, WAV, 400, "either language or model"),
        ({"language": "de-DE"}, WAV, 400, "language de-DE is not supported"),
        ({"language": "en"}, WAV, 400, "language en is not supported"),
        ({"language": "en-US"}, b"ID3\x04" + bytes(100), 400, "MP3 is not supported"),
        ({"language": "en-US"}, b"\xff\xfb\x90" + bytes(100), 400, "expected WAV, OPUS or FLAC"),
        ({"language": "en-US"}, b"", 400, "not supported"),
        ({"language": "en-US"}, WAV[:30], 400, "broken"),
        ({"language": "en-US"}, None, 422, "Field required"),
    ],
)
def test_transcriptions_that_are_refused(site: Site, fields: dict[str, str], file: bytes | None, status: int, said: str) -> None:
    answer = form(site, ASR, fields, file)
    assert (answer.status, said in json.dumps(answer.json["detail"])) == (status, True)


def test_synthesis_is_a_wave_file_as_long_as_its_text(site: Site) -> None:
    lengths = []
    for text in ("hello there", "hello there " * 5):
        answer = form(site, TTS, {**HELLO, "text": text, "sample_rate_hz": "22050", "voice": "Magpie-Multilingual.EN-US.Aria"})
        assert (answer.status, answer.headers["content-type"], answer.body[:4]) == (200, "audio/wav", b"RIFF")
        with wave.open(io.BytesIO(answer.body)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (22050, 1, 2)
            lengths.append(file.getnframes() / 22050)
    assert lengths == pytest.approx([0.66, 3.54], abs=0.01)


def test_what_was_synthesised_can_be_transcribed(site: Site) -> None:
    voices = ("Magpie-Multilingual.EN-US.Aria", "Magpie-Multilingual.EN-US.Leo.Happy")
    heard = {form(site, ASR, {"language": "en-US"}, form(site, TTS, {**HELLO, "voice": voice}).body).json["text"] for voice in voices}
    assert len(heard) == 2
    assert all(text.startswith("a sound of 0.66 seconds at ") for text in heard)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": "", "language": "en-US"}, "Bad Request, empty text input"),
        ({"language": "en-US"}, "Bad Request, empty text input"),
        ({"text": "hi"}, "language '' is not supported"),
        ({**HELLO, "voice": "alloy"}, "voice alloy is not available"),
        ({**HELLO, "sample_rate_hz": "fast"}, "sample_rate_hz fast is not supported"),
        ({**HELLO, "encoding": "MP3"}, "LINEAR_PCM only"),
    ],
)
def test_syntheses_that_are_refused(site: Site, fields: dict[str, str], said: str) -> None:
    answer = form(site, TTS, fields)
    assert (answer.status, said in answer.json["detail"]) == (400, True)


@pytest.mark.parametrize("path", [TTS, f"{MAGPIE}/v1/audio/synthesize_online"])
def test_json_is_not_a_form(site: Site, path: str) -> None:
    answer = site.post(path, {"text": "hello", "voice": "Aria"})
    assert (answer.status, answer.body) == (400, b'{"detail":"Bad Request, empty text input"}')
    assert site.post(ASR, {"language": "en-US"}).status == 400
    torn = site.call("POST", path, b"--sim\r\nno end", {"Content-Type": "multipart/form-data; boundary=sim"})
    assert (torn.status, "closing boundary" in torn.json["detail"]) == (400, True)


def test_a_text_whose_sound_is_over_4_mb_is_refused(site: Site) -> None:
    assert form(site, TTS, {**HELLO, "text": "a" * 700}).status == 200
    assert form(site, TTS, {**HELLO, "text": "a" * 1000}).status == 500
    assert form(site, f"{MAGPIE}/v1/audio/synthesize_online", {**HELLO, "text": "a" * 1000}).status == 200


def test_online_synthesis_sends_samples_without_a_header(site: Site) -> None:
    answer = form(site, f"{MAGPIE}/v1/audio/synthesize_online", {**HELLO, "sample_rate_hz": "16000"})
    whole = form(site, TTS, {**HELLO, "sample_rate_hz": "16000"}).body
    assert (answer.headers["transfer-encoding"], answer.body) == ("chunked", whole[44:])


def test_voices_stand_under_one_key(site: Site) -> None:
    answer = site.get(f"{MAGPIE}/v1/audio/list_voices").json
    ((key, value),) = answer.items()
    assert key == "en-US,es-US,fr-FR"
    assert "Magpie-Multilingual.EN-US.Aria" in value["voices"]
    for voice in value["voices"]:
        assert form(site, TTS, {"text": "hi", "language": "fr-FR", "voice": voice}).status == 200


@pytest.mark.parametrize("function", ["b702f636-f60c-4a3d-a6f4-f3568c13bd7d", "bb0837de-8c7b-481f-9ec8-ef5663e9c1fa"])
def test_a_function_that_speaks_grpc_only(site: Site, function: str) -> None:
    host = f"/{function}.invocation.api.nvcf.nvidia.com"
    for answer in (form(site, f"{host}/v1/audio/transcriptions", {"language": "en"}, WAV), site.get(f"{host}/v1/health/ready")):
        assert (answer.status, answer.json["detail"]) == (500, CONNECTION)
        assert answer.json["type"] == "urn:inference-connection:problem-details:internal-server-error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"{MAGPIE}/v1/health/ready", 200),
        ("GET", TTS, 405),
        ("POST", f"{MAGPIE}/v1/audio/transcriptions", 404),
        ("POST", f"{PARAKEET}/v1/audio/translations", 404),
        ("GET", f"{CHATTERBOX}/v1/audio/list_voices", 404),
        ("POST", f"{MAGPIE}/v1/audio/speech", 404),
    ],
)
def test_routes_of_speech_containers(site: Site, method: str, path: str, status: int) -> None:
    assert site.call(method, path, b"" if method == "POST" else None).status == status


def test_the_other_synthesis(site: Site) -> None:
    assert form(site, f"{CHATTERBOX}/v1/audio/synthesize", HELLO).body[:4] == b"RIFF"


def test_a_container_by_itself_takes_a_model_instead_of_a_language(site: Site) -> None:
    path = "/nim/openai/whisper-large-v3/v1/audio/transcriptions"
    assert form(site, path, {"model": "whisper-large-v3-ofl"}, WAV, Authorization="").status == 200
    assert form(site, path, {"language": "multi"}, WAV).status == 200
    assert form(site, path.replace("transcriptions", "translations"), {"language": "multi"}, WAV).status == 200


def test_a_header_chooses_the_function(site: Site) -> None:
    function = MAGPIE.removeprefix("/").partition(".")[0]
    answer: Any = site.get("/v1/audio/list_voices", function_id=function)
    assert answer.status == 200
    assert form(site, "/v1/audio/synthesize", HELLO, function_id="ddacc747-1269-4fab-bfd9-8f593dead106").status == 200
    unknown = site.get("/v1/audio/list_voices", function_id="0c1f0b0e-0000-4000-8000-000000000000")
    assert (unknown.status, "Not found for account" in unknown.json["detail"]) == (404, True)
