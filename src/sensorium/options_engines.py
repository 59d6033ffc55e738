"""The tables of the settings file about engines that the hub runs: models with weights of the operator's own, mostly on a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from sensorium.model_folders import ModelFolder, look, packaged, pulled
from sensorium.options import MODEL_ID, ModelId, Section

DEVICE = re.compile(r"numpy|auto|cpu|mps|cuda(:[0-9]{1,2})?")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
PULLED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def _device(text: str) -> str:
    if not DEVICE.fullmatch(text):
        raise ValueError('must be "auto", "numpy", "cpu", "mps", "cuda" or "cuda:N"')
    return text


def _pulled(text: str) -> str:
    if not PULLED.fullmatch(text) or ".." in text:
        raise ValueError("write it as ORG/NAME, as `sensorium pull` takes it")
    return text


class EngineModel(Section):
    """One model of an engine: a checkpoint folder, and how it is run."""

    path: Path | None = Field(default=None, description="its folder; a relative one is below the folder where the hub is started")
    id: Annotated[str, AfterValidator(_pulled)] | None = Field(
        default=None, description="instead of `path`: a checkpoint that `sensorium pull` has fetched, as `ORG/NAME`"
    )
    name: ModelId | None = Field(default=None, description="the name that callers use; by default `id`, or the name of the folder")
    serves: tuple[ModelId, ...] = Field(
        default=(), description="further ids that it answers for, such as `fal-ai/nemotron-diffusion-vlm`; no stand-in takes them then"
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        default="auto",
        description='`"cuda"`, `"cuda:N"`, `"mps"`, `"cpu"`, `"numpy"` (small models, without torch), or `"auto"`: the best that there is',
    )
    dtype: Dtype = Field(default="auto", description='what it computes in; by default bfloat16 on a GPU, `"float32"` elsewhere')
    vision_dtype: Dtype | None = Field(default=None, description="the same of the part that reads pictures; by default as `dtype`")
    slots: int = Field(default=0, ge=0, le=256, description="answers that run side by side; 0: as many as the memory allows")
    context: int = Field(default=0, ge=0, le=262_144, description="tokens of one answer with its prompt; 0: as many as the memory allows")
    attention: Literal["auto", "sdpa", "split"] = Field(default="auto", description="how attention is computed on a GPU")
    graphs: bool = Field(default=True, description="record the work of a GPU once and replay it")
    compile: bool = Field(default=True, description="compile what is computed on a GPU; the first start takes longer")
    quant: Literal["none", "fp8", "int8", "nf4"] = Field(default="none", description="pictures only: weights in fewer bits")
    offload: Literal["none", "model", "group", "sequential"] = Field(
        default="none", description="pictures only: what lies in main memory while it is not used"
    )
    pinned: bool = Field(default=False, description="never unloaded to make room for another model of the engine")

    @model_validator(mode="after")
    def _one_place(self) -> EngineModel:
        if (self.path is None) == (self.id is None):
            raise ValueError("name its folder in path, or what was pulled in id; one of the two")
        return self

    def folder(self, data_dir: Path) -> Path:
        """Where it is; `data_dir` is the hub's."""
        return self.path if self.path is not None else pulled(self.id or "", data_dir)

    def runs_on(self, folder: ModelFolder) -> str:
        """Its device; "auto" is "numpy" for a model that needs no more."""
        return "numpy" if self.device == "auto" and folder.small else self.device

    def names(self, folder: ModelFolder) -> tuple[str, ...]:
        """What callers may name it, its own name first."""
        return tuple(dict.fromkeys((self.name or self.id or folder.name, *self.serves)))


class EngineSettings(Section):
    """A process of the hub's own that runs models, started and stopped with the hub."""

    models: tuple[EngineModel, ...] = Field(min_length=1, description="what it runs; models that do not fit side by side take turns")
    licence_acknowledged: bool = Field(
        default=False,
        description="`true`: you have read the licences of these weights and keep to them; needed for all but the package's own",
    )
    private: bool = Field(default=True, description="no hosted provider ever gets a call for one of its models")
    queue: int = Field(default=32, ge=1, le=10_000, description="calls that may wait for a device; more are answered 429")
    deadline_s: float = Field(default=120.0, gt=0, description="a call that takes longer is answered 504")
    wait_s: float = Field(
        default=30.0, ge=0, le=3600, description="how long a call waits for models that are being loaded; then it is answered 503"
    )
    start_s: float = Field(default=600.0, gt=0, description="a process that is not ready by then is ended, and started again")
    hang_s: float = Field(default=120.0, ge=5, description="one that makes no step, or gives no sign of life, for so long is ended too")
    memory_gb: float | None = Field(
        default=None, gt=0, description="what its models may take on the device together; by default what is free"
    )


def contradictions(name: str, table: EngineSettings) -> Iterator[str]:
    """What is wrong with a table in itself, each problem after the table's name. Nothing is opened."""
    if not NAME.fullmatch(name):
        yield ": an engine's name has 1 to 40 of a-z, A-Z, 0-9, dash and underscore"
    given = [one for model in table.models for one in (*filter(None, [model.name or model.id]), *model.serves)]
    yield from (f".models: {one} is named twice" for one in dict.fromkeys(given) if given.count(one) > 1)
    for place, model in enumerate(table.models):
        at = f".models.{place}"
        if model.device == "numpy" and (model.dtype not in ("auto", "float32") or model.vision_dtype not in (None, "auto", "float32")):
            yield f'{at}.dtype: device "numpy" computes in float32 only'
        if model.quant != "none" and model.device in ("numpy", "cpu", "mps"):
            yield f'{at}.quant: needs an NVIDIA GPU, and device is "{model.device}"'
        if model.offload != "none" and model.device in ("numpy", "cpu", "mps"):
            yield f'{at}.offload: needs an NVIDIA GPU, and device is "{model.device}"'
        if not table.licence_acknowledged and (model.path is None or not packaged(model.path)):
            yield (
                f".licence_acknowledged: {model.id or model.path} is not one of the package's models; read the licence of its weights, "
                "keep to it, and set this to true"
            )


def missing(table: EngineSettings, data_dir: Path) -> Iterator[str]:
    """What is not there, or no model, each problem after the table's name."""
    known: dict[str, None] = {}
    for place, model in enumerate(table.models):
        folder, option = model.folder(data_dir), "path" if model.path is not None else "id"
        try:
            found = look(folder)
        except ValueError as error:
            fetch = f"; fetch it with `sensorium pull {model.id}`" if model.id and not folder.is_dir() else ""
            yield f".models.{place}.{option}: {folder}: {error}{fetch}"
            continue
        device = model.runs_on(found)
        if found.kind == "flow_image" and device != "numpy":
            yield f'.models.{place}.device: a model of kind flow_image runs on "numpy" only'
        if found.kind == "flux" and device == "numpy":
            yield f'.models.{place}.device: FLUX needs torch, and "numpy" has none'
        own = model.names(found)[0]
        if not MODEL_ID.fullmatch(own):
            yield f".models.{place}.name: is needed, for {own!r} is no name that a call could have"
        elif own in known and not (model.name or model.id):
            yield f".models.{place}.name: is needed, for {own} is another model's"
        known.update(dict.fromkeys(model.names(found)))
