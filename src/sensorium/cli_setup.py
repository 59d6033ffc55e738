"""`sensorium init`: writes a settings file and stores the keys that it names in the vault.

Keys come from hidden prompts, standard input or a file, never from the command line, which other users of the machine can read.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from sensorium import cli_secret
from sensorium.cli_outcome import USAGE, fail, outcome
from sensorium.cli_set import TAKEN_OVER

KEYS_BYTES = 1024 * 1024
HEAD = "# Settings of a Sensorium hub. docs/settings.md lists every option.\n"
Url = Annotated[str, typer.Option(metavar="URL", show_default=False)]


def init(
    ctx: typer.Context,
    settings: Annotated[Path, typer.Option(help="The file to write.")] = Path("sensorium.toml"),
    nvidia: Annotated[bool, typer.Option("--nvidia", help="Chat, pictures and embeddings with one build.nvidia.com key.")] = False,
    chat: Url = "",
    image: Url = "",
    audio: Url = "",
    video: Url = "",
    embeddings: Url = "",
    asr: Annotated[str, typer.Option(metavar="URL", help="Where speech is recognised, if not at --audio.", show_default=False)] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITY=ID", help="Model for --chat, --image or --embeddings: chat, vision, image, embed (repeatable)."),
    ] = None,
    source: Annotated[Path | None, typer.Option("--from", help="A settings file to begin with.", show_default=False)] = None,
    keys: Annotated[str, typer.Option(metavar="FILE", help="Lines of SECRET=KEY; - reads standard input.", show_default=False)] = "",
    data_dir: Annotated[Path | None, typer.Option(help="Data folder of the hub.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a settings file that is there.")] = False,
) -> None:
    """Write a settings file, and store the keys that it needs."""
    with outcome():
        # Start-up cost: the settings take longer to import than most commands take to run.
        from sensorium import settings_text as text

        urls = {"chat": chat, "image": image, "audio": audio, "video": video, "embeddings": embeddings}
        if settings.exists() and not force:
            fail(f"{settings} is there already; --force replaces it, --settings names another", USAGE)
        if not (nvidia or source or any(urls.values())):
            if not sys.stdin.isatty():
                fail("say what to set up: --nvidia, --image URL, --audio URL, --video URL, or --from FILE", USAGE)
            nvidia, urls = _asked(urls)
        tables = _tables(urls, asr, text.named_models(model or ()))
        if nvidia:
            tables.append(text.provider("nvidia", "nvidia", text.named_models(text.NVIDIA_MODELS), key="secret:nvidia-upstream"))
        if data_dir is not None and source is None:
            tables.insert(0, text.table("server", {"data_dir": str(data_dir.resolve())}))
        before = source.read_text("utf-8") if source else HEAD
        written = text.replaced(settings, text.joined(before, *tables), ctx.obj, data_dir=data_dir)
        print(f"{settings}: written" + (f"; {TAKEN_OVER}" if force else ""))
    # a [server] table that was given stays as it is, so that the folder is not in the file then
    where = f"--settings {settings}" + (f" --data-dir {data_dir}" if data_dir and source else "")
    with cli_secret.opened(ctx.obj, outcome, settings, data_dir) as opened:
        _store(opened, written.secrets, keys, where)
    print(f"check it:  sensorium doctor {where}\nstart it:  sensorium serve {where}")


def _asked(urls: Mapping[str, str]) -> tuple[bool, dict[str, str]]:
    nvidia = typer.confirm("Use NVIDIA's hosted chat, pictures and embeddings, with one key?", default=True)
    names = ("audio", "video") if nvidia else tuple(urls)
    return nvidia, {name: typer.prompt(f"URL for {name} (empty: none)", default="", show_default=False).strip() for name in names}


def _tables(urls: Mapping[str, str], asr: str, models: Sequence[Mapping[str, object]]) -> list[str]:
    # Start-up cost: the settings take longer to import than most commands take to run.
    from sensorium.settings_text import modality

    of = {"chat": "chat", "embeddings": "embed", "image": "image"}
    homeless = {str(model.get("modality", "chat")) for model in models} - {of[name] for name in of if urls.get(name)}
    if homeless:
        fail(f"--model names a model for {', '.join(sorted(homeless))}, and there is no URL for that", USAGE)
    if asr and not urls.get("audio"):
        fail("--asr goes with --audio", USAGE)
    made = []
    for name, url in urls.items():
        mine = [model for model in models if name in of and model.get("modality", "chat") == of[name]]
        if url:
            made.append(modality(name, url, mine, asr_url=(asr or None) if name == "audio" else None))
    return made


def _store(opened: cli_secret.Opened, secrets: Sequence[str], keys: str, where: str) -> None:
    there = {entry.name for entry in opened.vault.entries()}
    given = _given(keys, secrets) if keys else _prompted([name for name in secrets if name not in there])
    for name, value in given.items():
        entry = opened.vault.put(name, value, opened.settings.hosts_of(name), who=opened.who)
        cli_secret.stored(entry, value)
    for name in secrets:
        if name not in there and name not in given:
            print(f"{name}: missing; store it with: sensorium secret {where} put {name}")


def _prompted(names: Sequence[str]) -> dict[str, str]:
    if not sys.stdin.isatty():
        return {}
    given = {name: getpass.getpass(f"Value of {name} (not shown, empty: later): ").strip() for name in names}
    return {name: value for name, value in given.items() if value}


def _given(keys: str, secrets: Sequence[str]) -> dict[str, str]:
    """SECRET=KEY lines. No message repeats a line: it may hold a key."""
    if keys == "-":
        raw = sys.stdin.buffer.read(KEYS_BYTES)
    else:
        with Path(keys).open("rb") as file:
            raw = file.read(KEYS_BYTES)
    found = {}
    for number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), 1):
        name, equals, value = line.strip().partition("=")
        if not line.strip() or line.startswith("#"):
            continue
        if not equals or name.strip() not in secrets:
            fail(f"--keys, line {number}: write SECRET=KEY, where SECRET is one of {', '.join(secrets) or 'none: no key is needed'}", USAGE)
        found[name.strip()] = value.strip()
    return found
