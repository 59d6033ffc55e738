"""Golden dumps: what a reference computed for some questions, as a folder with an index.json and arrays, and how it is read.

    index.json      {"format": 1, "kind": "diffusion_vlm_golden", "dtype": "float32" | "bfloat16", "made_with": {...}, "cases": [...]}
    NAME.KIND.npy   an array of a case, float32, named in its `arrays`

`dtype` is what the reference computed in. It does not know models, nor how dumps are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from sensorium.engines.diffusion_vlm.numpy_layers import Floats
from sensorium.errors import SettingsError

INDEX = "index.json"
DIMENSIONS = {"pixels": 3, "tower": 2, "features": 2, "prefill_logits": 1, "block_logits": 2}


Count = Annotated[int, msgspec.Meta(ge=1)]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One question at temperature 0, decoded by block diffusion.

    `picture` is a file beside the index ("": no picture), `prompt` the ids with pictures expanded, `block` the ids of the first denoising
    pass, `tokens` the answer as the reference gave it (masks that it left included), `nfe` its count. `steps` are over all blocks.
    `arrays` names files by kind: `pixels` [3, h, w] as the tower got them, `tower` [patches, width] and `features` [cells, hidden] in
    `tower_dtype`, `prefill_logits` [vocab] after the prompt, `block_logits` [block_length, vocab] of the first denoising pass. Each may
    be missing.
    """

    name: str
    question: str
    picture: str = ""
    max_tokens: Count
    steps: Count
    block_length: Count
    threshold: float | None = None
    prompt: list[int]
    block: list[int] = []
    tokens: list[int]
    nfe: int
    arrays: dict[str, str] = {}
    tower_dtype: Literal["float32", "bfloat16"] = "float32"


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of dumps."""

    format: Literal[1] = 1
    kind: Literal["diffusion_vlm_golden"] = "diffusion_vlm_golden"
    dtype: Literal["float32", "bfloat16"]
    made_with: dict[str, str] = {}
    cases: list[Case]


def read(folder: Path) -> Index:
    """The index of a folder. Raises SettingsError with everything that is wrong with it."""
    path = folder / INDEX
    try:
        index = msgspec.json.decode(path.read_bytes(), type=Index)
    except OSError as error:
        raise SettingsError([f"{path} cannot be read: {error.strerror}"]) from None
    except msgspec.DecodeError as error:
        raise SettingsError([f"{path} is not an index of golden dumps: {error}"]) from None
    problems = [problem for case in index.cases for problem in _problems(folder, case)]
    if not index.cases:
        problems.append(f"{path} has no cases")
    if problems:
        raise SettingsError(problems)
    return index


def _problems(folder: Path, case: Case) -> list[str]:
    files = [*case.arrays.values(), *([case.picture] if case.picture else [])]
    problems = [f"{case.name}: {file!r} is not a file beside the index" for file in files if Path(file).name != file]
    problems += [f"{case.name}: {file} is missing" for file in files if not problems and not (folder / file).is_file()]
    problems += [f"{case.name}: {kind!r} is no kind of array" for kind in case.arrays if kind not in DIMENSIONS]
    blocks = case.max_tokens // case.block_length
    if blocks < 1 or case.max_tokens % case.block_length or case.steps % blocks:
        problems.append(f"{case.name}: max_tokens {case.max_tokens} and steps {case.steps} are not shared by blocks of {case.block_length}")
    if not case.prompt:
        problems.append(f"{case.name}: the prompt is empty")
    return problems


def array(folder: Path, case: Case, kind: str) -> Floats | None:
    """One array of a case; None when it was not dumped. Raises SettingsError when it is not what it should be."""
    if kind not in case.arrays:
        return None
    file = case.arrays[kind]
    try:
        values = np.load(folder / file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SettingsError([f"{file} is not an array: {error}"]) from None
    if values.ndim != DIMENSIONS[kind] or values.dtype != np.float32:
        raise SettingsError([f"{file} has shape {list(values.shape)} of {values.dtype}, expected {DIMENSIONS[kind]} axes of float32"])
    found: Floats = values
    return found
