"""A picture's address in a chat call: nothing that is not public is connected to, however it is written; what the operator lists is.

A real hub with its engine. On this machine listeners wait that count every connection.
"""

from __future__ import annotations

import io
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.hub_process import running_hub


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(out, "PNG")
    return out.getvalue()


PICTURE = png()
FOUND = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(PICTURE), PICTURE)
# every spelling of this machine, and hosts of each network that is not public
HERE = [
    *("127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.0.0.01"),
    *("0.0.0.0", "0", "0x0", "localhost", "localhost.", "LOCALHOST", "127.255.255.254", "１２７.0.0.1", "127。0。0。1", "ⓛocalhost"),
    *(
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ),
]
ELSEWHERE = [
    *("169.254.169.254", "[::ffff:a9fe:a9fe]", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "169.254.43518", "[64:ff9b::a9fe:a9fe]"),
    *(
        "169.254.1.1",
        "169.254.170.2",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "[fd00:ec2::254]",
        "metadata",
        "metadata.google.internal",
    ),
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "0x0a000001", "167772161", "012.0.0.1", "10.1", "[::ffff:10.0.0.1]"),
    *("100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "240.0.0.1", "255.255.255.255", "0.1.2.3", "[fc00::1]", "[fd12:3456::1]", "[fe80::1]", "[fe80::1%25eth0]", "[fec0::1]"),
    *("[ff02::1]", "[2001:db8::1]", "[2001::1]", "[2002:a00:1::]", "[3fff::1]", "[100::1]", "[5f00::1]", "[::ffff:0:127.0.0.1]"),
]
ODD = [
    *("http://user:word@127.0.0.1:{port}/a.png", "http://127.0.0.1:{port}@example.invalid/", "http://example.invalid@127.0.0.1:{port}/"),
    *(
        "http://example.invalid\\@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}\\.example.invalid/",
        "http:127.0.0.1:{port}",
        "http:/127.0.0.1:{port}/",
    ),
    *(
        "//127.0.0.1:{port}/a.png",
        "http:///127.0.0.1:{port}/",
        "http://127.0.0.1 :{port}/",
        "http://127.0.0.1\t:{port}/",
        " http://127.0.0.1:{port}/",
    ),
    *("http://127.0.0.1\n:{port}/", "http://127.0.0.1%2f:{port}/", "http://127.0.0.1%00:{port}/", "http://%31%32%37.0.0.1:{port}/"),
    *(
        "hTTp://127.0.0.1:{port}/",
        "ftp://127.0.0.1:{port}/a.png",
        "gopher://127.0.0.1:{port}/",
        "file:///etc/hostname",
        "dict://127.0.0.1:{port}/",
    ),
    *(
        "http://127.0.0.1:{port}#@example.invalid/",
        "http://[::1]:{port}@example.invalid:80/",
        "http://127.0.0.1:0{port}/",
        "ws://127.0.0.1:{port}/",
    ),
    *(
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:-1/",
        "http://:{port}/",
        "http://.:{port}/",
        "http://[127.0.0.1]:{port}/",
        "http://[::1:{port}/",
    ),
]


