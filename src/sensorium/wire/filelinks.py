"""Rights to files, as text in a URL's path: links for reading, upload tickets, upload tokens. Pure: keys and the time come from outside.

A seal is `version.kid.expiry.mac`: `kid` names the key, `expiry` is in whole seconds since the epoch (0: never), and the HMAC-SHA256
covers the purpose, what stands before it, and its subject. A ticket is a seal, a dot, and its subject, which is JSON in base64url. The
texts are compared, not what they decode to, so any altered character is refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

VERSION: Final = "1"
PREFIX: Final = "/fal/cdn/files/"
TICKETS: Final = "/fal/cdn/upload/"
READ, UPLOAD, TOKEN = "read", "upload", "token"
LONGEST: Final = 8192  # characters of a ticket
KEY: Final = re.compile(r"[0-9]{4}/[0-9]{2}/[0-9]{2}/[0-9a-f]{32}")
_SEAL = re.compile(r"1\.([0-9a-f]{8})\.(0|[1-9][0-9]{0,11})\.[A-Za-z0-9_-]{43}")
_LINK = re.compile(rf"([A-Za-z0-9._-]{{1,100}})/(({KEY.pattern})\.([a-z0-9]{{1,8}}))(/.*)?")
_RIGHT = re.compile(r"(?<![A-Za-z0-9_-])1\.[0-9a-f]{8}\.[0-9]+\.[A-Za-z0-9._-]+")

Standing = Literal["valid", "expired", "altered"]


@dataclass(frozen=True, slots=True)
class Link:
    """What stands below `PREFIX`: a seal, the key it is for with the ending of the file, and what follows ("" or "/…")."""

    sig: str
    key: str
    extension: str
    rest: str = ""

    @property
    def subject(self) -> str:
        """What the seal covers."""
        return f"{self.key}.{self.extension}"


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to store one file: under `key`, for `owner`, at most `most` bytes, until `expires`. The file itself lives `lives_s` seconds
    from its completion on (None: as long as the hub keeps files), under `acl`."""

    key: str
    owner: str
    content_type: str
    name: str
    most: int
    expires: int
    lives_s: float | None = None
    acl: dict[str, Any] | None = None


def kid(key: bytes) -> str:
    """The name of a key, which tells nothing of it."""
    return hashlib.sha256(b"kid\n" + key).hexdigest()[:8]


def seal(key: bytes, purpose: str, subject: str, expires: int) -> str:
    """The seal on `subject` for one purpose."""
    head = f"{VERSION}.{kid(key)}.{expires}"
    mac = hmac.new(key, "\n".join(("sensorium/files", purpose, head, subject)).encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
    return f"{head}.{_text(mac)}"


def standing(key: bytes, purpose: str, subject: str, sig: str, now: float) -> Standing:
    """What a seal is worth at `now`."""
    read = _SEAL.fullmatch(sig)
    if read is None or not hmac.compare_digest(seal(key, purpose, subject, int(read[2])).encode(), sig.encode()):
        return "altered"
    return "expired" if 0 < int(read[2]) <= now else "valid"


def signed_with(key: bytes, sig: str) -> bool:
    """Whether a seal names this key; says nothing about its being right."""
    read = _SEAL.fullmatch(sig)
    return read is not None and read[1] == kid(key)


def link(below: str) -> Link | None:
    """The parts of a path below `PREFIX`, None for what no link has ever looked like."""
    read = _LINK.fullmatch(below)
    return Link(read[1], read[3], read[4], read[5] or "") if read else None


def ticket(key: bytes, given: Ticket) -> str:
    """An upload ticket, one path segment."""
    subject = _text(msgspec.json.encode(given))
    return f"{seal(key, UPLOAD, subject, given.expires)}.{subject}"


def opened(key: bytes, text: str, now: float) -> Ticket | Standing:
    """The ticket in a path segment, else what is wrong with it."""
    subject = _subject(key, UPLOAD, text, now)
    return subject if isinstance(subject, str) else msgspec.json.decode(subject, type=Ticket)


def token(key: bytes, owner: str, expires: int) -> str:
    """An upload token of fal's CDN, good for every upload of its owner."""
    subject = _text(owner.encode())
    return f"{seal(key, TOKEN, subject, expires)}.{subject}"


def token_owner(key: bytes, text: str, now: float) -> str | None:
    """Whose token this is, None when it is nobody's, altered or expired."""
    subject = _subject(key, TOKEN, text, now)
    return None if isinstance(subject, str) else subject.decode()


def looks_like_token(text: str) -> bool:
    """Whether a text was meant as one of our tokens, rightly or not."""
    return text.startswith(f"{VERSION}.") and text.count(".") == 4


def without_rights(path: str) -> str:
    """A path as it may stand in a log: rights to files are left out."""
    return _RIGHT.sub("…", path) if path.startswith("/fal/cdn/") else path


def _subject(key: bytes, purpose: str, text: str, now: float) -> bytes | Standing:
    sig, _, subject = text.rpartition(".")
    if len(text) > LONGEST:
        return "altered"
    worth = standing(key, purpose, subject, sig, now)
    return base64.urlsafe_b64decode(subject + "=" * (-len(subject) % 4)) if worth == "valid" else worth


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")
