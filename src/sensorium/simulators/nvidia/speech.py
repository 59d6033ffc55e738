"""Speech containers over HTTP (section 8): transcription, synthesis and voices, each with the refusals that clients meet.

Guesses: the words of every 400 but the one of empty text, the voices beside Aria, which models translate, the encodings (LINEAR_PCM
and the OGGOPUS that is refused for want of an encoder), the content type of headerless PCM, 0.06 s of sound per character, the refusal
above 4 MB.
The transcript tells what was heard: length and pitch.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from sensorium.simulators import multipart
from sensorium.simulators.multipart import BadForm, Field
from sensorium.simulators.nvidia.ask import Ask, item, refuse
from sensorium.simulators.nvidia.replies import TEXT, detail
from sensorium.simulators.replies import Refused, Reply, json_reply
from sensorium.simulators.sound import UnknownSound, probe, riff, tone

MAGPIE, PARAKEET = "nvidia/magpie-tts-multilingual", "nvidia/parakeet-ctc-1.1b-en-us"
TRANSLATORS = ("openai/whisper-large-v3", "nvidia/canary-1b")
LOCALES = {"en-US": ("Aria", "Jason", "Leo", "Sofia"), "es-US": ("Diego", "Isabela"), "fr-FR": ("Pascal",)}
EMOTIONS = ("Neutral", "Calm", "Happy", "Sad", "Angry", "Fearful")
EMPTY_TEXT = "Bad Request, empty text input"
CHARACTER_S, LEAST_S = 0.06, 0.3
RATES, DEFAULT_RATE = range(8000, 48001), 44100
LOWEST_HZ, HERTZ_SPAN = 110, 440
MESSAGE_CAP = 4 * 1024 * 1024
PCM_CHUNK_S = 0.25
TRUE = ("true", "1", "yes")


def answer(ask: Ask) -> Reply:
    """Any HTTP call of a speech container. Raises Refused."""
    routes = {"/v1/audio/transcriptions": ("POST", transcribe)}
    if ask.model.name in TRANSLATORS:
        routes["/v1/audio/translations"] = ("POST", transcribe)
    if ask.model.kind == "tts":
        routes = {"/v1/audio/synthesize": ("POST", synthesize), "/v1/audio/synthesize_online": ("POST", online)}
        if ask.model.name == MAGPIE:
            routes["/v1/audio/list_voices"] = ("GET", list_voices)
    method, handler = routes.get(ask.path, ("", None))
    if handler is None:
        raise Refused(detail(404, "Not Found"))
    if method != ask.method:
        raise Refused(detail(405, "Method Not Allowed"))
    return handler(ask)


def transcribe(ask: Ask) -> Reply:
    """POST /v1/audio/transcriptions, and /v1/audio/translations, which takes the same form. Raises Refused."""
    form = _form(ask, "Bad Request, expected multipart/form-data")
    file, language = form.get("file"), form["language"].text.strip() if "language" in form else ""
    if file is None or file.filename is None:
        refuse([item("missing", ("file",), "Field required", None)])
    if ask.model.name == PARAKEET and "model" in form:
        raise Refused(detail(400, f"Bad Request, model {form['model'].text[:80]} is not available"))
    if not language and "model" not in form:
        raise Refused(detail(400, "Bad Request, either language or model must be given"))
    if ask.model.name == PARAKEET and language != "en-US":
        raise Refused(detail(400, f"Bad Request, language {language[:40]} is not supported, available: en-US"))
    try:
        sound = probe(file.data)
    except UnknownSound as error:
        raise Refused(detail(400, f"Bad Request, {error}; expected WAV, OPUS or FLAC")) from None
    pitch = f" at {sound.hertz:.0f} hertz" if sound.hertz else ""
    text = f"a sound of {sound.seconds:.2f} seconds{pitch}"
    if "response_format" in form and form["response_format"].text == "text":
        return Reply(200, text.encode(), {"content-type": TEXT})
    return json_reply({"text": text})


def synthesize(ask: Ask) -> Reply:
    """POST /v1/audio/synthesize: a WAVE file. Raises Refused."""
    pcm, rate = _spoken(ask)
    return Reply(200, riff(pcm, rate), {"content-type": "audio/wav"})


def online(ask: Ask) -> Reply:
    """POST /v1/audio/synthesize_online: PCM without a header, in pieces. Raises Refused."""
    pcm, rate = _spoken(ask)
    size = 2 * round(rate * PCM_CHUNK_S)
    frames = tuple(pcm[start : start + size] for start in range(0, len(pcm), size))
    return Reply(200, headers={"content-type": "application/octet-stream"}, frames=frames)


def list_voices(ask: Ask) -> Reply:
    """GET /v1/audio/list_voices: one key, the locales joined by commas."""
    return json_reply({",".join(LOCALES): {"voices": voices(ask.model.name)}})


def voices(model: str) -> list[str]:
    """The voices of a model, without their emotions."""
    family = "Magpie-Multilingual" if model == MAGPIE else "Chatterbox-Multilingual"
    return [f"{family}.{locale.upper()}.{name}" for locale, names in LOCALES.items() for name in names]


def _spoken(ask: Ask) -> tuple[bytes, int]:
    """PCM of a tone: its length follows the text, its pitch the voice."""
    form = _form(ask, EMPTY_TEXT)
    text = form["text"].text.strip() if "text" in form else ""
    if not text:
        raise Refused(detail(400, EMPTY_TEXT))
    language = _value(form, "language")
    if language not in LOCALES:
        known = ", ".join(LOCALES)
        raise Refused(detail(400, f"Bad Request, language {language[:40]!r} is not supported, available: {known}"))
    known_voices = voices(ask.model.name)
    voice = _value(form, "voice") or known_voices[0]
    if voice not in known_voices and not (voice.rpartition(".")[0] in known_voices and voice.rpartition(".")[2] in EMOTIONS):
        raise Refused(detail(400, f"Bad Request, voice {voice[:80]} is not available"))
    if _value(form, "encoding") not in ("", "LINEAR_PCM"):
        raise Refused(detail(400, "Bad Request, the simulator encodes LINEAR_PCM only"))
    rate = _value(form, "sample_rate_hz") or str(DEFAULT_RATE)
    if not rate.isdecimal() or int(rate) not in RATES:
        raise Refused(detail(400, f"Bad Request, sample_rate_hz {rate[:20]} is not supported"))
    seconds = max(LEAST_S, CHARACTER_S * len(text))
    if 2 * seconds * int(rate) > MESSAGE_CAP and ask.path.endswith("/synthesize"):
        raise Refused(detail(500, f"Received message larger than max ({MESSAGE_CAP})"))
    return tone(LOWEST_HZ + zlib.crc32(voice.encode()) % HERTZ_SPAN, seconds, int(rate)), int(rate)


def _form(ask: Ask, otherwise: str) -> Mapping[str, Field]:
    """The form by name, the last of a name winning. Raises Refused with `otherwise` when the body is no form."""
    if not ask.content_type.lower().startswith("multipart/form-data"):
        raise Refused(detail(400, otherwise))
    try:
        return {field.name: field for field in multipart.parse(ask.content_type, ask.body)}
    except BadForm as error:
        raise Refused(detail(400, f"There was an error parsing the body: {error}")) from None


def _value(form: Mapping[str, Field], name: str) -> str:
    return form[name].text.strip() if name in form else ""
