"""Speech calls between what callers send and what NVIDIA's speech NIMs take: forms on both sides (spec: NVIDIA wire protocol, section 8).

The hosted recogniser refuses a friendly `model` and needs a `language`; the hosted synthesiser takes forms only, and names the language
beside the voice. What was added, dropped or translated is reported, never silent.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from sensorium.errors import BadRequest, Unprocessable, UnsupportedMedia
from sensorium.wire import jsonbody, multipart, parameters
from sensorium.wire.jsonbody import Members
from sensorium.wire.multipart import Part

DEFAULT_LANGUAGE: Final = "en-US"
SAMPLE_RATE: Final = 22050  # Hz; what NVIDIA's own samples ask for
LONGEST_TEXT: Final = 10_000  # characters, as OpenAI's speech door; an upstream may take fewer and says so
SYNTHESIS_FIELDS: Final = ("text", "language", "voice", "sample_rate_hz", "encoding")
# formats of OpenAI's speech door, and the media type of what comes back
PCM: Final = "audio/pcm"
FORMATS: Final = {"wav": "audio/wav", "pcm": PCM}
PCM_RATE: Final = 24000  # Hz; of OpenAI's pcm, which has no header that could tell
_LOCALES: Final = {
    "en": "en-US",
    "de": "de-DE",
    "es": "es-US",
    "fr": "fr-FR",
    "it": "it-IT",
    "zh": "zh-CN",
    "ja": "ja-JP",
    "hi": "hi-IN",
    "pt": "pt-BR",
}
_MAGIC: Final = ((b"RIFF", 0, "audio/wav"), (b"OggS", 0, "audio/ogg"), (b"fLaC", 0, "audio/flac"), (b"ID3", 0, "audio/mpeg"),
                 (b"ftyp", 4, "audio/mp4"), (b"\x1aE\xdf\xa3", 0, "audio/webm"))  # fmt: skip
VORBIS: Final = "audio/ogg; codecs=vorbis"  # the services read Opus only
TAKEN: Final = ("audio/wav", "audio/ogg", "audio/flac")


@dataclass(frozen=True, slots=True)
class Form:
    """A form to send, and what differs from what the caller sent, one phrase each."""

    parts: tuple[Part, ...]
    changes: tuple[str, ...] = ()


def audio_type(data: bytes | memoryview) -> str | None:
    """The media type that the first bytes tell, None when they tell none."""
    head = bytes(data[:40])
    found = next((media for magic, at, media in _MAGIC if head[at : at + len(magic)] == magic), None)
    if found is None and head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0:
        return "audio/aac" if head[1] & 0xF6 == 0xF0 else "audio/mpeg"  # frames alike, told apart by their layer
    return VORBIS if found == "audio/ogg" and head[28:35] == b"\x01vorbis" else found


def locale(language: str) -> str:
    """A language as the speech services name it: `en` is en-US, `en_gb` is en-GB; others stay as they are."""
    plain = language.strip().replace("_", "-")
    head, _, region = plain.partition("-")
    if not region:
        return _LOCALES.get(plain.lower(), plain)
    return f"{head.lower()}-{region.upper()}" if len(region) == 2 else plain


def recognition(parts: Sequence[Part], *, model: str | None, language: str) -> Form:
    """A transcription or translation form for a speech NIM: `model` is its internal name or None, `language` the default.

    Raises BadRequest without a file, UnsupportedMedia for audio that the NIM cannot read.
    """
    file = next((part for part in parts if part.name == "file"), None)
    if file is None or not len(file.data):
        raise BadRequest("the form has no file; send the audio as the form field `file`", param="file")
    media = audio_type(file.data)
    if media not in TAKEN:
        raise UnsupportedMedia(f"the audio is {media or 'of an unknown format'}; this model reads WAV, Opus (Ogg) and FLAC", param="file")
    changes, kept = [], multipart.without(parts, "model", "language")
    named = multipart.field(parts, "model")
    if model is not None:
        kept.append(Part("model", model.encode()))
    elif named is not None:
        changes.append(f"model {named[:60]} dropped: this upstream serves one model")
    asked = multipart.field(parts, "language")
    said = locale(asked) if asked else language
    if said != asked:
        changes.append(f"language {asked} sent as {said}" if asked else f"language {said} added")
    return Form((*kept, Part("language", said.encode())), tuple(changes))


def synthesis(members: Members, *, voices: Mapping[str, str], language: str) -> Form:
    """A synthesis form out of the JSON body of the seed's recipe (`text`, `voice`, ...). `voices` are the operator's short names.

    Raises Unprocessable for an empty or too long text and for values that are not text or numbers.
    """
    text = jsonbody.text(members, "text")
    if not text or not text.strip():
        raise Unprocessable("text is missing or empty; send the words to speak", param="text")
    if len(text) > LONGEST_TEXT:
        raise Unprocessable(f"text has {len(text)} characters; at most {LONGEST_TEXT}", param="text")
    fields: dict[str, str] = {"text": text}
    changes = [f"{name} dropped: the speech service does not know it" for name in members if name not in (*SYNTHESIS_FIELDS, "model")]
    for name in SYNTHESIS_FIELDS[1:]:
        given = jsonbody.value(members, name) if name in members else None
        if given is not None:
            fields[name] = _scalar(name, given)
    added = _completed(fields, voices, language)
    for name, text in (("encoding", "LINEAR_PCM"), ("sample_rate_hz", str(SAMPLE_RATE))):
        if name not in fields:
            fields[name] = text
            added.append(f"{name} {text} added")
    return Form(tuple(Part(name, text.encode()) for name, text in fields.items()), (*changes, *added))


def synthesis_form(parts: Sequence[Part], *, voices: Mapping[str, str], language: str) -> Form:
    """A caller's own synthesis form as it is, less its `model`, with the voice's full name and a language where there was none."""
    fields = {name: text for name in ("voice", "language") if (text := multipart.field(parts, name)) is not None}
    changes = _completed(fields, voices, language)
    kept = [Part("voice", fields["voice"].encode()) if part.name == "voice" else part for part in multipart.without(parts, "model")]
    if not any(part.name == "language" for part in parts):
        kept.append(Part("language", fields["language"].encode()))
    return Form(tuple(kept), tuple(changes))


def spoken(members: Members) -> tuple[Members, str, tuple[str, ...]]:
    """OpenAI's speech body as that of `synthesis`, the media type to answer with, and what was changed.

    Raises Unprocessable for a format other than wav or pcm and for a speed, which the service cannot change.
    """
    given = jsonbody.text(members, "response_format")
    wanted = given or "wav"
    if wanted not in FORMATS:
        raise Unprocessable(f"response_format {wanted!r} cannot be made here; use {' or '.join(FORMATS)}", param="response_format")
    speed = jsonbody.value(members, "speed") if "speed" in members else None
    if speed not in (None, 1, 1.0):
        raise Unprocessable("speed cannot be changed by this voice; leave it out or send 1", param="speed")
    renamed = {"input": "text", "voice": "voice", "language": "language", "model": "model"}
    ignored = [name for name in members if name not in (*renamed, "response_format", "speed")]
    changes = (*((f"{parameters.listed(ignored)} dropped",) if ignored else ()), *(() if given else ("response_format wav added",)))
    body = {renamed[name]: raw for name, raw in members.items() if name in renamed}
    if wanted == "pcm":
        body["sample_rate_hz"] = msgspec.Raw(str(PCM_RATE).encode())
    return body, FORMATS[wanted], changes


def voices(body: bytes) -> list[str]:
    """The voice names of a list_voices answer, whose one key joins all its languages by commas. Empty when it is not one."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    groups = told.values() if isinstance(told, dict) else ()
    return [name for group in groups if isinstance(group, dict) for name in group.get("voices", ()) if isinstance(name, str)]


