"""fal's storage protocol over HTTP: both clients' dialects, files through their links, and every way to get it wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import fal_client
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.api import fal_files, fal_uploads
from sensorium.api.auth import Auth, Principal
from sensorium.api.fal_files import FalFiles
from sensorium.api.fal_uploads import FalUploads
from sensorium.api.router import Router
from sensorium.api.visit import Visit
from sensorium.errors import Unauthorized
from sensorium.store.files import Files
from sensorium.store.objects import Incoming
from sensorium.store.uploads import PIECE, TICKET_S, Uploads
from sensorium.wire import fal_errors, filelinks
from tests.serving import serving
from tests.simulators.site import eventually
from tests.store.shelves import on_disk, shelved
from tests.store.vaults import Clock

MB = 1024 * 1024
INITIATE = "/fal/rest/storage/upload/initiate?storage_type=fal-cdn-v3"
MULTIPART = "/fal/rest/storage/upload/initiate-multipart?storage_type=fal-cdn-v3"
TOKEN = "/fal/rest/storage/auth/token?storage_type=fal-cdn-v3"
SMALL = {"quota_bytes": 1000, "most_bytes": 600, "kept_s": 1000.0}
LARGE = {"quota_bytes": 500 * MB, "most_bytes": 200 * MB, "kept_s": 1000.0}


class Named(Auth):
    """Callers are whom their key says; without one there is nobody."""

    def __init__(self) -> None:
        super().__init__(None)
        self.gone: set[str] = set()

    def knows(self, name: str) -> bool:
        return name not in self.gone

    def __call__(self, visit: Visit) -> Principal:
        scheme, _, key = visit.header("authorization").partition(" ")
        if scheme != "Key":
            raise Unauthorized("no key")
        return Principal(key)


@dataclass
class Site:
    """A hub's doors for files at `base`, and what stands behind them."""

    base: str
    files: Files
    folder: Path
    clock: Clock

    def call(
        self, method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None, key: str | None = "ada"
    ) -> tuple[HTTPResponse, bytes]:
        """One request; `url` may be a path or one of the hub's own URLs."""
        parts = urlsplit(url)
        connection = HTTPConnection(self.base.removeprefix("http://"), timeout=30)
        sent = ({"authorization": f"Key {key}"} if key else {}) | (headers or {})
        try:
            connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, sent)
            reply = connection.getresponse()
            return reply, reply.read()
        finally:
            connection.close()

    def json(self, method: str, url: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        reply, raw = self.call(method, url, body if isinstance(body, bytes) or body is None else json.dumps(body).encode(), **more)
        return reply.status, json.loads(raw)

    def initiated(self, name: str = "a.txt", media: str = "text/plain", **more: Any) -> tuple[str, str]:
        """An upload URL and the link of the file to be."""
        status, told = self.json("POST", INITIATE, {"file_name": name, "content_type": media}, **more)
        assert status == 200, told
        return told["upload_url"], told["file_url"]

    def stored(self, data: bytes = b"hello", name: str = "a.txt", media: str = "text/plain", **more: Any) -> str:
        """The link of a file."""
        upload, link = self.initiated(name, media, **more)
        assert self.call("PUT", upload, data, key=None)[0].status == 200
        return link


@contextmanager
def site(folder: Path, auth: Auth | None = None, public: str | None = None, **limits: Any) -> Iterator[Site]:
    clock, who = Clock(), auth or Named()
    with shelved(folder, clock, **(limits or SMALL)) as files:
        doors = [
            *fal_uploads.entries(FalUploads(Uploads(files), who, public)),
            *fal_files.entries(FalFiles(files, who, public)),
        ]
        with serving(Router(doors, who, lambda path: fal_errors.error, 4096)) as base:
            yield Site(base, files, folder, clock)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as here:
        yield here


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    """A site with one file of the bytes 0 to 99, and its link."""
    with site(tmp_path_factory.mktemp("held")) as here:
        yield here, here.stored(bytes(range(100)), "b.bin", "application/octet-stream")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all pieces that were held in memory on their way to the disk."""
    sizes: list[int] = []
    write = Incoming.write

    def noted(self: Incoming, data: bytes) -> None:
        sizes.append(len(data))
        write(self, data)

    monkeypatch.setattr(Incoming, "write", noted)
    return sizes


# The two dialects


def test_javascript_ticket_then_bytes(here: Site) -> None:
    upload, link = here.initiated("hello.txt")
    assert upload.startswith(f"{here.base}/fal/cdn/upload/1.")
    assert link.startswith(f"{here.base}/fal/cdn/files/1.")
    assert link.endswith(".txt")
    assert here.call("GET", link, key=None)[0].status == 404
    reply, raw = here.call("PUT", upload, b"hello", {"content-type": "text/plain"}, key=None)
    assert (reply.status, json.loads(raw)["url"].endswith(".txt")) == (200, True)
    reply, raw = here.call("GET", link, key=None)
    assert (reply.status, raw, reply.headers["content-type"]) == (200, b"hello", "text/plain")


def test_javascript_parts_one_after_another(here: Site) -> None:
    _, told = here.json("POST", MULTIPART, {"file_name": "film.mp4", "content_type": "video/mp4"})
    parts = []
    for number, data in enumerate((b"one ", b"two ", b"three"), 1):
        reply, raw = here.call("PUT", f"{told['upload_url']}/{number}", data, key=None)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        part = json.loads(raw)
        assert part == {"partNumber": number, "etag": reply.headers["etag"]}
        assert part["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'
        parts.append(part)
    status, done = here.json("POST", f"{told['upload_url']}/complete", {"parts": parts}, key=None)
    assert (status, done["file_size"], done["content_type"], done["file_name"]) == (200, 13, "video/mp4", "film.mp4")
    assert here.call("GET", told["file_url"], key=None)[1] == b"one two three"


def test_python_token_then_bytes(here: Site) -> None:
    status, token = here.json("POST", TOKEN, {})
    assert (status, token["token_type"], token["base_url"]) == (200, "Bearer", f"{here.base}/fal/cdn")
    assert datetime.fromisoformat(token["expires_at"]) == datetime.fromtimestamp(here.clock.now, UTC) + timedelta(hours=1)
    assert token["expires_at"].endswith("+00:00")
    headers = {"authorization": f"Bearer {token['token']}", "content-type": "text/plain", "x-fal-file-name": "a.txt"}
    status, told = here.json("POST", f"{token['base_url']}/files/upload", b"hello", headers=headers, key=None)
    assert status == 200
    assert here.call("GET", told["access_url"], key=None)[1] == b"hello"
    assert [file.owner for file in here.files.listed("ada", 10)] == ["ada"]


def test_a_key_of_the_hub_uploads_without_a_token(here: Site) -> None:
    status, told = here.json("POST", "/fal/cdn/files/upload", b"\x89PNG", headers={"content-type": "image/png"}, key="bob")
    assert (status, told["file_name"]) == (200, "file.png")
    assert [file.owner for file in here.files.listed("bob", 10)] == ["bob"]


def test_what_the_lifecycle_headers_say_is_kept(here: Site) -> None:
    acl = {"default": "forbid", "rules": [{"user": "bob", "decision": "allow"}]}
    said = json.dumps({"expiration_duration_seconds": 60, "initial_acl": acl})
    for header in ("X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference"):
        link = here.stored(headers={header: said})
        file = here.files.listed("ada", 1)[0]
        assert (file.acl, file.expires_at) == (acl, here.clock.now + 60)
        assert {key: here.call("GET", link, key=key)[0].status for key in ("ada", "bob", "carl", None)} == {
            "ada": 200,
            "bob": 200,
            "carl": 403,
            None: 403,
        }
    hidden = here.stored(headers={"X-Fal-Object-Lifecycle": '{"initial_acl":{"default":"hide"}}'})
    assert [here.call("GET", hidden, key=key)[0].status for key in ("ada", "bob", None)] == [200, 404, 404]
    here.clock.now += 60
    assert here.call("GET", link)[0].status == 404


def test_links_begin_with_the_public_url(tmp_path: Path) -> None:
    with site(tmp_path, public="https://hub.example/ai/") as here:
        upload, link = here.initiated()
        assert upload.startswith("https://hub.example/ai/fal/cdn/upload/")
        assert here.call("PUT", upload.replace("/ai/", "/"), b"x", key=None)[0].status == 200
        assert here.files.own(link, "ada") == (b"x", "text/plain")
        assert here.json("POST", TOKEN, {})[1]["base_url"] == "https://hub.example/ai/fal/cdn"


# Reading


@given(st.one_of(st.none(), st.integers(0, 120)), st.one_of(st.none(), st.integers(0, 120)))
@settings(max_examples=40)
def test_a_range_is_what_slicing_gives(held: tuple[Site, str], first: int | None, last: int | None) -> None:
    here, link = held
    data = bytes(range(100))
    said = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    reply, raw = here.call("GET", link, headers={"range": said}, key=None)
    assert reply.status in (200, 206, 416)
    if reply.status == 206:
        part = data[max(0, 100 - (last or 0)) :] if first is None else data[first : None if last is None else last + 1]
        assert raw == part
        start = 100 - len(part) if first is None else first
        assert reply.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/100"
    elif reply.status == 416:
        assert reply.headers["content-range"] == "bytes */100"
        assert first is None or first >= 100
    else:
        assert raw == data


def test_a_file_is_not_read_on_for_a_reader_who_has_left(tmp_path: Path) -> None:
    with shelved(tmp_path, Clock(), **LARGE) as files:
        file = files.put(bytes(16 * fal_files.PIECE), owner="ada", content_type="a/b", name="x")
        router = Router(fal_files.entries(FalFiles(files, Named())), Named(), lambda path: fal_errors.error, 4096)
        scope = {"type": "http", "method": "GET", "path": files.url(file, ""), "headers": [], "query_string": b""}
        told = iter([{"type": "http.request", "body": b""}])
        sent: list[int] = []

        async def left() -> None:
            first = asyncio.Event()

            async def receive() -> Any:
                if (asked := next(told, None)) is not None:
                    return asked
                await first.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(len(message.get("body", b"")))
                if sent[-1]:
                    first.set()

            await router(scope, receive, send)

        asyncio.run(left())
        assert 0 < sum(sent) < file.size


@given(st.data())
@settings(max_examples=60)
def test_any_altered_character_of_a_link_is_refused(held: tuple[Site, str], data: st.DataObject) -> None:
    here, link = held
    path = urlsplit(link).path
    place = data.draw(st.integers(len(filelinks.PREFIX), len(path) - 1))
    changed = path[:place] + data.draw(st.sampled_from("abcABC012-_./%")) + path[place + 1 :]
    status = here.call("GET", changed, key=None)[0].status
    assert (status == 200) == (changed == path)
    assert status in (200, 404)


def test_whole_head_and_unchanged(held: tuple[Site, str]) -> None:
    here, link = held
    reply, raw = here.call("GET", link, key=None)
    etag = f'"{hashlib.sha256(raw).hexdigest()}"'
    told = dict(reply.headers.items())
    assert (
        told
        | {
            "etag": etag,
            "content-length": "100",
            "accept-ranges": "bytes",
            "content-type": "application/octet-stream",
            "x-content-type-options": "nosniff",
            "content-security-policy": "default-src 'none'",
            "x-sensorium-source": "hub",
        }
        == told
    )
    head, nothing = here.call("HEAD", link, headers={"range": "bytes=0-1"}, key=None)
    assert (head.status, head.headers["content-length"], nothing) == (200, "100", b"")
    for tag in (etag, f'"x", W/{etag}', "*"):
        same, nothing = here.call("GET", link, headers={"if-none-match": tag, "range": "bytes=0-1"}, key=None)
        assert (same.status, nothing, same.headers["etag"]) == (304, b"", etag)
    assert here.call("GET", link, headers={"range": "bytes=0-1", "if-range": etag}, key=None)[0].status == 206
    assert here.call("GET", link, headers={"range": "bytes=0-1", "if-range": '"old"'}, key=None)[0].status == 200
    assert here.call("GET", link, headers={"range": "bytes=0-1,5-6"}, key=None)[0].status == 200


@pytest.mark.parametrize(
    ("media", "name", "how"),
    [
        ("image/png", "a.png", "inline"),
        ("text/html", "a.html", "attachment"),
        ("image/svg+xml", "a.svg", "attachment"),
        ("application/xml", "a.xml", "attachment"),
        ("text/javascript", "a.js", "attachment"),
    ],
)
def test_what_a_browser_must_not_show(here: Site, media: str, name: str, how: str) -> None:
    reply, _ = here.call("GET", here.stored(b"<script>", name, media), key=None)
    assert reply.headers["content-type"] == media
    assert reply.headers["content-disposition"] == f"{how}; filename=\"{name}\"; filename*=UTF-8''{name}"


def test_an_empty_file(here: Site) -> None:
    link = here.stored(b"")
    reply, raw = here.call("GET", link, key=None)
    assert (reply.status, raw, reply.headers["content-length"]) == (200, b"", "0")
    assert here.call("GET", link, headers={"range": "bytes=0-"}, key=None)[0].status == 416


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "x",
        "SIG/../../../etc/passwd",
        "SIG/%2e%2e/%2e%2e/sensorium.db",
        "SIG/a%2fb%00.png",
        "%00",
        "upload/../x",
        "SIG/2027/01/15/%2f.png",
    ],
)
def test_odd_paths_reach_nothing(here: Site, tail: str) -> None:
    assert here.json("GET", f"{filelinks.PREFIX}{tail}", key=None)[0] == 404


def test_links_of_another_hub_and_deleted_files_are_not_there(here: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = here.stored()
    with site(tmp_path_factory.mktemp("other")) as other:
        assert other.call("GET", link, key=None)[0].status == 404
    here.files.discard([here.files.listed("ada", 1)[0].key])
    status, told = here.json("GET", link, key=None)
    assert (status, told["error_type"]) == (404, "unknown_file")


# Getting it wrong


def test_an_upload_token_ends_with_its_caller(tmp_path: Path) -> None:
    callers = Named()
    with site(tmp_path, callers) as here:
        bearer = {"authorization": f"Bearer {here.json('POST', TOKEN, {})[1]['token']}"}
        assert here.call("POST", "/fal/cdn/files/upload", b"x", headers=bearer, key=None)[0].status == 200
        callers.gone.add("ada")
        status, told = here.json("POST", "/fal/cdn/files/upload", b"x", headers=bearer, key=None)
    assert (status, told["error_type"]) == (401, "upload_token_refused")


def test_only_known_callers_begin_uploads(here: Site) -> None:
    for path in (INITIATE, MULTIPART, TOKEN, "/fal/cdn/files/upload", "/fal/cdn/files/upload/multipart"):
        assert here.json("POST", path, {}, key=None)[0] == 401
    token = here.json("POST", TOKEN, {})[1]["token"]
    for wrong in (token[:-1] + ("a" if token[-1] != "a" else "b"), token.replace("1.", "2.", 1), f"x{token}"):
        assert here.json("POST", "/fal/cdn/files/upload", b"x", headers={"authorization": f"Bearer {wrong}"}, key=None)[0] == 401
    here.clock.now += 3600
    status, told = here.json("POST", "/fal/cdn/files/upload", b"x", headers={"authorization": f"Bearer {token}"}, key=None)
    assert (status, told["error_type"]) == (401, "upload_token_refused")
    assert on_disk(here.folder) == []


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"", {}, 400, "empty"),
        (b"{", {}, 400, "not valid JSON"),
        (b"[]", {}, 400, "not an object"),
        (b'{"content_type":5}', {}, 422, "content_type must be a string"),
        (b'{"content_type":"png"}', {}, 400, "no content type"),
        (b'{"file_name":{}}', {}, 422, "file_name must be a string"),
        (b"{}", {"X-Fal-Object-Lifecycle": "{"}, 400, "lifecycle cannot be read"),
        (b"{}", {"X-Fal-Object-Lifecycle-Preference": '{"expiration_duration_seconds":-1}'}, 400, "must be above 0"),
        (b"{}", {"X-Fal-Object-Lifecycle": '{"initial_acl":{"default":"x"}}'}, 400, "allow, forbid, hide"),
        (b"{}", {"host": "not a host"}, 400, "Host"),
    ],
)
def test_what_cannot_be_begun(here: Site, body: bytes, headers: dict[str, str], status: int, says: str) -> None:
    got, told = here.json("POST", INITIATE, body, headers=headers)
    assert got == status
    assert says in told["message"]
    assert set(told) >= {"detail", "message"}


def test_nothing_told_about_a_file_is_enough(here: Site) -> None:
    status, told = here.json("POST", "/fal/rest/storage/upload/initiate?storage_type=gcs", {})
    assert (status, told["file_url"].endswith(".bin")) == (200, True)
    link = here.stored(name="../../etc/passwd\0.png", media="")
    reply, _ = here.call("GET", link, key=None)
    assert 'filename="passwd.png"' in reply.headers["content-disposition"]


def test_tickets_that_give_no_right(here: Site) -> None:
    upload, _ = here.initiated()
    text = upload.rpartition("/")[2]
    for wrong in (text[:-2], text[1:], text.replace(".", "-", 1), "x", "%00"):
        for tail in ("", "/1"):
            assert here.json("PUT", f"{filelinks.TICKETS}{wrong}{tail}", b"x", key=None)[0] == 403
        assert here.json("POST", f"{filelinks.TICKETS}{wrong}/complete", {"parts": []}, key=None)[0] == 403
    here.clock.now += TICKET_S
    status, told = here.json("PUT", upload, b"x", key=None)
    assert (status, told["error_type"]) == (403, "ticket_refused")
    assert "expired" in told["message"]
    assert on_disk(here.folder) == []


def test_numbers_and_verbs_that_are_none(here: Site) -> None:
    upload, link = here.initiated()
    for number in ("0", "10001", "-1", "a", "1/2", "٣", "9999999"):
        status, told = here.json("PUT", f"{upload}/{quote(number, safe='/')}", b"x", key=None)
        assert (status, told["error_type"], "part" in told["message"]) == (400, "bad_request", True)
    assert here.json("POST", upload, b"x", key=None)[0] == 404
    assert here.json("POST", link, b"x", key=None)[0] == 404
    assert here.json("PUT", link, b"x", key=None)[0] == 404
    assert here.json("DELETE", upload, key=None)[0] == 405
    assert on_disk(here.folder) == []


def test_lists_of_parts_that_are_wrong(here: Site) -> None:
    upload, link = here.initiated()
    etags = [here.json("PUT", f"{upload}/{number}", data, key=None)[1]["etag"] for number, data in ((1, b"one"), (2, b"two"))]

    def complete(*parts: Any) -> tuple[int, str]:
        status, told = here.json("POST", f"{upload}/complete", {"parts": list(parts)}, key=None)
        return status, told.get("message", "")

    one, two = ({"partNumber": number, "etag": etag} for number, etag in enumerate(etags, 1))
    assert complete() == (400, "parts must be a non-empty array")
    for odd in ("x", {"partNumber": "1", "etag": "x"}, {"partNumber": True, "etag": "x"}, {"partNumber": 1}, {"etag": "x"}):
        assert complete(odd)[0] == 400
    assert "part 2 is not named" in complete(one)[1]
    assert "part 3 is missing" in complete(one, two, {"partNumber": 3, "etag": "x"})[1]
    assert "part 1 is named twice" in complete(one, two, one)[1]
    assert "part 2 is other" in complete(one, {"partNumber": 2, "etag": etags[0]})[1]
    here.json("PUT", f"{upload}/2", b"TWO", key=None)
    assert "part 2 is other" in complete(one, two)[1]
    assert here.call("GET", link, key=None)[0].status == 404
    again = here.json("PUT", f"{upload}/2", b"two", key=None)[1]
    assert again == two
    assert complete(two, {"partNumber": 1, "etag": f"W/{etags[0]}"}) == (200, "")
    assert complete(one) == (200, "")
    status, told = here.json("PUT", f"{upload}/3", b"late", key=None)
    assert (status, told["error_type"]) == (400, "bad_request")
    assert "complete already" in told["message"]
    assert here.call("GET", link, key=None)[1] == b"onetwo"


def test_a_whole_file_sent_again_is_the_same_or_refused(here: Site) -> None:
    upload, link = here.initiated()
    assert [here.json("PUT", upload, data, key=None)[0] for data in (b"one", b"one", b"two")] == [200, 200, 400]
    assert here.call("GET", link, key=None)[1] == b"one"


def test_an_upload_id_is_good_for_its_own_file_only(here: Site) -> None:
    headers = {"content-type": "text/plain"}
    first, second = (here.json("POST", "/fal/cdn/files/upload/multipart", b"", headers=headers)[1] for _ in range(2))
    url = f"{second['access_url']}/multipart"
    for path in (f"{url}/{first['uploadId']}/1", f"{url}/unknown/1", f"{url}/{second['uploadId'][:-1]}/1"):
        status, told = here.json("PUT", path, b"x", key=None)
        assert (status, told["error_type"]) == (403, "ticket_refused")
    forged = second["access_url"].replace("/fal/cdn/files/1.", "/fal/cdn/files/1.0", 1)
    assert here.json("PUT", f"{forged}/multipart/{second['uploadId']}/1", b"x", key=None)[0] == 404
    assert here.json("POST", f"{url}/{second['uploadId']}/1", b"x", key=None)[0] == 404
    assert here.json("POST", f"{url}/{first['uploadId']}/complete", {"parts": []}, key=None)[0] == 403
    assert on_disk(here.folder) == []


def test_too_much_is_refused_with_413(here: Site) -> None:
    upload, _ = here.initiated()
    status, told = here.json("PUT", upload, b"x" * 601, key=None)
    assert (status, told["error_type"]) == (413, "body_too_large")
    here.stored(b"x" * 600)
    for path, key in ((upload, None), (f"{upload}/1", None), ("/fal/cdn/files/upload", "ada")):
        status, told = here.json("POST" if key else "PUT", path, b"x" * 401, key=key)
        assert (status, told["error_type"]) == (413, "quota_spent")
    assert here.json("PUT", upload, b"x" * 400, key=None)[0] == 200
    assert len(on_disk(here.folder)) == 2


def test_of_a_body_that_grows_too_long_no_more_is_stored(tmp_path: Path, watched: list[int]) -> None:
    # Of the two limits that a body passes, the first piece must tell which: what is left beside a stored file is less than a piece.
    with site(tmp_path, quota_bytes=2 * MB + MB // 2, most_bytes=2 * MB, kept_s=1000.0) as here, httpx.Client() as client:

        def refused(tail: str) -> str:
            watched.clear()
            told = client.put(here.initiated()[0] + tail, content=(b"x" * 65_536 for _ in range(128)))
            assert told.status_code == 413
            assert sum(watched) <= 2 * MB
            return str(told.json()["error_type"])

        assert (refused(""), refused("/1")) == ("body_too_large", "body_too_large")
        assert on_disk(tmp_path) == []
        here.stored(b"x" * 2 * MB)
        assert (refused(""), refused("/1")) == ("quota_spent", "quota_spent")
        assert len(on_disk(tmp_path)) == 1


def test_a_compressed_body_is_not_mistaken_for_the_file(here: Site) -> None:
    upload, _ = here.initiated()
    status, told = here.json("PUT", upload, b"x", headers={"content-encoding": "gzip"}, key=None)
    assert (status, "compressed" in told["message"]) == (400, True)
    assert on_disk(here.folder) == []


def test_the_log_tells_of_files_without_the_right_to_them(here: Site, caplog: pytest.LogCaptureFixture) -> None:
    def told() -> list[str]:
        return [line for line in caplog.text.splitlines() if "/fal/cdn/" in line]

    with caplog.at_level("INFO", "sensorium.hub"):
        upload, link = here.initiated()
        here.call("PUT", f"{upload}/1", b"x", key=None)
        here.call("GET", link, key=None)
        eventually(lambda: len(told()) == 2)  # the line is written after the reply
    lines = told()
    for right in (upload.rpartition("/")[2], link.removeprefix(here.base + filelinks.PREFIX).partition("/")[0]):
        assert not any(right[12:40] in line for line in lines)


def test_a_caller_that_leaves_in_the_middle_leaves_nothing(here: Site) -> None:
    upload, link = here.initiated()
    connection = HTTPConnection(here.base.removeprefix("http://"), timeout=10)
    connection.putrequest("PUT", urlsplit(upload).path)
    connection.putheader("content-length", "500")
    connection.endheaders()
    connection.send(b"x" * 100)
    while not on_disk(here.folder):
        pass
    connection.close()
    while on_disk(here.folder):
        pass
    assert here.call("GET", link, key=None)[0].status == 404
    assert here.json("PUT", upload, b"x" * 500, key=None)[0] == 200


# Own files


def test_own_files_are_listed_told_and_deleted(here: Site) -> None:
    links = []
    for number in range(3):
        here.clock.now += 1
        links.append(here.stored(b"%d" % number))
    here.stored(key="bob")
    status, page = here.json("GET", "/v1/files?limit=2")
    assert (status, page["has_more"], [file["filename"] for file in page["data"]]) == (200, True, ["a.txt"] * 2)
    status, rest = here.json("GET", f"/v1/files?limit=2&after={page['data'][-1]['id']}")
    assert (rest["has_more"], len(rest["data"])) == (False, 1)
    oldest = rest["data"][0]
    assert here.call("GET", oldest["url"], key=None)[1] == here.call("GET", links[0], key=None)[1] == b"0"
    assert here.json("GET", f"/v1/files/{oldest['id']}") == (200, oldest)
    assert (oldest["bytes"], oldest["content_type"], oldest["expires_at"]) == (1, "text/plain", oldest["created_at"] + 1000)
    for method in ("GET", "DELETE"):
        for name in (oldest["id"], "x", "..%2f.."):
            assert here.json(method, f"/v1/files/{name}", key="bob")[0] == 404
    assert here.json("DELETE", f"/v1/files/{oldest['id']}")[1]["deleted"] is True
    assert here.call("GET", links[0], key=None)[0].status == 404
    for wrong in ("limit=0", "limit=101", "limit=x", f"limit={'9' * 5000}"):
        assert here.json("GET", f"/v1/files?{wrong}")[0] == 400
    assert here.json("GET", "/v1/files?after=x")[0] == 404
    assert here.json("GET", "/v1/files", key=None)[0] == 401


# Large files


def pieces(number: int) -> bytes:
    """10 MiB that are those of this part alone."""
    return number.to_bytes(4, "big") * (10 * MB // 4)


def test_javascript_uploads_101_megabytes_in_parts(tmp_path: Path, watched: list[int]) -> None:
    with site(tmp_path, **LARGE) as here:
        _, told = here.json("POST", MULTIPART, {"file_name": "film.mp4", "content_type": "video/mp4"})
        parts, whole = [], hashlib.sha256()
        for number in range(1, 12):
            data = pieces(number)[: None if number < 11 else MB]
            whole.update(data)
            parts.append(here.json("PUT", f"{told['upload_url']}/{number}", data, key=None)[1])
        status, done = here.json("POST", f"{told['upload_url']}/complete", {"parts": parts}, key=None)
        assert (status, done["file_size"], done["etag"]) == (200, 101 * MB, f'"{whole.hexdigest()}"')
        assert_whole(told["file_url"], whole.hexdigest(), 101 * MB)
        assert max(watched) <= PIECE + 256 * 1024
        assert len(on_disk(tmp_path)) == 1


def test_python_uploads_101_megabytes_ten_parts_at_once_in_no_order(tmp_path: Path, watched: list[int]) -> None:
    with site(tmp_path, **LARGE) as here:
        token = here.json("POST", TOKEN, {})[1]
        headers = {"authorization": f"Bearer {token['token']}", "content-type": "video/mp4", "x-fal-file-name": "film.mp4"}
        _, begun = here.json("POST", f"{token['base_url']}/files/upload/multipart", b"", headers=headers, key=None)
        url = f"{begun['access_url']}/multipart/{begun['uploadId']}"

        def put(number: int) -> dict[str, Any]:
            data = pieces(number)[: None if number < 11 else MB]
            reply, _ = here.call("PUT", f"{url}/{number}", data, headers, key=None)
            assert reply.status == 200
            return {"partNumber": number, "etag": reply.headers["etag"]}

        with ThreadPoolExecutor(10) as pool:
            parts = list(pool.map(put, [11, *range(10, 0, -1)]))
        assert here.json("POST", f"{url}/complete", {"parts": parts}, headers=headers, key=None)[0] == 200
        whole = hashlib.sha256(b"".join(pieces(number)[: None if number < 11 else MB] for number in range(1, 12)))
        assert_whole(begun["access_url"], whole.hexdigest(), 101 * MB)
        assert max(watched) <= PIECE + 256 * 1024


def assert_whole(link: str, sha256: str, size: int) -> None:
    with httpx.Client() as client, client.stream("GET", link) as reply:
        digest, got = hashlib.sha256(), 0
        for piece in reply.iter_bytes():
            digest.update(piece)
            got += len(piece)
    assert (reply.status_code, got, digest.hexdigest()) == (200, size, sha256)


# The official Python client, unmodified


@pytest.fixture
def spoken_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A hub that the official client's module constants lead to; its tokens are of the real time, since the client compares them."""
    with site(tmp_path / "hub", **LARGE) as here:
        here.clock.now = datetime.now(UTC).timestamp()
        monkeypatch.setattr(fal_client.client, "REST_URL", f"{here.base}/fal/rest")
        monkeypatch.setattr(fal_client.client, "CDN_URL", f"{here.base}/fal/cdn")
        yield here


@pytest.fixture
def client(spoken_to: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[fal_client.SyncClient]:
    """As it comes; only the connections for uploads, which it leaves open, are closed at the end."""
    connected, left_open = fal_client.SyncClient._get_cdn_client, list[httpx.Client]()

    def remembered(client: fal_client.SyncClient) -> httpx.Client:
        left_open.append(connected(client))
        return left_open[-1]

    monkeypatch.setattr(fal_client.SyncClient, "_get_cdn_client", remembered)
    client = fal_client.SyncClient(key="ada", default_timeout=30)
    yield client
    for one in (client._client, *left_open):
        one.close()


def test_the_client_uploads_bytes_files_and_pictures(spoken_to: Site, client: fal_client.SyncClient, tmp_path: Path) -> None:
    link = client.upload(b"hello", "text/plain", "grüße.txt")
    assert spoken_to.call("GET", link, key=None)[1] == b"hello"
    (tmp_path / "b.json").write_text('{"a":1}')
    reply, raw = spoken_to.call("GET", client.upload_file(tmp_path / "b.json"), key=None)
    assert (reply.headers["content-type"], raw) == ("application/json", b'{"a":1}')
    assert {file.name for file in spoken_to.files.listed("ada", 10)} == {"grüße.txt", "b.json"}


def test_the_client_says_how_long_and_for_whom(spoken_to: Site, client: fal_client.SyncClient) -> None:
    c = fal_client.client
    lives = c.StorageSettings(expires_in="1h", initial_acl=c.StorageACL(default="hide", rules=[c.StorageACLRule("bob", "allow")]))
    link = client.upload(b"hello", "text/plain", "a.txt", lifecycle=lives)
    (file,) = spoken_to.files.listed("ada", 10)
    assert file.expires_at == spoken_to.clock.now + 3600
    assert [spoken_to.call("GET", link, key=key)[0].status for key in ("bob", "carl")] == [200, 404]


def test_the_client_uses_the_older_store(spoken_to: Site, client: fal_client.SyncClient) -> None:
    link = client.upload(b"hello", "text/plain", "a.txt", repository="fal")
    assert spoken_to.call("GET", link, key=None)[1] == b"hello"


def test_the_client_uploads_a_file_above_100_megabytes(spoken_to: Site, client: fal_client.SyncClient, tmp_path: Path) -> None:
    large, whole = tmp_path / "large.bin", hashlib.sha256()
    with large.open("wb") as file:
        for number in range(11):
            file.write(pieces(number))
            whole.update(pieces(number))
    link = client.upload_file(large)
    assert_whole(link, whole.hexdigest(), 110 * MB)
    assert len(on_disk(spoken_to.folder)) == 1


def test_the_asynchronous_client(spoken_to: Site, tmp_path: Path) -> None:
    async def uploaded() -> str:
        client = fal_client.AsyncClient(key="bob", default_timeout=30)
        link = await client.upload(b"hello", "text/plain", "a.txt")
        await (await client._client).aclose()
        return link

    link = asyncio.run(uploaded())
    assert spoken_to.call("GET", link, key=None)[1] == b"hello"


def test_the_client_is_told_what_is_wrong(spoken_to: Site, client: fal_client.SyncClient) -> None:
    with pytest.raises(fal_client.client.FalClientHTTPError) as refused:
        client.upload(b"x", "no type", "a.txt", fallback_repository=[])
    assert refused.value.status_code == 400
    assert "no content type" in str(refused.value.message)
