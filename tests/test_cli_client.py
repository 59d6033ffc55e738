"""`sensorium client` and `sensorium tls`: what they print does what it says."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sensorium.cli_client import Library, lines
from tests.hub_process import hub_environment
from tests.serving import serving

HUB = "http://127.0.0.1:8789"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`sensorium ARGUMENTS` in a process of its own."""
    command = [sys.executable, "-m", "sensorium.cli", *arguments]
    return subprocess.run(command, env=hub_environment(**environment), capture_output=True, text=True, timeout=60, check=False)


REPLIES = {
    "/fal/run/t/echo": {"from": "run"},
    "/fal/rest/tokens/": "eyJ.a.b",
    "/fal/rest/storage/auth/token": {"token": "t", "token_type": "Bearer", "base_url": "", "expires_at": "2099-01-01T00:00:00+00:00"},
    "/fal/cdn/files/upload": {"access_url": "http://files.example/a.txt"},
    "/v1/chat/completions": {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []},
    "/v1/messages": {"id": "1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": {}},
}


class Seen:
    """A hub that answers whatever it is asked with something of the right shape; `calls` holds (path, authorization)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        headers = {name.decode(): text.decode() for name, text in scope["headers"]}
        said = headers.get("authorization") or headers.get("x-api-key", "")
        self.calls.append((scope["path"], said))
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": '{"from":"realtime"}'})
            await receive()
            return
        while (await receive()).get("more_body"):
            pass
        body = json.dumps(REPLIES[scope["path"]]).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})


def pasted(library: str, then: str, **environment: str) -> tuple[list[str], Seen]:
    """What `then` prints behind the printed lines, with the client unmodified, and what the hub saw."""
    seen = Seen()
    with serving(seen, websockets=True) as base:
        printed = run("client", library, MAC_HUB_URL=f"{base}/", **environment)
        assert printed.returncode == 0, printed.stderr
        told = {"FAL_KEY": "real:key", "OPENAI_API_KEY": "real", "ANTHROPIC_API_KEY": "real"} | environment
        command = [sys.executable, "-c", printed.stdout + then]
        ran = subprocess.run(command, env=hub_environment(**told), capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines(), seen


FAL_CALLS = """
import fal_client
print(fal_client.run("t/echo", {}))
print(fal_client.upload(b"text", "text/plain", file_name="a.txt"))
with fal_client.realtime("t/echo") as line:
    print(line.recv())
"""


def test_the_lines_for_fals_python_client_lead_every_call_here() -> None:
    printed, seen = pasted("fal-python", FAL_CALLS, MAC_API_TOKEN="t0ken")
    assert printed == ["{'from': 'run'}", "http://files.example/a.txt", "{'from': 'realtime'}"]
    assert seen.calls == [
        ("/fal/run/t/echo", "Key t0ken"),
        ("/fal/rest/storage/auth/token", "Key t0ken"),
        ("/fal/cdn/files/upload", "Bearer t"),
        ("/fal/rest/tokens/", "Key t0ken"),
        ("/fal/run/t/echo/realtime", ""),
    ]


def test_a_real_key_of_the_environment_is_not_sent_to_a_hub_without_a_token() -> None:
    _, seen = pasted("fal-python", 'import fal_client\nfal_client.run("t/echo", {})\n')
    assert seen.calls == [("/fal/run/t/echo", "Key any:key")]


@pytest.mark.parametrize(("token", "sent"), [({"MAC_API_TOKEN": "t0ken"}, "t0ken"), ({}, "any-key")])
def test_the_lines_for_openais_and_anthropics_clients(token: dict[str, str], sent: str) -> None:
    asked = '(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])\n'
    _, seen = pasted("openai", f"client.chat.completions.create{asked}", **token)
    assert seen.calls == [("/v1/chat/completions", f"Bearer {sent}")]
    _, seen = pasted("anthropic", f"client.messages.create{asked}", **token)
    assert [(path, said.removeprefix("Bearer ")) for path, said in seen.calls] == [("/v1/messages", sent)]


def test_the_lines_for_javascript_name_the_proxy_and_the_websocket() -> None:
    printed = lines(Library.fal_js, "https://hub.lan:8443")
    assert 'proxyUrl: { url: "https://hub.lan:8443/fal/proxy", when: "always" }' in printed
    assert '.replace("wss://fal.run/", "wss://hub.lan:8443/fal/run/")' in printed


@pytest.mark.parametrize("library", Library)
def test_no_token_is_printed(library: Library) -> None:
    printed = run("client", library, MAC_HUB_URL=HUB, MAC_API_TOKEN="t0ken")
    assert printed.returncode == 0 and printed.stdout == lines(library, HUB)
    assert "t0ken" not in printed.stdout


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://", "http://127.0.0.1:0", "http://127.0.0.1:x", "http://h/?a=1"])
def test_an_address_that_is_none_exits_2(url: str) -> None:
    result = run("client", "fal-python", MAC_HUB_URL=url)
    assert (result.returncode, result.stdout) == (2, "")
    assert "MAC_HUB_URL" in result.stderr and result.stderr.count("\n") == 1


def test_tls_makes_a_certificate_and_prints_how_clients_use_it(tmp_path: Path) -> None:
    data, settings = tmp_path / "with blank", tmp_path / "hub.toml"
    first = run("tls", "--data-dir", str(data), "--name", "hub.lan")
    assert first.returncode == 0, first.stderr
    ca = data / "tls" / "ca.pem"
    assert f"{ca}: the authority, new" in first.stdout and "hub.lan" in first.stdout
    assert "sensorium set server.tls_port=8443 --settings sensorium.toml" in first.stdout
    settings.write_text(f"[server]\ntls_port = 9443\ntls_cert = 'other.pem'\ndata_dir = {json.dumps(str(data))}\n", "utf-8")
    again = run("tls", "--settings", str(settings))
    assert "another certificate, which the hub shows instead: other.pem" in again.stdout
    assert "new" not in again.stdout and "sensorium set" not in again.stdout
    exports = [line for line in again.stdout.splitlines() if line.startswith("export")]
    shell = subprocess.run(
        ["sh", "-euc", "\n".join([*exports, "env"])], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )
    told = dict(line.split("=", 1) for line in shell.stdout.splitlines())
    assert (told["FAL_RUN_HOST"], told["FAL_QUEUE_RUN_HOST"]) == ("127.0.0.1:9443/fal/run", "127.0.0.1:9443/fal/queue")
    assert told["SSL_CERT_FILE"] == told["NODE_EXTRA_CA_CERTS"] == str(ca)
    assert ssl.create_default_context(cafile=told["SSL_CERT_FILE"]).get_ca_certs()[0]["subject"]


def test_tls_refuses_a_name_that_is_none(tmp_path: Path) -> None:
    result = run("tls", "--data-dir", str(tmp_path), "--name", "https://hub.lan")
    assert (result.returncode, result.stdout) == (2, "")
    assert "neither an address nor a host name" in result.stderr
