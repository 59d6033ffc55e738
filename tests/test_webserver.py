"""The listening socket of hub, engines and simulators."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from sensorium.errors import SettingsError
from sensorium.webserver import address, listen


def test_its_connections_send_small_pieces_at_once() -> None:
    with closing(listen("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as taken:
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_port_that_is_taken_is_told_with_its_setting() -> None:
    with closing(listen("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert address(listener) == f"http://127.0.0.1:{port}"
        with pytest.raises(SettingsError, match=f"server.port: 127.0.0.1 port {port} .* another program listens there"):
            listen("127.0.0.1", port, "server.port")
