"""What an engine process is told by whoever starts it: the models, where they run, and how much they may take.

The hub sends it over a pipe (`supervisor`), `sensorium engine` builds it from its options; `server` carries it out. It knows no model.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["auto", "sdpa", "split"]
Quant = Literal["none", "fp8", "int8", "nf4"]
Offload = Literal["none", "model", "group", "sequential"]


class ModelOrder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model.

    `path` is its folder, `name` the id that callers use (empty: from the folder), `serves` further ids. `device` is "numpy" (the small
    models without torch), "cpu", "cuda", "cuda:N", "mps", or "auto" (the best that torch has). `vision_dtype` is that of the picture tower
    ("": as `dtype`). `slots` answers run side by side, each with `context` positions; 0 takes what the memory allows. `attention`, `graphs`
    and `compile` choose how forwards are run on a GPU; they change no answer. `quant` and `offload` are FLUX's. A `pinned` model is
    never unloaded for another one.
    """

    path: str
    name: str = ""
    serves: list[str] = []
    device: str = "numpy"
    dtype: Dtype = "auto"
    vision_dtype: Dtype | Literal[""] = ""
    slots: int = 0
    context: int = 0
    attention: Attention = "auto"
    graphs: bool = True
    compile: bool = True
    quant: Quant = "none"
    offload: Offload = "none"
    pinned: bool = False


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """The whole process. `socket` is a file descriptor, or on Windows the base64 of a socket shared with this process.

    `token` is what callers show ("": nobody has to). At most `queue` calls wait for each device. `memory_gb` is what the models may take
    together on the device (None: what is free); models beyond it take turns. A forward that takes longer than `hang_s` ends the process.
    """

    token: str
    models: list[ModelOrder]
    socket: int | str
    allow_egress: list[str] = []
    queue: int = 32
    deadline_s: float | None = None
    memory_gb: float | None = None
    hang_s: float | None = None
