"""The local authority and what it signs: used by real TLS, kept while it is good, renewed in time."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sensorium.certificates import Made, ensure, shown
from sensorium.errors import SettingsError
from sensorium.webserver import Tls, configured
from tests.serving import serving

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def days(count: float) -> datetime:
    return NOW + timedelta(days=count)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Good today: it is shown to real clients."""
    return ensure(tmp_path / "tls", host="box1")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers what fal's clients ask for in `run`, `submit` and `result`, and echoes on websockets."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        if message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"]})
            await receive()
        return
    if scope["type"] != "http":
        return
    host = dict(scope["headers"])[b"host"].decode()
    base = f"{scope['scheme']}://{host}/fal/queue/t/echo/requests/1"
    replies = {
        "/fal/run/t/echo": '{"from":"run"}',
        "/fal/queue/t/echo": f'{{"request_id":"1","response_url":"{base}","status_url":"{base}/status","cancel_url":"{base}/cancel"}}',
        "/fal/queue/t/echo/requests/1/status": '{"status":"COMPLETED","logs":[],"metrics":{}}',
        "/fal/queue/t/echo/requests/1": '{"from":"queue"}',
    }
    body = replies[scope["path"]].encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def base(made: Made) -> Iterator[str]:
    with serving(app, tls=Tls(made.certificate, made.key)) as base:
        yield base


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "box1"])
def test_strict_clients_take_it_under_each_of_its_names(made: Made, base: str, name: str) -> None:
    trust = ssl.create_default_context(cafile=made.ca)
    trust.verify_flags |= ssl.VERIFY_X509_STRICT
    port = int(base.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as plain, trust.wrap_socket(plain, server_hostname=name) as line:
        assert line.version() in ("TLSv1.2", "TLSv1.3")


@pytest.mark.parametrize("name", ["example.com", "127.0.0.2"])
def test_another_name_and_who_does_not_trust_the_authority_refuse_it(made: Made, base: str, name: str) -> None:
    port = int(base.rpartition(":")[2])
    for trust, asked in ((ssl.create_default_context(cafile=made.ca), name), (ssl.create_default_context(), "localhost")):
        with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLCertVerificationError):
            trust.wrap_socket(plain, server_hostname=asked)


CLIENT = """
import fal_client
print(fal_client.run("t/echo", {"prompt": "a"}))
print(fal_client.submit("t/echo", {"prompt": "a"}).get())
with fal_client.realtime("t/echo", use_jwt=False) as line:
    line.send({"prompt": "b"})
    print(line.recv())
"""


def test_fals_client_with_nothing_but_environment_variables(made: Made, base: str) -> None:
    place = base.removeprefix("https://")
    told = {
        "FAL_KEY": "kid:ksecret",
        "FAL_RUN_HOST": f"{place}/fal/run",
        "FAL_QUEUE_RUN_HOST": f"{place}/fal/queue",
        "SSL_CERT_FILE": str(made.ca),
    }
    kept = {name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")}
    ran = subprocess.run([sys.executable, "-c", CLIENT], env=kept | told, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout.splitlines() == ["{'from': 'run'}", "{'from': 'queue'}", "{'prompt': 'b'}"], ran.stderr


def test_it_is_valid_as_long_as_clients_take_it(tmp_path: Path) -> None:
    made = ensure(tmp_path, now=NOW, host="box1")
    assert made.new_ca and made.new_certificate
    assert made.names == ("localhost", "127.0.0.1", "::1", "box1")
    assert made.expires - NOW <= timedelta(days=397)


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    ensure(tmp_path / "tls", now=NOW)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "tls").iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "server.pem": 0o644, "server.key": 0o600}


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_is_good_is_kept_as_it_is(tmp_path: Path) -> None:
    ensure(tmp_path, ["hub.lan"], now=NOW, host="box1")
    before = read(tmp_path)
    again = ensure(tmp_path, now=days(300), host="box1")
    assert not again.new_ca and not again.new_certificate
    assert read(tmp_path) == before and "hub.lan" in again.names


@pytest.mark.parametrize("age", [370, 396, 500])
def test_a_certificate_near_its_end_is_renewed_by_the_same_authority_with_its_names(tmp_path: Path, age: int) -> None:
    first = ensure(tmp_path, ["hub.lan"], now=NOW, host="box1")
    before = read(tmp_path)
    renewed = ensure(tmp_path, now=days(age), host="box1")
    assert not renewed.new_ca and renewed.new_certificate
    assert set(renewed.names) == set(first.names)
    assert renewed.expires > days(age + 360)
    after = read(tmp_path)
    assert (after["ca.pem"], after["ca.key"]) == (before["ca.pem"], before["ca.key"])


