"""The engines that a hub runs beside that of the package's models: one process for each table `engines` of the settings, and the routes
to their models. How far loading is, in words and as a time to come again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sensorium.engines.orders import ModelOrder
from sensorium.engines.supervisor import EngineProcess, Progress
from sensorium.errors import SettingsError, Unavailable
from sensorium.model_folders import ModelFolder, look
from sensorium.options_engines import EngineModel, EngineSettings
from sensorium.routing.call import Credential, Loading, Provider, Route
from sensorium.settings import Settings

TRY_AGAIN_S, SOONEST_S, LATEST_S = 5.0, 1.0, 60.0  # what a caller is told when it comes too early
CHAT_SLOTS = 16
VISION = frozenset({"text", "vision"})


def processes(settings: Settings) -> list[EngineProcess]:
    """An engine for each table, none of them started."""
    return [_process(name, table, settings) for name, table in settings.engines.items()]


def routes(settings: Settings, engines: Mapping[str, EngineProcess]) -> list[Route]:
    """A route for each id that a table's models answer for. An engine that is not in `engines` is told of as it would be."""
    found: list[Route] = []
    for name, table in settings.engines.items():
        at = provider(name, table.deadline_s, engines.get(name), table.wait_s)
        for model in table.models:
            folder = look(model.folder(settings.data_dir))
            found += [_route(id, folder, at, table.private, _slots(model, folder)) for id in model.names(folder)]
    return found


def provider(name: str, deadline_s: float, engine: EngineProcess | None, wait_s: float | None = None) -> Provider:
    """An engine as routes name it. While its process starts, calls wait in its socket, or, when `wait_s` is given, in the hub for so long.

    Without an engine it is what it would be.
    """
    found = Provider(name, "", Credential(), deadline_s, deadline_s, local=True, own=True)
    if engine is None:
        return found
    key = Credential(None, lambda: engine.token)
    found = replace(found, base_url=f"{engine.base_url}/v1", credential=key, down=lambda: _failure(engine), fate=engine.fate)
    return found if wait_s is None else replace(found, loading=_loading(engine, wait_s))


def _process(name: str, table: EngineSettings, settings: Settings) -> EngineProcess:
    return EngineProcess(
        name,
        models=[_order(model, settings.data_dir) for model in table.models],
        allow_egress=settings.server.allow_egress,
        queue=table.queue,
        deadline_s=table.deadline_s,
        memory_gb=table.memory_gb,
        hang_s=table.hang_s,
        start_s=table.start_s,
        environment=settings.child_environment,
        log=settings.data_dir / f"engine-{name}.log",
    )


def _order(model: EngineModel, data_dir: Path) -> ModelOrder:
    folder = look(model.folder(data_dir))
    name, *serves = model.names(folder)
    return ModelOrder(
        path=str(folder.path.resolve()),
        name=name,
        serves=serves,
        device=model.runs_on(folder),
        dtype=model.dtype,
        vision_dtype=model.vision_dtype or "",
        slots=model.slots,
        context=model.context,
        attention=model.attention,
        graphs=model.graphs,
        compile=model.compile,
        quant=model.quant,
        offload=model.offload,
        pinned=model.pinned,
    )


def _slots(model: EngineModel, folder: ModelFolder) -> int:
    """How many requests of the queue it gets at the same time; the engine itself knows how many fit, and lets others wait."""
    return model.slots or (CHAT_SLOTS if folder.kind == "diffusion_vlm" and model.runs_on(folder) != "numpy" else 1)


def _route(id: str, folder: ModelFolder, provider: Provider, private: bool, slots: int) -> Route:
    chat = folder.kind == "diffusion_vlm"
    return Route(
        id,
        "chat" if chat else "image",
        "openai" if chat else "genai",
        VISION if chat else frozenset(),
        provider,
        id,
        folder.scope,
        private=private,
        slots=slots,
        licence=folder.licence,
    )


def _failure(engine: EngineProcess) -> str | None:
    return "; ".join(engine.problems) or "its engine cannot run" if engine.state in ("failed", "broken") else None


def _loading(engine: EngineProcess, wait_s: float) -> Callable[[], Loading | None]:
    async def over() -> None:
        with suppress(SettingsError, Unavailable):  # whoever waited looks again, and is told what it is then
            await engine.wait_ready(wait_s)

    def loading() -> Loading | None:
        if engine.state in ("ready", "failed", "broken"):
            return None
        return Loading(f"its models are being loaded{how_far(engine.progress)}", _soon(engine), over)

    return loading


def how_far(progress: Iterable[Progress]) -> str:
    """How far models are, to be added to a sentence; nothing while that is unknown."""
    under_way = [one for one in progress if one.state == "loading"]
    done, total = fractions(progress)
    if not total:
        return ""
    names = f", now {under_way[0].name}" if under_way else ""
    return f": {done / 1e9:.1f} of {total / 1e9:.1f} GB{names}"


def fractions(progress: Iterable[Progress]) -> tuple[int, int]:
    """Bytes that are loaded, and bytes in all as far as they are known."""
    known = list(progress)
    return sum(one.loaded_bytes for one in known), sum(one.total_bytes for one in known)


def _soon(engine: EngineProcess) -> float:
    """Seconds until the models may be there, from how fast they came so far."""
    done, total = fractions(engine.progress)
    if not done or any(not one.total_bytes for one in engine.progress):
        return TRY_AGAIN_S
    return min(LATEST_S, max(SOONEST_S, round(engine.patience.age_s * (total - done) / done)))
