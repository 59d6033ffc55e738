"""The vault's door: values go in and never come out, and only administrators reach it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sensorium.api.auth import Auth, Principal
from sensorium.api.router import Entry, Router
from sensorium.api.secrets import SecretsDoor
from sensorium.api.visit import Visit
from sensorium.store.database import Database
from sensorium.store.masterkey import KeyFile
from sensorium.store.vault import Vault
from sensorium.wire import openai
from tests.api.hubs import Hub
from tests.serving import serving
from tests.store.vaults import HOST, URL, every_byte, opened

PATH = "/v1/secrets/nvidia-image"
CANARY = "nvapi-CANARY-q7Jx2"


class Agents(Auth):
    """Knows every caller as an agent, as a hub with tokens of many kinds would."""

    def __call__(self, visit: Visit) -> Principal:
        return Principal("agent-7")


@contextmanager
def running(folder: Path, auth: Auth) -> Iterator[tuple[Hub, Vault]]:
    with closing(Database(folder)) as database:
        vault = Vault(database, KeyFile(folder / "master.key"))
        door = SecretsDoor(vault, lambda name: {"nvidia-image": (HOST,)}.get(name, ()))
        entries = [
            Entry("GET", "/v1/secrets", door.entries, openai.error),
            Entry("GET", "/v1/secrets/*", door.entry, openai.error),
            Entry("PUT", "/v1/secrets/*", door.put, openai.error),
            Entry("DELETE", "/v1/secrets/*", door.remove, openai.error),
        ]
        with serving(Router(entries, auth, lambda _: openai.error, 2**20)) as base:
            yield Hub(base, []), vault


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Hub, Vault]]:
    with running(tmp_path, Auth(None)) as served:
        yield served


def test_a_secret_is_stored_listed_and_removed_without_ever_being_shown(served: tuple[Hub, Vault]) -> None:
    hub, vault = served
    stored = hub.json("PUT", PATH, {"value": CANARY, "hosts": [HOST]})
    shown = {"object": "secret", "name": "nvidia-image", "version": 1, "hosts": [HOST], "previous": False, "state": "ready", "reason": None}
    assert stored[0] == 200
    assert stored[1] == shown | {"created_at": stored[1]["created_at"], "warnings": []}
    assert vault.reveal("nvidia-image", URL).value == CANARY
    assert hub.json("GET", PATH) == (200, shown | {"created_at": stored[1]["created_at"]})
    assert hub.json("GET", "/v1/secrets")[1]["data"] == [hub.json("GET", PATH)[1]]
    assert hub.json("DELETE", PATH) == (200, {"object": "secret", "name": "nvidia-image", "deleted": True})
    assert hub.json("GET", "/v1/secrets") == (200, {"object": "list", "data": []})
    assert [(row.who, row.action) for row in vault.audit()] == [("api:local", "remove"), ("api:local", "put")]


def test_one_call_rotates_and_a_refused_key_is_cured(served: tuple[Hub, Vault]) -> None:
    hub, vault = served
    assert hub.json("PUT", PATH, {"value": "nvapi-1"})[1]["hosts"] == [HOST]  # from the settings
    vault.mark_refused("nvidia-image", vault.reveal("nvidia-image", URL).version)
    assert hub.json("GET", PATH)[1]["state"] == "refused"
    status, told = hub.json("PUT", PATH, {"value": "nvapi-2"})
    assert (status, told["version"], told["previous"], told["state"]) == (200, 2, True, "ready")
    assert vault.reveal("nvidia-image", URL).value == "nvapi-2"


def test_a_rotation_from_another_process_is_shown(served: tuple[Hub, Vault], tmp_path: Path) -> None:
    hub, vault = served
    hub.json("PUT", PATH, {"value": "nvapi-1"})
    with opened(tmp_path) as other:
        other.rotate("nvidia-image", "nvapi-2", who="cli:ann")
    assert hub.json("GET", PATH)[1]["version"] == 2
    assert vault.reveal("nvidia-image", URL).value == "nvapi-2"


def test_a_key_of_somebody_else_is_stored_with_a_warning(served: tuple[Hub, Vault]) -> None:
    warnings = served[0].json("PUT", "/v1/secrets/openai", {"value": CANARY, "hosts": ["api.openai.com"]})[1]["warnings"]
    assert "looks like a key of build.nvidia.com" in warnings[0]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/secrets/none", None, 404, "secret_not_found"),
        ("DELETE", "/v1/secrets/none", None, 404, "secret_not_found"),
        ("GET", "/v1/secrets/", None, 404, "secret_not_found"),
        ("PUT", "/v1/secrets/", {"value": CANARY}, 400, "invalid_secret"),
        ("PUT", "/v1/secrets/a%2Fb", {"value": CANARY, "hosts": [HOST]}, 400, "invalid_secret"),
        ("PUT", "/v1/secrets/..", {"value": CANARY, "hosts": [HOST]}, 400, "invalid_secret"),
        ("PUT", "/v1/secrets/new", {"value": CANARY}, 400, "invalid_secret"),
        ("PUT", PATH, {"value": CANARY, "hosts": ["https://a.example/v1"]}, 400, "invalid_secret"),
        ("PUT", PATH, {"value": f"Bearer {CANARY}"}, 400, "invalid_secret"),
        ("PUT", PATH, {"value": f"{CANARY}\r\nx: y"}, 400, "invalid_secret"),
        ("PUT", PATH, {"value": ""}, 400, "invalid_secret"),
        ("PUT", PATH, {"value": CANARY, CANARY: 1}, 400, "invalid_request"),
        ("PUT", PATH, {"value": [CANARY]}, 400, "invalid_request"),
        ("PUT", PATH, {"value": CANARY, "hosts": HOST}, 400, "invalid_request"),
        ("PUT", PATH, CANARY.encode(), 400, "invalid_request"),
        ("PUT", PATH, b'{"value": "' + CANARY.encode() + b'\xff"}', 400, "invalid_request"),
        ("PUT", PATH, b"", 400, "invalid_request"),
        ("PUT", PATH, b" " * 70_000, 413, "body_too_large"),
        ("POST", PATH, {"value": CANARY}, 405, "method_not_allowed"),
    ],
)
def test_what_cannot_be_done_is_told_without_repeating_the_value(
    served: tuple[Hub, Vault], method: str, path: str, body: Any, status: int, code: str
) -> None:
    hub, vault = served
    reply, raw = hub.call(method, path, body)
    assert (reply.status, code in raw.decode()) == (status, True), raw
    assert b"CANARY" not in raw
    assert vault.entries() == []


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/secrets"), ("GET", PATH), ("PUT", PATH), ("DELETE", PATH)])
def test_only_administrators_get_in(tmp_path: Path, method: str, path: str) -> None:
    body = {"value": CANARY, "hosts": [HOST]} if method == "PUT" else None
    with running(tmp_path / "token", Auth("sesame")) as (hub, vault):
        assert hub.json(method, path, body)[0] == 401
        assert hub.json(method, path, body, {"authorization": "Bearer wrong"})[0] == 401
        assert vault.entries() == []
        assert hub.call(method, path, body, {"authorization": "Bearer sesame"})[0].status == (404 if path == PATH and body is None else 200)
    with running(tmp_path / "agent", Agents(None)) as (hub, vault):
        status, told = hub.json(method, path, body)
        assert (status, told["error"]["code"]) == (403, "missing_scope")
        assert "lacks the scope admin" in told["error"]["message"]
        assert vault.entries() == []


def test_no_reply_header_log_or_file_holds_the_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), running(tmp_path, Auth(None)) as (hub, _):
        for method, body in (("PUT", {"value": CANARY}), ("PUT", {"value": f"{CANARY} 2"}), ("GET", None), ("DELETE", None)):
            reply, raw = hub.call(method, PATH, body)
            assert "CANARY" not in f"{reply.getheaders()} {raw!r}"
            assert reply.getheader("cache-control") == "no-store" or reply.status != 200
        files = every_byte(tmp_path)
        for _ in range(100):  # the line is written once the answer is out, so it may come after it
            if any("DELETE" in record.getMessage() for record in caplog.records):
                break
            hub.call("GET", "/v1/secrets")
    assert b"CANARY" not in files + every_byte(tmp_path)
    assert "DELETE" in caplog.text and "CANARY" not in caplog.text
