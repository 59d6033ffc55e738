"""Keys, tokens, prompts and pictures that must never be seen again go through a real hub whose providers fail in every way; then they are
looked for: in every file, on the terminal, in answers and their headers, in what the commands print, in every repr.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from sensorium.api.secrets import Given
from sensorium.errors import UpstreamRefused
from sensorium.routing.call import Attempt, Credential, Provider, Record, Route
from sensorium.routing.payload import payload
from sensorium.settings import load
from sensorium.wire import jsonbody
from sensorium.wire.failure import Failure
from sensorium.wire.multipart import Part
from tests.hub_process import free_port, hub_environment, start_hub
from tests.routing.hosted import call, nvidia
from tests.serving import serving
from tests.store.vaults import every_byte, opened

SEALED, PLAIN = "nvapi-canary-0123456789abcdefghijklmnopqrst", "canary.plain/key+77"  # the second has no shape that a pattern knows
TOKEN, STRANGE = "canary-token-5f3a", "canary-token-of-somebody-else"
PROMPT = "canary prompt about a private matter"
PIXELS = b"\x89PNG\r\n\x1a\n" + b"canary pixels " * 40
ENCODED = base64.b64encode(PIXELS).decode()
KEYS = (SEALED, PLAIN)
NOWHERE = [text.encode() for text in (*KEYS, TOKEN, STRANGE, PROMPT)] + [PIXELS[8:22], ENCODED[20:60].encode()]
SETTINGS = """
[router.image]
url = "{at}/v1/genai"
[router.audio]
url = "{at}/v1/audio"
key_env = "PLAIN_KEY"
[router.video]
url = "{at}/v1/video"
key_env = "PLAIN_KEY"
[providers.sealed]
kind = "openai"
base_url = "{at}/v1"
key = "secret:sealed-key"
models = [{modes}]
[providers.plain]
kind = "openai"
base_url = "{at}/v1"
key_env = "PLAIN_KEY"
models = [{plain}, {{ id = "vectors", modality = "embed" }}]
"""
MODES = ("say-400", "say-422", "say-500", "say-503", "text-500", "html-502", "list-422", "good", "first-event", "mid-stream", "cut")
MODES += ("garbage", "redirect", "nothing", "say-429", "say-401")  # a refused key takes its provider out: the last one


class Telltale:
    """A provider that repeats the key and the body that it got, in every way in which an answer can."""

    def __init__(self) -> None:
        self.heads: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): text.decode() for name, text in scope["headers"]}
        self.heads.append(headers)
        key = headers.get("authorization", "no key")
        media, status, pieces, cut = self._answer(scope["path"], body, key)
        said = [(b"content-type", media), (b"location", f"http://127.0.0.1:9/?{key}".encode())]
        said += [(name, key.encode()) for name in (b"x-request-id", b"x-ratelimit-limit", b"cache-control", b"nvcf-reqid")]
        said += [(b"content-length", b"100000")] if cut else [(b"retry-after", b"0")]
        await send({"type": "http.response.start", "status": status, "headers": said})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if not cut:
            await send({"type": "http.response.body", "body": b""})

    def _answer(self, path: str, body: bytes, key: str) -> tuple[bytes, int, list[bytes], bool]:
        words = f"I do not like {key} and not what it says: {body[:300].decode('latin-1')}"
        mode = next((mode for mode in MODES if mode in path or f'"{mode}"'.encode() in body or f"plain-{mode}".encode() in body), "say-500")
        kind, _, number = mode.partition("-")
        event = b"data: %s\n\n" % json.dumps({"error": {"message": words, "code": key}}).encode()
        if kind == "say":
            return b"application/json", int(number), [json.dumps({"error": {"message": words, "code": key, "param": key}}).encode()], False
        if kind == "list":
            return b"application/json", int(number), [json.dumps({"detail": [{"loc": [key], "msg": words}]}).encode()], False
        return {
            "text": (b"text/plain", 500, [words.encode()], False),
            "html": (b"text/html", 502, [f"<html>{words}</html>".encode()], False),
            "good": (b"application/json", 200, [json.dumps({"choices": [{"message": {"content": key}}]}).encode()], False),
            "first": (b"text/event-stream", 200, [event], False),
            "mid": (b"text/event-stream", 200, [b'data: {"choices": []}\n\n', event], False),
            "cut": (b"application/json", 200, [b'{"choices": [{"%s' % key.encode()], True),
            "garbage": (b"application/json", 200, [b"\x00\x01" + key.encode()], False),
            "redirect": (b"text/plain", 302, [key.encode()], False),
            "nothing": (b"application/json", 200, [], False),
        }[kind]


@dataclass
class Place:
    """What there was to see of a hub: answers, files, and what commands printed."""

    folder: Path
    replies: list[tuple[str, int, str, bytes]] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    while_running: bytes = b""
    heads: list[dict[str, str]] = field(default_factory=list)

    def command(self, *arguments: str, stdin: str = "", **environment: str) -> str:
        command = [sys.executable, "-m", "sensorium.cli", *arguments]
        done = subprocess.run(
            command, input=stdin, env=hub_environment(**environment), capture_output=True, text=True, timeout=120, check=False
        )
        self.printed.append(done.stdout + done.stderr)
        return self.printed[-1]


def calls() -> Iterator[tuple[str, str, Any, dict[str, str]]]:
    """Method, path, body and headers: everything that fails, in every modality."""
    parts = [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{ENCODED}"}}]
    talk = [{"role": "user", "content": parts}]
    for mode in MODES:
        for model in (mode, f"plain-{mode}"):
            stream = mode in ("first-event", "mid-stream", "cut")
            yield "POST", "/v1/chat/completions?note=x&api_key=" + TOKEN, {"model": model, "messages": talk, "stream": stream}, {}
        yield "POST", f"/v1/genai/org/{mode}", {"prompt": PROMPT, "image": ENCODED}, {}
        yield "POST", f"/v1/video/org/{mode}", {"prompt": "a film"}, {}  # the queue keeps what it has to ask, on disk, until it is over
    yield "POST", "/v1/embeddings", {"model": "vectors", "input": PROMPT}, {}
    yield "POST", "/v1/images/generations", {"model": "org/say-500", "prompt": PROMPT}, {}
    yield "POST", "/v1/audio/synthesize", {"text": PROMPT, "voice": "x"}, {}
    form = f'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n{PROMPT}\r\n--b--\r\n'.encode()
    yield "POST", "/v1/audio/transcriptions", form, {"content-type": "multipart/form-data; boundary=b"}
    # what the hub itself refuses, and what the engine on this machine cannot use
    yield "POST", "/v1/chat/completions", {"model": "sensorium/scenes-vlm", "messages": talk}, {}
    yield "POST", "/v1/genai/sensorium/scenes-flow", {"prompt": [PROMPT]}, {}
    yield "POST", "/v1/genai/sensorium/scenes-flow", {"prompt": "a red cube", "width": PROMPT}, {}
    yield "POST", "/v1/chat/completions", f'{{"messages": "{PROMPT}", '.encode(), {}
    yield "POST", "/v1/chat/completions", {"messages": PROMPT}, {}
    yield "POST", "/v1/chat/completions", {"messages": [PROMPT]}, {}
    yield "POST", "/v1/chat/completions", {"model": "say-500", "messages": talk, "stream": PROMPT}, {}
    yield "POST", "/v1/chat/completions", {}, {"authorization": f"Bearer {STRANGE}"}
    yield "POST", "/v1/chat/completions", {}, {"authorization": f"Basic {STRANGE}"}
    yield "PUT", "/v1/secrets/another", f'{{"value": "{SEALED}", '.encode(), {}
    yield "PUT", "/v1/secrets/another", {"value": SEALED, "hosts": [SEALED]}, {}
    yield "PUT", "/v1/secrets/another", {"value": f"{SEALED}\n", "hosts": ["a.test"]}, {}
    yield "PUT", "/v1/secrets/another", {"value": SEALED, "hosts": ["a.test"]}, {}
    yield "GET", "/v1/secrets", None, {}
    yield "GET", "/v1/secrets/another", None, {}
    yield "GET", "/v1/models", None, {}
    yield "DELETE", "/v1/secrets/another", None, {}
    yield "GET", "/healthz", None, {}
    yield "GET", "/readyz", None, {}


def sent(url: str, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[str, int, str, bytes]:
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url + path, raw, {"authorization": f"Bearer {TOKEN}", "content-type": "application/json", **headers}, method=method
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as reply:
            return path, reply.status, str(reply.headers), partial(reply)
    except urllib.error.HTTPError as error:
        with error:
            return path, error.code, str(error.headers), partial(error)


def partial(reply: Any) -> bytes:
    """The body, or what there is of one that is cut."""
    try:
        return bytes(reply.read())
    except Exception as broken:
        return bytes(getattr(broken, "partial", b""))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("canary")
    data, file, found = folder / "data", folder / "hub.toml", Place(folder)
    data.mkdir()
    telltale = Telltale()
    with serving(telltale) as at:
        listed = [", ".join(f'"{name}{mode}"' for mode in MODES) for name in ("", "plain-")]
        file.write_text(SETTINGS.format(at=at, modes=listed[0], plain=listed[1]), "utf-8")
        where = ("--settings", str(file), "--data-dir", str(data))
        assert "sealed-key" in found.command("secret", *where, "put", "sealed-key", stdin=SEALED)
        with opened(data) as vault:
            vault.put("nvidia-image", SEALED, [at], who="test")
        given = {"MAC_API_TOKEN": TOKEN, "PLAIN_KEY": PLAIN}
        port = free_port()
        with start_hub(data, port, "--settings", str(file), **given):
            for one in calls():
                found.replies.append(sent(f"http://127.0.0.1:{port}", *one))
            found.while_running = every_byte(data)
        found.command("doctor", *where, **given)
        found.command("secret", *where, "list", **given)
        found.command("import-env", **given, MAC_ROUTER_IMAGE_UPSTREAM=at, MAC_ROUTER_IMAGE_KEY=SEALED, MAC_ROUTER_AUDIO_KEY=PLAIN)
        found.heads = telltale.heads
        yield found


def seen_in(text: bytes, canaries: list[bytes]) -> list[bytes]:
    return [canary for canary in canaries if canary in text]


def test_the_canaries_did_fly(place: Place) -> None:
    keys = {head["authorization"] for head in place.heads if "authorization" in head}
    assert keys == {f"Bearer {key}" for key in KEYS}
    statuses = {status for _, status, _, _ in place.replies}
    assert statuses >= {200, 400, 401, 422, 429, 502, 503}, statuses


def test_no_file_holds_one(place: Place) -> None:
    log = (place.folder / "data" / "hub.log").read_bytes()
    assert b"POST '/v1/chat/completions'" in log
    assert b"Traceback" not in log + (place.folder / "data" / "said.txt").read_bytes()
    names = {path.name for path in (place.folder / "data").rglob("*") if path.is_file()}
    assert {"hub.log", "said.txt"} <= names
    for what, text in (("while it ran", place.while_running), ("afterwards", every_byte(place.folder / "data"))):
        assert not seen_in(text, NOWHERE), what


def test_no_answer_and_no_header_holds_a_key_or_a_token(place: Place) -> None:
    secrets = [text.encode() for text in (*KEYS, TOKEN, STRANGE)]
    for path, status, headers, body in place.replies:
        assert not seen_in(headers.encode(), NOWHERE), (path, status)
        assert not seen_in(body, secrets), (path, status, body[:400])


def test_no_error_of_the_hubs_own_repeats_what_was_sent(place: Place) -> None:
    own = [one for one in place.replies if "x-sensorium-source: hub" in one[2]]
    assert len(own) > 10
    for path, status, _, body in own:
        assert not seen_in(body, NOWHERE), (path, status, body[:400])


def test_no_provider_gets_the_callers_token_or_anothers_key(place: Place) -> None:
    for head in place.heads:
        assert not seen_in(json.dumps(head).encode(), [TOKEN.encode(), STRANGE.encode()])


def test_no_command_prints_one(place: Place) -> None:
    assert all(place.printed)
    for text in place.printed:
        assert "Traceback" not in text
        assert not seen_in(text.encode(), NOWHERE), text


def test_no_repr_holds_one(tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    file.write_text('[providers.a]\nkind = "openai"\nbase_url = "http://a.test/v1"\nkey_env = "PLAIN_KEY"\nmodels = ["m"]\n', "utf-8")
    environment = {"MAC_API_TOKEN": TOKEN, "PLAIN_KEY": PLAIN, "SENSORIUM_MASTER_KEY": base64.b64encode(SEALED.encode()[:32]).decode()}
    settings = load(file, environment, data_dir=tmp_path)
    provider = Provider("a", "http://a.test", Credential("k", lambda: SEALED), 1, 1)
    route: Route = nvidia("transcribe", provider, "m")
    members = jsonbody.members(json.dumps({"prompt": PROMPT, "image": ENCODED, "model": "m"}).encode())
    form = (Part("prompt", PROMPT.encode()), Part("file", PIXELS, "a.png"))
    asked = call(members=members, form=form, modality="transcribe", operation="audio/transcriptions")
    sent_on = payload(asked, replace(route, dialect="openai"))
    attempt = Attempt(route, Failure("auth", 401, "refused"), True)
    objects = [settings, settings.model_dump(), settings.model_dump_json(), provider, route, asked, sent_on, *form]
    objects += [attempt, Record(asked, route, 200, "answered", 0, 0, 0, (attempt,)), Given(SEALED, ["a.test"])]
    objects += [UpstreamRefused("no", status=401, code="x", source="a")]
    master = environment["SENSORIUM_MASTER_KEY"].encode()
    for one in objects:
        assert not seen_in(f"{one!r} {one}".encode(), [*NOWHERE, master]), type(one).__name__
