"""`sensorium doctor`: reads the settings as the hub does, looks at every key, makes one small real call per route, and says what works."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sensorium.cli_outcome import FAILED, fail, outcome

if TYPE_CHECKING:
    from sensorium.overview import Standing
    from sensorium.probe import Result
    from sensorium.routing.call import Route
    from sensorium.settings import Settings


def doctor(
    ctx: typer.Context,
    settings: Annotated[Path | None, typer.Option(help="TOML settings file.", show_default=False)] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data folder of the hub.", show_default=False)] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Make no call: look at settings and keys only.")] = False,
    draw: Annotated[bool, typer.Option("--draw", help="Draw one picture per image model, which costs quota.")] = False,
    require: Annotated[
        str,
        typer.Option(metavar="MODALITY,...", help="Fail unless these are on, such as image,audio.", show_default=False),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check settings, keys and providers, and say which modalities are on."""
    with outcome():
        # Start-up cost: the hub's parts take longer to import than most commands take to run.
        from sensorium import settings as config
        from sensorium.overview import required

        wanted = required(require)
        chosen = config.load(settings, ctx.obj, data_dir=data_dir)
        results, told = _examined(chosen, offline, draw)
        print(_json(results, told) if as_json else _text(results, told))
        missing = [one.name for one in told if one.name in wanted and one.lack]
        broken = sum(result.broken for result in results)
        if missing:
            fail(f"required, but not wholly on: {', '.join(missing)}", FAILED)
        if broken:
            fail(f"{broken} of {len(results)} routes do not work", FAILED)


def _examined(settings: Settings, offline: bool, draw: bool) -> tuple[list[Result], list[Standing]]:
    # Start-up cost: the vault takes longer to import than most commands take to run.
    from sensorium import app, local_engines, probe, providers
    from sensorium.overview import standings
    from sensorium.store.database import Database
    from sensorium.store.masterkey import keeper
    from sensorium.store.vault import Vault

    with closing(Database(settings.data_dir)) as database:
        vault = Vault(database, keeper(settings), who="doctor")
        routes = providers.routes(settings, vault)
        results = [probe.known(route) for route in routes] if offline else asyncio.run(_called(routes, draw))
        vault.flush()
        seen = [_found(route, result) for route, result in zip(routes, results, strict=True)]
        own = local_engines.routes(settings, {})
        results += [probe.run_here(route) for route in own]
        return results, standings([*seen, *own, *app.shipped_routes(settings)])


async def _called(routes: Sequence[Route], draw: bool) -> list[Result]:
    # Start-up cost: the HTTP client takes longer to import than most commands take to run.
    from sensorium.probe import probed
    from sensorium.routing.upstream import Upstream

    upstream = Upstream()
    try:
        return await probed(routes, upstream.send, draw)
    finally:
        await upstream.close()


def _found(route: Route, result: Result) -> Route:
    """The route, out of order if the call has shown that."""
    return replace(route, provider=replace(route.provider, down=lambda: result.detail)) if result.broken else route


def _text(results: Sequence[Result], told: Sequence[Standing]) -> str:
    # Start-up cost: the hub's parts take longer to import than most commands take to run.
    from sensorium.overview import columns, modalities

    rows = [(f"  {one.provider}", one.modality, one.model, str(one.state), one.detail) for one in results]
    return "\n".join(["routes", *(columns(rows) or ["  none is configured"]), "", "modalities", *modalities(told)])


def _json(results: Sequence[Result], told: Sequence[Standing]) -> str:
    modalities = {one.name: {"on": one.on, "detail": one.said, "trouble": one.trouble} for one in told}
    return json.dumps({"routes": [asdict(one) for one in results], "modalities": modalities}, indent=2)
