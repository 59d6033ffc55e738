"""A certificate authority of this machine's own, and the server certificate that it signed: for clients that speak TLS only.

The authority's key stays in the data folder. Whoever has it can pass for any host to those who trust `ca.pem`.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sensorium.errors import SettingsError
from sensorium.webserver import Tls

FOLDER: Final = "tls"
CA, CA_KEY, SERVER, SERVER_KEY = "ca.pem", "ca.key", "server.pem", "server.key"
CA_LIFE: Final = timedelta(days=3650)
SERVER_LIFE: Final = timedelta(days=397)  # Apple's clients take no longer one
RENEWED_BEFORE: Final = timedelta(days=30)
CLOCK_SKEW: Final = timedelta(hours=1)
OWN_NAMES: Final = ("localhost", "127.0.0.1", "::1")
MOST_NAMES: Final = 100
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class Made:
    """The files: what callers shall trust (`ca`), what the hub shows (`certificate`, `key`); the names that it is for, and its end.

    `new_ca` and `new_certificate` say what was made just now.
    """

    ca: Path
    certificate: Path
    key: Path
    names: tuple[str, ...]
    expires: datetime
    new_ca: bool
    new_certificate: bool


def ensure(folder: Path, names: Sequence[str] = (), *, now: datetime | None = None, host: str | None = None) -> Made:
    """The authority and the certificate in `folder`, made where they are missing, near their end, or lack one of `names`.

    The certificate is for this machine, its own host name, `names`, and the names of the one before it. Raises SettingsError for a
    name that no certificate can have, and for an authority that cannot be read: a new one would have to be trusted anew by everybody.
    """
    now = now or datetime.now(UTC)
    wanted = _names([*OWN_NAMES, *_own_host(host or socket.gethostname()), *names])
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = _authority(folder)
    new_ca = authority is None or authority.not_valid_after_utc - now < SERVER_LIFE + RENEWED_BEFORE
    if authority is None or new_ca:
        authority = _new_authority(folder, now)
    server = _server(folder)
    told = _told(server) if server else ()
    new = server is None or not _good(folder, server, authority, now) or not {*wanted} <= {*told}
    if server is None or new:
        server = _new_server(folder, tuple(dict.fromkeys([*wanted, *told])), authority, now)
    files = (folder / CA, folder / SERVER, folder / SERVER_KEY)
    return Made(*files, _told(server), server.not_valid_after_utc, new_ca, new)


def shown(folder: Path, certificate: Path | None = None, key: Path | None = None) -> Tls:
    """The pair for a listener: the one that was named, else the one of `folder`, made or renewed if it must be.

    Raises SettingsError as `ensure` does, and when only half of a pair is named.
    """
    if (certificate is None) != (key is None):
        raise SettingsError(["server.tls_cert and server.tls_key belong together; give both, or none for what `sensorium tls` makes"])
    if certificate is not None and key is not None:
        return Tls(certificate, key)
    made = ensure(folder)
    return Tls(made.certificate, made.key)


def _authority(folder: Path) -> x509.Certificate | None:
    if not (folder / CA).exists():
        return None
    try:
        return x509.load_pem_x509_certificate((folder / CA).read_bytes())
    except ValueError:
        raise SettingsError([f"{folder / CA} is not a certificate; put it back, or remove it to make an authority anew"]) from None


def _server(folder: Path) -> x509.Certificate | None:
    """The certificate that is there, also a useless one: its names are kept."""
    try:
        found = x509.load_pem_x509_certificate((folder / SERVER).read_bytes())
        _told(found)
        return found
    except (OSError, ValueError, x509.ExtensionNotFound):
        return None


def _good(folder: Path, server: x509.Certificate, authority: x509.Certificate, now: datetime) -> bool:
    """Whether it is of this authority, has its key beside it, and is not near its end."""
    try:
        server.verify_directly_issued_by(authority)
        key = _key(folder / SERVER_KEY)
    except (InvalidSignature, ValueError, TypeError, OSError):
        return False
    in_time = server.not_valid_before_utc <= now and server.not_valid_after_utc - now >= RENEWED_BEFORE
    return in_time and server.public_key() == key.public_key()


def _new_authority(folder: Path, now: datetime) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Sensorium on {socket.gethostname()}"[:64])])
    made = (
        _begun(name, name, key.public_key(), now, now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(folder / CA_KEY, _key_bytes(key), 0o600)
    _write(folder / CA, made.public_bytes(serialization.Encoding.PEM), 0o644)
    return made


def _new_server(folder: Path, names: Sequence[str], authority: x509.Certificate, now: datetime) -> x509.Certificate:
    try:
        signing = _key(folder / CA_KEY)
    except (OSError, ValueError, TypeError):
        raise SettingsError(
            [f"{folder / CA_KEY}, which signs certificates, cannot be read; put it back, or remove {CA} to make an authority anew"]
        ) from None
    if signing.public_key() != authority.public_key():
        raise SettingsError([f"{folder / CA_KEY} is not the key of {CA}; put the right one back, or remove {CA} to make an authority anew"])
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Sensorium")])
    made = (
        _begun(authority.subject, subject, key.public_key(), now, now + SERVER_LIFE)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
        .sign(signing, hashes.SHA256())
    )
    # The key first: a process that dies between the two leaves a pair that does not match, which is made anew.
    _write(folder / SERVER_KEY, _key_bytes(key), 0o600)
    _write(folder / SERVER, made.public_bytes(serialization.Encoding.PEM), 0o644)
    return made


def _begun(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - CLOCK_SKEW,
        not_valid_after=until - CLOCK_SKEW,
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(given: Sequence[str]) -> tuple[str, ...]:
    """The names as they stand in a certificate, each once. Raises SettingsError naming all that cannot."""
    found = dict.fromkeys(_name(one) or one for one in given)
    wrong = [f"{one[:80]!r} is neither an address nor a host name; write it without scheme and port" for one in given if not _name(one)]
    if len(found) > MOST_NAMES:
        wrong.append(f"{len(found)} names are too many for one certificate; at most {MOST_NAMES}")
    if wrong:
        raise SettingsError(wrong)
    return tuple(found)


def _name(given: str) -> str | None:
    text = given.strip().lower().removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(text)) if "%" not in text else None
    except ValueError:
        proper = _HOST.fullmatch(text) and len(text) <= 253 and not text.rstrip(".").rpartition(".")[2].isdigit()
        return text.removesuffix(".") if proper else None


def _own_host(host: str) -> list[str]:
    return [host] if _name(host) else []


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _told(server: x509.Certificate) -> tuple[str, ...]:
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    """Raises OSError, ValueError, TypeError."""
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{file} holds no key of the kind that is made here")
    return key


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(file: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by others for a moment."""
    unfinished = file.with_name(f"{file.name}.part")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as target:
        target.write(data)
        target.flush()
        os.fsync(target.fileno())
    unfinished.replace(file)
