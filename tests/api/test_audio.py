"""The speech doors in front of the simulator: the seed's lines, OpenAI's package, and each refusal."""

from __future__ import annotations

import io
import json
import sys
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from sensorium.routing.call import Route
from sensorium.settings import Settings
from sensorium.simulators.sound import riff, tone
from sensorium.wire.multipart import Part
from tests.api import hubs
from tests.api.hubs import Hub, Scripted, form_of
from tests.routing.hosted import nvidia, provider
from tests.serving import serving
from tests.simulators.site import KEY, MAGPIE, PARAKEET, Site, eventually
from tests.simulators.site import running as simulating

WAV = riff(tone(440, 1.25, 16000), 16000)
HEARD = "a sound of 1.25 seconds at 44"
ARIA = "Magpie-Multilingual.EN-US.Aria"
ASR, SAY = "/v1/audio/transcriptions", "/v1/audio/synthesize"
CHANGED = "x-sensorium-changed"


def routes(site: Site, key: str = KEY) -> list[Route]:
    """Speech and transcription by any name."""
    hears = provider(f"http://{site.address}{PARAKEET}/v1", "hears", key)
    says = replace(provider(f"http://{site.address}{MAGPIE}/v1", "says", key), voices={"aria": ARIA})
    return [nvidia("transcribe", hears), nvidia("speech", says)]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with simulating() as site:
        yield site


@pytest.fixture
def hub(site: Site) -> Iterator[Hub]:
    with hubs.over(routes(site)) as hub:
        yield hub


@pytest.fixture
def client(hub: Hub) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{hub.address}/v1", api_key="any", max_retries=0, timeout=30) as made:
        yield made


def refused(got: tuple[Any, bytes]) -> tuple[int, str, str]:
    """Status, code and message with hint of an error; `detail` must be the message."""
    told = json.loads(got[1])
    assert told["detail"] == told["error"]["message"]
    return got[0].status, told["error"]["code"], f"{told['detail']} {told['error']['hint']}"


def samples(data: bytes) -> tuple[int, int]:
    """Rate and number of samples of a WAVE file."""
    with wave.open(io.BytesIO(data)) as file:
        return file.getframerate(), file.getnframes()


def test_the_seeds_transcription_line(hub: Hub) -> None:
    file = Part("file", WAV, "clip.wav", "application/octet-stream")
    for parts in ([file, Part("model", b"parakeet")], [Part("model", b"parakeet"), file]):
        reply, body = hub.form(ASR, *parts)
        assert (reply.status, json.loads(body)["text"][: len(HEARD)]) == (200, HEARD)
        assert reply.getheader(CHANGED) == "model parakeet dropped: this upstream serves one model; language en-US added"
        assert (reply.getheader("x-sensorium-source"), reply.getheader("x-sensorium-model")) == ("hears", "parakeet")


def test_a_form_without_a_model_needs_none(hub: Hub) -> None:
    reply, body = hub.form(ASR, Part("file", WAV, "a.wav"), Part("language", b"en-US"), Part("response_format", b"text"))
    assert (reply.status, body.decode()[: len(HEARD)]) == (200, HEARD)
    assert reply.getheader("content-type") == "text/plain; charset=utf-8"
    assert reply.getheader(CHANGED) is reply.getheader("x-sensorium-model") is None


def test_the_seeds_synthesis_line_is_a_wave_file(hub: Hub) -> None:
    reply, body = hub.call("POST", SAY, {"text": "hello", "voice": ARIA})
    assert (reply.status, reply.getheader("content-type"), reply.getheader("content-length")) == (200, "audio/wav", str(len(body)))
    assert samples(body) == (22050, round(0.3 * 22050))
    assert reply.getheader(CHANGED) == "language en-US added; encoding LINEAR_PCM added; sample_rate_hz 22050 added"