def test_a_further_name_is_added_to_those_before(tmp_path: Path) -> None:
    ensure(tmp_path, ["hub.lan"], now=NOW, host="box1")
    more = ensure(tmp_path, ["192.168.1.20", "*.Hub.Example."], now=NOW, host="box2")
    assert more.new_certificate and not more.new_ca
    assert set(more.names) == {"localhost", "127.0.0.1", "::1", "box1", "box2", "hub.lan", "192.168.1.20", "*.hub.example"}


def test_an_authority_that_would_end_before_a_certificate_is_made_anew(tmp_path: Path) -> None:
    ensure(tmp_path, ["hub.lan"], now=NOW)
    late = ensure(tmp_path, now=days(3650 - 400))
    assert late.new_ca and late.new_certificate and "hub.lan" in late.names


@pytest.mark.parametrize("name", ["server.pem", "server.key"])
@pytest.mark.parametrize("found", [None, b"nonsense"])
def test_a_lost_or_damaged_certificate_is_made_anew(tmp_path: Path, name: str, found: bytes | None) -> None:
    ensure(tmp_path, now=NOW)
    (tmp_path / name).unlink()
    if found is not None:
        (tmp_path / name).write_bytes(found)
    again = ensure(tmp_path, now=NOW)
    assert again.new_certificate and not again.new_ca
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(again.certificate, again.key)


def test_the_authoritys_key_may_lie_elsewhere_until_it_must_sign(tmp_path: Path) -> None:
    ensure(tmp_path, now=NOW)
    (tmp_path / "ca.key").unlink()
    assert not ensure(tmp_path, now=days(100)).new_certificate
    with pytest.raises(SettingsError, match=r"ca\.key, which signs certificates, cannot be read"):
        ensure(tmp_path, ["hub.lan"], now=days(100))


def test_a_damaged_authority_or_one_with_anothers_key_is_not_replaced_silently(tmp_path: Path) -> None:
    ensure(tmp_path / "a", now=NOW)
    ensure(tmp_path / "b", now=NOW)
    (tmp_path / "a" / "ca.key").write_bytes((tmp_path / "b" / "ca.key").read_bytes())
    with pytest.raises(SettingsError, match=r"is not the key of ca\.pem"):
        ensure(tmp_path / "a", ["hub.lan"], now=NOW)
    (tmp_path / "b" / "ca.pem").write_bytes(b"nonsense")
    with pytest.raises(SettingsError, match="is not a certificate"):
        ensure(tmp_path / "b", now=NOW)


@pytest.mark.parametrize(
    "name",
    ["", " ", "https://hub.lan", "hub.lan:8443", "300.1.1.1", "a b", "-a.b", "a..b", "hub.lan/", "é.lan", "x" * 64, "*", "fe80::1%eth0"],
)
def test_a_name_that_no_certificate_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="neither an address nor a host name"):
        ensure(tmp_path, ["good.lan", name], now=NOW)
    assert not list(tmp_path.iterdir())


def test_a_certificate_that_cannot_be_shown_is_told_before_the_start(tmp_path: Path) -> None:
    one, other = ensure(tmp_path / "a"), ensure(tmp_path / "b")
    with pytest.raises(SettingsError, match=r"there is no .*missing\.pem; `sensorium tls` makes both"):
        configured(app, grace_s=1, most_message=1, tls=Tls(tmp_path / "missing.pem", one.key))
    with pytest.raises(SettingsError, match="cannot be used together: KEY_VALUES_MISMATCH"):
        configured(app, grace_s=1, most_message=1, tls=Tls(one.certificate, other.key))


def test_the_listener_shows_the_named_pair_or_the_one_of_the_folder(tmp_path: Path) -> None:
    made = shown(tmp_path / "tls")
    assert (made.certificate, made.key) == (tmp_path / "tls" / "server.pem", tmp_path / "tls" / "server.key")
    assert made.certificate.is_file()
    named = shown(tmp_path / "other", Path("a.pem"), Path("a.key"))
    assert (named.certificate, named.key) == (Path("a.pem"), Path("a.key"))
    assert not (tmp_path / "other").exists()
    with pytest.raises(SettingsError, match="belong together"):
        shown(tmp_path, Path("a.pem"))
