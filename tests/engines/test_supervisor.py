"""Real engine processes: started, killed, replaced, stopped, orphaned."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sensorium.engines import supervisor
from sensorium.engines.supervisor import EngineProcess
from sensorium.errors import SettingsError, Unavailable
from tests.engines.diffusion_vlm.checkpoints import write_checkpoint
from tests.engines.flow_image import tiny

PATIENCE = 60.0
ROOT = Path(__file__).parents[2]
HERE = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "NVIDIA_API_KEY": "nvapi-canary"}
CUBE = {"prompt": "a red cube on a white table", "seed": 5, "steps": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("models")
    return [tiny.write(home / "tiny-flow"), write_checkpoint(home / "tiny-vlm", side={"scope": "synthetic-scenes"})]


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, PATIENCE))


async def post(engine: EngineProcess, path: str, body: Any) -> Any:
    headers = {"authorization": f"Bearer {engine.token}"}
    async with aiohttp.ClientSession() as session, session.post(engine.base_url + path, json=body, headers=headers) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def draw(engine: EngineProcess) -> bytes:
    reply = await post(engine, "/v1/genai/sensorium/tiny-flow", CUBE)
    return base64.b64decode(reply["artifacts"][0]["base64"])


def test_both_models_answer_and_a_killed_engine_answers_the_next_call(folders: list[Path], tmp_path: Path) -> None:
    async def test() -> None:
        async with EngineProcess("local", folders, environment=HERE, log=tmp_path / "log" / "engine.log") as engine:
            # Not waiting for readiness on purpose: the call waits in the socket.
            picture = await draw(engine)
            assert (engine.state, engine.restarts) == ("ready", 0)
            question = {"messages": [{"role": "user", "content": "what is this"}], "max_tokens": 8}
            reply = await post(engine, "/v1/chat/completions", question)
            assert reply["model"] == "sensorium/tiny-vlm"
            assert reply["usage"]["completion_tokens"] >= 1
            first = engine.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            assert await draw(engine) == picture
            assert (engine.state, engine.restarts) == ("ready", 1)
            assert engine.pid not in (None, first)
        assert (engine.state, engine.pid) == ("stopped", None)
        await engine.stop()

    run(test())


def test_hanging_up_on_a_real_connection_frees_the_device(tmp_path: Path) -> None:
    slow = tiny.write(tmp_path / "tiny-flow", steps={"default": 4, "max": 20_000})

    async def lane(engine: EngineProcess, session: aiohttp.ClientSession) -> Any:
        async with session.get(f"{engine.base_url}/v1/lane", headers={"authorization": f"Bearer {engine.token}"}) as reply:
            return await reply.json()

    async def test() -> None:
        async with EngineProcess("local", [slow], environment=HERE) as engine, aiohttp.ClientSession() as session:
            call = asyncio.create_task(post(engine, "/v1/genai/sensorium/tiny-flow", CUBE | {"steps": 20_000}))
            while not (await lane(engine, session))["running"]:
                assert not call.done()
            call.cancel()
            while (await lane(engine, session))["cancelled"] != 1:
                pass
            await draw(engine)
            assert (await lane(engine, session))["finished"] == 1

    run(test())


def test_no_secret_reaches_the_process_by_environment_or_command_line(folders: list[Path]) -> None:
    async def test() -> None:
        async with EngineProcess("local", folders[:1], environment=HERE) as engine:
            await engine.wait_ready()
            seen = b"".join(Path(f"/proc/{engine.pid}/{name}").read_bytes() for name in ("environ", "cmdline"))
            assert b"sensorium.engines.server" in seen
            assert b"OPENBLAS_NUM_THREADS=1" in seen
            assert b"canary" not in seen
            assert engine.token.encode() not in seen

    run(test())


def test_models_that_cannot_be_loaded_are_reported_and_not_tried_again(folders: list[Path], tmp_path: Path) -> None:
    broken = tiny.write(tmp_path / "broken", prediction="velocity", shift=-1)

    async def test() -> None:
        engine = EngineProcess("local", [*folders, broken], environment=HERE)
        await engine.start()
        try:
            with pytest.raises(SettingsError) as caught:
                await engine.wait_ready()
            assert (engine.state, engine.restarts) == ("failed", 0)
            assert any("prediction must be x0" in problem for problem in caught.value.problems)
            with pytest.raises(aiohttp.ClientConnectorError):
                await draw(engine)
        finally:
            await engine.stop()

    run(test())


def test_an_engine_that_never_gets_ready_is_broken_after_the_third_and_tried_again_from_time_to_time(folders: list[Path]) -> None:
    async def test() -> None:
        pauses: list[float] = []
        states: list[str] = []
        enough = asyncio.Event()

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            states.append(engine.state)
            if len(pauses) == 2:
                with pytest.raises(Unavailable, match="not ready after 0 seconds; it is restarting"):
                    await engine.wait_ready(0)
            if len(pauses) == 4:
                enough.set()
                await asyncio.Event().wait()

        nowhere = {**HERE, "PYTHONPATH": "", "PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1", "PYTHONHOME": str(folders[0])}
        engine = EngineProcess("local", folders, environment=nowhere, log=folders[0] / "log", pause=pause)
        await engine.start()
        await enough.wait()
        assert pauses == [1.0, 2.0, 300.0, 300.0]
        assert states == ["restarting", "restarting", "broken", "broken"]
        assert engine.restarts == 4
        with pytest.raises(SettingsError, match="it ended with code 1 before its models were loaded, again and again"):
            await engine.wait_ready(0)
        await engine.stop()

    run(test())


def test_a_broken_engine_that_gets_ready_after_all_answers_calls(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    good = supervisor.COMMAND

    async def test() -> None:
        async def pause(seconds: float) -> None:
            if seconds == 300.0:
                assert engine.state == "broken"
                monkeypatch.setattr(supervisor, "COMMAND", good)

        engine = EngineProcess("local", folders, environment=HERE, pause=pause)
        async with engine:
            assert await draw(engine)
            assert (engine.state, engine.problems, engine.restarts) == ("ready", [], 3)

    monkeypatch.setattr(supervisor, "COMMAND", ("-c", "raise SystemExit(3)"))
    run(test())


def test_a_stopped_engine_is_noticed_and_replaced(folders: list[Path]) -> None:
    async def test() -> None:
        async with EngineProcess("local", folders, environment=HERE, hang_s=3.0) as engine:
            await engine.wait_ready()
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGSTOP)
            assert await draw(engine)  # it waits in the socket for the next process
            assert (engine.state, engine.restarts) == ("ready", 1)

    run(test())


def test_an_engine_that_is_never_ready_is_ended(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    alive = "import json, time\nwhile True:\n    print(json.dumps({'event': 'alive'}), flush=True)\n    time.sleep(0.05)"
    monkeypatch.setattr(supervisor, "COMMAND", ("-c", alive))
    monkeypatch.setattr(supervisor, "LOOK_EVERY_S", 0.05)

    async def test() -> None:
        told: list[list[str]] = []
        enough = asyncio.Event()

        async def pause(seconds: float) -> None:
            told.append(engine.problems)
            enough.set()
            await asyncio.Event().wait()

        async with EngineProcess("local", folders, environment=HERE, start_s=0.5, pause=pause) as engine:
            await enough.wait()
            assert told == [["its models were not loaded after 0.5 seconds and it was ended"]]

    run(test())


def test_whatever_a_killed_engine_has_started_ends_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    left = tmp_path / "child"
    child = f"import subprocess, sys; c = subprocess.Popen(['sleep', '600']); open({str(left)!r}, 'w').write(str(c.pid)); c.wait()"
    monkeypatch.setattr(supervisor, "COMMAND", ("-c", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {child}"))

    async def test() -> None:
        engine = EngineProcess("local", [tmp_path], environment=HERE, grace_s=0.1)
        await engine.start()
        while not (left.exists() and left.read_text()):
            await asyncio.sleep(0.01)
        await engine.stop()
        stat = Path(f"/proc/{left.read_text()}/stat")
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
            await asyncio.sleep(0.01)

    run(test())


def test_an_engine_that_does_not_listen_is_killed_after_the_grace(folders: list[Path]) -> None:
    async def test() -> None:
        engine = EngineProcess("local", folders[:1], environment=HERE, grace_s=0.1)
        await engine.start()
        await engine.wait_ready()
        process = engine._process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        await engine.stop()
        assert process.returncode == -signal.SIGKILL

    run(test())


PARENT = """
import asyncio, os, sys
from pathlib import Path
from sensorium.engines.supervisor import EngineProcess