def test_a_callers_own_form_is_sent_as_it_is(hub: Hub) -> None:
    fields = {"text": "hello", "language": "en-US", "voice": ARIA, "sample_rate_hz": "8000", "encoding": "LINEAR_PCM"}
    reply, body = hub.form(SAY, *(Part(name, text.encode()) for name, text in fields.items()))
    assert (reply.status, samples(body)[0], reply.getheader(CHANGED)) == (200, 8000, None)


def test_pcm_comes_piece_by_piece(hub: Hub) -> None:
    reply, body = hub.call("POST", "/v1/audio/synthesize_online", {"text": "hello", "voice": "aria", "sample_rate_hz": 8000})
    assert (reply.status, reply.getheader("content-type"), len(body)) == (200, "application/octet-stream", round(0.3 * 8000) * 2)
    assert f"voice aria sent as {ARIA}" in (reply.getheader(CHANGED) or "")


def test_what_was_said_is_heard(hub: Hub) -> None:
    _, said = hub.call("POST", SAY, {"text": "hello there, all of you", "voice": "aria", "sample_rate_hz": 16000})
    _, heard = hub.form(ASR, Part("file", said, "a.wav"))
    assert json.loads(heard)["text"].startswith("a sound of 1.38 seconds")


def test_openais_package_transcribes_and_speaks(client: openai.OpenAI) -> None:
    assert client.audio.transcriptions.create(model="whisper-1", file=("clip.wav", WAV)).text.startswith(HEARD)
    assert samples(client.audio.speech.create(model="tts-1", voice="aria", input="hello").read())[0] == 22050
    spoken = client.audio.speech.with_raw_response.create(model="tts-1", voice="aria", input="hello", response_format="pcm")
    assert (spoken.headers["content-type"], len(spoken.content)) == ("audio/pcm", round(0.3 * 24000) * 2)
    with pytest.raises(openai.UnprocessableEntityError, match="response_format 'mp3' cannot be made here"):
        client.audio.speech.create(model="tts-1", voice="aria", input="hello", response_format="mp3")
    with pytest.raises(openai.BadRequestError, match="no voice 'alloy' is known here"):
        client.audio.speech.create(model="tts-1", voice="alloy", input="hello")


def test_voices_are_listed(hub: Hub) -> None:
    reply, body = hub.call("GET", "/v1/audio/list_voices")
    assert (reply.status, ARIA in json.loads(body)["en-US,es-US,fr-FR"]["voices"]) == (200, True)


@pytest.mark.parametrize("form", [False, True])
def test_an_unknown_voice_gets_near_names(hub: Hub, form: bool) -> None:
    parts = (Part("text", b"hi"), Part("voice", b"Arja"))
    got = hub.form(SAY, *parts) if form else hub.call("POST", SAY, {"text": "hi", "voice": "Arja"})
    status, code, told = refused(got)
    assert (status, code, ARIA in told) == (400, "unknown_voice", True)


def test_a_known_voice_with_another_fault_keeps_its_reason(hub: Hub) -> None:
    status, _, told = refused(hub.call("POST", SAY, {"text": "hi", "voice": f"{ARIA}.Happy", "language": "xx-XX"}))
    assert (status, "xx-XX" in told) == (400, True)


REFUSED: list[tuple[tuple[Part, ...], int, str]] = [
    ((Part("model", b"m"),), 400, "no file"),
    ((Part("file", b"ID3\x04" + bytes(50), "a.mp3"),), 415, "WAV, Opus"),
    ((Part("file", b"hello", "a.wav"),), 415, "unknown format"),
    ((Part("file", WAV, "a.wav"), Part("language", b"de")), 400, "de-DE is not supported"),
    ((Part("file", WAV, "a.wav"), Part("model", b"../x")), 400, "is not a model name"),
]


