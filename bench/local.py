"""How fast, how small, how soon: the shipped models on one core, through the engine's HTTP as the hub calls it.

    python bench/local.py [--captions 60] [--images 30] [--install]

Everything runs pinned to one core where the system allows it, with one BLAS thread. MB is 10^6 bytes. `--install` measures the
size of a fresh virtual environment (needs a package index); without it the files of the installed default dependencies are
summed. The last line is JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder: its queue.py would hide the standard library's

import argparse
import asyncio
import base64
import http.client
import importlib.metadata
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sensorium.app import shipped_models
from sensorium.engines.supervisor import EngineProcess

ROOT = Path(__file__).parent.parent
PROMPT = "a red cube on a white table"
GOALS = {
    "caption_p50_ms": 25.0,
    "image_p50_ms": 120.0,
    "ready_s": 2.0,
    "hub_rss_mb": 120.0,
    "engine_rss_mb": 200.0,
    "import_s": 0.3,
    "install_mb": 250.0,
}
WARM_UP = 5


def main() -> None:
    """Measure everything, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=60)
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--install", action="store_true", help="install into a fresh virtual environment to measure its size")
    options = parser.parse_args()
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    os.environ.pop("MAC_API_TOKEN", None)
    install_mb = fresh_install_mb() if options.install else installed_mb()
    pinned = pin_to_one_core()
    with tempfile.TemporaryDirectory() as folder:
        caption, image = asyncio.run(through_the_engine(Path(folder), options.captions, options.images))
        ready, hub_mb, engine_mb = through_the_hub(Path(folder))
    figures = {
        "caption_p50_ms": round(1000 * statistics.median(caption), 1),
        "image_p50_ms": round(1000 * statistics.median(image), 1),
        "ready_s": round(ready, 2),
        "hub_rss_mb": round(hub_mb, 1),
        "engine_rss_mb": round(engine_mb, 1),
        "import_s": round(import_seconds(), 3),
        "install_mb": round(install_mb, 1),
    }
    print(f"{processor()}, {os.cpu_count()} cores, {pinned}; {platform.system()}, Python {platform.python_version()}\n")
    print(f"{'':16}{'figure':>9}{'goal':>9}")
    for name, figure in figures.items():
        print(f"{name:16}{figure:9g}{GOALS[name]:9g}  {'' if figure <= GOALS[name] else 'over'}".rstrip())
    print(f"\np90: caption {1000 * p90(caption):.1f} ms of {len(caption)}, image {1000 * p90(image):.1f} ms of {len(image)}\n")
    print(json.dumps(figures))


async def through_the_engine(folder: Path, captions: int, images: int) -> tuple[list[float], list[float]]:
    """Seconds of each caption and of each 4-step image in native size, over a kept-alive connection to an engine of our own."""
    async with EngineProcess("bench", list(shipped_models()), environment=os.environ, log=folder / "engine.log") as engine:
        await engine.wait_ready()
        return await asyncio.to_thread(time_calls, Caller(engine.base_url, engine.token), captions, images)


def time_calls(call: Caller, captions: int, images: int) -> tuple[list[float], list[float]]:
    """Draw pictures, then describe each of them once, so that none was seen before; seconds of each call, after a warm-up."""
    path = "/v1/genai/sensorium/scenes-flow"
    image = timed(images, lambda number: draw(call, path, number))
    unseen = [draw(call, path, number) for number in range(WARM_UP + captions)]
    return timed(captions, lambda number: describe(call, "sensorium/scenes-vlm", unseen[number])), image


def through_the_hub(folder: Path) -> tuple[float, float, float]:
    """Seconds from start to ready (median of three starts), and after some calls the resident MB of hub and engine."""
    waits = []
    for _ in range(3):
        began = time.perf_counter()
        with hub(folder) as (url, process):
            waits.append(time.perf_counter() - began)
            call = Caller(url, "")
            for number in range(WARM_UP):
                describe(call, "*", draw(call, "/v1/genai/black-forest-labs/flux.1-schnell", number))
            sizes = resident_mb(process.pid), sum(map(resident_mb, children(process.pid)))
    return statistics.median(waits), *sizes


