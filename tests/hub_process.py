"""A real hub in a process of its own, as tests of the command line, the docs and the clients need it, and a look at what it drew."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def hub_environment(**extra: str) -> dict[str, str]:
    """This process's environment without what it says about hubs and proxies, and with the package in reach."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("MAC_") and not name.lower().endswith("_proxy")}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), kept.get("PYTHONPATH", "")]).rstrip(os.pathsep)} | extra


def hub_command(data_dir: Path, port: int, *arguments: str) -> list[str]:
    """The command line of a hub."""
    return [sys.executable, "-m", "sensorium.cli", "serve", "--port", str(port), "--data-dir", str(data_dir), *arguments]


@contextmanager
def start_hub(data_dir: Path, port: int, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A hub process, ready for calls; it is stopped at the end, if it has not ended by itself."""
    said = data_dir / "said.txt"
    with said.open("wb") as output:
        command = hub_command(data_dir, port, *arguments)
        process = subprocess.Popen(
            command, env=hub_environment(**environment), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}", process, said)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextmanager
def running_hub(data_dir: Path, *arguments: str, port: int | None = None, **environment: str) -> Iterator[str]:
    """A hub process with the shipped models, ready for calls, on `port` or a free one; yields its base URL."""
    port = port or free_port()
    with start_hub(data_dir, port, *arguments, **environment):
        yield f"http://127.0.0.1:{port}"


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], said: Path, patience: float = 60.0) -> None:
    give_up = time.monotonic() + patience
    while not _is_ready(url):
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            if time.monotonic() < give_up:
                continue
        raise RuntimeError(f"the hub is not ready (exit code {process.poll()}):\n{said.read_text('utf-8', 'replace')}")


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/readyz", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def image_format(path: Path) -> str | None:
    """The format of a picture file, once all of it has been decoded."""
    with Image.open(path) as picture:
        picture.load()
        return picture.format
