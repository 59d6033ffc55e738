"""A private authority and a certificate of this machine, for a hub with TLS."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.hub_process import free_port


@dataclass(frozen=True, slots=True)
class Made:
    """Files in PEM, and a port that nobody listens on."""

    authority: Path
    certificate: Path
    key: Path
    port: int


def authority(folder: Path) -> Made:
    """A certificate of 127.0.0.1, signed by an authority made for it."""
    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name, leaf_name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("test authority", "127.0.0.1"))
    signed = _unsigned(root_name, root_name, root).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(*[name in (0, 5, 6) for name in range(9)])
    top = signed.add_extension(usage, critical=True).sign(root, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    mine = _unsigned(leaf_name, root_name, leaf).add_extension(names, critical=False).sign(root, hashes.SHA256())
    made = Made(folder / "ca.pem", folder / "cert.pem", folder / "key.pem", free_port())
    made.authority.write_bytes(top.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(mine.public_bytes(serialization.Encoding.PEM))
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made.key.write_bytes(leaf.private_bytes(*pem))
    return made


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
