"""Speech calls as callers write them, and the forms that the speech services take."""

from __future__ import annotations

import json

import pytest

from sensorium.errors import BadRequest, SensoriumError, Unprocessable, UnsupportedMedia
from sensorium.wire import jsonbody, speech
from sensorium.wire.multipart import Part

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt "


def fields(form: speech.Form) -> dict[str, str]:
    return {part.name: bytes(part.data).decode("latin-1") for part in form.parts}


def said(**members: object) -> speech.Form:
    return speech.synthesis(
        jsonbody.members(json.dumps(members).encode()), voices={"aria": "Magpie-Multilingual.EN-US.Aria"}, language="en-US"
    )


@pytest.mark.parametrize(
    ("head", "media"),
    [
        (WAV, "audio/wav"), (b"OggS\x00\x02", "audio/ogg"), (b"fLaC\x00", "audio/flac"), (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xfb\x90d", "audio/mpeg"), (b"\x00\x00\x00\x20ftypM4A ", "audio/mp4"), (b"\x1aE\xdf\xa3", "audio/webm"), (b"hello", None),
        (b"", None),
    ],
)  # fmt: skip
def test_audio_is_known_by_its_first_bytes(head: bytes, media: str | None) -> None:
    assert speech.audio_type(head) == media


def test_the_seeds_recognition_form() -> None:
    form = speech.recognition([Part("file", WAV, "clip.wav"), Part("model", b"parakeet")], model=None, language="en-US")
    assert [(part.name, part.filename) for part in form.parts] == [("file", "clip.wav"), ("language", None)]
    assert form.changes == ("model parakeet dropped: this upstream serves one model", "language en-US added")


@pytest.mark.parametrize(
    ("asked", "sent"), [("en", "en-US"), ("en_gb", "en-GB"), ("multi", "multi"), ("pt", "pt-BR"), ("xx", "xx"), ("de-de", "de-DE")]
)
def test_languages_by_the_services_names(asked: str, sent: str) -> None:
    form = speech.recognition([Part("file", WAV, "a"), Part("language", asked.encode())], model="internal", language="en-US")
    assert (fields(form)["language"], fields(form)["model"]) == (sent, "internal")
    assert form.changes == (() if asked == sent else (f"language {asked} sent as {sent}",))


@pytest.mark.parametrize(
    ("parts", "kind", "reason"),
    [
        ([], BadRequest, "no file"),
        ([Part("file", b"", "a.wav")], BadRequest, "no file"),
        ([Part("file", b"ID3\x04....", "a.mp3")], UnsupportedMedia, "audio/mpeg; this model reads WAV, Opus"),
        ([Part("file", b"hello", "a.wav")], UnsupportedMedia, "unknown format"),
        ([Part("file", WAV, "a.wav"), Part("language", b"\xff")], BadRequest, "not UTF-8"),
    ],
)
def test_audio_that_cannot_be_recognised(parts: list[Part], kind: type[SensoriumError], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        speech.recognition(parts, model=None, language="en-US")


def test_the_seeds_synthesis_body_becomes_a_form() -> None:
    form = said(text="hello", voice="aria")
    assert fields(form) == {
        "text": "hello", "voice": "Magpie-Multilingual.EN-US.Aria", "language": "en-US", "encoding": "LINEAR_PCM",
        "sample_rate_hz": "22050",
    }  # fmt: skip
    assert form.changes == (
        "voice aria sent as Magpie-Multilingual.EN-US.Aria",
        "language en-US added",
        "encoding LINEAR_PCM added",
        "sample_rate_hz 22050 added",
    )


def test_a_callers_own_synthesis_form_is_kept() -> None:
    parts = [Part("text", b"hi"), Part("audio_prompt", WAV, "p.wav", "audio/wav"), Part("model", b"m"), Part("voice", b"aria")]
    form = speech.synthesis_form(parts, voices={"aria": "Magpie-Multilingual.FR-FR.Aria"}, language="en-US")
    assert form.parts[:2] == (parts[0], parts[1])
    assert fields(form) == {
        "text": "hi", "audio_prompt": WAV.decode("latin-1"), "voice": "Magpie-Multilingual.FR-FR.Aria", "language": "fr-FR",
    }  # fmt: skip
    assert form.changes == ("voice aria sent as Magpie-Multilingual.FR-FR.Aria", "language fr-FR added")
    whole = speech.synthesis_form([Part("text", b"hi"), Part("language", b"de-DE")], voices={}, language="en-US")
    assert (fields(whole), whole.changes) == ({"text": "hi", "language": "de-DE"}, ())


def test_the_language_follows_the_voice_and_numbers_are_kept() -> None:
    form = said(text="salut", voice="Magpie-Multilingual.FR-FR.Louise", sample_rate_hz=44100, speed=2)
    assert (fields(form)["language"], fields(form)["sample_rate_hz"]) == ("fr-FR", "44100")
    assert "speed dropped: the speech service does not know it" in form.changes


@pytest.mark.parametrize(
    "members", [{}, {"text": ""}, {"text": "  "}, {"text": "x" * 10_001}, {"text": "a", "voice": []}, {"text": "a", "language": True}]
)
def test_what_cannot_be_said(members: dict[str, object]) -> None:
    with pytest.raises(Unprocessable):
        said(**members)


def test_openais_speech_body() -> None:
    body = b'{"model":"m","input":"hi","voice":"aria","response_format":"pcm","speed":1.0,"instructions":"softly"}'
    members, media, changes = speech.spoken(jsonbody.members(body))
    assert (jsonbody.text(members, "text"), jsonbody.text(members, "voice"), media) == ("hi", "aria", "audio/pcm")
    assert (jsonbody.value(members, "sample_rate_hz"), changes) == (24000, ("instructions dropped",))
    assert speech.spoken(jsonbody.members(b'{"input":"hi"}'))[1:] == ("audio/wav", ("response_format wav added",))


@pytest.mark.parametrize(
    ("body", "param"), [(b'{"input":"x","response_format":"mp3"}', "response_format"), (b'{"input":"x","speed":1.5}', "speed")]
)
def test_what_the_service_cannot_do_is_not_ignored(body: bytes, param: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        speech.spoken(jsonbody.members(body))
    assert refused.value.param == param


def test_voices_come_under_one_joined_key() -> None:
    known = speech.voices(b'{"en-US,es-US":{"voices":["Magpie-Multilingual.EN-US.Aria","Magpie-Multilingual.EN-US.Mia"]}}')
    assert known == ["Magpie-Multilingual.EN-US.Aria", "Magpie-Multilingual.EN-US.Mia"]
    assert [speech.voices(body) for body in (b"[]", b"x", b'{"a":1}')] == [[], [], []]
    error = speech.unknown_voice("arja", known)
    assert (error.status, error.code) == (400, "unknown_voice")
    assert "Magpie-Multilingual.EN-US.Aria" in (error.hint or "")
