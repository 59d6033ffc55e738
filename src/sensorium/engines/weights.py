"""Reads safetensors checkpoints: one file or shards with an index; every tensor comes out as float32.

Knows the container format, the four number formats below and the int8 shipping format (`<name>` as I8 beside `<name>_scale`).
It does not know any model: the caller brings the plan, a mapping from tensor name to shape derived from its own config.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensorium.errors import SettingsError

FloatArray = NDArray[np.float32]
Plan = Mapping[str, tuple[int, ...]]

SCALE = "_scale"
ITEM_SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1}
STORED_AS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "I8": np.dtype("i1")}
# The bits of the exponent, all set in infinities and NaNs, by number format.
EXPONENTS: dict[str, tuple[Any, int]] = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}
PIECE = 1 << 24
LISTED = 12


@dataclass(frozen=True, slots=True)
class Stored:
    """Where one tensor lies: its number format, shape and bytes (a view into the mapped file)."""

    kind: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def decode(self) -> FloatArray:
        """The values as float32 in memory of their own (the file may be replaced while the model runs), without a scale."""
        raw = self.data.view(STORED_AS[self.kind]).reshape(self.shape)
        if self.kind == "BF16":
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        values: FloatArray = np.array(raw, np.float32)
        return values

    def not_finite(self) -> int:
        """How many values are NaN or infinite, without decoding them."""
        if self.kind not in EXPONENTS:
            return 0
        kind, exponent = EXPONENTS[self.kind]
        raw: NDArray[Any] = self.data.view(np.dtype(kind).newbyteorder("<"))
        return sum(int(((raw[at : at + PIECE] & kind(exponent)) == exponent).sum()) for at in range(0, raw.size, PIECE))


class Tensors(Mapping[str, FloatArray]):
    """The tensors of a checkpoint by name, decoded when asked for, so that one float32 copy at a time is alive.

    An I8 tensor is multiplied by its `<name>_scale`, one factor per row of the first axis; the scales themselves are not listed.
    """

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self._stored = dict(stored)
        self._scales = {name: name + SCALE for name, tensor in stored.items() if tensor.kind == "I8" and name + SCALE in stored}
        self._listed = self._stored.keys() - self._scales.values()

    def __getitem__(self, name: str) -> FloatArray:
        tensor = self._stored[name]
        values = tensor.decode()
        if tensor.kind == "I8":
            scale = self._stored[self._scales[name]].decode()
            values = values * scale.reshape(-1, *[1] * (values.ndim - 1))
        return values

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._stored if name in self._listed)

    def __contains__(self, name: object) -> bool:
        return name in self._listed

    def __len__(self) -> int:
        return len(self._listed)

    def stored(self, name: str) -> tuple[Stored, Stored | None]:
        """A tensor as it lies in its file, and its scale if it is I8: for who decodes it another way."""
        return self._stored[name], self._stored.get(self._scales.get(name, ""))

    def not_finite(self, name: str) -> int:
        """How many values of a tensor and of its scale are NaN or infinite."""
        return sum(part.not_finite() for part in self.stored(name) if part is not None)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, read off the header."""
        return self._stored[name].shape

    def scale_problems(self) -> list[str]:
        """One sentence for each I8 tensor whose scale is missing or has the wrong shape."""
        problems = []
        for name in self:
            tensor = self._stored[name]
            if tensor.kind != "I8":
                continue
            scale = self._stored.get(self._scales.get(name, ""))
            if scale is None:
                problems.append(f"{name} is int8 but {name}{SCALE} is missing")
            elif scale.kind == "I8" or not tensor.shape or scale.shape != tensor.shape[:1]:
                problems.append(f"{name}{SCALE} has shape {list(scale.shape)}, expected one factor for each row of {list(tensor.shape)}")
        return problems


def load(folder: Path, plan: Plan, *, stem: str = "model", foreign: Mapping[str, str] | None = None) -> Tensors:
    """Open `<stem>.safetensors` (or the shards of `<stem>.safetensors.index.json`) in `folder` and hold it against `plan`.

    `foreign` maps a name prefix to the kind of conversion that writes it; it is named as the cause where such names turn up.
    Raises SettingsError, once, with everything that is missing, unexpected, mis-shaped or unreadable.
    """
    tensors = open_tensors(folder, stem)
    problems = plan_problems(tensors, plan, foreign or {})
    if problems:
        raise SettingsError([f"{folder.name}: {problem}" for problem in problems])
    return tensors


def load_finite(folder: Path, plan: Plan, *, stem: str = "model", foreign: Mapping[str, str] | None = None) -> Tensors:
    """As `load`, and every value looked at: for who computes with the tensors as they are. SettingsError names what holds no numbers."""
    tensors = load(folder, plan, stem=stem, foreign=foreign)
    wrong = [name for name in tensors if tensors.not_finite(name)]
    if wrong:
        raise SettingsError(abridged([f"{folder.name}: tensor {name} holds NaN or infinite values" for name in wrong]))
    return tensors


def plan_problems(tensors: Tensors, plan: Plan, foreign: Mapping[str, str]) -> list[str]:
    """Sentences on every difference between the checkpoint and the plan; empty when it fits."""
    problems = []
    for prefix, cause in foreign.items():
        count = sum(name.startswith(prefix) for name in tensors)
        if count:
            problems.append(f"{count} tensors are named {prefix}*: {cause}")
    unexpected = sorted(name for name in tensors if name not in plan)
    missing = sorted(name for name in plan if name not in tensors)
    problems += _listed("missing", missing) + _listed("unexpected", unexpected)
    shapes = [
        f"tensor {name} has shape {list(tensors.shape(name))}, the config asks for {list(shape)}"
        for name, shape in plan.items()
        if name in tensors and tensors.shape(name) != tuple(shape)
    ]
    return problems + abridged(shapes) + abridged(tensors.scale_problems())


