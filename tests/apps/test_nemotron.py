"""fal-ai/nemotron-diffusion-vlm: its input table by table (fal page, section 9), what the model is sent, what comes out."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.apps.app import Task, UnknownApp
from sensorium.apps.nemotron import ID
from sensorium.errors import AddressRefused, SensoriumError, UpstreamFailed
from sensorium.routing.call import Call, Route
from sensorium.routing.repeat import verdict
from sensorium.routing.terms import restored, under
from sensorium.store.database import StoreUnavailable
from sensorium.wire.fal_errors import Refused
from sensorium.wire.fal_input import read
from sensorium.wire.fal_vlm import MOST_STEPS, STAGES, NemotronDiffusionVLMInput, scheduled
from tests.apps.stands import BASE, Bench, Says, events, gathered
from tests.routing.hosted import chat, provider
from tests.simulators.fal.site import png

IMAGE = png()
ASKED = {"image_url": IMAGE, "prompt": "What is it?"}
USAGE = {"prompt_tokens": 391, "completion_tokens": 8, "num_function_evals": 9, "total_tokens": 399}
TIMINGS = {"total_time": 0.412} | dict(zip(STAGES, (0.021, 0.034, 0.002, 0.351, 0.001), strict=True))
ENGINE, HOSTED = provider("http://engine", "local", local=True), provider("http://elsewhere", "hosted")
TOYS = replace(chat(ID, ENGINE, {"vision"}, "sensorium/scenes-vlm"), stand_in=True)
PAGE = ASKED | {
    "max_tokens": 512, "num_inference_steps": 256, "inference_steps": 256, "block_length": 32, "threshold": 0.9,
}  # fmt: skip


def speaking(call: Call, route: Route) -> Says:
    return events("The box", " is red.", usage=USAGE, timings=TIMINGS)


def bench(*routes: Route, model: Any = speaking) -> Bench:
    return Bench(routes or (TOYS,), model)


def failing(code: str, message: str, status: int = 400) -> Any:
    """An engine that refuses."""
    error = {"error": {"message": message, "code": code, "param": "messages[0].content[0]"}}
    return lambda call, route: Says(json.dumps(error).encode(), status=status)


def entry(field: str, kind: str, msg: str, ctx: Any = None, **input: Any) -> dict[str, Any]:
    return {"loc": ["body", field], "msg": msg, "type": kind} | ({} if ctx is None else {"ctx": ctx}) | input


@pytest.mark.parametrize(
    ("input", "blocks", "steps"),
    [
        ({}, 16, 256),
        ({"max_tokens": 512, "num_inference_steps": 256, "inference_steps": 256, "block_length": 32, "threshold": 0.9}, 16, 256),
        ({"max_tokens": 384}, 12, 264),
        ({"max_tokens": 320}, 10, 260),
        ({"max_tokens": 100}, 4, 256),
        ({"max_tokens": 8192, "block_length": 8}, 1024, 1024),
        ({"max_tokens": 8192}, 256, 256),
        ({"max_tokens": 512, "num_inference_steps": 16}, 16, 16),
        ({"max_tokens": 64, "inference_steps": 64}, 2, 64),
        ({"max_tokens": 128, "block_length": 128, "num_inference_steps": 1}, 1, 1),
        ({"threshold": 0}, 16, 256),
        ({"threshold": 1}, 16, 256),
        ({"max_tokens": "512", "num_inference_steps": 512.0, "threshold": "0.5"}, 16, 512),
        (dict.fromkeys(("max_tokens", "num_inference_steps", "inference_steps", "block_length", "threshold", "mode")), 16, 256),
        ({"num_inference_steps": None, "inference_steps": 32}, 16, 32),
        ({"seed": 7, "unknown": {"deep": [1]}}, 16, 256),
    ],
)
def test_valid_inputs_and_what_the_model_is_sent_for_them(input: dict[str, Any], blocks: int, steps: int) -> None:
    asked = read(NemotronDiffusionVLMInput, ASKED | input)
    assert (asked.blocks, scheduled(asked)) == (blocks, steps)
    running = bench()
    assert running.run(ID, ASKED | input).body["output"] == "The box is red."
    (sent,) = running.models.sent
    assert sent == {
        "model": "sensorium/scenes-vlm",
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}, {"type": "text", "text": "What is it?"}]}
        ],
        "max_tokens": asked.max_tokens,
        "num_inference_steps": steps,
        "block_length": asked.block_length,
        "threshold": asked.threshold,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


UNICODE = "Input should be a valid string, unable to parse raw data as a unicode string"
FLOAT = "Input should be a valid number, unable to parse string as a number"
MODES = "'diffusion', 'ar', 'linear' or 'auto'"
MULTIPLE = "Input should be a multiple of"
WHOLE, PARSED = "Input should be a valid integer", "Input should be a valid integer, unable to parse string as an integer"
LEAST, MOST = "Input should be greater than or equal to", "Input should be less than or equal to"
SHAPE = "(max_tokens 512 / block_length 32); nearest valid value"


@pytest.mark.parametrize(
    ("input", "expected"),
    [
        ({"prompt": ...}, [entry("prompt", "missing", "Field required")]),
        ({"image_url": ...}, [entry("image_url", "missing", "Field required")]),
        ({"image_url": ..., "prompt": ...}, [entry(name, "missing", "Field required") for name in ("image_url", "prompt")]),
        ({"prompt": 5}, [entry("prompt", "string_type", "Input should be a valid string", input=5)]),
        ({"prompt": None}, [entry("prompt", "string_type", "Input should be a valid string", input=None)]),
        ({"prompt": "\ud800"}, [entry("prompt", "string_unicode", UNICODE, input="?")]),
        ({"image_url": ["x"]}, [entry("image_url", "string_type", "Input should be a valid string", input=["x"])]),
        ({"max_tokens": 0}, [entry("max_tokens", "greater_than_equal", f"{LEAST} 1", {"ge": 1}, input=0)]),
        ({"max_tokens": 8193}, [entry("max_tokens", "less_than_equal", f"{MOST} 8192", {"le": 8192}, input=8193)]),
        ({"max_tokens": "many"}, [entry("max_tokens", "int_parsing", PARSED, input="many")]),
        ({"max_tokens": 1.5}, [entry("max_tokens", "int_from_float", f"{WHOLE}, got a number with a fractional part", input=1.5)]),
        ({"max_tokens": [1]}, [entry("max_tokens", "int_type", WHOLE, input=[1])]),
        ({"max_tokens": True}, [entry("max_tokens", "int_type", WHOLE, input=True)]),
        ({"threshold": False}, [entry("threshold", "float_type", "Input should be a valid number", input=False)]),
        ({"inference_steps": True}, [entry("inference_steps", "int_type", WHOLE, input=True)]),
        ({"block_length": 4}, [entry("block_length", "greater_than_equal", f"{LEAST} 8", {"ge": 8}, input=4)]),
        ({"block_length": 256}, [entry("block_length", "less_than_equal", f"{MOST} 128", {"le": 128}, input=256)]),
        ({"threshold": -0.1}, [entry("threshold", "greater_than_equal", f"{LEAST} 0", {"ge": 0}, input=-0.1)]),
        ({"threshold": 1.5}, [entry("threshold", "less_than_equal", f"{MOST} 1", {"le": 1}, input=1.5)]),
        ({"num_inference_steps": 0}, [entry("num_inference_steps", "greater_than_equal", f"{LEAST} 1", {"ge": 1}, input=0)]),
        ({"num_inference_steps": 2048}, [entry("num_inference_steps", "less_than_equal", f"{MOST} 1024", {"le": 1024}, input=2048)]),
        ({"inference_steps": 0}, [entry("inference_steps", "greater_than_equal", f"{LEAST} 1", {"ge": 1}, input=0)]),
        ({"threshold": "x"}, [entry("threshold", "float_parsing", FLOAT, input="x")]),
        ({"mode": "fast"}, [entry("mode", "literal_error", f"Input should be {MODES}", {"expected": MODES}, input="fast")]),
        (
            {"max_tokens": 512, "num_inference_steps": 8},
            [entry("num_inference_steps", "greater_than_equal", f"{LEAST} 16 {SHAPE}: 16", {"ge": 16}, input=8)],
        ),
        (
            {"max_tokens": 512, "num_inference_steps": 40},
            [entry("num_inference_steps", "multiple_of", f"{MULTIPLE} 16 {SHAPE}s: 32 and 48", {"multiple_of": 16}, input=40)],
        ),
        (
            {"max_tokens": 384, "num_inference_steps": 256},
            [
                entry(
                    "num_inference_steps",
                    "multiple_of",
                    "Input should be a multiple of 12 (max_tokens 384 / block_length 32); nearest valid values: 252 and 264",
                    {"multiple_of": 12},
                    input=256,
                )
            ],
        ),
        (
            {"max_tokens": 512, "inference_steps": 8},
            [entry("inference_steps", "greater_than_equal", f"{LEAST} 16 {SHAPE}: 16", {"ge": 16}, input=8)],
        ),
        (
            {"num_inference_steps": 64, "inference_steps": 32},
            [
                entry(
                    "inference_steps",
                    "value_error",
                    "inference_steps is another name of num_inference_steps; they were given different values (32 and 64)",
                    input=32,
                )
            ],
        ),
        # presence, type and range of all fields together, in the table's order; the alias and the schedule only when these hold
        (
            {"prompt": 5, "max_tokens": 0, "threshold": 2, "block_length": 4, "num_inference_steps": 7, "inference_steps": 8},
            [
                entry("prompt", "string_type", "Input should be a valid string", input=5),
                entry("max_tokens", "greater_than_equal", f"{LEAST} 1", {"ge": 1}, input=0),
                entry("block_length", "greater_than_equal", f"{LEAST} 8", {"ge": 8}, input=4),
                entry("threshold", "less_than_equal", f"{MOST} 1", {"le": 1}, input=2),
            ],
        ),
        (
            {"num_inference_steps": 7, "inference_steps": 7},
            [entry("num_inference_steps", "greater_than_equal", f"{LEAST} 16 {SHAPE}: 16", {"ge": 16}, input=7)],
        ),
    ],
)  # fmt: skip
def test_invalid_inputs(input: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    running = bench()
    assert running.refused(ID, {name: value for name, value in (ASKED | input).items() if value is not ...}) == expected
    assert running.models.sent == []


@pytest.mark.parametrize("given", [None, [ASKED], "x", 5])
def test_an_input_that_is_no_object(given: Any) -> None:
    (found,) = bench().refused(ID, given)
    assert (found["loc"], found["type"]) == (["body"], "model_attributes_type")
    assert found["msg"] == "Input should be a valid dictionary or object to extract fields from"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), "nan"])
@pytest.mark.parametrize("field", ["threshold", "max_tokens"])
def test_what_is_no_number_is_refused(field: str, number: Any) -> None:
    (found,) = bench().refused(ID, ASKED | {field: number})
    assert found["loc"] == ["body", field]
    assert found["type"] == ("int_parsing" if (field, number) == ("max_tokens", "nan") else "finite_number")


def test_a_long_value_is_repeated_cut_short() -> None:
    (found,) = bench().refused(ID, ASKED | {"max_tokens": "x" * 5000})
    assert found["input"] == "x" * 200
    (found,) = bench().refused(ID, ASKED | {"max_tokens": ["x" * 5000]})
    assert "input" not in found


@given(st.integers(1, 8192), st.integers(8, 128), st.integers(1, MOST_STEPS))
def test_steps_are_taken_exactly_when_every_block_gets_the_same(max_tokens: int, block_length: int, steps: int) -> None:
    shape = {"max_tokens": max_tokens, "block_length": block_length}
    blocks = -(-max_tokens // block_length)

    def takes(given: int) -> bool:
        try:
            return scheduled(read(NemotronDiffusionVLMInput, ASKED | shape | {"num_inference_steps": given})) == given
        except Refused:
            return False

    assert takes(steps) == (steps >= blocks and steps % blocks == 0)
    if not takes(steps):
        with pytest.raises(Refused) as caught:
            scheduled(read(NemotronDiffusionVLMInput, ASKED | shape | {"num_inference_steps": steps}))
        named = [int(word) for word in caught.value.details[0]["msg"].partition("nearest valid value")[2].strip("s: ").split(" and ")]
        valid = range(blocks, MOST_STEPS + 1, blocks)
        nearest = ([one for one in valid if one < steps][-1:]) + [one for one in valid if one > steps][:1]
        assert named == nearest
        assert all(takes(one) for one in named)


@given(st.integers(1, 8192), st.integers(8, 128))
def test_steps_that_are_left_out_are_the_fewest_from_256_on(max_tokens: int, block_length: int) -> None:
    asked = read(NemotronDiffusionVLMInput, ASKED | {"max_tokens": max_tokens, "block_length": block_length})
    steps = scheduled(asked)
    assert steps is not None
    assert steps % asked.blocks == 0
    assert 256 <= steps < 256 + asked.blocks
    assert steps <= MOST_STEPS


@pytest.mark.parametrize("mode", ["ar", "linear", "auto"])
def test_modes_without_steps_have_no_schedule(mode: str) -> None:
    running = bench()
    running.run(ID, ASKED | {"mode": mode, "num_inference_steps": 7})
    assert (running.models.sent[0]["mode"], running.models.sent[0]["num_inference_steps"]) == (mode, 7)
    running.run(ID, ASKED | {"mode": mode})
    assert "num_inference_steps" not in running.models.sent[1]


def test_the_output_and_the_log() -> None:
    running = bench()
    made = running.run(ID, PAGE)
    assert made.body == {
        "output": "The box is red.",
        "usage": {"prompt_tokens": 391, "completion_tokens": 8, "num_function_evals": 9},
        "timings": TIMINGS,
    }
    assert made.files == ()
    assert made.headers is not None
    assert made.headers["x-sensorium-source"] == "local"
    assert made.headers["x-sensorium-stand-in"] == ID
    assert running.lines[:-1] == [f"started: {ID}", "block 1 of 16", "block 2 of 16"]
    assert running.lines[-1].startswith("finished after ")
    assert running.models.closed == 1


def test_a_hosted_model_that_tells_little() -> None:
    running = bench(chat(ID, HOSTED, {"vision"}), model=lambda call, route: events(*("word " for _ in range(200))))
    made = running.run(ID, ASKED).body
    assert made["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "num_function_evals": 0}
    assert all(made["timings"][name] == 0.0 for name in STAGES)
    assert made["timings"]["total_time"] >= 0
    assert running.lines[1:-1] == ["5 characters", "405 characters", "805 characters"]
    assert running.models.sent[0]["num_inference_steps"] == 256


def test_a_service_that_does_not_stream() -> None:
    whole = {"choices": [{"message": {"content": "Red."}, "finish_reason": "stop"}], "usage": USAGE, "timings": TIMINGS}
    made = bench(model=lambda call, route: Says(json.dumps(whole).encode())).run(ID, ASKED).body
    assert (made["output"], made["usage"]["num_function_evals"], made["timings"]) == ("Red.", 9, TIMINGS)


@given(st.dictionaries(st.sampled_from((*STAGES, "total_time", "other")), st.floats(allow_nan=True, allow_infinity=True) | st.none()))
def test_the_total_is_never_less_than_its_parts(timings: dict[str, Any]) -> None:
    told = {name: value for name, value in timings.items() if value is None or abs(value) < 1e300}
    made = bench(model=lambda call, route: events("a", usage=USAGE, timings=told)).run(ID, ASKED).body["timings"]
    assert made["total_time"] >= sum(made[name] for name in STAGES)
    assert all(value >= 0 for value in made.values())


@given(st.lists(st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable()), max_size=12))
def test_a_stream_grows_and_ends_with_everything(pieces: list[str]) -> None:
    running = bench(model=lambda call, route: events(*pieces, usage=USAGE, timings=TIMINGS))
    outputs = running.outputs(ID, ASKED)
    bodies = [output.body for output in outputs]
    texts = [body["output"] for body in bodies]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert all(set(body) == {"output"} for body in bodies[:-1])
    assert all(output.headers == outputs[-1].headers for output in outputs)
    assert (texts[-1], set(bodies[-1])) == ("".join(pieces), {"output", "usage", "timings"})
    assert len(bodies) == len(pieces) + 1


def test_whoever_leaves_a_stream_closes_the_call() -> None:
    running = bench()
    app, _ = running.apps.find(ID)

    async def first() -> dict[str, Any]:
        outputs: Any = app.stream(running.task("", ASKED))
        found = await anext(outputs)
        await outputs.aclose()
        return dict(found.body)

    assert asyncio.run(first()) == {"output": "The box"}
    assert running.models.closed == 1
    assert running.lines[-1] == "given up"


def test_a_stream_that_ends_in_the_middle_is_a_failure() -> None:
    running = bench(model=lambda call, route: events("The", reason=None, done=False))
    with pytest.raises(UpstreamFailed, match="broke off"):
        running.run(ID, ASKED)
    assert running.lines[-1] == "failed: local broke off its answer"


def test_a_file_of_ours_is_sent_as_a_data_url() -> None:
    running = bench()
    data = base64.b64decode(IMAGE.partition(",")[2])
    url = running.store.url(running.store.put(data, owner="alice", content_type="application/octet-stream", name="a.png"), BASE)
    running.run(ID, ASKED | {"image_url": url})
    assert running.models.sent[0]["messages"][0]["content"][0]["image_url"]["url"] == IMAGE


def test_a_file_of_ours_that_is_gone_or_another_callers() -> None:
    running = bench()
    there = running.store.put(b"x", owner="bob", content_type="image/png", name="a.png")
    for url in (running.store.url(there, BASE), f"{BASE}/fal/cdn/files/sig/gone.png"):
        (found,) = running.refused(ID, ASKED | {"image_url": url})
        assert (found["type"], found["input"]) == ("file_download_error", url)
        assert running.lines[1] == "image_url: there is no such file, or its time is over"
    assert running.models.sent == []


def test_a_store_that_cannot_be_read_is_no_fault_of_the_input() -> None:
    running = bench()
    url = running.store.url(running.store.put(b"x", owner="alice", content_type="image/png", name="a.png"), BASE)
    running.store.broken = True
    with pytest.raises(StoreUnavailable):
        running.run(ID, ASKED | {"image_url": url})


def test_a_file_that_is_too_large_is_refused_before_the_call() -> None:
    running = bench()
    there = running.store.put(bytes(33_554_433), owner="alice", content_type="image/png", name="a.png")
    for url in (running.store.url(there, BASE), "data:image/png;base64," + "A" * 44_739_256):
        (found,) = running.refused(ID, ASKED | {"image_url": url})
        assert (found["type"], found["ctx"], found["msg"]) == ("file_too_large", {"max_size": 33_554_432}, "File too large")
    assert running.models.sent == []


def test_a_model_that_is_refused_elsewhere_is_no_fault_of_the_input() -> None:
    running = bench(model=lambda call, route: UpstreamFailed("it broke"))
    with pytest.raises(Exception, match="it broke") as caught:
        running.run(ID, ASKED)
    assert not isinstance(caught.value, Refused)


def test_a_refusal_of_the_model_names_the_field() -> None:
    error = {"error": {"message": "the question is too long", "code": "invalid_parameter", "param": "messages"}}
    (found,) = bench(model=lambda call, route: Says(json.dumps(error).encode(), status=422)).refused(ID, ASKED)
    assert (found["loc"], found["type"], found["msg"]) == (["body", "prompt"], "value_error", "the question is too long")


def test_a_refusal_by_fals_own_app_keeps_its_type() -> None:
    told = {"detail": [{"loc": ["body", "image_url"], "msg": "Image load error", "type": "image_load_error", "input": "x"}]}
    route = Route(ID, "chat", "fal", frozenset({"vision"}), HOSTED, ID)
    running = bench(route, model=lambda call, _: Says(json.dumps(told).encode(), status=422))
    (found,) = running.refused(ID, ASKED)
    assert (found["loc"], found["type"]) == (["body", "image_url"], "image_load_error")
    assert running.models.sent[0] == {
        "image_url": IMAGE, "prompt": "What is it?", "max_tokens": 512, "num_inference_steps": 256, "block_length": 32, "threshold": 0.9,
    }  # fmt: skip


def test_what_a_fal_route_does_not_know_is_named() -> None:
    route = Route(ID, "chat", "fal", frozenset({"vision"}), HOSTED, ID)
    made = bench(route).run(ID, ASKED | {"mode": "ar"})
    assert made.headers is not None
    assert made.headers["x-sensorium-changed"] == "mode dropped"


def test_an_address_that_may_not_be_called() -> None:
    running = bench(
        model=lambda call, route: AddressRefused("messages[0].content[0]: 127.0.0.1:9 is not called: it is this machine itself")
    )
    (found,) = running.refused(ID, ASKED | {"image_url": "http://127.0.0.1:9/a.png"})
    assert (found["type"], found["loc"]) == ("file_download_error", ["body", "image_url"])
    assert found["msg"] == "Failed to download the file. Please check if the URL is accessible and try again."
    assert running.lines[1] == "image_url: 127.0.0.1:9 is not called: it is this machine itself"


def test_a_run_of_the_queue_is_told_apart_and_not_repeated_by_the_hub() -> None:
    running = bench()
    running.run(ID, ASKED)
    with under(restored(None, ("r1", 3))):
        running.run(ID, ASKED)
    assert [(call.attempt, call.repeatable) for call in running.models.calls] == [(None, True), (("r1", 3), False)]


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (lambda call, route: events("The", reason=None, done=False), "server_error"),
        (lambda call, route: Says(b'{"error": {"message": "over"}}', status=503), "server_error"),
        (lambda call, route: Says(b'{"error": {"message": "full"}}', status=429), "busy"),
        (lambda call, route: Says(b'{"error": {"message": "no"}}', status=422), "final"),
    ],
)
def test_what_a_failure_means_for_a_later_run(model: Any, cause: str) -> None:
    with pytest.raises(SensoriumError) as caught:
        bench(model=model).run(ID, ASKED)
    assert verdict(caught.value) == cause


def test_it_has_no_sub_paths() -> None:
    app, path = bench().apps.find(ID)
    assert (app.id, path, app.lane(path)) == (ID, "", ID)
    for made in (app.lane, lambda path: app.openapi(path, BASE)):
        with pytest.raises(UnknownApp, match="Application 'fal-ai/nemotron-diffusion-vlm/deep' not found"):
            made("/deep")
    with pytest.raises(UnknownApp):
        asyncio.run(gathered(app.stream(Task("r", "a", ASKED, "/deep"))))
