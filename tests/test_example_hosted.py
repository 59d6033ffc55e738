"""The example of every modality: all its calls pass, a wrong key fails its own, and nothing of it stays behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.test_seed_lines import ASR, TTS, VIDEO
from tests.hub_process import ROOT, hub_environment
from tests.test_seed import DECODE, DEV, SCHNELL, VISION

SCRIPT = ROOT / "examples" / "hosted-simulated" / "run.sh"


@pytest.mark.parametrize("line", [VISION, SCHNELL, DEV, DECODE, ASR, TTS, VIDEO])
def test_it_makes_the_calls_of_the_document_as_they_stand(line: str) -> None:
    assert f"\n{line}" in SCRIPT.read_text("utf-8")


@pytest.mark.skipif(os.name == "nt" or not shutil.which("bash") or not shutil.which("curl"), reason="the script needs bash and curl")
@pytest.mark.parametrize(
    ("wrong", "status", "broken", "summed"),
    [
        ("", 0, [], "12 passed, 0 failed"),
        ("nvidia-image", 1, ["FLUX.1 schnell", "decoded", "FLUX.1 dev", "decoded"], "8 passed, 4 failed"),
    ],
)
def test_all_calls_pass_or_those_of_the_wrong_key_fail(wrong: str, status: int, broken: list[str], summed: str, tmp_path: Path) -> None:
    env = hub_environment(PYTHON=sys.executable, TMPDIR=str(tmp_path), WRONG_KEY=wrong)
    command = ["bash", str(SCRIPT)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as script:
        said, trouble = script.communicate(timeout=300)
    lines = said.splitlines()
    assert (lines[-1], script.returncode, trouble) == (summed, status, ""), said
    failed = [line for line in lines if line.startswith("failed")]
    assert [line[8:28].strip() for line in failed] == broken
    assert all("upstream_key_rejected" in line for line in failed if "FLUX" in line)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(script.pid, 0)