@pytest.mark.parametrize(("parts", "status", "said"), REFUSED, ids=[row[2] for row in REFUSED])
def test_forms_that_are_refused(
    hub: Hub, parts: tuple[Part, ...], status: int, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    got, _, told = refused(hub.form(ASR, *parts))
    assert (got, said in told) == (status, True), told


@pytest.mark.parametrize(
    ("body", "media", "said"),
    [(b'{"file": "x"}', "application/json", "send a form"), (b"--x", "multipart/form-data; boundary=x", "middle of a part")],
)
def test_bodies_that_are_no_form(hub: Hub, body: bytes, media: str, said: str) -> None:
    status, code, told = refused(hub.call("POST", ASR, body, {"content-type": media}))
    assert (status, code, said in told) == (400, "invalid_request", True)


def test_a_newline_in_a_value_never_reaches_a_header(hub: Hub) -> None:
    reply, _ = hub.form(ASR, Part("file", WAV, "a.wav"), Part("model", b"m"), Part("language", b"en_us\r\nset-cookie: a"))
    assert reply.getheader("set-cookie") is None


PATHS = [
    "/v1/audio/../chat/completions", "/v1/audio/..", "/v1/audio/%2e%2e/chat/completions", "/v1/audio/a%2fb", "/v1/audio/a//b",
    "/v1/audio//speech", "/v1/audio/a\\b", "/v1/audio/a%5cb", "/v1/audio/a%00b", "/v1/audio/a%0d%0ab", "/v1/audio/" + "a" * 201,
    "/v1/audio/a%3fb", "/v1/audio/a%23b", "/v1/audio/transcriptions%2f..%2fsynthesize", "/v1/audio/%252e%252e", "/v1/audio/",
    "/v1/audio/x%2f%2e%2e%2fspeech", "/v1/audio/.",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_paths_that_are_never_sent(hub: Hub, site: Site, path: str, method: str) -> None:
    before = site.simulator.counters["invoked"]
    status, code, _ = refused(hub.call(method, path, b"{}" if method == "POST" else None))
    assert (status, code, site.simulator.counters["invoked"]) == (400, "invalid_path", before)


def test_an_encoded_dot_in_a_known_path_is_refused_too(hub: Hub) -> None:
    assert refused(hub.call("POST", "/v1/audio%2ftranscriptions", b""))[:2] == (400, "invalid_path")


def test_a_path_that_no_service_has_is_not_called_unconfigured(hub: Hub) -> None:
    status, code, told = refused(hub.call("POST", "/v1/audio/sing", b"{}"))
    assert (status, code, "router.audio" in told, "transcriptions" in told) == (404, "unknown_route", False, True)
    for method, path, allow in (("GET", ASR, "POST"), ("POST", "/v1/audio/list_voices", "GET"), ("PUT", SAY, "POST")):
        reply, _ = hub.call(method, path)
        assert (reply.status, reply.getheader("allow")) == (405, allow)


@pytest.mark.parametrize("path", [ASR, SAY, "/v1/audio/translations", "/v1/audio/speech", "/v1/audio/synthesize_online"])
def test_without_a_provider_the_setting_is_named(path: str) -> None:
    with hubs.over([]) as hub:
        status, code, told = refused(hub.call("POST", path, b"{}"))
        assert (status, code, "router.audio" in told, "URL + key" in told) == (404, "not_configured", True, True)


def test_what_one_service_lacks_does_not_take_it_out(hub: Hub) -> None:
    """Parakeet cannot translate; it still transcribes."""
    for _ in range(2):
        assert hub.form("/v1/audio/translations", Part("file", WAV, "a.wav"))[0].status == 404
    assert hub.form(ASR, Part("file", WAV, "a.wav"))[0].status == 200


def test_a_refused_key_is_the_hubs_own_trouble(site: Site) -> None:
    with hubs.over(routes(site, "nvapi-wrong")) as hub:
        for got in (hub.form(ASR, Part("file", WAV, "a.wav")), hub.call("POST", SAY, {"text": "hi"})):
            status, code, told = refused(got)
            assert (status, code, "Authentication failed" in told) == (401, "upstream_key_rejected", True)


def test_a_form_fails_over_with_its_body(site: Site) -> None:
    dead = nvidia("transcribe", provider("http://127.0.0.1:9/v1", "dead"))
    with hubs.over([dead, *routes(site)]) as hub:
        reply, body = hub.form(ASR, Part("file", WAV, "a.wav"))
        assert (reply.status, json.loads(body)["text"][: len(HEARD)]) == (200, HEARD)
        eventually(lambda: bool(hub.records))
        assert [attempt.route.provider.name for attempt in hub.records[-1].attempts] == ["dead"]


def test_a_provider_of_openais_dialect_gets_the_form_as_it_came() -> None:
    program = Scripted()
    program.body = b'{"text": "x"}'
    parts = [Part("prompt", "ä".encode()), Part("file", b"ID3\x04\r\n--", "é.mp3", "audio/mpeg"), Part("model", b"any"), Part("n", b"")]
    with serving(program) as base:
        named = replace(nvidia("transcribe", provider(f"{base}/v1"), "any", "openai"), upstream="their-asr")
        with hubs.over([named]) as hub:
            reply, body = hub.form(ASR, *parts)
    assert (reply.status, body, reply.getheader(CHANGED)) == (200, program.body, None)
    raw = program.asked[0][1]
    got = form_of(raw)
    assert [(p.name, bytes(p.data), p.filename, p.media) for p in got] == [
        (p.name, b"their-asr" if p.name == "model" else p.data, p.filename, p.media) for p in parts
    ]


@pytest.mark.parametrize(("body", "media"), [(b'{"detail": "sorry"}', b"application/json"), (b"", b"audio/wav")])
def test_a_good_status_without_sound_is_a_failure(body: bytes, media: bytes) -> None:
    program = Scripted()
    program.body, program.media = body, media
    with serving(program) as base, hubs.over([nvidia("speech", provider(f"{base}/v1"))]) as hub:
        status, code, _ = refused(hub.call("POST", SAY, {"text": "hi"}))
        assert (status, code) == (502, "empty_result")


def test_a_form_over_the_cap_is_refused_with_both_sizes(site: Site) -> None:
    small = Settings.model_validate({"server": {"max_body_bytes": 2048}})
    with hubs.over(routes(site), small) as hub:
        status, code, told = refused(hub.form(ASR, Part("file", WAV, "a.wav")))
        assert (status, code, "2048" in told) == (413, "body_too_large", True)


FFMPEG = f"""#!{sys.executable}
import pathlib, sys
words = sys.argv[1:]
source, target = (pathlib.Path(word.removeprefix("file:")) for word in (words[words.index("-i") + 1], words[-1]))
assert words[words.index("-protocol_whitelist") + 1] == "file" and words[words.index("-i") - 1] in ("mp3", "aac", "mov", "matroska")
data = source.read_bytes()
if b"damaged" in data:
    sys.exit(1)
target.write_bytes(pathlib.Path({{wav!r}}).read_bytes())
"""


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name on the PATH, which answers every sound with the same WAVE file."""
    (tmp_path / "sound.wav").write_bytes(WAV)
    program = tmp_path / "ffmpeg"
    program.write_text(FFMPEG.format(wav=str(tmp_path / "sound.wav")), "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("ffmpeg")
@pytest.mark.parametrize(
    ("head", "media"),
    [
        (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xf1\x50", "audio/aac"),
        (b"\x00\x00\x00\x20ftypM4A ", "audio/mp4"),
        (b"\x1aE\xdf\xa3", "audio/webm"),
    ],
)
def test_other_formats_become_wav_where_ffmpeg_is(hub: Hub, head: bytes, media: str) -> None:
    reply, body = hub.form(ASR, Part("file", head + bytes(100), "clip"))
    assert (reply.status, json.loads(body)["text"][: len(HEARD)]) == (200, HEARD)
    assert f"file made from {media} into audio/wav, 16000 Hz mono" in (reply.getheader(CHANGED) or "")


@pytest.mark.usefixtures("ffmpeg")
def test_sound_that_ffmpeg_cannot_read(hub: Hub) -> None:
    status, _, told = refused(hub.form(ASR, Part("file", b"ID3\x04 damaged", "a.mp3")))
    assert (status, "cannot be read" in told) == (422, True)
