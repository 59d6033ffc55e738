"""Tests of the torch engine on a CUDA device; without one each is skipped, with the reason."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
DEVICE = "cuda:0"
HAS_TORCH = importlib.util.find_spec("torch") is not None
collect_ignore_glob = [] if HAS_TORCH else ["test_*.py"]
# What torch's compiler has to say about its own inside is no fault of ours.
QUIET = ("ignore::Warning:torch", "ignore:TensorFloat32 tensor cores:UserWarning", "ignore:Online softmax:UserWarning")


def missing() -> str | None:
    """Why these tests cannot run here."""
    if not HAS_TORCH:
        return "torch is not installed; make oracles installs it"
    import torch

    if torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} finds no CUDA device; docs/gpu.md says how to install a build with CUDA"


def pytest_report_header() -> list[str]:
    """Said at the top of every run that leaves these tests out."""
    why = missing()
    return [f"not run: tests/gpu, {why}"] if why else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what lies in this folder where there is no device."""
    why = missing()
    for item in items:
        if HERE in item.path.parents:
            if why:
                item.add_marker(pytest.mark.skip(reason=why))
            for rule in QUIET:
                item.add_marker(pytest.mark.filterwarnings(rule))


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """Each test begins and ends without what another one left on the device."""
    import torch
    import torch._dynamo

    torch._dynamo.reset()  # the compiler keeps a limited number of shapes, whichever test they are of
    gc.collect()
    torch.cuda.empty_cache()
    yield
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture
def device() -> Any:
    """The first CUDA device."""
    import torch

    return torch.device(DEVICE)
