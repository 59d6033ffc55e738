"""`sensorium engine`: what its options become, and a real process that official clients and a hub call."""

from __future__ import annotations

import base64
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import fal_client
import openai
import pytest

from sensorium.cli_engine import Told, ordered, shipped, whole
from sensorium.errors import SettingsError
from sensorium.webserver import LONGEST_HEAD
from tests.engines.diffusion_vlm.checkpoints import write_checkpoint
from tests.hub_process import free_port, hub_environment, running_hub

PATIENCE = 60.0
VLM, FLOW = "sensorium/scenes-vlm", "sensorium/scenes-flow"
PROMPT = "a red cube on a white table"
TOKEN = "a-token-of-this-test"
MORE: dict[str, Any] = {
    "device": "auto",
    "dtype": "auto",
    "vision_dtype": "",
    "slots": 0,
    "context": 0,
    "attention": "auto",
    "graphs": True,
    "compile": True,
    "quant": "none",
    "offload": "none",
}
LIMITS: dict[str, Any] = {"queue": 32, "deadline_s": None, "memory_gb": None, "hang_s": None, "allow_egress": []}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sensorium.cli", "engine", *arguments]


@contextmanager
def engine(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A process that is ready, and what it has printed by then."""
    whole = command("--port", "0", *arguments)
    with subprocess.Popen(whole, env=hub_environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline().rstrip()]
            while lines[-1] and not lines[-1].startswith("models"):
                lines.append(process.stdout.readline().rstrip())
            yield process, lines
        finally:
            process.terminate()
            try:
                process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def address(lines: list[str]) -> str:
    return lines[0].split()[2]


def ended(*arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(command(*arguments), env=hub_environment(**environment), capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, list[str]]]:
    """The address of both shipped models, and the lines that say so."""
    with engine("--model", FLOW, "--model", VLM, "--serves", f"{VLM}=fal-ai/nemotron-diffusion-vlm") as (process, lines):
        while not lines[-1].startswith('models = [{ id = "sensorium/scenes-flow'):
            lines.append(process.stdout.readline().rstrip())  # type: ignore[union-attr]
        yield address(lines), lines


@pytest.fixture(scope="module")
def picture(served: tuple[str, list[str]]) -> str:
    """The red cube as a data URL."""
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="any", max_retries=0, timeout=PATIENCE) as client:
        drawn = client.post(f"/genai/{FLOW}", body={"prompt": PROMPT, "seed": 3, "output_format": "png"}, cast_to=object)
    artifact = drawn["artifacts"][0]["base64"]  # type: ignore[index]
    assert base64.b64decode(artifact)[1:4] == b"PNG"
    return f"data:image/png;base64,{artifact}"


def question(picture: str) -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "Describe this image."}]
    return [{"role": "user", "content": parts}]


def test_the_official_openai_client_sees_and_streams(served: tuple[str, list[str]], picture: str) -> None:
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="any", max_retries=0, timeout=PATIENCE) as client:
        assert {model.id for model in client.models.list()} == {VLM, FLOW, "fal-ai/nemotron-diffusion-vlm"}
        answer = client.chat.completions.create(model=VLM, messages=question(picture))
        said = answer.choices[0].message.content or ""
        assert "red cube" in said
        assert (answer.model, answer.choices[0].finish_reason) == (VLM, "stop")
        chunks = client.chat.completions.create(model="*", messages=question(picture), stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said
        with pytest.raises(openai.UnprocessableEntityError, match="max_tokens"):
            client.chat.completions.create(model=VLM, messages=question(picture), max_tokens=0)


def test_the_official_fal_client_runs_and_streams(served: tuple[str, list[str]], picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fal_client.client.RUN_URL_FORMAT", f"{served[0]}/run/")
    client, asked = fal_client.SyncClient(key="any"), {"image_url": picture, "prompt": "Describe this image."}
    with closing(client._client):
        made = client.run("fal-ai/nemotron-diffusion-vlm", arguments=asked)
        assert "red cube" in made["output"]
        assert made["usage"]["completion_tokens"] > 2
        outputs = list(client.stream("fal-ai/nemotron-diffusion-vlm", arguments=asked))
        assert outputs[-1]["output"] == made["output"]
        assert all(made["output"].startswith(one["output"]) for one in outputs)
        with pytest.raises(fal_client.client.FalClientHTTPError, match="nearest valid value"):
            client.run("fal-ai/nemotron-diffusion-vlm", arguments=asked | {"num_inference_steps": 7})


def test_a_hub_with_the_printed_settings_relays_to_it(
    served: tuple[str, list[str]], picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, lines = served
    assert lines[0].startswith(f"sensorium engine: {url} serves {FLOW} (numpy, float32, 1 slot), {VLM} (numpy, float32, 1 slot x ")
    settings = tmp_path / "hub.toml"
    settings.write_text("\n".join([*lines[1:], "[local]", "enabled = false"]), "utf-8")
    with running_hub(tmp_path, "--settings", str(settings)) as hub, openai.OpenAI(base_url=f"{hub}/v1", api_key="any") as client:
        reply = client.chat.completions.with_raw_response.create(model=VLM, messages=question(picture))
        assert reply.headers["x-sensorium-source"] == "gpu"
        assert "red cube" in (reply.parse().choices[0].message.content or "")
        chunks = client.chat.completions.create(model="fal-ai/nemotron-diffusion-vlm", messages=question(picture), stream=True)
        assert "red cube" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        drawn = client.images.generate(prompt=PROMPT, model=FLOW)
        assert drawn.data
        assert drawn.data[0].b64_json
        with pytest.raises(openai.UnprocessableEntityError, match="nearest valid value"):
            client.chat.completions.create(model=VLM, messages=question(picture), extra_body={"num_inference_steps": 7})
        monkeypatch.setattr("fal_client.client.RUN_URL_FORMAT", f"{hub}/fal/run/")
        fal = fal_client.SyncClient(key="any")
        with closing(fal._client):
            asked = {"image_url": picture, "prompt": "Describe this image."}
            made = fal.run("fal-ai/nemotron-diffusion-vlm", arguments=asked)
            assert "red cube" in made["output"]
            assert made["usage"]["num_function_evals"] > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_ends_cleanly(number: signal.Signals, code: int) -> None:
    with engine("--model", VLM) as (process, _):
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
        assert (process.returncode, "Traceback" in said) == (code, False), said


def test_a_head_that_does_not_end_is_refused(served: tuple[str, list[str]]) -> None:
    with socket.create_connection(("127.0.0.1", int(served[0].rpartition(":")[2])), timeout=PATIENCE) as caller:
        caller.sendall(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"y" * LONGEST_HEAD)
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_token_is_needed_where_others_can_come() -> None:
    code, said = ended("--model", VLM, "--host", "0.0.0.0")
    assert (code, "SENSORIUM_ENGINE_TOKEN holds none" in said) == (2, True)
    with engine("--model", VLM, "--token-env", "MINE", MINE=TOKEN) as (_, lines):
        assert 'key_env = "MINE"' in lines
        assert TOKEN not in "".join(lines)
        with openai.OpenAI(base_url=f"{address(lines)}/v1", api_key=TOKEN, max_retries=0) as client:
            assert [model.id for model in client.models.list()] == [VLM]
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="other").models.list()


def test_all_that_is_wrong_with_a_checkpoint_is_printed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "broken")
    (folder / "model.safetensors").unlink()
    code, said = ended("--model", str(folder), "--device", "numpy")
    assert (code, "model.safetensors" in said, "Traceback" in said) == (2, True, False), said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), f"--model is missing; name a folder, a shipped model ({FLOW}, {VLM})"),
        (("--model", "sensorium/other"), f"--model sensorium/other is no folder; name one, a shipped model ({FLOW}, {VLM})"),
        (("--model", "./nowhere"), "--model ./nowhere is no folder"),
        (("--model", "nobody/nothing", "--home", "."), "run: sensorium pull nobody/nothing"),
        (("--model", VLM, "--log-level", "loud"), "--log-level is 'loud'"),
        (("--model", VLM, "--port", "99999"), "port"),
        (("--model", FLOW, "--device", "cuda"), "a flow_image model runs with device numpy only, not cuda"),
    ],
)
def test_a_command_line_that_cannot_be_used(arguments: tuple[str, ...], says: str) -> None:
    code, said = ended(*arguments)
    assert (code, says in said, "Traceback" in said) == (2, True, False), said


def found(*places: tuple[str, str]) -> list[tuple[Path, str]]:
    return [(Path(folder), known) for folder, known in places]


def test_names_ids_and_pins_find_their_models() -> None:
    places = found(("/m/first", ""), ("/m/second", "org/second"), ("/m/third", ""))
    models = ordered(places, ["one"], ["one=a", "one=b", "sensorium/third=c"], ["org/second"], MORE)
    assert [(one["name"], one["serves"], one.get("pinned", False)) for one in models] == [
        *(("one", ["a", "b"], False), ("org/second", [], True), ("sensorium/third", ["c"], False))
    ]
    (alone,) = ordered(found(("/m/first", "")), [], ["fal-ai/x"], [], MORE)
    assert alone["serves"] == ["fal-ai/x"]


def test_what_names_no_model_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        ordered(found(("/m/first", ""), ("/m/second", "")), ["a", "b", "c"], ["further", "d=e", "a="], ["f"], MORE)
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    for says in ("--name is given 3 times, for 2 models", "--serves further", "--serves d=e", "--serves a=", "--pin f: no model is called"):
        assert says in told


def test_an_id_that_no_call_could_have_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        ordered(found(("/m/first", ""), ("/m/two words", "")), ["a\nb"], ['a\nb=x"y'], [], MORE)
    ids = ("'a\\nb'", "'x\"y'", "'sensorium/two words'")
    assert [problem.partition(" is no id")[0] for problem in caught.value.problems] == list(ids)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_what_is_printed_and_read_by_nobody_does_not_end_it() -> None:
    port = free_port()
    line = command("--model", VLM, "--port", str(port))
    with subprocess.Popen(line, env=hub_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        try:
            with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=30) as client:
                assert [model.id for model in client.models.list()] == [VLM]
        finally:
            process.terminate()
        said = process.stderr.read()
    assert (process.returncode, "Traceback" in said) == (0, False), said


def test_models_of_ours_run_on_numpy_and_others_on_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "sensorium.json").write_text("{}", "utf-8")
    both = ordered([(tmp_path, ""), (Path("/m/big"), "")], [], [], [], MORE)
    assert [one["device"] for one in both] == ["numpy", "auto"]
    assert ordered([(tmp_path, "")], [], [], [], MORE | {"device": "cpu"})[0]["device"] == "cpu"


def test_options_become_orders() -> None:
    given = MORE | {"device": "cuda:1", "dtype": "bfloat16", "slots": 8, "context": 4096, "graphs": False}
    orders = whole(ordered(found(("/m/big", "org/big")), [], [], [], given), TOKEN, LIMITS | {"memory_gb": 40.0, "deadline_s": 30.0})
    (model,) = orders.models
    told = (model.path, model.name, model.device, model.dtype, model.slots, model.context)
    assert told == (
        "/m/big",
        "org/big",
        "cuda:1",
        "bfloat16",
        8,
        4096,
    )
    assert (model.graphs, model.compile, model.pinned) == (False, True, False)
    assert (orders.token, orders.queue, orders.memory_gb, orders.deadline_s, orders.hang_s) == (TOKEN, 32, 40.0, 30.0, None)


def test_every_option_out_of_its_range_is_named() -> None:
    wrong = MORE | {"dtype": "float8", "slots": -1, "context": -5}
    with pytest.raises(SettingsError) as caught:
        whole(ordered(found(("/m/big", "")), [], [], [], wrong), "", LIMITS | {"queue": 0, "memory_gb": 0.0, "hang_s": float("nan")})
    told = "\n".join(caught.value.problems)
    for says in ("--slots is -1", "--context is -5", "--queue is 0", "--memory-gb is 0.0", "--hang-s is nan", "--dtype is 'float8'"):
        assert says in told, told


def test_the_shipped_models_have_ids() -> None:
    assert shipped() == [FLOW, VLM]


def test_a_model_that_takes_long_is_told_of_at_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    told = Told()
    for done in range(0, 10_001, 7):
        model = {"name": "org/big", "state": "loading", "loaded_bytes": done * 1_000_000, "total_bytes": 10_000_000_000}
        told.hear({"event": "loading", "models": [model]}, str)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [f"loading org/big: {tenth}.0 of 10.0 GB" for tenth in range(3)]
    assert len(lines) == 10
    for done in range(0, 4_000_001, 100_000):
        model = {"name": "org/small", "state": "loading", "loaded_bytes": done, "total_bytes": 4_000_000}
        told.hear({"event": "loading", "models": [model]}, str)
    assert capsys.readouterr().err == "loading org/small\n"
    told.hear({"event": "ready", "seconds": 5}, lambda: "here it is")
    told.hear({"event": "failed", "problems": ["it broke"]}, str)
    assert (capsys.readouterr().out, told.problems) == ("here it is\n", ["it broke"])