def unknown_voice(voice: str, known: Sequence[str]) -> BadRequest:
    """The error for a voice that is not there; it names the nearest ones."""
    last = {name.rpartition(".")[2].lower(): name for name in known}
    near = difflib.get_close_matches(voice.lower(), last, n=3, cutoff=0.4) or [name.rpartition(".")[2].lower() for name in known[:3]]
    hint = f"try {', '.join(last[name] for name in near if name in last)}; GET /v1/audio/list_voices has them all"
    return BadRequest(f"no voice {voice[:80]!r} is known here", param="voice", hint=hint, code="unknown_voice")


def _completed(fields: dict[str, str], voices: Mapping[str, str], language: str) -> list[str]:
    """Put the voice's full name and a language into `fields`; says what was changed."""
    changes, short = [], fields.get("voice")
    if short is not None and short in voices:
        fields["voice"] = voices[short]
        changes.append(f"voice {short} sent as {voices[short]}")
    if "language" not in fields:
        fields["language"] = _spoken(fields.get("voice", "")) or language
        changes.append(f"language {fields['language']} added")
    return changes


def _spoken(voice: str) -> str | None:
    """The language in a voice name such as Magpie-Multilingual.EN-US.Aria."""
    pieces = [piece for piece in voice.split(".") if len(piece) == 5 and piece[2] == "-"]
    return locale(pieces[0]) if pieces else None


def _scalar(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unprocessable(f"{name} must be a text or a number", param=name)
    return str(value)
