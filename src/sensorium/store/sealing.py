"""Sealing: AES-256-GCM with random 96-bit nonces, and what a seal is bound to. Pure but for the random numbers; knows no database.

Each value has its own data key, the data key is wrapped by the master key. What a sealed thing belongs to is authenticated with it
(associated data), so it opens nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES, NONCE_BYTES = 32, 12
SCHEME = "sensorium/v1"
Belonging = tuple[str | int, ...]


class Broken(Exception):
    """A sealed thing was altered, moved, or sealed with another key."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The key that wraps data keys. `id` is derived from it and tells nothing about it; it stands in every record."""

    material: bytes = field(repr=False)

    @classmethod
    def random(cls) -> MasterKey:
        """A new one, from the system's randomness."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> MasterKey:
        """From 32 bytes in base64. Raises ValueError, without the text."""
        try:
            material = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            material = b""
        if len(material) != KEY_BYTES:
            raise ValueError(f"must hold {KEY_BYTES} random bytes in base64, such as `openssl rand -base64 {KEY_BYTES}` prints")
        return cls(material)

    def text(self) -> str:
        """What `parse` reads."""
        return base64.b64encode(self.material).decode()

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.blake2b(b"master key id", key=self.material, digest_size=8, person=b"sensorium/v1").hexdigest()


def seal(key: bytes, plain: bytes, belonging: Belonging) -> bytes:
    """`plain` encrypted under `key`, bound to `belonging`: nonce, ciphertext, tag."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, _associated(belonging))


def unseal(key: bytes, sealed: bytes, belonging: Belonging) -> bytes:
    """What was sealed. Raises Broken."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _associated(belonging))
    except (InvalidTag, ValueError, TypeError):
        raise Broken from None


def _associated(belonging: Belonging) -> bytes:
    # JSON, because joined text would let ("a", "bc") pass for ("ab", "c").
    return json.dumps([SCHEME, *belonging]).encode()
