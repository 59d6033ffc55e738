"""Where torch computes: the device, its number formats and its memory, with a plain word where one of them is not to be had.

Devices and number formats of the "auto" choice are those that a model of a few billion parameters wants. It does not know any model.
torch is imported when asked for: a default install has none.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.errors import DeviceLost, SettingsError

INSTALL = "pip install 'sensorium[torch]'"
NAME = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
LOST_S = 30.0
MEMORY_UNKNOWN = 16 << 30  # assumed where the system does not say


@dataclass(frozen=True, slots=True)
class Description:
    """A device for status pages: "cuda:0", its maker's name, all of its memory in bytes, and the version of torch."""

    device: str
    name: str
    memory: int
    torch: str


def torch_library() -> Any:
    """The torch module. Raises SettingsError where it is not installed or cannot be loaded."""
    try:
        # Start-up cost: seconds, and only those pay who run a model on it.
        import torch
    except ModuleNotFoundError as error:
        raise SettingsError([f"this needs torch, which is not installed: {INSTALL}"]) from error
    except (ImportError, OSError) as error:
        raise SettingsError([f"torch is installed but cannot be loaded ({error}): {INSTALL} --force-reinstall"]) from error
    return torch


def choose(name: str) -> Any:
    """The torch device for "auto" (the best there is), "cpu", "cuda" (the first), "cuda:N" or "mps". Raises SettingsError."""
    if not NAME.fullmatch(name):
        raise SettingsError([f"device is {name!r}, expected auto, cpu, cuda, cuda:N or mps"])
    torch = torch_library()
    if name == "auto":
        name = "cuda" if _cuda_count(torch)[0] else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda"):
        return torch.device("cuda", _cuda_index(torch, name))
    if name == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(["device is mps, but torch sees no Apple GPU here; use cpu"])
    return torch.device(name)


def _cuda_count(torch: Any) -> tuple[int, str]:
    """How many GPUs torch can use, and what it has to say about that."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return count, "; ".join(str(one.message) for one in said)


def _cuda_index(torch: Any, name: str) -> int:
    """The number of the GPU that `name` asks for. Raises SettingsError where it is not there."""
    index = int(name.partition(":")[2] or 0)
    count, said = _cuda_count(torch)
    if index < count:
        return index
    if count:
        raise SettingsError([f"device is {name}, but torch sees only {count} GPUs, cuda:0 to cuda:{count - 1}"])
    if not torch.version.cuda and not getattr(torch.version, "hip", None):
        raise SettingsError(
            [f"device is {name}, but torch {torch.__version__} was built without CUDA; install a build of it that has CUDA"]
        )
    raise SettingsError(
        [f"device is {name}, but torch sees no GPU{f' ({said})' if said else ''}; check the driver and CUDA_VISIBLE_DEVICES"]
    )


def dtype(name: str, device: Any) -> Any:
    """The torch number format for "auto", "float32", "bfloat16" or "float16" on a device. Raises SettingsError where it has none.

    "auto" is float32 on a CPU, else bfloat16 on hardware that has it, else float16.
    """
    torch = torch_library()
    if name == "auto":
        half = "bfloat16" if device.type == "cuda" and _has_bfloat16(torch, device) else "float16"
        return torch.float32 if device.type == "cpu" else getattr(torch, half)
    if name not in ("float32", "bfloat16", "float16"):
        raise SettingsError([f"dtype is {name!r}, expected auto, float32, bfloat16 or float16"])
    if name == "bfloat16" and not _has_bfloat16(torch, device):
        raise SettingsError([f"dtype is bfloat16, which {describe(device).name} cannot compute; use float16 or float32"])
    return getattr(torch, name)


def _has_bfloat16(torch: Any, device: Any) -> bool:
    """Whether a device computes bfloat16 itself; emulation would be slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        try:
            torch.zeros(1, dtype=torch.bfloat16, device=device)
        except (TypeError, RuntimeError):
            return False
    return True


def check_alive(device: Any) -> None:
    """After a fault on a GPU: raises DeviceLost when it can do nothing more for this process.

    Illegal accesses, failed assertions and hardware faults stay: every later call fails with them. A small piece of work tells.
    """
    if device.type != "cuda":
        return
    torch = torch_library()
    try:
        torch.cuda.synchronize(device)
        torch.ones(1, device=device).item()
    except torch.OutOfMemoryError:
        return
    except RuntimeError as error:
        said = str(error).partition("\n")[0][:200]
        told = f"the device {device} is lost to this process and will be back with the next one ({said})"
        raise DeviceLost(told, retry_after=LOST_S) from None


def free_bytes(device: Any) -> int:
    """Memory that models may still take on a device: what nobody has, and what torch keeps for reuse."""
    torch = torch_library()
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(kept)
    if device.type == "mps":
        return max(0, int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory()))
    return _host_free()


def used_bytes(device: Any) -> int:
    """Memory that this process holds on a device."""
    torch = torch_library()
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def total_bytes(device: Any) -> int:
    """All memory of a device."""
    torch = torch_library()
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return _host_total()


def describe(device: Any) -> Description:
    """What a status page says of a device."""
    torch = torch_library()
    name = str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "Apple GPU" if device.type == "mps" else "CPU"
    return Description(str(device), name, total_bytes(device), str(torch.__version__))


def _host_total() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return MEMORY_UNKNOWN


def _host_free() -> int:
    """Free memory of this machine, half of all where the system does not say; or of the container where that is less."""
    try:
        known = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        known = None
    free = int(known[1]) * 1024 if known else _host_total() // 2
    group = Path("/sys/fs/cgroup")
    try:
        limit, taken = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return min(free, max(0, int(limit) - taken)) if limit.isdigit() else free
