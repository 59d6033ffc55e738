"""From a table of the settings to the orders of its process and the routes to its models. Nothing is started."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from sensorium import local_engines
from sensorium.engines.orders import ModelOrder
from sensorium.engines.supervisor import EngineProcess, Progress
from sensorium.model_folders import PACKAGED
from sensorium.options_engines import EngineModel
from sensorium.settings import Settings, load

EYE = PACKAGED / "scenes-vlm"
TABLE = """
[server]
allow_egress = ["10.0.0.5:80"]
[engines.gpu]
licence_acknowledged = true
queue = 7
deadline_s = 33.0
hang_s = 44.0
start_s = 55.0
memory_gb = 66.0
private = false
models = [
    {{ path = "{one}", name = "acme/eye", serves = ["also/eye"], device = "cuda:1", dtype = "bfloat16", vision_dtype = "float32", slots = 3,
       context = 512, attention = "split", graphs = false, compile = false, pinned = true }},
    {{ path = "{two}", device = "cuda", quant = "nf4", offload = "group" }},
]
"""


def settings(folder: Path) -> Settings:
    flux = folder / "flux-folder"
    flux.mkdir()
    (flux / "model_index.json").write_text('{"_class_name": "FluxPipeline"}', "utf-8")
    (flux / "README.md").write_text("---\nlicense: apache-2.0\n---\n", "utf-8")
    file = folder / "hub.toml"
    file.write_text(TABLE.format(one=EYE, two=flux).replace(",\n       context", ", context"), "utf-8")
    return load(file, {"NVIDIA_API_KEY": "canary", "CUDA_VISIBLE_DEVICES": "1"}, data_dir=folder)


def closed(engine: EngineProcess) -> EngineProcess:
    asyncio.run(engine.stop())
    return engine


def test_every_option_of_a_table_arrives(tmp_path: Path) -> None:
    (engine,) = map(closed, local_engines.processes(settings(tmp_path)))
    orders = engine._orders
    assert (engine.name, orders.queue, orders.deadline_s, orders.hang_s, orders.memory_gb) == ("gpu", 7, 33.0, 44.0, 66.0)
    assert orders.allow_egress == ["10.0.0.5:80"]
    one, two = orders.models
    assert one == ModelOrder(
        path=str(EYE),
        name="acme/eye",
        serves=["also/eye"],
        device="cuda:1",
        dtype="bfloat16",
        vision_dtype="float32",
        slots=3,
        context=512,
        attention="split",
        graphs=False,
        compile=False,
        pinned=True,
    )
    assert (two.name, two.device, two.quant, two.offload, two.graphs) == ("flux-folder", "cuda", "nf4", "group", True)
    assert "canary" not in str(engine._environment) and engine._environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_no_option_of_a_model_is_forgotten() -> None:
    orders, options = set(ModelOrder.__struct_fields__), set(EngineModel.model_fields)
    assert orders == options - {"id"}


def test_the_defaults_of_a_model_are_those_of_its_orders() -> None:
    ordered = msgspec.structs.asdict(ModelOrder(path="x"))
    chosen = EngineModel(path=Path("x"))
    alike = {name for name in ordered if name not in ("path", "name", "serves", "device", "vision_dtype")}
    assert {name: getattr(chosen, name) for name in alike} == {name: ordered[name] for name in alike}


def test_the_routes(tmp_path: Path) -> None:
    found = local_engines.routes(settings(tmp_path), {})
    assert [(route.id, route.modality, route.dialect, route.slots, route.private, route.licence) for route in found] == [
        ("acme/eye", "chat", "openai", 3, False, None),
        ("also/eye", "chat", "openai", 3, False, None),
        ("flux-folder", "image", "genai", 1, False, "apache-2.0"),
    ]
    assert {(route.provider.name, route.provider.local, route.provider.own, route.provider.timeout_s) for route in found} == {
        ("gpu", True, True, 33.0)
    }


def test_how_far_and_when_to_come_again(tmp_path: Path) -> None:
    table = settings(tmp_path)
    (engine,) = map(closed, local_engines.processes(table))
    route = local_engines.routes(table, {"gpu": engine})[0]
    engine.state, engine.progress = "starting", []
    loading = route.provider.loading()
    assert loading is not None
    assert (loading.said, loading.retry_after_s) == ("its models are being loaded", 5.0)
    for age_s, one, two, expected in ((10.0, 5, 10, 30.0), (1.0, 10, 10, 1.0), (10_000.0, 1, 10, 60.0)):
        engine.patience.age_s = age_s
        engine.progress = [Progress("a", "loading", one * 10**9, 10 * 10**9), Progress("b", "waiting", 0, two * 10**9)]
        loading = route.provider.loading()
        assert loading is not None and loading.retry_after_s == expected
        assert loading.said == f"its models are being loaded: {one}.0 of {10 + two}.0 GB, now a"
    engine.progress = [Progress("a", "loading", 5 * 10**9, 10 * 10**9), Progress("b", "waiting")]
    loading = route.provider.loading()
    assert loading is not None and loading.retry_after_s == 5.0  # of one it is not known yet
    for state, down in (("ready", None), ("failed", "no weights"), ("broken", "no weights")):
        engine.state, engine.problems = state, ["no weights"]  # type: ignore[assignment]
        assert (route.provider.loading(), route.provider.down()) == (None, down)
