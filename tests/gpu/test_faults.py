"""Faults of a real device: one that stays is told apart from one that passes, and a recording that breaks off leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sensorium.engines import devices
from sensorium.engines.diffusion_vlm.torch_programs import WARM_UP, Recorder

LOST = """
import torch
from sensorium.engines import devices
from sensorium.errors import DeviceLost

device = torch.device("cuda", 0)
devices.check_alive(device)
try:
    torch.zeros(3, device=device)[torch.tensor([7], device=device)].sum().item()
except RuntimeError:
    pass
try:
    devices.check_alive(device)
except DeviceLost as error:
    print("told:", error)
"""


def test_a_failed_assertion_loses_the_device_for_its_process(device: torch.device) -> None:
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=300, check=True)
    assert "told: the device cuda:0 is lost to this process" in done.stdout
    devices.check_alive(device)


def test_a_fault_that_passes_leaves_the_device_alive(device: torch.device) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(1 << 50, dtype=torch.uint8, device=device)
    with pytest.raises(RuntimeError):
        torch.zeros(2, 3, device=device) @ torch.zeros(2, 3, device=device)
    devices.check_alive(device)


def test_a_recording_that_breaks_off_leaves_nothing_behind(device: torch.device) -> None:
    """It waits for the device in the middle, which is forbidden. Afterwards memory that crossed streams comes back, and others record."""
    out, runs = torch.zeros(4, device=device), 0

    def forbidden() -> None:
        nonlocal runs
        runs += 1
        out.add_(1)
        if runs > WARM_UP:
            out.sum().item()

    recorder, before = Recorder(), torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        recorder(forbidden, timed=False)
    assert torch.cuda.current_stream() == before
    devices.check_alive(device)
    graph, milliseconds = recorder(lambda: out.copy_(torch.arange(4.0, device=device)), timed=True)
    graph.replay()
    assert out.tolist() == [0.0, 1.0, 2.0, 3.0] and milliseconds > 0
    other = torch.cuda.Stream()
    taken = torch.cuda.memory_allocated()
    for _ in range(8):
        lent = torch.empty(1 << 20, dtype=torch.uint8, device=device)
        lent.record_stream(other)
        del lent
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() == taken
