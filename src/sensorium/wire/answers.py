"""Whether the beginning of a good answer looks like what was asked for: JSON, sound, a picture. By content; the label decides only what
the content must be. Pure; what cannot be judged passes.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sensorium.wire import picture

FILE_START: Final = 12  # bytes by which files are told apart
MOST: Final = 64 * 1024  # bytes of JSON that are looked at; a longer answer is judged by its beginning
_WAVE: Final = (b"RIFF", b"RIFX", b"RF64")
_JSON: Final = ("chat", "embed", "rerank")  # modalities whose answers are JSON whatever their label
_NEVER_EMPTY: Final = (*_JSON, "image", "speech", "video")


def is_json(modality: str, media: str) -> bool:
    """Whether an answer must be JSON. One without a label is not judged."""
    return bool(media) and (modality in _JSON or _kind(media) == "application/json")


def looked_at(modality: str, media: str) -> int:
    """How many bytes of an answer `flaw` wants to see, if it has as many."""
    return MOST if is_json(modality, media) else FILE_START if media else 1


def flaw(modality: str, media: str, start: bytes | bytearray, ended: bool) -> str | None:
    """What is wrong with a good answer that begins with `start` and, if it `ended`, is no longer; None when nothing is seen.

    For speech, `media` is that of sound that was asked for.
    """
    if not start:
        return "an empty body" if modality in _NEVER_EMPTY or is_json(modality, media) else None
    if modality == "speech":
        return _no_sound(_kind(media), start)
    if is_json(modality, media):
        return _no_json(start, ended)
    if _kind(media) in picture.FORMATS and picture.media_type(bytes(start[:FILE_START])) is None:
        return f"{_kind(media)} that is no picture"
    return None


def parses(data: bytes | bytearray) -> bool:
    """Whether it is one whole JSON value."""
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _no_json(start: bytes | bytearray, ended: bool) -> str | None:
    if ended:
        return None if parses(start) else "something that is not JSON"
    return None if start.lstrip()[:1] in (b"{", b"[", b"") else "something that is not JSON"


def _no_sound(kind: str, start: bytes | bytearray) -> str | None:
    if kind in ("application/json", "text/html"):
        return f"{kind} instead of audio"
    wave = kind in ("audio/wav", "audio/x-wav", "audio/wave")
    return "audio/wav that is no WAVE file" if wave and not start.startswith(_WAVE) else None


def _kind(media: str) -> str:
    return media.partition(";")[0].strip().lower()
