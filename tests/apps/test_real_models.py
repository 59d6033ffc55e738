"""Apps over the shipped models, served as an engine over HTTP, and over the simulated fal: what no script plays."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image

from sensorium.app import shipped_models
from sensorium.apps.app import Output, Task
from sensorium.apps.registry import Apps
from sensorium.engines.endpoint import EngineApp
from sensorium.engines.loading import Loading
from sensorium.engines.orders import ModelOrder, Orders
from sensorium.errors import UpstreamRefused
from sensorium.routing import shipped
from sensorium.routing.call import Credential, Provider, Route
from sensorium.routing.upstream import Upstream
from sensorium.wire import dataurl
from sensorium.wire.fal_errors import Refused
from sensorium.wire.fal_vlm import STAGES
from tests.apps.stands import BASE, Store, dispatching, gathered
from tests.serving import serving
from tests.simulators.fal.site import KEY
from tests.simulators.fal.site import running as simulating

TOKEN = "a-token-of-this-test"
VLM, SCHNELL = "fal-ai/nemotron-diffusion-vlm", "fal-ai/flux/schnell"
CUBE = {"prompt": "a red cube on a white table", "seed": 3, "image_size": "square", "output_format": "png"}


@dataclass
class Stage:
    """Apps over real routes; each run has connections of its own."""

    routes: list[Route]
    store: Store
    waiting: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        self.lines: list[str] = []

    def outputs(self, endpoint: str, input: Any) -> list[Output]:
        async def work(apps: Apps) -> list[Output]:
            app, path = apps.find(endpoint)
            return await gathered(app.stream(Task("r1", "alice", input, path, BASE, log=self.lines.append)))

        self.lines.clear()
        return asyncio.run(self._with(work))

    def run(self, endpoint: str, input: Any) -> Output:
        return self.outputs(endpoint, input)[-1]

    async def _with(self, work: Callable[[Apps], Coroutine[Any, Any, list[Output]]]) -> list[Output]:
        upstream = Upstream(*self.waiting)
        try:
            return await work(Apps(dispatching(self.routes, upstream.send), self.store))
        finally:
            await upstream.close()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    models = shipped_models()
    orders = [ModelOrder(path=str(folder), name=model.id) for folder, model in models.items()]
    loading = Loading(Orders(token=TOKEN, models=orders, socket=-1), lambda told: None)
    loading.run()
    engine = EngineApp(loading.hosted, TOKEN)
    with serving(engine) as base:
        here = Provider("local", f"{base}/v1", Credential(None, lambda: TOKEN), 60, 60, local=True)
        yield Stage(shipped.routes(models.values(), here, True, ()), Store())
    loading.close(10)


def cube(stage: Stage) -> str:
    """The link of a drawn red cube."""
    return str(stage.run(SCHNELL, CUBE).body["images"][0]["url"])


def test_a_cube_is_drawn_stored_and_described(stage: Stage) -> None:
    url = cube(stage)
    shown = Image.open(io.BytesIO(stage.store.at(url).data))
    assert (shown.format, shown.size) == ("PNG", (512, 512))
    outputs = stage.outputs(VLM, {"image_url": url, "prompt": "Describe this image.", "max_tokens": 64, "block_length": 8})
    last = outputs[-1].body
    assert "red cube" in last["output"]
    assert "white table" in last["output"]
    texts = [output.body["output"] for output in outputs]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert len(set(texts[:-1])) == len(texts) - 1 > 1
    blocks = [line for line in stage.lines if line.startswith("block ")]
    assert blocks == [f"block {number} of 8" for number in range(1, len(blocks) + 1)]
    assert 1 < len(blocks) <= 8
    usage, timings = last["usage"], last["timings"]
    assert usage["prompt_tokens"] > usage["completion_tokens"] > 0
    assert usage["num_function_evals"] >= len(blocks)
    assert set(timings) == {"total_time", *STAGES}
    assert timings["total_time"] >= sum(timings[name] for name in STAGES) > 0
    assert timings["gpu_transfer_time"] == 0


def test_max_tokens_cuts_a_block_and_steps_count(stage: Stage) -> None:
    asked = {"image_url": cube(stage), "prompt": "Describe this image.", "max_tokens": 11, "block_length": 8}
    made = stage.run(VLM, asked | {"num_inference_steps": 2, "threshold": 1}).body
    assert made["usage"]["completion_tokens"] <= 11
    assert made["usage"]["num_function_evals"] <= 2 + 2


def test_every_mode_answers(stage: Stage) -> None:
    asked = {"image_url": cube(stage), "prompt": "Describe this image.", "max_tokens": 64}
    said = {mode: stage.run(VLM, asked | {"mode": mode}).body["output"] for mode in ("diffusion", "ar", "linear")}
    assert all("red cube" in text for text in said.values()), said


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("data:image/png;base64,!!!", "image_load_error"),
        ("data:text/plain;base64,aGk=", "image_load_error"),
        ("http://127.0.0.1:9/a.png", "file_download_error"),
        ("not a url", "file_download_error"),
        ("http://10.1.2.3/a.png", "file_download_error"),
    ],
)
def test_pictures_that_the_engine_refuses(stage: Stage, url: str, kind: str) -> None:
    with pytest.raises(Refused) as caught:
        stage.run(VLM, {"image_url": url, "prompt": "What?"})
    (found,) = caught.value.details
    assert (found["loc"], found["type"]) == (["body", "image_url"], kind)


def test_what_the_drawing_model_does_not_know(stage: Stage) -> None:
    for given, field in (({"prompt": "a dragon"}, "prompt"), ({"image_size": {"width": 20, "height": 20}}, "image_size")):
        with pytest.raises(Refused) as caught:
            stage.run(SCHNELL, CUBE | given)
        assert caught.value.details[0]["loc"] == ["body", field]
        assert caught.value.details[0]["msg"]


@pytest.mark.parametrize("size", ["square_hd", "portrait_16_9", "landscape_16_9"])
def test_dev_draws_in_every_shape(stage: Stage, size: str) -> None:
    made = stage.run("fal-ai/flux/dev", CUBE | {"image_size": size, "num_inference_steps": 2, "sync_mode": True}).body["images"][0]
    assert Image.open(io.BytesIO(dataurl.parse(made["url"]).data)).size == (made["width"], made["height"])


def test_the_shipped_models_under_their_own_ids(stage: Stage) -> None:
    made = stage.run("sensorium/scenes-flow", {"prompt": "a blue ball"}).body["images"][0]
    answer = stage.run("sensorium/scenes-vlm", {"prompt": "Describe this image.", "image_url": made["url"]}).body
    assert "blue ball" in answer["output"]
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"] > 2


def test_the_vision_app_of_another_fal() -> None:
    with simulating() as site:
        there = Provider("fal", site.queue, Credential(None, lambda: KEY), 60, 60)
        routes = [
            Route(VLM, "chat", "fal", frozenset({"vision"}), there, VLM),
            Route(SCHNELL, "image", "fal", frozenset(), there, SCHNELL),
            Route("fal-ai/ltx-video", "video", "fal", frozenset(), there, "fal-ai/ltx-video"),
        ]
        stage = Stage(routes, Store(), (site.clock.now, site.clock.sleep))
        url = cube(stage)
        made = stage.run(VLM, {"image_url": url, "prompt": "How large?", "max_tokens": 64}).body
        assert made["output"].startswith("The picture has 512 x 512 pixels.")
        assert made["timings"]["generation_time"] == 0.05
        assert made["usage"]["num_function_evals"] > 0
        (sent,) = site.seen(method="POST", ending=VLM)
        assert (sent.body["num_inference_steps"], sent.body["block_length"], sent.body["threshold"]) == (256, 32, 0.9)
        film = stage.run("fal-ai/ltx-video", {"prompt": "a red cube", "num_frames": 9}).body["video"]
        assert stage.store.at(film["url"]).data[4:8] == b"ftyp"
        assert (film["content_type"], film["file_name"]) == ("video/mp4", "video.mp4")
        refused = replace(there, credential=Credential(None, lambda: "wrong:key"))
        with pytest.raises(UpstreamRefused, match="refused the hub's key"):
            Stage([replace(routes[0], provider=refused)], Store(), stage.waiting).run(
                VLM, {"image_url": dataurl.build("image/png", b"x"), "prompt": "?"}
            )