async def main():
    engine = EngineProcess("local", [Path(sys.argv[1])], environment=os.environ)
    await engine.start()
    await engine.wait_ready()
    print(engine.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_an_engine_ends_with_its_parent(folders: list[Path]) -> None:
    command = [sys.executable, "-c", PARENT, str(folders[0])]
    with subprocess.Popen(command, env=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        engine = int(parent.stdout.readline())
        parent.kill()
        try:
            # The engine shares the parent's stderr, which therefore ends only when both are gone.
            parent.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.kill(engine, signal.SIGKILL)
            raise


def test_an_engine_imports_nothing_from_the_folder_where_the_hub_was_started(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise SystemExit(99)", "utf-8")
    command = [sys.executable, "-c", PARENT, str(folders[0])]
    with subprocess.Popen(command, env=HERE | {"PYTHONSAFEPATH": ""}, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            assert int(parent.stdout.readline()) > 0
        finally:
            parent.kill()


def test_an_engine_that_is_asked_to_stop_ends_in_order(folders: list[Path]) -> None:
    async def test() -> None:
        async with EngineProcess("local", folders[:1], environment=HERE) as engine:
            await engine.wait_ready()
            process = engine._process
        assert process is not None
        assert process.returncode == 0

    run(test())


@pytest.mark.parametrize(
    ("line", "says"),
    [("b'x' * (supervisor.REPORT_CAP + 1)", "a report that cannot be read"), ("b'x' * 100_000", "cannot be used")],
    ids=["endless", "nonsense"],
)
def test_reports_that_cannot_be_read_never_leave_callers_waiting(
    line: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = "import sys; from sensorium.engines import supervisor"
    reports = f"sys.stdout.buffer.write({line} + b'\\n[1]\\n{{}}\\n'); sys.stdout.flush()"
    monkeypatch.setattr(supervisor, "COMMAND", ("-c", f"{imports}; {reports}; sys.exit(supervisor.UNUSABLE)"))

    async def test() -> None:
        engine = EngineProcess("local", [tmp_path], environment=HERE)
        await engine.start()
        with pytest.raises(SettingsError, match=says):
            await engine.wait_ready()
        assert (engine.state, engine.pid) == ("failed", None)
        await engine.stop()

    run(test())


def test_only_what_finds_things_is_passed_on() -> None:
    given = {
        "PATH": "/bin",
        "PythonPath": "x",
        "LC_ALL": "C",
        "FAL_KEY": "k",
        "MAC_API_TOKEN": "t",
        "AWS_SECRET": "s",
        "OMP_NUM_THREADS": "8",
    }
    assert supervisor.passed_on(given) == {"PATH": "/bin", "PythonPath": "x", "LC_ALL": "C", **supervisor.THREADS}
