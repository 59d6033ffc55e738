"""What a figure of the engine's bench is made with: time, memory, and who measured it on what.

On a CUDA device time is taken with events on the device's own clock, elsewhere with the process's clock; memory is what torch's allocator
has handed out. It knows no model.
"""

from __future__ import annotations

import datetime
import gc
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

GB = 1e9
ROOT = Path(__file__).parent.parent


class Clock:
    """Milliseconds of pieces of work on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda = device.type == "cuda"

    def settle(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def once(self, work: Callable[[], Any]) -> float:
        """Milliseconds of one call, until the device has finished what it began."""
        self.settle()
        if not self.cuda:
            began = time.perf_counter()
            work()
            return 1000 * (time.perf_counter() - began)
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        work()
        torch.cuda.synchronize(self.device)  # also what other streams were given: the last event is to stand after it
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))

    def each(self, work: Callable[[], Any], warm_up: int, repeats: int) -> list[float]:
        """Milliseconds of each of `repeats` calls, after `warm_up` calls that do not count."""
        for _ in range(warm_up):
            work()
        return [self.once(work) for _ in range(repeats)]

    def forget_peak(self) -> None:
        """Give unused memory back and count the peak from here."""
        gc.collect()
        if self.cuda:
            self.settle()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def bytes_now(self) -> int:
        """Bytes in live tensors; on a CPU those of the process."""
        gc.collect()
        if self.cuda:
            self.settle()
            return int(torch.cuda.memory_allocated(self.device))
        return resident_bytes()

    def bytes_peak(self) -> int:
        """The most bytes that the allocator took from the device since `forget_peak`; on a CPU since the process began."""
        if self.cuda:
            return int(torch.cuda.max_memory_reserved(self.device))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def bytes_of_device(self) -> int:
        """Bytes that the device has in all; 0 on a CPU."""
        return int(torch.cuda.mem_get_info(self.device)[1]) if self.cuda else 0


def resident_bytes() -> int:
    """Resident memory of this process where /proc tells it, its peak elsewhere."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text("ascii").split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def median(values: Sequence[float]) -> float:
    """The middle value; the upper one of two."""
    return percentile(values, 50)


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which `percent` of a hundred lie."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def setting(device: torch.device) -> dict[str, Any]:
    """Device, driver, versions, date and revision."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {platform.machine()}",
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0] if cuda else "",
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "revision": _said("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "changed": bool(_said("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")),
    }


def _said(*command: str) -> str:
    """What a program printed; nothing where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
