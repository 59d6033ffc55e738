"""The official JavaScript client in a browser, on a page of another origin."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import APP, KEY, Rig
from tests.clients.site import WHOLE, png

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
)
FOREIGN = "app.example"


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    assert found is not None, f"no browser to test with: none of {', '.join(BROWSERS)} is on the path; `make clients` installs chromium"
    return found


@pytest.fixture(scope="module", autouse=True)
def page(rig: Rig, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The page and its script, the client bundled with it, on the site."""
    script = tmp_path_factory.mktemp("page") / "page.js"
    bundler = ["node", "node_modules/esbuild/bin/esbuild", "page.mjs", "--bundle", "--format=esm", f"--outfile={script}"]
    subprocess.run(bundler, cwd=installed, check=True, capture_output=True, timeout=60)
    rig.site.pages["/page.js"] = ("text/javascript", script.read_bytes())
    rig.site.pages["/page.html"] = ("text/html", b'<!doctype html><title>page</title><script type="module" src="page.js"></script>')
    rig.site.pages["/small.png"] = ("image/png", png())


@contextmanager
def opened(browser: str, folder: Path, url: str) -> Iterator[None]:
    """A browser with nothing of an earlier one, on `url`."""
    rules = f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1"
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen([browser, *FLAGS, rules, f"--user-data-dir={folder / 'profile'}", url], stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def told(rig: Rig, browser: str, folder: Path, host: str, way: str) -> Any:
    """What came of the page, read from `host` at the site's port."""
    name = f"{host}-{way}"
    origin = f"http://{host}:{urllib.parse.urlsplit(rig.at).port}"
    given = {"hub": rig.hub, "key": KEY, "app": APP, "way": way, "picture": f"{rig.at}/small.png", "to": f"{origin}/hook/{name}"}
    with opened(browser, folder, f"{origin}/page.html?{urllib.parse.urlencode(given)}"):
        try:
            with urllib.request.urlopen(f"{rig.at}/hook/{name}", timeout=60) as reply:
                return json.loads(json.loads(reply.read())["body"])
        except OSError as error:
            raise AssertionError(f"{error}\n{(folder / 'browser.log').read_text('utf-8', 'replace')}") from None


@pytest.mark.parametrize("way", ["proxy", "middleware", "fetch"])
def test_a_page_of_this_machine_uses_the_hub(rig: Rig, browser: str, tmp_path: Path, way: str) -> None:
    made = told(rig, browser, tmp_path, "localhost", way)
    assert "failed" not in made, made
    assert (made["subscribe"]["data"]["output"], made["enqueued"]) == (WHOLE, [made["subscribe"]["requestId"]])
    assert made["subscribe"]["requestId"]
    assert (made["upload"]["text"], made["upload"]["type"].partition(";")[0]) == ("Hello, World!", "text/plain")
    assert (made["refused"]["status"], made["refused"]["fields"], bool(made["refused"]["requestId"])) == (
        422,
        [["body", "image_url"]],
        True,
    )
    assert made["stream"]["output"] == made["realtime"]["output"] == WHOLE


def test_a_page_of_elsewhere_is_refused(rig: Rig, browser: str, tmp_path: Path) -> None:
    before = len(rig.site.prompts)
    assert told(rig, browser, tmp_path, FOREIGN, "proxy") == {"failed": "TypeError: Failed to fetch"}
    assert len(rig.site.prompts) == before
