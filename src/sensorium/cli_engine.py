"""`sensorium engine`: models served from this machine, without a hub or for one that runs elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import typer

from sensorium.cli_outcome import FAILED, INTERRUPTED, harmless, outcome
from sensorium.errors import SettingsError

if TYPE_CHECKING:
    from sensorium.engines.hosted import Hosted
    from sensorium.engines.orders import ModelOrder, Orders

TOKEN_ENV: Final = "SENSORIUM_ENGINE_TOKEN"
SHIPPED: Final = Path(__file__).parent / "models"
OWNER: Final = "sensorium/"
SIDE: Final = "sensorium.json"
LEVELS: Final = ("debug", "info", "warning", "error")
AUTO: Final = "auto"
NUMPY: Final = "numpy"
WORTH_TELLING: Final = 10**9  # bytes of a model whose loading is told tenth by tenth
# What a hub calls models of a modality: the kind of its provider, where below our address, and what it needs to know of each.
HUBS: Final = (("chat", "gpu", "engine", "/v1", ", vision = true"), ("image", "gpu-images", "genai", "/v1/genai", ', modality = "image"'))


def _several(metavar: str, text: str) -> Any:
    return typer.Option(metavar=metavar, help=f"{text} (repeatable).", show_default=False)


def _without(text: str, otherwise: str) -> Any:
    return typer.Option(help=f"{text}  [default: {otherwise}]", show_default=False)


Several = list[str] | None
Models = Annotated[Several, _several("FOLDER|ID", "A folder, or the id of a shipped or a pulled model")]
Names = Annotated[Several, _several("ID", "What callers call it; the n-th is that of the n-th --model")]
Serves = Annotated[Several, _several("[NAME=]ID", "A further id of a model")]
Pins = Annotated[Several, _several("NAME", "A model that is never unloaded for another one")]
Egress = Annotated[Several, _several("HOST:PORT", "Private address that image URLs may reach")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps with torch; numpy for small models.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
VisionDtype = Annotated[str, _without("The same for the picture tower.", "as --dtype")]
Slots = Annotated[int, typer.Option(help="Answers side by side; 0 takes what the memory allows.")]
Context = Annotated[int, typer.Option(help="Tokens of each, with its prompt; 0 takes what the memory allows.")]
Attention = Annotated[str, typer.Option(help="auto, sdpa or split.")]
NoGraphs = Annotated[bool, typer.Option("--no-graphs", help="Capture no CUDA graphs.")]
NoCompile = Annotated[bool, typer.Option("--no-compile", help="Compile no kernels.")]
Quant = Annotated[str, typer.Option(help="FLUX only: none, fp8, int8 or nf4.")]
Offload = Annotated[str, typer.Option(help="FLUX only: none, model, group or sequential.")]
MemoryGb = Annotated[float | None, _without("What all models may take of the device.", "what is free")]
Host = Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a token.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
TokenEnv = Annotated[str, typer.Option(metavar="VARIABLE", help="Environment variable with the token that callers show.")]
Queue = Annotated[int, typer.Option(help="Calls that may wait for each device.")]
DeadlineS = Annotated[float | None, _without("Seconds that a call may take.", "no limit")]
HangS = Annotated[float | None, _without("Seconds after which a piece of work ends the process.", "no limit")]
Home = Annotated[Path | None, _without("Where `sensorium pull` put models.", "the hub's data folder")]
LogLevel = Annotated[str, typer.Option(help=f"{', '.join(LEVELS)}.")]


def engine(
    ctx: typer.Context,
    model: Models = None,
    name: Names = None,
    serves: Serves = None,
    device: Device = AUTO,
    dtype: Dtype = AUTO,
    vision_dtype: VisionDtype = "",
    slots: Slots = 0,
    context: Context = 0,
    attention: Attention = AUTO,
    no_graphs: NoGraphs = False,
    no_compile: NoCompile = False,
    quant: Quant = "none",
    offload: Offload = "none",
    memory_gb: MemoryGb = None,
    pin: Pins = None,
    host: Host = "127.0.0.1",
    port: Port = 8790,
    token_env: TokenEnv = TOKEN_ENV,
    queue: Queue = 32,
    deadline_s: DeadlineS = None,
    hang_s: HangS = None,
    allow_egress: Egress = None,
    home: Home = None,
    log_level: LogLevel = "warning",
) -> None:
    """Serve models from this machine until Ctrl-C."""
    with outcome():
        if log_level not in LEVELS:
            raise SettingsError([f"--log-level is {log_level!r}, expected {', '.join(LEVELS)}"])
        found = [_found(one, home, ctx.obj) for one in model or ()]
        places = {"device": device, "dtype": dtype, "vision_dtype": vision_dtype, "slots": slots, "context": context}
        ways = {"attention": attention, "graphs": not no_graphs, "compile": not no_compile, "quant": quant, "offload": offload}
        models = ordered(found, name or [], serves or [], pin or [], places | ways)
        limits = {"queue": queue, "deadline_s": deadline_s, "memory_gb": memory_gb, "hang_s": hang_s, "allow_egress": allow_egress or []}
        orders = whole(models, _token(ctx.obj, token_env, host), limits)
        _serve(orders, host, port, log_level, token_env)


def ordered(
    found: list[tuple[Path, str]], names: list[str], serves: list[str], pins: list[str], more: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What is ordered of each model: a folder and its id, "" for one that has none but its folder's name. Raises SettingsError."""
    # Start-up cost: the settings take longer to import than most commands take to run.
    from sensorium.options import MODEL_ID

    if not found:
        raise SettingsError([f"--model is missing; name a folder, a shipped model ({', '.join(shipped())}) or one that was pulled"])
    problems = [f"--name is given {len(names)} times, for {len(found)} models"] if len(names) > len(found) else []
    models: list[dict[str, Any]] = []
    for place, (folder, known) in enumerate(found):
        called = names[place] if place < len(names) else known or f"{OWNER}{folder.name}"
        small = more["device"] == AUTO and (folder / SIDE).is_file()
        models.append({**more, "path": str(folder), "name": called, "serves": [], "device": NUMPY if small else more["device"]})
    for given in serves:
        whose, _, further = given.rpartition("=")
        of = [one for one in models if whose in (one["name"], "")]
        if len(of) == 1 and further:
            of[0]["serves"].append(further)
        else:
            problems.append(f"--serves {given}: begin with the name of one of the models and =, as in {models[0]['name']}=further-id")
    for pinned in pins:
        of = [one for one in models if one["name"] == pinned]
        problems += [] if of else [f"--pin {pinned}: no model is called that; there is {', '.join(one['name'] for one in models)}"]
        for one in of:
            one["pinned"] = True
    ids = [id for one in models for id in (one["name"], *one["serves"])]
    wrong = [id for id in ids if not MODEL_ID.fullmatch(id)]
    problems += [f"{id!r} is no id that a call could have; give another one with --name or --serves" for id in wrong]
    if problems:
        raise SettingsError(problems)
    return models


