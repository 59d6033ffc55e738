"""What every route of the hub owes its callers, checked for each entry of the real router: a route that is added is covered or fails here.

A hub of all modalities stands in front of a provider that counts what reaches it; bodies that are refused must never do.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from sensorium import app, doors
from sensorium.api.auth import Auth
from sensorium.api.router import Entry, Router
from sensorium.errors import Unavailable
from sensorium.settings import Settings, load
from sensorium.store.calls import Calls
from sensorium.wire import fal_errors
from tests.api.hubs import LazyUpstream, living
from tests.serving import serving
from tests.store.vaults import opened

TOKEN, CAP = "token-of-the-tests", 4096
SETTINGS = """
[local]
enabled = false
[server]
max_body_bytes = {cap}
[router.chat]
url = "{at}/v1"
key = "none"
models = ["a-model"]
[router.embeddings]
url = "{at}/v1"
key = "none"
[router.image]
url = "{at}/v1/genai"
key = "none"
[router.audio]
url = "{at}/v1/audio"
key = "none"
[router.video]
url = "{at}/v1/video"
key = "none"
[providers.ranks]
kind = "openai"
base_url = "{at}/v1"
models = [{{ id = "ranker", modality = "rerank" }}]
"""
BELOW = {
    "/v1/models/*": "a-model",
    "/v1/secrets/*": "a-secret",
    "/v1/media/*": "image.generate",
    "/fal/run/*": "models/a-model",
    "/fal/queue/*": "models/a-model",
    "/fal/cdn/files/*": "signature/2026/file.png",
}  # what may follow a prefix; elsewhere a model's name
# A catch-all that answers 404 whatever the body, calls that have none, and files: their bytes may be any, once the right to send is shown.
UNREAD = {
    *("/v1/audio/*", "/v1/settings/reload", "/v1/webhooks/rotate", "/v1/requests/*", "PUT /fal/queue/*", "/fal/proxy", "/fal/proxy/"),
    *("/fal/rest/storage/auth/token", "/fal/cdn/upload/*", "/fal/cdn/files/*", "/fal/cdn/files/upload", "/fal/cdn/files/upload/multipart"),
}
CAPS = {"/v1/secrets/*": 64 * 1024, "/fal/rest/storage/upload/initiate": 2 << 20, "/fal/rest/storage/upload/initiate-multipart": 2 << 20}
RIGHTS = ("/fal/cdn/", "/fal/proxy")  # public routes that ask for a right of another kind
FORMS = ("/v1/audio/transcriptions", "/v1/audio/translations")


class Counting:
    """A provider that answers everything with an empty object, and keeps the paths that were asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.asked.append(scope["raw_path"].decode())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"{}"})


