"""The README and the pages under docs/ do what they say: their `sh` and `python` blocks are run against a real hub.

Convention: a block fenced as `sh` or `python` runs as it stands, in the order of its page, in one folder per page. A block
fenced as `console` is a transcript and is only shown.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.hub_process import ROOT, hub_environment
from tests.test_layers import MAY_USE, ORDER, SQL_IN

FENCE = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")
CODE = re.compile(r"\bcode(?:, status(?:, retryable)?(?:, kind)?)? ?= ?\"([a-z_]+)\"")
SOURCE = ROOT / "src" / "sensorium"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "skills").rglob("*.md"))]
RUNNABLE = [page for page in PAGES if FENCE.search(page.read_text("utf-8"))]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_the_blocks_of_a_page_run(page: Path, hub: str, tmp_path: Path) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    path = os.pathsep.join([sysconfig.get_path("scripts"), _command_folder(tmp_path), os.environ["PATH"]])
    env = hub_environment(MAC_HUB_URL=hub, HOME=str(tmp_path), PATH=path)
    for block in FENCE.finditer(page.read_text("utf-8")):
        language, code = block.groups()
        command = [shell, "-eu", "-c", code] if language == "sh" else [sys.executable, "-c", code]
        result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0, f"{name(page)}:\n{code}\n{result.stdout}{result.stderr}"


def _command_folder(folder: Path) -> str:
    """A folder that holds `sensorium`, for a package that is on the path but not installed."""
    command = folder / "bin" / "sensorium"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sensorium.cli "$@"\n', "utf-8")
    command.chmod(0o755)
    return str(command.parent)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{name(page)} links to {target}"


def test_every_page_is_reached_from_the_index() -> None:
    listed = {(ROOT / "docs" / target).resolve() for target in LINK.findall((ROOT / "docs" / "index.md").read_text("utf-8"))}
    assert {page.resolve() for page in (ROOT / "docs").glob("*.md")} - listed == {(ROOT / "docs" / "index.md").resolve()}


def test_the_skill_takes_the_place_of_the_one_it_was_written_after() -> None:
    head = (ROOT / "skills" / "nvidia-inference-multimodal" / "SKILL.md").read_text("utf-8").split("---\n")[1]
    lines = head.splitlines()
    assert {"name: nvidia-inference-multimodal", "license: Apache-2.0", "platforms: [linux, macos, windows]"} <= set(lines)
    assert [line.strip() for line in lines[lines.index("tools:") + 1 :][:2]] == ["- Read", "- Shell"]


def test_the_layers_are_told_as_they_are_kept() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    told = re.search(r"Imports point down only: `([^`]+)`", page)
    assert told is not None
    kept = [name for name in ORDER if name != "cli" and not name.startswith("cli_")]
    assert re.split(r"[\s,<]+", told[1]) == [*kept, "cli_*", "cli"]
    for part in ("engines", "client", "simulators"):
        said = re.search(rf"`{part}` ([^;.]*)", page[told.end() :])
        assert said is not None
        assert {name for name in re.findall(r"[a-z]+", said[1]) if name in ORDER} >= MAY_USE[part] - {part}
    places = re.search(r"SQL stands in ([^.]*)\.", page)
    assert places is not None
    assert [f"jobs/{name}" if name != "store/" else name for name in re.findall(r"`(?:jobs/)?([a-z_/]+)`", places[1])] == [
        place.removesuffix(".py") for place in SQL_IN
    ]


def test_the_readme_names_every_command() -> None:
    readme, page = (ROOT / "README.md").read_text("utf-8"), (ROOT / "docs" / "cli.md").read_text("utf-8")
    for command in ("serve", "see", "draw", "models"):
        assert f"sensorium {command}" in readme
        assert f"sensorium {command}" in page


def test_every_error_that_a_caller_may_meet_is_on_a_page() -> None:
    pages = "".join(page.read_text("utf-8") for page in PAGES)
    files = [file for part in ("errors.py", "api", "jobs", "routing", "wire", "store") for file in _sources(SOURCE / part)]
    codes = {code for file in files for code in CODE.findall(file.read_text("utf-8"))}
    codes -= {"client_closed", "secret_unusable"}  # nobody is there to read it; only a base class has it
    assert [code for code in sorted(codes) if f"`{code}`" not in pages] == []


def _sources(place: Path) -> list[Path]:
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]