def abridged(sentences: list[str]) -> list[str]:
    """Sentences for one error: all of them, or the first few and how many more there are."""
    if len(sentences) > 4 * LISTED:
        return [*sentences[:LISTED], f"{len(sentences) - LISTED} more tensors are like these"]
    return sentences


def _listed(what: str, names: list[str]) -> list[str]:
    """All names of one kind of trouble; a whole model's worth of them is counted after the first few."""
    if len(names) > 4 * LISTED:
        rest = len(names) - LISTED
        return [f"{what} tensors: {', '.join(names[:LISTED])} and {rest} more"]
    return [f"{what} tensor {name}" for name in names]


def open_tensors(folder: Path, stem: str = "model") -> Tensors:
    """The tensors of one checkpoint folder, whatever they are. Raises SettingsError when a file is absent or damaged."""
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return Tensors(_read_file(single))
    if not index.is_file():
        raise SettingsError([f"{folder.name}: neither {single.name} nor {index.name} is there"])
    where = _weight_map(index)
    shards: dict[str, dict[str, Stored]] = {}
    problems: list[str] = []
    for file in dict.fromkeys(where.values()):
        try:
            shards[file] = _read_file(folder / file)
        except SettingsError as error:
            problems += error.problems
    problems += abridged(_index_problems(index.name, where, shards))
    if problems:
        raise SettingsError(problems)
    return Tensors({name: tensor for shard in shards.values() for name, tensor in shard.items()})


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> file name out of an index, in its order; only plain file names, which cannot leave the folder."""
    try:
        where: dict[str, str] = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"].items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SettingsError([f"{index.name} is not a safetensors index: it has no readable weight_map"]) from error
    wrong = {repr(file): file for file in where.values() if not isinstance(file, str) or Path(file).name != file}
    if wrong:
        raise SettingsError(abridged([f"{index.name} names {file}, which is not a file beside it" for file in wrong]))
    return where


def _index_problems(index: str, where: Mapping[str, str], shards: Mapping[str, Mapping[str, Stored]]) -> list[str]:
    """Sentences on tensors that lie in two shards, or not in the shard that the index names."""
    home: dict[str, str] = {}
    problems = []
    for file, tensors in shards.items():
        problems += [f"tensor {name} lies in two files: {home[name]} and {file}" for name in tensors if name in home]
        home = dict.fromkeys(tensors, file) | home
    absent = [(name, file) for name, file in where.items() if file in shards and name not in shards[file]]
    return problems + [f"{index} says that tensor {name} lies in {file}, where it is not" for name, file in absent]


def _read_file(path: Path) -> dict[str, Stored]:
    """Map one file and cut it into tensors along its header."""
    if not path.is_file() or path.stat().st_size < 8:
        raise SettingsError([f"{path.name} is absent or shorter than a safetensors header"])
    try:
        mapped = np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise SettingsError([f"{path.name} cannot be read: {error.strerror}"]) from None
    length = int(mapped[:8].view("<u8")[0])
    if length > len(mapped) - 8:
        raise SettingsError([f"{path.name} is cut short: its header alone should take {length} bytes"])
    header = _header(path.name, mapped[8 : 8 + length].tobytes())
    data = mapped[8 + length :]
    problems = [problem for name, entry in header.items() if (problem := _entry_problem(path.name, name, entry, len(data)))]
    problems = problems or _overlaps(path.name, header)
    if problems:
        raise SettingsError(abridged(problems))
    return {
        name: Stored(entry["dtype"], tuple(entry["shape"]), np.asarray(data[slice(*entry["data_offsets"])]))
        for name, entry in header.items()
    }


def _header(file: str, text: bytes) -> dict[str, Any]:
    """The entries of a header by tensor name, without the metadata."""
    repeated: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        header = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise SettingsError([f"{file} has a header that is not JSON"]) from error
    if not isinstance(header, dict):
        raise SettingsError([f"{file} has a header that is not a mapping"])
    if repeated:
        raise SettingsError(abridged([f"{file}: the header names {name} twice" for name in sorted(repeated)]))
    header.pop("__metadata__", None)
    return header


def _overlaps(file: str, header: Mapping[str, Any]) -> list[str]:
    """One sentence for each tensor that begins before the one in front of it has ended."""
    placed = sorted((*entry["data_offsets"], name) for name, entry in header.items() if entry["data_offsets"][0] < entry["data_offsets"][1])
    return [
        f"{file}: tensors {before} and {name} share bytes {begin} to {min(end, last)}"
        for (_, end, before), (begin, last, name) in pairwise(placed)
        if begin < end
    ]


def _entry_problem(file: str, name: str, entry: object, size: int) -> str | None:
    """What is wrong with one header entry, given the bytes that follow the header; None when nothing is."""
    if not isinstance(entry, dict):
        return f"{file}: the header entry of {name} is not a mapping"
    kind, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if kind not in ITEM_SIZES:
        return f"{file}: tensor {name} is stored as {kind}; readable are {', '.join(ITEM_SIZES)}"
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        return f"{file}: tensor {name} has no usable shape"
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(end) is int and end >= 0 for end in offsets):
        return f"{file}: tensor {name} has no usable data_offsets"
    begin, end = offsets
    if end > size:
        return f"{file} is cut short: tensor {name} should end at byte {end} of {size}"
    if end - begin != math.prod(shape) * ITEM_SIZES[kind]:
        return f"{file}: tensor {name} takes {end - begin} bytes, its shape {shape} as {kind} needs {math.prod(shape) * ITEM_SIZES[kind]}"
    return None
