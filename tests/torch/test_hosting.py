"""Models on torch in an engine process: loaded behind the open door, each with its lane, taking turns where they do not fit."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sensorium.engines import torch_models
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.endpoint import EngineApp
from sensorium.engines.hosted import Hosted, Place
from sensorium.engines.lane import Lane
from sensorium.engines.loading import Loading
from sensorium.engines.orders import ModelOrder, Orders
from sensorium.engines.shared_lane import SharedLane
from sensorium.engines.supervisor import EngineProcess
from sensorium.errors import SettingsError
from tests.engines.asgi import PATIENCE, Call, ask
from tests.engines.diffusion_vlm.checkpoints import write_checkpoint
from tests.engines.test_endpoint import CHAT
from tests.engines.test_state import samples
from tests.torch import flux_folders

ROOT = Path(__file__).parents[2]
DRAW = "/v1/genai/sensorium/tiny-schnell"
WISH = {"prompt": "a red cube", "seed": 5, "steps": 2, "width": 256, "height": 256}
ROOM = {"slots": 1, "context": 256}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    return {name: write_checkpoint(home / name, seed=seed) for seed, name in enumerate(("first", "second", "third"))} | {
        "flux": flux_folders.write(home / "tiny-schnell", "schnell")
    }


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 12 * PATIENCE))


def question(model: str, text: str = "what is this?", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 24, "block_length": 8} | more


def numpy_app(folder: Path) -> EngineApp:
    order = ModelOrder(path=str(folder))
    return EngineApp([Hosted(order, "diffusion_vlm").ready(DiffusionVLM.load(folder), Lane("cpu"), Place("numpy", "float32"))], "")


async def said(app: EngineApp, body: dict[str, Any]) -> Any:
    head, data = await ask(app, "POST", CHAT, body)
    assert head.status == 200, data
    return json.loads(data)["choices"][0]


def loading(folders: dict[str, Path], *orders: ModelOrder, told: list[Any] | None = None, **more: Any) -> Loading:
    tell = (lambda models: None) if told is None else told.append
    return Loading(Orders(token="", models=list(orders), socket=-1, **more), tell)


def order(folder: Path, **more: Any) -> ModelOrder:
    return ModelOrder(path=str(folder), device="cpu", **more)


def test_a_model_is_loaded_behind_the_door_and_many_share_it(folders: dict[str, Path]) -> None:
    async def test() -> None:
        told: list[Any] = []
        here = loading(folders, order(folders["first"], slots=3, context=512, name="eyes", serves=["other"]), told=told)
        app = EngineApp(here.hosted, "")
        assert not here.quick
        head, data = await ask(app, "GET", "/readyz")
        assert (head.status, json.loads(data)["models"][0]["state"]) == (503, "waiting")
        assert (await ask(app, "POST", CHAT, question("eyes")))[0].status == 503
        await asyncio.to_thread(here.run, asyncio.get_running_loop())
        assert (await ask(app, "GET", "/readyz"))[0].status == 200
        assert [states[0]["state"] for states in (told[0], told[-1])] == ["loading", "ready"]
        bytes_told = [models[0]["loaded_bytes"] for models in told]
        assert bytes_told == sorted(bytes_told)
        assert 2 < len(told) < 80
        assert bytes_told[-1] == told[-1][0]["total_bytes"] > 0
        (one,) = here.hosted
        assert one.place == Place("cpu", "float32", 3, 512)
        assert isinstance(one.lane, SharedLane)
        expected = await said(numpy_app(folders["first"]), question("*"))
        assert await asyncio.gather(*(said(app, question(name)) for name in ("eyes", "other", "*", "eyes"))) == [expected] * 4
        _, data = await ask(app, "GET", "/metrics")
        assert samples(data)["answers_total", "eyes"] == 4
        assert samples(data)["device_used_bytes", "cpu"] > 0
        assert here.close(PATIENCE)

    run(test())


def test_models_that_do_not_fit_together_take_turns(folders: dict[str, Path]) -> None:
    async def test() -> None:
        sizes = [torch_models.expected(order(folders[name], **ROOM), "diffusion_vlm", 10**9)[1] for name in ("first", "second")]
        here = loading(
            folders, *(order(folders[name], name=name, **ROOM) for name in ("first", "second")), memory_gb=1.3 * max(sizes) / 1e9
        )
        app = EngineApp(here.hosted, "")
        await asyncio.to_thread(here.run, asyncio.get_running_loop())
        first, second = here.hosted
        assert (await ask(app, "GET", "/readyz"))[0].status == 200
        assert (first.model is not None, second.model) == (True, None)
        assert second.place == Place("cpu", "float32", 1, 256)
        expected = {name: await said(numpy_app(folders[name]), question("*")) for name in ("first", "second")}
        assert expected["first"] != expected["second"]
        for name in ("first", "second", "second", "first"):
            assert await said(app, question(name)) == expected[name]
            found = samples((await ask(app, "GET", "/metrics"))[1])
            assert [found["model_resident", one] for one in ("first", "second")] == [one == name for one in ("first", "second")]
        both = await asyncio.gather(*(said(app, question(name)) for name in ("first", "second", "first", "second")))
        assert both == [expected[name] for name in ("first", "second", "first", "second")]
        assert here.close(PATIENCE)

    run(test())


def test_whoever_hangs_up_leaves_the_model_free_to_go(folders: dict[str, Path]) -> None:
    async def test() -> None:
        size = torch_models.expected(order(folders["first"], **ROOM), "diffusion_vlm", 10**9)[1]
        here = loading(folders, *(order(folders[name], name=name, **ROOM) for name in ("first", "second")), memory_gb=1.3 * size / 1e9)
        app = EngineApp(here.hosted, "")
        await asyncio.to_thread(here.run, asyncio.get_running_loop())
        call = Call(app, "POST", CHAT, question("first", max_tokens=200, stream=True, mode="ar"))
        await call.begun()
        await call.hang_up()
        assert (await said(app, question("second")))["finish_reason"] in ("stop", "length")
        assert here.hosted[0].model is None
        assert here.close(PATIENCE)

    run(test())


def test_models_that_fit_stay_together_and_drawing_ones_share_a_lane(folders: dict[str, Path]) -> None:
    async def test() -> None:
        models = [
            order(folders["first"], **ROOM),
            order(folders["flux"]),
            ModelOrder(path=str(folders["flux"]), device="auto", name="again"),
        ]
        here = loading(folders, *models, ModelOrder(path=str(folders["third"])), queue=7)
        app = EngineApp(here.hosted, "")
        await asyncio.to_thread(here.run, asyncio.get_running_loop())
        assert all(one.model is not None and one.residence is None for one in here.hosted)
        assert here.hosted[1].lane is here.hosted[2].lane is here.hosted[3].lane
        assert [lane.name for lane in here.lanes] == ["sensorium/first", "cpu"]
        assert {lane.limit for lane in here.lanes} == {7}
        assert str(here.hosted[1].place) == "cpu, float32, 1 slot"
        pictures = [json.loads((await ask(app, "POST", path, WISH))[1])["artifacts"] for path in (DRAW, "/v1/genai/again")]
        assert pictures[0] == pictures[1]
        assert (await said(app, question("sensorium/first"))) == await said(numpy_app(folders["first"]), question("*"))
        assert (await said(app, question("sensorium/third"))) == await said(numpy_app(folders["third"]), question("*"))
        assert here.close(PATIENCE)

    run(test())


def test_memory_is_shared_between_those_who_see_once_those_who_draw_have_theirs(folders: dict[str, Path]) -> None:
    see, draw = (order(folders["first"], **ROOM), "diffusion_vlm"), (order(folders["flux"]), "flux")
    needs = [torch_models.expected(*model, memory=10**9)[1] for model in (see, draw)]  # type: ignore[arg-type]
    assert torch_models.shares([see], 10**9) == [10**9]  # type: ignore[list-item]
    assert torch_models.shares([see, draw, see], 10**9) == [(10**9 - needs[1]) // 2, needs[1], (10**9 - needs[1]) // 2]  # type: ignore[list-item]
    assert torch_models.shares([see, see], 2 * needs[0]) == [needs[0]] * 2  # type: ignore[list-item]
    assert torch_models.shares([see, see], 2 * needs[0] - 2) is None  # type: ignore[list-item]
    with pytest.raises(SettingsError):
        torch_models.shares([see, see], needs[0] - 1)  # type: ignore[list-item]


def test_a_checkpoint_that_cannot_be_used_fails_with_all_its_problems(folders: dict[str, Path], tmp_path: Path) -> None:
    broken = write_checkpoint(tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    here = loading(folders, order(broken, **ROOM))
    with pytest.raises(SettingsError, match=r"model\.safetensors"):
        here.run()
    assert here.progress()[0]["state"] == "failed"


def test_a_real_process_tells_how_far_it_is_and_answers_as_numpy_does(folders: dict[str, Path]) -> None:
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    models = [order(folders["first"], name="eyes", **ROOM)]

    async def test() -> None:
        async with EngineProcess("gpu", models=models, environment=here, hang_s=60.0) as engine, aiohttp.ClientSession() as session:

            async def post(path: str, body: Any) -> tuple[int, Any]:
                headers = {"authorization": f"Bearer {engine.token}"}
                async with session.post(engine.base_url + path, json=body, headers=headers) as reply:
                    return reply.status, await reply.json()

            status, told = await post(
                CHAT, question("eyes")
            )  # waits in the socket until the door is open, which is before the model is there
            assert status in (200, 503), told
            await engine.wait_ready(60)
            assert [(one.name, one.state) for one in engine.progress] == [("eyes", "ready")]
            assert engine.progress[0].loaded_bytes == engine.progress[0].total_bytes > 0
            status, told = await post(CHAT, question("eyes"))
            assert (status, told["choices"][0]) == (200, await said(numpy_app(folders["first"]), question("*")))
            process = engine._process
        assert process is not None
        assert process.returncode == 0

    run(test())


def test_a_real_process_without_room_says_so_and_is_not_tried_again(folders: dict[str, Path]) -> None:
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}

    async def test() -> None:
        engine = EngineProcess("gpu", models=[order(folders["first"], **ROOM)], environment=here, memory_gb=0.001)
        await engine.start()
        with pytest.raises(SettingsError, match="first on cpu"):
            await engine.wait_ready(60)
        assert (engine.state, engine.restarts) == ("failed", 0)
        await engine.stop()

    run(test())