class Listener:
    """Answers every connection on a port of this machine with `reply`; `reached` counts them."""

    def __init__(self, reply: bytes = FOUND) -> None:
        self.reply, self.reached = reply, 0
        self._servers = [socket.create_server(("127.0.0.1", 0))]
        self.port = self._servers[0].getsockname()[1]
        with suppress(OSError):  # a machine without IPv6
            self._servers.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        self._threads = [threading.Thread(target=self._serve, args=(server,), daemon=True) for server in self._servers]
        for thread in self._threads:
            thread.start()

    def _serve(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                caller, _ = server.accept()
                self.reached += 1
                with suppress(OSError), caller:
                    caller.settimeout(5)
                    caller.recv(65536)
                    caller.sendall(self.reply)

    def close(self) -> None:
        for server in self._servers:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()
        for thread in self._threads:
            thread.join(10)


@contextmanager
def listening(reply: bytes = FOUND) -> Iterator[Listener]:
    listener = Listener(reply)
    try:
        yield listener
    finally:
        listener.close()


def moved(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()


def looked_at(hub: str, url: str) -> tuple[int, dict[str, Any]]:
    parts = [{"type": "text", "text": "Describe this image."}, {"type": "image_url", "image_url": {"url": url}}]
    body = json.dumps({"model": "sensorium/scenes-vlm", "messages": [{"role": "user", "content": parts}]}).encode()
    request = urllib.request.Request(f"{hub}/v1/chat/completions", body, {"content-type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def refused(hub: str, url: str) -> None:
    status, reply = looked_at(hub, url)
    assert (status, reply.get("error", {}).get("code")) in ((400, "address_refused"), (400, "invalid_image")), (url, status, reply)
    assert reply["error"]["param"] == "messages[0].content[1]", url
    assert "not be fetched" not in reply["error"]["message"], (url, reply)  # it was tried


def test_nothing_that_is_not_public_is_connected_to(hub: str) -> None:
    with listening() as listener:
        for host in HERE:
            refused(hub, f"http://{host}:{listener.port}/a.png")
        for host in (*HERE, *ELSEWHERE):
            refused(hub, f"http://{host}/a.png")
            refused(hub, f"https://{host}:{listener.port}/a.png")
        for url in ODD:
            refused(hub, url.format(port=listener.port))
        assert listener.reached == 0


def test_what_the_operator_lists_is_reached_as_it_is_written_and_nothing_beside_it(tmp_path: Path) -> None:
    with listening() as fine, listening() as other:
        away = [
            *(
                f"http://127.0.0.1:{other.port}/",
                f"http://[::1]:{fine.port}/",
                "http://169.254.169.254/latest/meta-data/",
                "file:///etc/hostname",
            ),
            *(f"//127.0.0.1:{other.port}/a.png", f"http://user@127.0.0.1:{fine.port}/", f"http://0x7f000001:{fine.port}/", "http://[::1"),
        ]
        with listening() as moving:
            listed = (f"127.0.0.1:{fine.port}", f"LocalHost:{fine.port}", f"127.0.0.1:{moving.port}")
            with running_hub(tmp_path, *(f"--allow-egress={entry}" for entry in listed)) as hub:
                for host in ("127.0.0.1", "127.0.0.1.", "localhost", "LOCALHOST", "localhost."):
                    assert looked_at(hub, f"http://{host}:{fine.port}/a.png")[0] == 200, host
                reached = fine.reached
                assert reached == 5
                for host in set(HERE) - {"127.0.0.1", "127.0.0.1.", "localhost", "localhost.", "LOCALHOST"}:
                    if looked_at(hub, f"http://{host}:{fine.port}/a.png")[0] == 200:
                        # full-width letters are the same name
                        reached += 1
                        assert not host.isascii(), host
                refused(hub, f"http://127.0.0.1:{other.port}/a.png")
                for location in away:
                    moving.reply = moved(location)
                    refused(hub, f"http://127.0.0.1:{moving.port}/a.png")
                moving.reply = moved(f"http://localhost:{fine.port}/a.png")
                assert looked_at(hub, f"http://127.0.0.1:{moving.port}/a.png")[0] == 200
                assert (fine.reached, other.reached, moving.reached) == (reached + 1, 0, len(away) + 1)


@pytest.mark.parametrize("path", ["/v1/genai/sensorium/scenes-flow", "/v1/embeddings", "/v1/images/generations"])
def test_no_other_door_fetches_what_it_is_told(hub: str, path: str) -> None:
    with listening() as listener:
        url = f"http://127.0.0.1:{listener.port}/a.png"
        body = {"model": "sensorium/scenes-flow", "prompt": "a red cube", "image": url, "image_url": url, "url": url, "webhook_url": url}
        request = urllib.request.Request(hub + path, json.dumps(body).encode(), {"content-type": "application/json"})
        with (
            suppress(urllib.error.HTTPError),
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as reply,
        ):
            reply.read()
        assert listener.reached == 0