def whole(models: list[dict[str, Any]], token: str, limits: Mapping[str, Any]) -> Orders:
    """The orders of the process. Raises SettingsError that names every option out of its range."""
    # Start-up cost: the engines take longer to import than most commands take to run.
    import msgspec

    # Start-up cost: as above.
    from sensorium.engines.orders import ModelOrder, Orders

    problems = [f"--{name} is {models[0][name]}; it takes 0 or more" for name in ("slots", "context") if models[0][name] < 0]
    problems += [f"--queue is {limits['queue']}; it takes 1 or more"] if limits["queue"] < 1 else []
    for name in ("deadline_s", "memory_gb", "hang_s"):
        if limits[name] is not None and not 0 < limits[name] < 1e9:
            problems.append(f"--{name.replace('_', '-')} is {limits[name]}; it takes a number above 0")
    orders: list[ModelOrder] = []
    for one in models:
        try:
            orders.append(msgspec.convert(one, ModelOrder))
        except msgspec.ValidationError as error:
            option = str(error).rpartition("$.")[2].strip("`").replace("_", "-")
            problems.append(f"--{option} is {one.get(option.replace('-', '_'))!r}, which it does not take; see `sensorium engine --help`")
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))
    return Orders(token=token, models=orders, socket=-1, **limits)