@dataclass(frozen=True)
class Place:
    """A hub, the provider behind it, its router and its settings."""

    address: str
    provider: Counting
    router: Router

    def call(
        self, method: str, path: str, body: bytes | None = None, token: str | None = TOKEN, **headers: str
    ) -> tuple[HTTPResponse, bytes]:
        said = {name.replace("_", "-"): text for name, text in headers.items()}
        if token is not None:
            said["authorization"] = f"Bearer {token}"
        connection = HTTPConnection(self.address, timeout=20)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, text in said.items():
                connection.putheader(name, text)
            if body is not None:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            reply = connection.getresponse()
            return reply, reply.read()
        finally:
            connection.close()

    def raw(self, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """What is answered to bytes that no client library would send; the connection is closed afterwards."""
        host, _, port = self.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as caller:
            caller.sendall(head + b"host: 127.0.0.1\r\nconnection: close\r\nauthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n" + body)
            answer = b"".join(iter(lambda: caller.recv(65536), b""))
        return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


def entries_of() -> tuple[Entry, ...]:
    """Every entry of the hub's own router, with nothing behind it."""
    operators = doors.Operators(Mock(), Mock(), Mock(), Mock())
    return doors.router(Settings(), Mock(), dict, Mock(), operators, Mock()).entries


ENTRIES = {f"{entry.method} {entry.path}": entry for entry in entries_of()}
READING = {name: entry for name, entry in ENTRIES.items() if entry.method in ("POST", "PUT") and not UNREAD & {name, entry.path}}
PREFIXES = {name: entry for name, entry in ENTRIES.items() if entry.path.endswith("/*")}


@contextmanager
def place(folder: Path, broken: bool = False) -> Iterator[Place]:
    provider, upstream = Counting(), LazyUpstream()
    with serving(provider) as at, opened(folder) as vault:
        file = folder / "hub.toml"
        file.write_text(SETTINGS.format(at=at, cap=CAP), "utf-8")
        settings = load(file, {"MAC_API_TOKEN": TOKEN}, data_dir=folder)
        built = app.build(settings, None, upstream.send, vault, calls=Calls(vault.database, 1e6, 1000))
        router = built.router.app
        if broken:
            entries = [replace(entry, handler=panics) for entry in router.entries]
            router = Router(entries, Auth(TOKEN), doors.render, CAP)
        with serving(living(router, built.durable.jobs, upstream)) as base:
            yield Place(base.removeprefix("http://"), provider, router)


async def panics(visit: object) -> None:
    raise KeyError("inner words that nobody outside may read")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("routes")) as running:
        yield running


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("broken"), broken=True) as running:
        yield running


def path_of(entry: Entry) -> str:
    """A path that reaches the entry."""
    return entry.path.removesuffix("*") + BELOW.get(entry.path, "org/a-model") if entry.path.endswith("/*") else entry.path


OWN = {"message", "type", "code", "param", "request_id", "hint"}


def refused(entry: Entry, got: tuple[HTTPResponse, bytes], *statuses: int) -> dict[str, Any]:
    """The `error` object of an answer, once it was found to be in the dialect of the entry; "" stands for a code that a dialect lacks."""
    reply, raw = got
    assert reply.status in statuses, (reply.status, raw)
    assert reply.getheader("content-type") == "application/json"
    told = json.loads(raw)
    if entry.render is fal_errors.error:
        return fals(told, reply)
    assert told.keys() == json.loads(entry.render(Unavailable("x"), "id")).keys()
    error: dict[str, Any] = told.get("error", {})
    if set(error) != OWN:  # another protocol's own shape, which has no place for more
        return {"message": raw.decode(), "request_id": "", "code": ""}
    assert error["message"] and error["type"] and error["code"]
    assert error["request_id"] == reply.getheader("x-request-id")
    assert told.get("detail", error["message"]) == error["message"]
    return error


def fals(told: dict[str, Any], reply: HTTPResponse) -> dict[str, Any]:
    """The same of fal's two shapes."""
    assert reply.getheader("x-fal-request-id") == reply.getheader("x-request-id") and reply.getheader("x-sensorium-source") == "hub"
    if isinstance(told["detail"], list):
        assert reply.status == 422 and all({"loc", "msg", "type", "url"} <= fault.keys() for fault in told["detail"])
        return {"message": told["message"], "request_id": "", "code": ""}
    assert reply.getheader("x-fal-error-type") == told["error_type"] and told["request_id"] == reply.getheader("x-request-id")
    return {"message": told["message"], "request_id": told["request_id"], "code": ""}


def test_the_router_that_is_examined_is_the_one_that_serves(hub: Place) -> None:
    assert {f"{entry.method} {entry.path}" for entry in hub.router.entries} == set(ENTRIES)


NO_TOKEN = (None, "Bearer", "Bearer ", "Bearer wrong", f"Bearer {TOKEN}x", "Bearer naïve", f"Basic {TOKEN}", f"Bearer-ish {TOKEN}", TOKEN)


