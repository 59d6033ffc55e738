"""What a stranger finds in the repository: the version is one, the public files are there, the README stays short."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import sensorium

ROOT = Path(__file__).parent.parent


def test_the_changelog_opens_with_the_version_of_the_package() -> None:
    heads = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert heads[0] == sensorium.__version__


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "sensorium.example.toml"])
def test_public_files_are_there_and_say_something(name: str) -> None:
    assert len((ROOT / name).read_text("utf-8")) > 300


def test_the_readme_is_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_every_target_in_the_makefile_is_explained() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert targets is not None
    for target in targets[1].split():
        assert re.search(rf"^{target}:.*## \w", text, re.MULTILINE), target


def test_every_dependency_is_pinned_for_reproducible_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    pinned = set(re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "constraints.txt").read_text("utf-8").lower(), re.MULTILINE))
    assert {re.split(r"[>=<\[]", line)[0] for line in wanted} <= pinned


def test_inference_needs_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert not [line for line in project["dependencies"] if line.startswith(("torch", "transformers", "diffusers"))]


def test_the_makefile_names_no_registry() -> None:
    for name in ("Makefile", "constraints.txt", "pyproject.toml", ".ci/run", "CONTRIBUTING.md"):
        assert "index-url" not in (ROOT / name).read_text("utf-8"), name
