"""The first five minutes: start a hub, draw a picture, ask what is in it, and print calls to paste into a second terminal.

    python examples/first_run.py [--port 8789] [--once]

`make run` calls this. With --once it stops after the picture and exits 0 only if both senses worked.
Standard library only; everything it does goes through the `sensorium` command, as a user would do it.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PROMPT = "a red cube on a white table"
EXPECTED = ("red cube", "white table")
PICTURE = Path("out", "red-cube.png")
PATIENCE_S = 60.0
SENSORIUM = [sys.executable, "-m", "sensorium.cli"]


def main() -> int:
    """Run the tour; the exit code says whether drawing and seeing both worked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8789)
    parser.add_argument("--once", action="store_true", help="stop after the picture")
    options = parser.parse_args()
    if not is_free(options.port):
        print(f"Port {options.port} is taken, perhaps by a hub that is already running. Choose another: make run PORT={options.port + 1}")
        return 1
    url = f"http://127.0.0.1:{options.port}"
    hub = subprocess.Popen([*SENSORIUM, "serve", "--port", str(options.port)])
    try:
        if not wait_until_ready(url, hub):
            return 1
        worked = tour(url)
        if options.once or not worked:
            return 0 if worked else 1
        print(f"\nServing {url} until Ctrl-C.", flush=True)
        return hub.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        stop(hub)


def tour(url: str) -> bool:
    """Draw, look, and print the calls to paste. False when a command failed or the description misses what was drawn."""
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.unlink(missing_ok=True)
    if command(url, "draw", PROMPT, "-o", str(PICTURE), "--seed", "3") is None or not is_png(PICTURE):
        print(f"Drawing failed: {PICTURE} is not a picture.")
        return False
    description = command(url, "see", str(PICTURE))
    if description is None:
        return False
    missing = [words for words in EXPECTED if words not in description.lower()]
    if missing:
        print(f"The description does not name {' and '.join(missing)}.")
        return False
    print("\nPaste one of these into another terminal:\n")
    print("\n\n".join(curl_lines(url, PICTURE.resolve(), bool(os.environ.get("MAC_API_TOKEN")))), flush=True)
    return True


def command(url: str, *arguments: str) -> str | None:
    """Run `sensorium ARGUMENTS`, showing both the command and what it prints; None when it failed."""
    print(f"\n$ sensorium {shlex.join(arguments)}", flush=True)
    result = subprocess.run([*SENSORIUM, *arguments], env={**os.environ, "MAC_HUB_URL": url}, stdout=subprocess.PIPE, text=True)
    print(result.stdout, end="", flush=True)
    return result.stdout if result.returncode == 0 else None


def curl_lines(url: str, picture: Path, token: bool) -> list[str]:
    """Calls that work as pasted: look at a picture of any size, draw with schnell, draw with dev."""
    post = "curl -fsS -H 'Content-Type: application/json'" + (' -H "Authorization: Bearer $MAC_API_TOKEN"' if token else "")
    head = (
        '{"model":"*","max_tokens":300,"messages":[{"role":"user","content":['
        '{"type":"text","text":"Describe this image."},{"type":"image_url","image_url":{"url":"data:image/png;base64,'
    )
    vision = (
        f"{{ printf %s '{head}'; base64 < {shlex.quote(str(picture))} | tr -d '\\r\\n'; printf %s '\"}}}}]}}]}}'; }}"
        f" | {post} --data-binary @- {url}/v1/chat/completions"
    )
    drawings = [
        f'{post} -H \'Accept: image/png\' -d \'{{"prompt":"{PROMPT}","steps":{steps},"seed":1}}\''
        f" -o {name}.png {url}/v1/genai/black-forest-labs/flux.1-{name}"
        for name, steps in (("schnell", 4), ("dev", 8))
    ]
    return [vision, *drawings]


def is_free(port: int) -> bool:
    """Whether a server can listen on this port of this machine."""
    with socket.socket() as probe:
        if os.name != "nt":  # elsewhere the option lets two servers share a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_png(picture: Path) -> bool:
    """Whether the file starts as a PNG of at least one pixel; `sensorium see` decodes the rest."""
    start = picture.read_bytes()[:24] if picture.is_file() else b""
    return bool(re.match(rb"\x89PNG\r\n\x1a\n.{4}IHDR", start, re.DOTALL)) and min(start[16:20], start[20:24]) > bytes(4)


def wait_until_ready(url: str, hub: subprocess.Popen[bytes]) -> bool:
    """True once the hub and its models answer; False, having said why, when it exits or takes too long."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        try:
            with opener.open(f"{url}/readyz", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if hub.poll() is not None:
                print(f"The hub did not start (exit code {hub.returncode}).")
                return False
            time.sleep(0.1)
    print(f"The hub was not ready after {PATIENCE_S:.0f} seconds; {url}/readyz says what is missing.")
    return False


def stop(hub: subprocess.Popen[bytes]) -> None:
    """Let the hub finish what it is doing, and insist when it does not."""
    if hub.poll() is None:
        hub.terminate()
    try:
        hub.wait(30)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        hub.kill()
        hub.wait()


if __name__ == "__main__":
    sys.exit(main())
