"""Finding the handler, and what happens around it."""

from __future__ import annotations

import logging
import socket

import pytest

from tests.api.hubs import Hub


def test_unknown_routes_and_methods_are_told_apart(hub: Hub) -> None:
    assert hub.json("GET", "/v1/nothing")[1]["error"]["code"] == "unknown_route"
    status, reply = hub.json("GET", "/v1/chat/completions")
    assert (status, reply["error"]["code"]) == (405, "method_not_allowed")
    assert "use POST" in reply["error"]["message"]
    assert hub.call("OPTIONS", "/v1/chat/completions")[0].getheader("allow") == "POST"


def test_a_path_cannot_forge_a_log_line(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sensorium.hub"):
        hub.call("GET", "/x%0a2030-01-01%20CRITICAL%20all%20is%20lost")
        for _ in range(100):  # the line is written once the answer is out, so it may come after it
            if any("all is lost" in record.getMessage() for record in caplog.records):
                break
            hub.call("GET", "/healthz")
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert any("all is lost" in record.getMessage() for record in caplog.records)


def test_a_caller_who_leaves_in_the_middle_of_a_refused_body_is_no_fault(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    host, port = hub.address.split(":")
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(b"POST /v1/nothing HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\nhalf")
    assert hub.call("GET", "/healthz")[0].status == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_head_is_answered_without_a_body(hub: Hub) -> None:
    reply, raw = hub.call("HEAD", "/healthz")
    assert (reply.status, raw) == (200, b"")


def test_a_fault_of_ours_shows_nothing_of_ours(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("inner secret")

    monkeypatch.setattr("sensorium.wire.openai.model_list", broken)
    status, reply = hub.json("GET", "/v1/models")
    assert status == 500
    assert "inner secret" not in str(reply) and reply["error"]["request_id"] in reply["error"]["message"]


@pytest.mark.parametrize("given", ["", "bad id", "x" * 129, "naïve"])
def test_a_request_id_that_cannot_be_kept_is_replaced(hub: Hub, given: str) -> None:
    made = hub.call("GET", "/healthz", headers={"x-request-id": given.encode("latin-1").decode("latin-1")})[0].getheader("x-request-id")
    assert made and made != given and len(made) == 32


def test_compressed_bodies_are_refused(hub: Hub) -> None:
    assert hub.json("POST", "/v1/chat/completions", b"{}", {"content-encoding": "gzip"})[0] == 400
