"""The example of the queue: one request of two submissions, a genuine notification, the file behind its link; nothing stays behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_process import ROOT, hub_environment

SCRIPT = ROOT / "examples" / "queue" / "run.sh"
STEPS = ["submitted", "told", "downloaded", "seen", "recorded", "delivered"]


@pytest.mark.skipif(os.name == "nt" or not shutil.which("bash") or not shutil.which("curl"), reason="the script needs bash and curl")
def test_a_picture_is_submitted_told_of_and_fetched(tmp_path: Path) -> None:
    env = hub_environment(PYTHON=sys.executable, TMPDIR=str(tmp_path))
    command = ["bash", str(SCRIPT)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as script:
        said, trouble = script.communicate(timeout=300)
    assert (script.returncode, trouble) == (0, ""), said
    lines = said.splitlines()
    assert [line.split()[0] for line in lines] == STEPS
    assert "twice, as one request" in lines[0]
    assert lines[1].split()[1:] == ["OK,", "signed"]
    assert lines[2].endswith("image/png")
    assert "cube" in lines[3]
    assert lines[-1].endswith("answered 200")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(script.pid, 0)
