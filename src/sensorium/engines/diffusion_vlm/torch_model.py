"""The decoder in torch with a static key-value cache: the forward behind the row seam for GPUs, and the same code on a CPU.

It does not know decoding rules, text or pictures, and leaves to its caller which answer is in which slot. One thread at a time.
A tick's rows become few batches of fixed shapes (`buckets`); pieces of prompts run on their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any

import torch
import torch.nn.functional as F

from sensorium.engines.diffusion_vlm.buckets import Bucket, Limits, bucket_of, goes_alone, grouped
from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.engines.diffusion_vlm.noise import signed
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.engines.diffusion_vlm.torch_adapter import Adapter
from sensorium.engines.diffusion_vlm.torch_attention import PART_UNIT, hidden_bias, parts_of, split_bias
from sensorium.engines.diffusion_vlm.torch_layers import SCRATCH, Place, Sizes, Taken, layer, make_tables, normalise, take_blocks
from sensorium.engines.diffusion_vlm.torch_programs import Inputs, Program, Record, Recorder
from sensorium.engines.diffusion_vlm.torch_select import Draws, Selection, even_head, logits_of
from sensorium.errors import Unavailable

log = logging.getLogger(__name__)
AcceleratorError: type[Exception] = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)  # since torch 2.9

FEW_BLOCKS = 64
"""Blocks of queries and key heads up to which a GPU is half idle in attention, so that splitting the keys is worth a measurement."""
QUERY_BLOCK = 64
COMPILED_SHAPES = 64
RETRY_AFTER_S = 5.0


class TorchModel:
    """Decoder weights, rotary tables and the cache of every slot.

    `weights` in the checkpoint's names is emptied of the decoder's tensors where it can be, so that none is held twice. `together` puts
    rows of a tick into batches; without it each row is computed by itself, and a batch equals its singles to the last bit (the default
    on a CPU). `graphs` and `compile` act on CUDA devices only. `attention` is "sdpa", "split" or "auto" (measured where graphs are
    recorded). The two last switches undo deviations from the reference for golden comparisons.
    """

    def __init__(
        self,
        config: VLMConfig,
        weights: Mapping[str, torch.Tensor],
        *,
        device: torch.device,
        dtype: torch.dtype,
        slots: int,
        length: int,
        together: bool | None = None,
        graphs: bool = True,
        compile: bool = True,
        attention: str = "auto",
        adapter: Adapter | None = None,
        ban_mask: bool = True,
        float32_confidence: bool = True,
    ) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.slots, self.length = slots, length
        self.together = device.type != "cpu" if together is None else together
        self._attention = attention
        self._compiled = compiled_layer() if compile and device.type == "cuda" else None
        if device.type == "cuda":
            # It would be preferred on new GPUs, and makes a plan of a tenth of a second or more for every new length of a prompt.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._programs: dict[Bucket, Program] = {}
        with self._computing():
            self._recorder: Record | None = Recorder() if graphs and device.type == "cuda" else None
            taken = Taken(weights, device, dtype)
            self.embeddings = taken.one("encoder.embed_tokens")
            self.gain = taken.one("encoder.norm")
            self.blocks = take_blocks(config, taken, adapter, device, dtype)
            banned = config.mask if ban_mask else None
            self._select = Selection(even_head(taken.one("diffusion_head")), config.vocab, banned, not float32_confidence)
            positions = self.slot_positions(length)
            self.limits = Limits(slots, positions - SCRATCH, adapter is not None)
            self.tables = make_tables(config, positions - SCRATCH, device)
            shape = (config.layers, 2, slots, config.kv_heads, positions, config.head_dim)
            self.cache = torch.zeros(shape, dtype=dtype, device=device)
        self._sizes = Sizes(config.heads, config.kv_heads, config.head_dim, config.eps)

    @staticmethod
    def cache_bytes(config: VLMConfig, dtype: torch.dtype) -> int:
        """Bytes that one position of one slot takes in the cache."""
        return config.layers * 2 * config.kv_heads * config.head_dim * int(dtype.itemsize)

    @staticmethod
    def slot_positions(length: int) -> int:
        """Positions that a slot for answers of up to `length` has in the cache: whole units of the split, and the scratch places."""
        return SCRATCH + -(-length // PART_UNIT) * PART_UNIT

    def forward(self, rows: Sequence[Row]) -> list[Answer]:
        """Answer rows of different slots. Raises Unavailable (out_of_memory) when the device has no room; the next call may have."""
        self._check(rows)
        try:
            with self._computing():
                return self._answers(rows)
        except torch.OutOfMemoryError:
            log.warning("a forward of %d rows ran out of device memory", len(rows), exc_info=True)
        # Only here, with the error and the frames it kept alive gone, can memory go back to the device.
        self._release()
        raise Unavailable(
            "the device has too little free memory for this call; send shorter or fewer calls, or give the engine less to hold",
            code="out_of_memory",
            retry_after=RETRY_AFTER_S,
        )

    def logits(self, row: Row) -> torch.Tensor:
        """float32 logits of the row's positions [n, vocab], or of the last one only; writes the row's keys and values."""
        self._check([row])
        with self._computing():
            return logits_of(self._alone(row), self._select.head)[:, : self.config.vocab]

    def copy(self, source: int, target: int, length: int) -> None:
        """Have slot `target` begin with the first `length` positions of slot `source`."""
        with self._computing():
            self.cache[:, :, target, :, SCRATCH : SCRATCH + length] = self.cache[:, :, source, :, SCRATCH : SCRATCH + length]

    def capture(self, buckets: Iterable[Bucket]) -> None:
        """Make buckets ready, the largest first, so that the smaller ones find room in what it took. Gives up where memory ends."""
        with self._computing():
            try:
                for bucket in sorted(buckets, key=lambda bucket: bucket.rows * bucket.tokens * bucket.reach, reverse=True):
                    if bucket not in self._programs and self._recorder is None:
                        self._program(bucket).run(self._program(bucket).split)  # without rows, and so into scratch places
                    self._program(bucket)
                return
            except torch.OutOfMemoryError:
                log.warning("no memory to make more kinds of batches ready", exc_info=True)
        self._release()

    def _computing(self) -> AbstractContextManager[Any]:
        """Without gradients, on this model's device."""
        stack = ExitStack()
        stack.enter_context(torch.no_grad())
        if self.device.type == "cuda":
            stack.enter_context(torch.cuda.device(self.device))
        return stack

    def _check(self, rows: Sequence[Row]) -> None:
        taken = {row.slot for row in rows}
        if len(taken) < len(rows) or not taken <= set(range(self.slots)):
            raise ValueError(f"rows in slots {[row.slot for row in rows]} asked for, each may stand once and be below {self.slots}")
        if any(not 0 <= min(row.tokens) <= max(row.tokens) < self.config.vocab for row in rows):
            raise ValueError("ids outside the vocabulary asked for")  # a GPU that reads them is lost for this process
        stop = max((row.start + len(row.tokens) for row in rows), default=0)
        if stop > self.length:
            raise ValueError(f"positions up to {stop} asked for, the cache holds {self.length}")

    def _release(self) -> None:
        if self.device.type == "cuda":
            with self._computing():
                torch.cuda.synchronize()
                torch.cuda.empty_cache()

    def _answers(self, rows: Sequence[Row]) -> list[Answer]:
        """Launch everything, then wait for the device once; also when that fails, since buffers are written again for the next rows."""
        try:
            return self._launched(rows)
        except BaseException:
            if self.device.type == "cuda":
                with suppress(RuntimeError):
                    torch.cuda.current_stream().synchronize()
            raise

    def _launched(self, rows: Sequence[Row]) -> list[Answer]:
        alone = [row for row in rows if not self.together or goes_alone(row)]
        batched = [row for row in rows if self.together and not goes_alone(row)]
        running: list[tuple[Program, list[Row]]] = []
        for group in grouped(batched, self.limits):
            program = self._program(bucket_of(group, self.limits))
            program.launch(group)
            running.append((program, group))
        found = {row.slot: self._answer_alone(row) for row in alone}
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        answers = {slot: (best.cpu().numpy(), confidence.cpu().numpy()) for slot, (best, confidence) in found.items()}
        for program, group in running:
            answers |= {row.slot: answer for row, answer in zip(group, program.answers(group), strict=True)}
        return [answers[row.slot] for row in rows]

    def _states(self, x: torch.Tensor, cache: torch.Tensor, place: Place, *, split: bool = False) -> torch.Tensor:
        """Embeddings [R, L, H] through all layers, not normed yet. `cache` is [layers, 2, R, kv_heads, K, d]."""
        if self._compiled is not None:
            try:
                return self._through(self._compiled, x, cache, place, split)
            except (torch.OutOfMemoryError, AcceleratorError):
                raise
            except Exception:  # outermost: whatever a compiler stumbles over, the model runs without it
                log.warning("the decoder's layer cannot be compiled; it runs slower without", exc_info=True)
                self._compiled = None
        return self._through(layer, x, cache, place, split)

    def _through(self, step: Callable[..., Any], x: torch.Tensor, cache: torch.Tensor, place: Place, split: bool) -> torch.Tensor:
        late = torch.zeros_like(x)
        for block, held in zip(self.blocks, cache.unbind(), strict=True):
            x, late = step(x, late, block, held, place, self._sizes, split)
        return x + late

    def _answer_alone(self, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
        x = self._alone(row)
        allowed, draws = None, None
        if row.allowed is not None:
            allowed = self._moved(torch.from_numpy(row.allowed.astype("<u4").view("u1")))
        if row.temperature > 0:
            stop = row.start + row.causal + len(row.tokens)
            position = torch.arange(stop - len(x), stop, device=self.device)
            temperature = torch.full(position.shape, row.temperature, dtype=torch.float32, device=self.device)
            draws = Draws(temperature, torch.full_like(position, signed(row.seed)), position)
        return self._select.answer(x, allowed, draws)

    def _alone(self, row: Row) -> torch.Tensor:
        """One row in its slot's view, without padding: normed states [n, hidden], or of the last position only."""
        count = len(row.tokens)
        stop = row.start + count
        x = self._embedded(row)
        at = torch.arange(row.start, stop, device=self.device)[None]
        keys, bias = stop, None
        if row.causal and count > 1:
            keys = -(-stop // PART_UNIT) * PART_UNIT  # kernels want a bias of even width; what is beyond `stop` is hidden by it
            visible = torch.arange(keys, device=self.device) <= at[..., None]
            bias = hidden_bias(visible, self._sizes.heads // self._sizes.kv_heads, self.dtype)
        drafting = row.draft and self.limits.adapter
        place = Place(
            torch.zeros((1, 1), dtype=torch.int64, device=self.device),
            at,
            *self.tables.at(at),
            bias,
            torch.ones((1, 1, 1), dtype=self.dtype, device=self.device) if drafting else None,
        )
        cache = self.cache[:, :, row.slot : row.slot + 1, :, SCRATCH : SCRATCH + keys]
        x = self._states(x[None], cache, place)[0]
        if row.last:  # what is no number elsewhere in the prompt must not go unheard: it has left zeros in the cache
            x = torch.where(x.isfinite().all(), x[-1:], torch.nan)
        return normalise(x, self.gain, self._sizes.eps)

    def _embedded(self, row: Row) -> torch.Tensor:
        """The embeddings of a row's tokens [n, hidden], the features in their places."""
        x = F.embedding(self._moved(torch.tensor(row.tokens)), self.embeddings)
        if row.features is not None:
            at = self._moved(torch.tensor(list(row.features.at), dtype=torch.int64))
            x[at] = torch.as_tensor(row.features.rows, device=self.device).to(x.dtype)
        return x

    def _moved(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the host on the device, without waiting for what it is doing."""
        return values.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else values.to(self.device)

    def _program(self, bucket: Bucket) -> Program:
        """The program of a bucket, made when it is first asked for."""
        program = self._programs.get(bucket)
        if program is None:
            program = self._programs[bucket] = self._made(bucket)
        return program

    def _made(self, bucket: Bucket) -> Program:
        choices = self._attention_choices(bucket)
        inputs = Inputs(bucket, self.config.vocab, self.device)
        program = Program(bucket, inputs, lambda inputs, split: self._batch(bucket, inputs, split), split=choices[0])
        if self._recorder is not None:
            try:
                program.record(self._recorder, choices)
            except torch.OutOfMemoryError:
                log.warning("no memory to record %s as a graph; it runs slower without", bucket, exc_info=True)
            except Exception:  # outermost: whatever a recording stumbles over, the model runs without it
                log.warning("CUDA graphs cannot be recorded here; the decoder runs slower without", exc_info=True)
                self._recorder = None
        return program

    def _attention_choices(self, bucket: Bucket) -> list[bool]:
        """Whether to split the keys in attention; both ways where only a measurement can tell."""
        can = parts_of(SCRATCH + bucket.reach) > 1
        group = self._sizes.heads // self._sizes.kv_heads
        blocks = bucket.rows * self._sizes.kv_heads * -(-bucket.tokens * group // QUERY_BLOCK)
        if self._attention == "split":
            return [can]
        return [False, True] if self._attention == "auto" and self._recorder is not None and can and blocks <= FEW_BLOCKS else [False]

    def _batch(self, bucket: Bucket, inputs: Inputs, split: bool) -> torch.Tensor:
        """All rows of a bucket from its static inputs; ids and float32 bits of confidences, int64 [2, rows, tokens]."""
        place, position = self._place(bucket, inputs, split)
        x = F.embedding(inputs.ids, self.embeddings)
        cache = self.cache[:, :, : bucket.rows, :, : SCRATCH + bucket.reach]
        x = self._states(x, cache, place, split=split)
        x = normalise(x, self.gain, self._sizes.eps).flatten(0, 1)
        draws = None
        if bucket.noisy:
            temperature, seed = (each[:, None].expand_as(position).flatten() for each in (inputs.temperature, inputs.seed))
            draws = Draws(temperature, seed, (position + inputs.causal[:, None]).flatten())
        allowed = None if inputs.bits is None else inputs.bits.flatten(0, 1)
        best, confidence = self._select.answer(x, allowed, draws)
        return torch.stack([best, confidence.view(torch.int32).long()]).unflatten(1, (bucket.rows, bucket.tokens))

    def _place(self, bucket: Bucket, inputs: Inputs, split: bool) -> tuple[Place, torch.Tensor]:
        """Where the tokens stand, and their positions [rows, tokens].

        Padding token i is at scratch place i and sees itself alone, so that nothing of a slot is overwritten and no sum is empty.
        """
        step = torch.arange(bucket.tokens, device=self.device)[None]
        start, count = inputs.start[:, None], inputs.count[:, None]
        real = step < count
        position = torch.where(real, start + step, 0)
        stop = torch.where(inputs.causal[:, None], position + 1, start + count)
        first, end = torch.where(real, SCRATCH, step)[..., None], torch.where(real, SCRATCH + stop, step + 1)[..., None]
        key = torch.arange(SCRATCH + bucket.reach, device=self.device)
        bias = hidden_bias((key >= first) & (key < end), self._sizes.heads // self._sizes.kv_heads, self.dtype)
        if split:
            bias = split_bias(bias, self._sizes.kv_heads, parts_of(len(key)))
        rows = torch.arange(bucket.rows, device=self.device)[:, None]
        draft = inputs.draft.to(self.dtype)[:, None, None] if bucket.drafting else None
        return Place(rows, torch.where(real, SCRATCH + position, step), *self.tables.at(position), bias, draft), position


def compiled_layer(**options: Any) -> Callable[..., Any]:
    """The layer as few kernels. Batches differ in few sizes, of which the compiler makes variables when it sees a second value."""
    # Start-up cost: the compiler takes a second to import, and only GPUs use it.
    import torch._dynamo.config as settings

    compiled = torch.compile(layer, fullgraph=True, **options)

    def run(*given: Any) -> Any:
        # Here, since each thread has settings of its own: a model is loaded by one and used by another.
        if settings.recompile_limit < COMPILED_SHAPES:
            settings.recompile_limit = COMPILED_SHAPES
        return compiled(*given)

    return run
