"""`sensorium provider`: providers of the settings file, added below what is there, comments kept, and listed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sensorium.cli_outcome import USAGE, fail, outcome
from sensorium.cli_set import TAKEN_OVER

app = typer.Typer(help="Add and list the providers of a settings file.", no_args_is_help=True, rich_markup_mode=None)
File = Annotated[Path, typer.Option(help="The settings file.")]


class Preset(StrEnum):
    """What can be added, by its name on the command line."""

    nvidia = "nvidia"
    openai = "openai"
    anthropic = "anthropic"
    genai = "genai"
    fal = "fal"
    engine = "engine"
    hub = "hub"


URLS = {"openai": "https://api.openai.com/v1", "genai": "https://ai.api.nvidia.com/v1/genai"}
SECRETS = {"nvidia": "nvidia-upstream", "openai": "openai", "anthropic": "anthropic", "genai": "nvidia-image", "fal": "fal"}


@app.command()
def add(
    ctx: typer.Context,
    preset: Annotated[
        Preset, typer.Argument(metavar="KIND", help="nvidia, openai, anthropic, genai, fal, engine, hub.", show_default=False)
    ],
    name: Annotated[str, typer.Option(help="Its name in the file; KIND by default.", show_default=False)] = "",
    url: Annotated[str, typer.Option(help="Its address; known for nvidia, openai, anthropic, genai and fal.", show_default=False)] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="[MODALITY=]ID", help="Model: chat, vision, embed, image or video (repeatable).", show_default=False),
    ] = None,
    secret: Annotated[str, typer.Option(help="The secret of the vault that is its key.", show_default=False)] = "",
    key_env: Annotated[str, typer.Option(help="Instead: the environment variable that holds it.", show_default=False)] = "",
    per_minute: Annotated[float | None, typer.Option(help="Calls a minute.", show_default=False)] = None,
    settings: File = Path("sensorium.toml"),
) -> None:
    """Add a provider below the settings that are there."""
    with outcome():
        # Start-up cost: the settings take longer to import than most commands take to run.
        from sensorium import settings_text as text
        from sensorium.settings import load_for_vault

        kind = preset.value
        called = name or kind
        if settings.exists() and called in load_for_vault(settings, ctx.obj).providers:
            fail(f"{settings} has a provider {called} already; choose another --name", USAGE)
        if secret and key_env:
            fail("--secret and --key-env both name a key; keep one", USAGE)
        named = secret or ("" if key_env else SECRETS.get(kind, ""))
        listed = text.named_models(model or (text.NVIDIA_MODELS if kind == "nvidia" else ()))
        made = text.provider(
            called,
            kind,
            listed or (text.FAL_MODELS if kind == "fal" else ()),
            base_url=url or URLS.get(kind),
            key=f"secret:{named}" if named else None,
            key_env=key_env or None,
            per_minute=per_minute,
        )
        before = settings.read_text("utf-8") if settings.exists() else ""
        written = text.replaced(settings, text.joined(before, made), ctx.obj)
        print(f"{settings}: provider {called} added; {TAKEN_OVER}")
        if named:
            print(f"its key:  sensorium secret --settings {settings} put {named}   # goes to {', '.join(written.hosts_of(named))}")


@app.command("list")
def listed(ctx: typer.Context, settings: File = Path("sensorium.toml")) -> None:
    """List the modalities and providers of the settings, in the order in which * prefers them."""
    with outcome():
        # Start-up cost: the settings take longer to import than most commands take to run.
        from sensorium.overview import columns
        from sensorium.settings import load_for_vault

        chosen = load_for_vault(settings, ctx.obj)
        rows = [("NAME", "KIND", "ADDRESS", "KEY", "MODELS")]
        for name, table in chosen.router.given.items():
            models = ", ".join([*(model.id for model in table.models), "any name"])
            rows.append((f"router.{name}", table.dialect, " ".join(table.urls), str(table.key or "none"), models))
        for name, one in chosen.providers.items():
            takes_any = one.kind == "nvidia" or not one.models
            models = ", ".join([*(model.id for model in one.models), *(["any name"] if takes_any else [])])
            rows.append((name, one.kind, " ".join(one.urls), str(one.key or one.key_env or "none"), models))
        print("\n".join(columns(rows)))
