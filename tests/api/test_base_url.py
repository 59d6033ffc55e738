"""How links begin: as the operator says, else as the caller reached the hub."""

from __future__ import annotations

import pytest

from sensorium.api.base_url import base_url
from sensorium.errors import BadRequest
from sensorium.exchange import Exchange, Message


def visit(host: str | None, scheme: str = "http") -> Exchange:
    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    return Exchange({"method": "GET", "path": "/", "scheme": scheme, "headers": headers}, receive, send)


@pytest.mark.parametrize(
    ("host", "scheme", "expected"),
    [
        ("127.0.0.1:8789", "http", "http://127.0.0.1:8789"),
        ("hub.example", "https", "https://hub.example"),
        ("[::1]:8443", "https", "https://[::1]:8443"),
    ],
)
def test_links_follow_the_caller(host: str, scheme: str, expected: str) -> None:
    assert base_url(visit(host, scheme), None) == expected
    assert base_url(visit(host, scheme), "https://public.example/hub/") == "https://public.example/hub"


@pytest.mark.parametrize("host", [None, "", "a b", "user@host", "host/path", "host:port", "a\r\nb", "[::1", "é"])
def test_a_host_that_is_none_makes_no_link(host: str | None) -> None:
    with pytest.raises(BadRequest, match="no link can be made"):
        base_url(visit(host), None)
    assert base_url(visit(host), "http://h") == "http://h"