def shipped() -> list[str]:
    """The ids of the models in the package."""
    return [f"{OWNER}{side.parent.name}" for side in sorted(SHIPPED.glob(f"*/{SIDE}"))]


def _found(model: str, home: Path | None, environ: Mapping[str, str]) -> tuple[Path, str]:
    """The folder of a model, and its id where it has one. Raises SettingsError."""
    if Path(model).is_dir():
        return Path(model).resolve(), ""
    if model in shipped():
        return SHIPPED / model.removeprefix(OWNER), model
    if model.startswith((OWNER, ".", "/", "~")) or model.count("/") != 1:
        raise SettingsError([f"--model {model} is no folder; name one, a shipped model ({', '.join(shipped())}) or one that was pulled"])
    # Start-up cost: the settings take longer to import than most commands take to run.
    from sensorium.engines.checkpoints.pulled import find
    from sensorium.settings import load_for_vault

    place = load_for_vault(None, environ, data_dir=home).data_dir
    return find(model, place.resolve()), model


def _token(environ: Mapping[str, str], variable: str, host: str) -> str:
    # Start-up cost: asyncio, which the other commands do without.
    from sensorium.exchange import is_loopback

    token = environ.get(variable, "").strip()
    if not token and not is_loopback(host):
        said = f"{host} can be reached from other machines: callers need a token, and the environment variable {variable} holds none"
        raise SettingsError([f"{said}; set it, or name another with --token-env"])
    return token


def _serve(orders: Orders, host: str, port: int, log_level: str, token_env: str) -> None:
    """Run until told to stop."""
    # Start-up cost: the engines and their web server take longer to import than most commands take to run.
    from sensorium.engines.server import UNUSABLE, Process, leave
    from sensorium.webserver import address, listen

    logging.basicConfig(stream=sys.stderr, level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    listener = listen(host, port)
    url = address(listener)
    told = Told()
    process = Process(orders, lambda event: told.hear(event, lambda: _overview(url, process.hosted, bool(orders.token), token_env)))
    code = process.run(listener)
    listener.close()
    if code == UNUSABLE:
        raise SettingsError(told.problems)
    for problem in told.problems:
        print(f"sensorium: {harmless(problem)}", file=sys.stderr)
    leave(INTERRUPTED if process.interrupted else FAILED if code else 0, process.clean)


class Told:
    """What the process reports, as lines for a terminal: on standard error every tenth of a model that is loaded, on standard output its
    address once it is ready. `problems` are why it cannot be."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._tenths: dict[str, int] = {}

    def hear(self, event: Mapping[str, Any], overview: Callable[[], str]) -> None:
        """Take a report."""
        self.problems = list(event.get("problems", ()))
        if event["event"] == "ready":
            _say(overview(), sys.stdout)
        for one in event.get("models", ()):
            name, done, whole = one["name"], one["loaded_bytes"], one["total_bytes"]
            large = whole >= WORTH_TELLING
            tenth = 10 * done // whole if large else 0
            if one["state"] == "loading" and self._tenths.get(name) != tenth:
                self._tenths[name] = tenth
                far = f": {done / 1e9:.1f} of {whole / 1e9:.1f} GB" if large else ""
                _say(f"loading {name}{far}", sys.stderr)


def _say(line: str, out: TextIO) -> None:
    """Print a line. When nobody reads what is printed any more, the models are still served."""
    try:
        print(line, file=out, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def _overview(url: str, hosted: list[Hosted], guarded: bool, token_env: str) -> str:
    """What runs where, and the hub's settings for it."""
    models = ", ".join(f"{one.name} ({one.place})" for one in hosted)
    lines = [f"sensorium engine: {url} serves {models}", "# in the settings of a hub:"]
    for modality, provider, kind, base, more in HUBS:
        ids = [f'{{ id = "{name}"{more} }}' for one in hosted if one.modality == modality for name in one.names]
        if ids:
            lines += [f"[providers.{provider}]", f'kind = "{kind}"', f'base_url = "{url}{base}"']
            lines += [f'key_env = "{token_env}"'] if guarded else []
            lines.append(f"models = [{', '.join(ids)}]")
    return "\n".join(lines)
