"""Real hubs for the official clients: one in front of a model that the tests hold, one with the shipped models."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.site import Site
from tests.hub_process import ROOT, hub_environment, running_hub
from tests.serving import serving

APP = "fal-ai/nemotron-diffusion-vlm"
KEY = "k1:s3cret"
JS = ROOT / "tests" / "clients" / "js"
SETTINGS = """
[server]
probe_at_start = false
allow_egress = ["{address}"]
[local]
enabled = false
[jobs]
limits = {{ "{app}" = 1 }}
[callers.other]
token_env = "OTHER_TOKEN"
[providers.talk]
kind = "openai"
base_url = "{site}/v1"
models = [{{ id = "{app}", vision = true }}]
"""


@dataclass(frozen=True, slots=True)
class Rig:
    """A hub, the site beside it and where that is, the hub's data folder."""

    hub: str
    site: Site
    at: str
    folder: Path


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A hub whose only model is the site's, which runs one queued request of it at a time, with a token and a second caller."""
    folder, site = tmp_path_factory.mktemp("clients"), Site()
    with serving(site) as at:
        file = folder / "hub.toml"
        file.write_text(SETTINGS.format(address=at.removeprefix("http://"), site=at, app=APP), "utf-8")
        with running_hub(folder, "--settings", str(file), MAC_API_TOKEN=KEY, OTHER_TOKEN="other:s") as hub:
            yield Rig(hub, site, at, folder)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A hub with the shipped models, and a site with pictures."""
    folder, site = tmp_path_factory.mktemp("shipped"), Site()
    with serving(site) as at, running_hub(folder, "--allow-egress", at.removeprefix("http://"), MAC_API_TOKEN=KEY) as hub:
        yield Rig(hub, site, at, folder)


@pytest.fixture(scope="session")
def installed() -> Path:
    """The folder of the JavaScript client, which `make clients` installs."""
    assert (JS / "node_modules" / "@fal-ai" / "client").is_dir(), "the JavaScript client is not installed; run the tests by `make clients`"
    return JS


@pytest.fixture
def node(installed: Path) -> Callable[..., Any]:
    """Runs a module of tests/clients/js and gives what its last line says, as JSON."""

    def run(rig: Rig, way: str, *arguments: str, script: str = "run.mjs") -> Any:
        env = hub_environment(HUB=rig.hub, SITE=rig.at, KEY=KEY, APP=APP, WAY=way)
        env.pop("FAL_KEY", None)
        done = subprocess.run(
            ["node", script, *arguments], cwd=installed, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the environment between the clients and loopback."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
