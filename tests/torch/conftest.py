"""torch on one thread: these tests run beside others, and small matrices gain nothing from more."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs torch: make oracles installs it")
torch.set_num_threads(1)