class Caller:
    """One kept-alive connection; `call(path, body)` posts JSON and returns the decoded reply."""

    def __init__(self, url: str, token: str | None) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )

    def __call__(self, path: str, body: dict[str, Any]) -> Any:
        self._connection.request("POST", path, json.dumps(body), self._headers)
        reply = self._connection.getresponse()
        data = reply.read()
        if reply.status != 200:
            raise SystemExit(f"POST {path} answered {reply.status}: {data[:300].decode('utf-8', 'replace')}")
        return json.loads(data)


def draw(call: Caller, path: str, seed: int) -> str:
    """One 4-step picture as base64."""
    return str(call(path, {"prompt": PROMPT, "steps": 4, "seed": seed + 1})["artifacts"][0]["base64"])


def describe(call: Caller, model: str, picture: str) -> str:
    """One description. It is timed whatever it says; when it misses what was drawn, a note tells."""
    kind = "png" if base64.b64decode(picture[:16]).startswith(b"\x89PNG") else "jpeg"
    parts = [
        {"type": "text", "text": "Describe this image."},
        {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{picture}"}},
    ]
    said = str(
        call("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": parts}]})["choices"][0]["message"]["content"]
    )
    if "cube" not in said:
        print(f"note: the picture was described as {said!r}", file=sys.stderr)
    return said


def timed(count: int, work: Callable[[int], object]) -> list[float]:
    """Seconds of each of `count` runs, after a warm-up."""
    taken = []
    for number in range(WARM_UP + count):
        began = time.perf_counter()
        work(number)
        taken.append(time.perf_counter() - began)
    return taken[WARM_UP:]


@contextmanager
def hub(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A hub on a free port, entered when it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "sensorium.cli", "serve", "--port", str(port), "--data-dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is None and answers(f"{url}/readyz", ""))
        yield url, process
    finally:
        process.terminate()
        process.wait(30)


def wait_until(done: Callable[[], bool], patience: float = 60.0) -> None:
    """Ask every 5 ms until it is so."""
    give_up = time.monotonic() + patience
    while not done():
        if time.monotonic() > give_up:
            raise SystemExit(f"not ready after {patience:.0f} s")
        time.sleep(0.005)


def answers(url: str, token: str | None) -> bool:
    """Whether a GET is answered with 200."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def pin_to_one_core() -> str:
    """Bind this process and all that it starts to its last core; says what was done."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned (this system cannot)"
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return f"pinned to core {core}"


def children(pid: int) -> list[int]:
    """Process ids of the direct children."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = (map(int, line.split()) for line in listed.splitlines())
    return [child for child, parent in pairs if parent == pid]


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout) * 1024 / 1e6


def import_seconds() -> float:
    """Wall time of `python -c "import sensorium.cli"`, interpreter included: median of five."""
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import sensorium.cli"], check=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def installed_mb() -> float:
    """Size of the default dependencies as installed here, and of the package itself with its models."""
    seen: dict[str, int] = {}
    waiting = re.findall(
        r'^  "([A-Za-z0-9_.-]+)', (ROOT / "pyproject.toml").read_text("utf-8").split("dependencies = [")[1].split("]")[0], re.M
    )
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # needed on other systems only
        if name not in seen:
            paths = [Path(str(file.locate())) for file in found.files or ()]
            seen[name] = sum(path.stat().st_size for path in paths if path.is_file())
            waiting += [re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in found.requires or () if "extra ==" not in line]
    own = sum(path.stat().st_size for path in (ROOT / "src" / "sensorium").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return (own + sum(seen.values())) / 1e6


def fresh_install_mb() -> float:
    """Growth of a new virtual environment by a default install of this repository."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        before = folder_mb(Path(folder))
        python = next(path for path in (Path(folder, "bin", "python"), Path(folder, "Scripts", "python.exe")) if path.exists())
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(ROOT)], check=True
        )
        return folder_mb(Path(folder)) - before


def folder_mb(folder: Path) -> float:
    """Sum of the sizes of all regular files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def p90(taken: list[float]) -> float:
    """The ninth decile."""
    return statistics.quantiles(taken, n=10)[-1]


if __name__ == "__main__":
    main()
