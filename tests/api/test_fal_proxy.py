"""/fal/proxy: the four hosts lead to our own paths, and nothing else leads anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.api import fal_proxy
from sensorium.api.auth import Auth
from sensorium.api.fal_proxy import METHODS, PREFIXES, FalProxy, here
from sensorium.api.router import Entry, Router
from sensorium.api.visit import Visit
from sensorium.wire import fal_errors
from tests.api.hubs import Hub
from tests.serving import serving

TARGET = "x-fal-target-url"


async def show(visit: Visit) -> None:
    """Answers what a door would see of the request."""
    seen = {
        "method": visit.method,
        "path": visit.path,
        "raw_path": visit.raw_path.decode(),
        "query": visit.query.decode(),
        "host": visit.header("host"),
        "priority": visit.header("x-fal-queue-priority"),
        "caller": visit.caller,
        "body": (await visit.whole_body()).decode(),
    }
    await visit.answer(json.dumps(seen).encode())


@pytest.fixture
def hub() -> Iterator[Hub]:
    routes = [Entry(method, f"{prefix}/*", show, fal_errors.error) for prefix in sorted(set(PREFIXES.values())) for method in METHODS]
    routes += [Entry("GET", "/v1/secrets", show, fal_errors.error), *fal_proxy.entries()]
    with serving(FalProxy(Router(routes, Auth("t0ken"), lambda path: fal_errors.error, 4096))) as base:
        yield Hub(base, [])


def through(hub: Hub, target: str, method: str = "POST", body: Any = b"{}", **headers: str) -> tuple[int, Any]:
    given = {"authorization": "Bearer t0ken", TARGET: target} | {name.replace("_", "-"): text for name, text in headers.items()}
    return hub.json(method, "/fal/proxy", body, given)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("https://fal.run/t/echo/sub?prompt=x+y", "/fal/run/t/echo/sub", "prompt=x+y"),
        (
            "https://queue.fal.run/t/echo/sub?fal_webhook=https%3A%2F%2Fmy.app%2Fhook%3Fx%3D1%26y%3D2",
            "/fal/queue/t/echo/sub",
            "fal_webhook=https%3A%2F%2Fmy.app%2Fhook%3Fx%3D1%26y%3D2",
        ),
        ("https://rest.fal.ai/tokens/", "/fal/rest/tokens/", ""),
        (
            "https://rest.alpha.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3",
            "/fal/rest/storage/upload/initiate",
            "storage_type=fal-cdn-v3",
        ),
        ("https://v3.fal.media/files/upload", "/fal/cdn/files/upload", ""),
        ("https://QUEUE.fal.run:443/t/echo#part", "/fal/queue/t/echo", ""),
        ("https://rest.fal.ai", "/fal/rest/", ""),
    ],
)
def test_each_host_leads_to_its_own_path(hub: Hub, target: str, path: str, query: str) -> None:
    status, seen = through(hub, target, x_fal_queue_priority="low")
    assert status == 200
    assert (seen["path"], seen["query"], seen["host"]) == (path, query, hub.address)
    assert (seen["method"], seen["priority"], seen["caller"], seen["body"]) == ("POST", "low", "token", "{}")


@pytest.mark.parametrize("method", METHODS)
def test_the_method_is_kept(hub: Hub, method: str) -> None:
    status, seen = through(hub, "https://fal.run/t/echo", method)
    assert (status, seen["method"]) == (200, method)


def test_an_encoded_path_arrives_as_if_it_had_been_called(hub: Hub) -> None:
    _, seen = through(hub, "https://v3.fal.media/files/a%20b/c%2Fd.txt")
    assert (seen["path"], seen["raw_path"]) == ("/fal/cdn/files/a b/c/d.txt", "/fal/cdn/files/a%20b/c%2Fd.txt")


NOWHERE = [
    "",
    "nonsense",
    "http://fal.run/t/echo",
    "https://fal.run.example/t/echo",
    "https://example.com/",
    "https://127.0.0.1:8789/v1/secrets",
    "https://fal.run:8443/t/echo",
    "https://fal.run:port/t/echo",
    "https://user@fal.run/t/echo",
    "https://fal.run@example.com/",
    "https://example.com\\@fal.run/",
    "https://[fal.run/",
    "//fal.run/t/echo",
    "file:///etc/passwd",
    "https://fal.run/../../v1/secrets",
    "https://fal.run/t/%2e%2e/%2e%2e/v1/secrets",
    "https://fal.run/..%2f..%2fv1/secrets",
    "https://fal.run/..%5c..%5cv1/secrets",
    "https://fal.run/./t",
    "https://fal.run/t echo",
    "https://fal.run./t/echo",
    "https://fál.run/t/echo",
]


@pytest.mark.parametrize("target", NOWHERE)
def test_any_other_target_is_refused(hub: Hub, target: str) -> None:
    status, body = through(hub, target)
    assert (status, body["detail"]) == (400, "Invalid request")
    assert TARGET in body["message"]


def test_a_call_without_a_target_or_with_two_is_refused(hub: Hub) -> None:
    for method in METHODS:
        assert hub.json(method, "/fal/proxy/", b"", {})[0] == 400

    called: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope)

    one = (TARGET.encode(), b"https://fal.run/t/echo")
    scope = {"type": "http", "path": "/fal/proxy", "method": "POST", "headers": [one, one]}
    asyncio.run(FalProxy(app)(scope, None, None))  # type: ignore[arg-type]
    assert called == [scope]


def test_the_hubs_token_is_asked_for_behind_it_as_before_it(hub: Hub) -> None:
    assert hub.json("POST", "/fal/proxy", b"{}", {TARGET: "https://fal.run/t/echo"})[0] == 401


def test_other_paths_go_on_as_they_came(hub: Hub) -> None:
    status, seen = hub.json("POST", "/fal/run/t/echo?a=1", b"{}", {"authorization": "Bearer t0ken", TARGET: "https://queue.fal.run/x"})
    assert (status, seen["path"], seen["query"]) == (200, "/fal/run/t/echo", "a=1")


@given(
    st.text(max_size=60)
    | st.tuples(st.sampled_from(sorted(PREFIXES)), st.text(max_size=40)).map(lambda pair: f"https://{pair[0]}/{pair[1]}")
)
def test_whatever_the_target_it_leads_below_its_prefix_or_nowhere(url: str) -> None:
    target = here(url)
    if target is not None:
        assert target[0].startswith(tuple(f"{prefix}/" for prefix in PREFIXES.values()))
        assert ".." not in target[0].split("/")
