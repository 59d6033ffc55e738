"""`sensorium client`: the lines that make another program's client library call this hub."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from sensorium import client
from sensorium.cli_outcome import USAGE, fail, outcome

# A real key of the environment must not go to the hub, so the key is always set.
FAL_PYTHON: Final = """\
import os

import fal_client.client as c

# before the first call; a hub without a token takes any key
os.environ["FAL_KEY"] = os.environ.get("MAC_API_TOKEN") or "any:key"
c.RUN_URL_FORMAT, c.QUEUE_URL_FORMAT = $run, $queue
c.REST_URL, c.CDN_URL, c.REALTIME_URL_FORMAT = $rest, $cdn, $realtime
"""
FAL_JS: Final = """\
import { fal } from "@fal-ai/client";

// a hub without a token takes any key
fal.config({
  credentials: process.env.MAC_API_TOKEN || "any:key",
  proxyUrl: { url: $proxy, when: "always" },
});

// only for fal.realtime, which knows one address alone; Node has websockets of its own from version 22 on
const Plain = globalThis.WebSocket;
if (Plain) {
  globalThis.WebSocket = class extends Plain {
    constructor(url, protocols) {
      super(String(url).replace("wss://fal.run/", $realtime), protocols);
    }
  };
}
"""
OPENAI: Final = """\
import os

from openai import OpenAI

client = OpenAI(base_url=$v1, api_key=os.environ.get("MAC_API_TOKEN") or "any-key")
"""
ANTHROPIC: Final = """\
import os

from anthropic import Anthropic

client = Anthropic(base_url=$hub, api_key=os.environ.get("MAC_API_TOKEN") or "any-key")
"""


class Library(StrEnum):
    """The libraries that lines are known for."""

    fal_js = "fal-js"
    fal_python = "fal-python"
    openai = "openai"
    anthropic = "anthropic"


TEMPLATES: Final = {Library.fal_js: FAL_JS, Library.fal_python: FAL_PYTHON, Library.openai: OPENAI, Library.anthropic: ANTHROPIC}


def print_lines(ctx: typer.Context, library: Annotated[Library, typer.Argument(help="Whose client it is.", show_default=False)]) -> None:
    """Print the lines that make a client library call the hub at MAC_HUB_URL."""
    with outcome():
        print(lines(library, hub_url(ctx.obj.get)), end="")


def lines(library: Library, hub: str) -> str:
    """The lines for a hub at `hub`, without a slash at the end. They hold no token: they read it from MAC_API_TOKEN."""
    socket = f"ws{hub.removeprefix('http')}"
    places = {
        "hub": hub,
        "v1": f"{hub}/v1",
        "run": f"{hub}/fal/run/",
        "queue": f"{hub}/fal/queue/",
        "rest": f"{hub}/fal/rest",
        "cdn": f"{hub}/fal/cdn",
        "proxy": f"{hub}/fal/proxy",
        "realtime": f"{socket}/fal/run/",
    }
    return string.Template(TEMPLATES[library]).substitute({name: json.dumps(place) for name, place in places.items()})


def hub_url(environment: Callable[[str, str], str]) -> str:
    """The address in MAC_HUB_URL, or the usual one. Ends the command when it is none."""
    url = environment("MAC_HUB_URL", "").strip() or client.DEFAULT_URL
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:
        usable = False
    if not usable:
        fail(f"MAC_HUB_URL is {url!r}; it must look like {client.DEFAULT_URL}", USAGE)
    return parts.geturl().rstrip("/")
