"""The steps at which a test may have the hub die: each is in the source once, none does anything unless it is armed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter

import pytest

from sensorium import failpoints
from sensorium.errors import SettingsError
from tests.hub_process import ROOT, hub_environment

CALL = re.compile(r"failpoints\.reach\(\"(\w+)\"\)")
PROGRAM = "from sensorium import failpoints; failpoints.arm({!r}); failpoints.reach('claimed'); print('alive')"


def lived(armed: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(armed)], env=hub_environment(), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip()


def test_every_step_is_reached_in_one_place() -> None:
    found = Counter(name for file in (ROOT / "src").rglob("*.py") for name in CALL.findall(file.read_text("utf-8")))
    assert found == Counter(failpoints.STEPS)
    assert {line.split()[0] for line in str(failpoints.__doc__).splitlines() if line.startswith("    ")} == set(failpoints.STEPS)


def test_an_armed_step_ends_the_process_and_no_other_does() -> None:
    assert lived("") == (0, "alive")
    assert lived("job_known") == (0, "alive")
    assert lived("claimed") == (-signal.SIGKILL, "")


def test_an_unknown_step_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="there is no step 'claim'; it is one of submit_uncommitted"):
        failpoints.arm("claim")
    command = [sys.executable, "-m", "sensorium.cli", "serve"]
    environment = hub_environment(**{failpoints.VARIABLE: "claim"})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0 and "there is no step 'claim'" in done.stderr and "Traceback" not in done.stderr