@pytest.mark.parametrize("name", ENTRIES)
def test_without_the_token_nothing_is_answered(hub: Place, name: str) -> None:
    entry, before = ENTRIES[name], len(hub.provider.asked)
    for said in NO_TOKEN:
        headers = {} if said is None else {"authorization": said}
        got = hub.call(entry.method, path_of(entry), b"{}" if name in READING else None, token=None, **headers)
        if entry.public:
            assert got[0].status in ((400, 401, 403, 404) if entry.path.startswith(RIGHTS) else (200,))
            continue
        assert refused(entry, got, 401)["code"] in ("invalid_token", "")
        assert got[0].getheader("www-authenticate") == "Bearer"
        assert len(hub.provider.asked) == before


@pytest.mark.parametrize("name", ENTRIES)
def test_other_methods_are_told_which_there_are(hub: Place, name: str) -> None:
    entry = ENTRIES[name]
    there = {one.method for one in hub.router.entries if one.path == entry.path}
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "LOCK"} - there:
        got = hub.call(method, path_of(entry))
        assert refused(entry, got, 405)["code"] in ("method_not_allowed", "")
        assert set((got[0].getheader("allow") or "").split(", ")) == there


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_over_the_cap_is_refused_with_both_sizes(hub: Place, name: str, chunked: bool) -> None:
    entry, before = ENTRIES[name], len(hub.provider.asked)
    cap = CAPS.get(entry.path, CAP)
    size = cap + 1000
    connection = HTTPConnection(hub.address, timeout=20)
    body: Any = iter([b"x" * (size // 4)] * 4) if chunked else b"x" * size
    media = "multipart/form-data; boundary=b" if entry.path in FORMS else "application/json"
    connection.request(
        entry.method, path_of(entry), body, {"authorization": f"Bearer {TOKEN}", "content-type": media}, encode_chunked=chunked
    )
    reply = connection.getresponse()
    error = refused(entry, (reply, reply.read()), 413)
    connection.close()
    assert error["code"] in ("body_too_large", "") and str(cap) in error["message"]
    got = map(int, re.findall(r"\d+", error["message"]))
    assert any(cap < number <= size for number in got), error["message"]
    assert len(hub.provider.asked) == before


NO_BODIES = {
    "empty": b"",
    "blank": b" \r\n\t",
    "not json": b"hello",
    "half": b'{"model": "a-model", "messages": [',
    "nan": b'{"model": "a-model", "temperature": NaN}',
    "infinity": b'{"model": "a-model", "temperature": -Infinity}',
    "an array": b"[1]",
    "a text": b'"model"',
    "a number": b"7",
    "null": b"null",
    "two values": b"{} {}",
    "not utf-8": b'{"model": "\xff\xfe"}',
    "half a character": b'{"model": "\\ud800"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "comments": b"{} // hello",
    "nul": b'{"model": "a\x00b"}',
    "deep": b'{"model":"a-model","a":' + b"[" * 2000 + b"]" * 2000 + b"}",
    "deep objects": b'{"a":' * 600 + b"1" + b"}" * 600,
    "deep from the start": b"[" * 4000,
}


@pytest.mark.parametrize("name", READING)
def test_a_body_that_is_none_gets_one_clear_answer_and_goes_nowhere(hub: Place, name: str) -> None:
    entry = ENTRIES[name]
    for kind, body in NO_BODIES.items():
        before = len(hub.provider.asked)
        got = hub.call(entry.method, path_of(entry), body, content_type="application/json")
        if kind.startswith("deep") and got[0].status in (200, 502):  # a proper object, which a model may take
            continue
        refused(entry, got, 400, 415, 422)
        assert len(hub.provider.asked) == before, kind


@pytest.mark.parametrize("name", READING)
def test_a_compressed_body_is_not_unpacked(hub: Place, name: str) -> None:
    entry = ENTRIES[name]
    media = "multipart/form-data; boundary=b" if entry.path in FORMS else "application/json"
    got = hub.call(entry.method, path_of(entry), b"\x1f\x8b", content_encoding="gzip", content_type=media)
    assert refused(entry, got, 400)["code"] in ("invalid_request", "")


CLIMBING = [
    *("..", ".", "../x", "x/..", "x/../y", "./x", "x/.", "x/./y", "...", "x/..../y", "..;/x"),
    *("%2e%2e", "%2E%2E/x", "x/%2e%2e/y", ".%2e", "%2e", "x/%2e/y", "%252e%252e", "x/%252e%252e/y"),
    *("x%2fy", "x%2Fy", "%2fx", "x/%2f", "..%2fx", "%2e%2e%2fx", "x%252fy", "x%5cy", "x\\y", "..\\x", "x/%5c..", "%5C"),
    *("/x", "x//y", "x/", "//", "//x", "/"),
    *("x%3fkey=1", "x%23y", "x%3Fa/b", "x;y", "x%3by", "x&y", "x%26y", "x=y"),
    *("x%00", "%00", "x%0d%0ay", "x%0ay", "x%09y", "x%7fy", "x%1by", "x%20y", "%20", "x%c2%85y", "%ff", "%e2%80%ae", "%c0%ae%c0%ae/x"),
    *("x" * 201, "x/" * 150 + "y", "%", "x%", "x%zz", "x%2", "%%", "x*y", "*/x", "x|y", "x<y", "x'y", "x,y", "x$y", "x!y", "x~y"),
]


@pytest.mark.parametrize("name", PREFIXES)
def test_a_path_that_is_not_plain_never_leaves_the_hub(hub: Place, name: str) -> None:
    entry, before = ENTRIES[name], list(hub.provider.asked)
    body = b'{"value": "v", "hosts": ["a.test"]}' if "secrets" in name else b'{"prompt": "x"}'
    for path in CLIMBING:
        head = f"{entry.method} {entry.path.removesuffix('*')}{path} HTTP/1.1\r\ncontent-length: {len(body)}\r\n"
        status, raw = hub.raw(head.encode("latin-1"), body)
        assert status in ((400, 403, 404) if entry.path.startswith(RIGHTS) else (400, 404)), (path, status, raw)
        if raw[:1] == b"{":  # else the web server refused the request line
            assert json.loads(raw)
        assert hub.provider.asked == before, path


@pytest.mark.parametrize("name", PREFIXES)
def test_odd_request_targets_are_answered(hub: Place, name: str) -> None:
    entry = ENTRIES[name]
    path = f"{entry.path.removesuffix('*')}../x"
    for target in (f"http://127.0.0.1{path}", f"{path}#part", f"{path}?x=%0d%0ay", "*", f"{path}\x7f", f"//127.0.0.1{path}"):
        status, _ = hub.raw(f"{entry.method} {target} HTTP/1.1\r\ncontent-length: 0\r\n".encode("latin-1"))
        assert status in ((400, 403, 404) if entry.path.startswith(RIGHTS) else (400, 404)), target


@pytest.mark.parametrize(
    "path", ["/", "", "/v1", "/v1/", "/v2/chat/completions", "/v1/chat", "/v1/chat/completions/", "//v1/models", "/V1/models"]
)
def test_what_is_not_there_is_404(hub: Place, path: str) -> None:
    reply, raw = hub.call("GET", path or "/")
    assert (reply.status, json.loads(raw)["error"]["code"]) == (404, "unknown_route")


@pytest.mark.parametrize("name", ENTRIES)
def test_a_panic_is_500_in_the_dialect_and_says_nothing(broken: Place, name: str, caplog: pytest.LogCaptureFixture) -> None:
    entry = ENTRIES[name]
    got = broken.call(entry.method, path_of(entry), b"{}" if name in READING else None)
    error = refused(entry, got, 500)
    assert error["code"] in ("internal_error", "")
    for word in ("inner words", "KeyError", "Traceback", ".py"):
        assert word.encode() not in got[1]
    assert error["request_id"] in error["message"]
    assert "inner words" not in caplog.text and "KeyError" in caplog.text


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.method == "GET"])
def test_head_has_the_headers_of_get_and_no_body(hub: Place, name: str) -> None:
    entry = ENTRIES[name]
    got, head = hub.call("GET", path_of(entry)), hub.call("HEAD", path_of(entry))
    assert (head[0].status, head[1]) == (got[0].status, b"")
