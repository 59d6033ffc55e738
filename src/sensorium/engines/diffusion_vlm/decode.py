"""Decoding as state machines over the row seam: block diffusion, autoregressive, linear self-speculation (arXiv 2607.05722).

Each answer is one Decoding: it names the row it waits for, takes the result, and hands out tokens once they are committed; provisional
tokens never leave it. It does not know images, text, time or what computes the rows.

Differences from the reference decoder, all intended:
1. Masks still open in the last step of a block are resolved (switch: `leave_masks`).
2. The mask id is never an output (switch in the model, which owns the logits).
3. Confidences are float32 (switch in the model).
4. An end token ends its own answer only. Nothing to switch: answers are separate machines, and for one alone both rules agree.
5. max_tokens need not be whole blocks; the answer is cut. Nothing to switch: for whole blocks both rules agree.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sensorium.engines.diffusion_vlm.rows import Answer, Bits, Features, Floats, Forward, Row
from sensorium.engines.diffusion_vlm.schedule import Schedule
from sensorium.errors import Cancelled

PREFILL_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Request:
    """What one answer starts from.

    `pads` are the prompt positions that the rows of `features` fill. The first `reused` positions of the slot hold the prompt's already.
    """

    prompt: Sequence[int]
    max_tokens: int
    mask: int
    ends: frozenset[int]
    slot: int = 0
    temperature: float = 0.0
    seed: int = 0
    pads: Sequence[int] = ()
    features: Any = None
    reused: int = 0


@dataclass(slots=True)
class Counts:
    """Forwards by purpose, as the reference counts them: the write of the last block is counted though nothing reads it."""

    prefill: int = 0
    denoise: int = 0
    write: int = 0
    draft: int = 0
    verify: int = 0
    prefill_is_counted: bool = False

    @property
    def evaluations(self) -> int:
        """The number of function evaluations (NFE): everything but the prefill, which only self-speculation counts."""
        return self.denoise + self.write + self.draft + self.verify + self.prefill * self.prefill_is_counted


class Decoding:
    """One answer in the making. `row` is the forward it waits for, None once `finish` is "stop" or "length"."""

    def __init__(self, request: Request, program: Callable[[Decoding], Program]) -> None:
        self.request = request
        self.counts = Counts()
        self.tokens: list[int] = []
        self.finish: str | None = None
        self._program = program(self)
        self.row: Row | None = next(self._program)

    def advance(self, answer: Answer) -> list[int]:
        """Take the answer to `row`, move on to the next row, and return the tokens committed on the way."""
        before = len(self.tokens)
        try:
            self.row = self._program.send(answer)
        except StopIteration:
            self.row = None
        return self.tokens[before:]

    def commit(self, tokens: Sequence[int]) -> None:
        """Fix tokens: cut at max_tokens and after the first end, and set `finish` when either is reached."""
        for token in tokens[: self.request.max_tokens - len(self.tokens)]:
            self.tokens.append(token)
            if token in self.request.ends:
                self.finish = "stop"
                return
        if len(self.tokens) == self.request.max_tokens:
            self.finish = "length"

    def ask(
        self, start: int, tokens: Sequence[int], *, causal: bool, last: bool = False, draft: bool = False, allowed: Bits | None = None
    ) -> Row:
        """A row of this answer's slot, with its own copy of the tokens."""
        request = self.request
        return Row(request.slot, start, tuple(tokens), causal, last, request.temperature, request.seed, draft, allowed=allowed)


Program = Generator[Row, Answer, None]


def tick(active: Sequence[Decoding], forward: Forward) -> list[list[int]]:
    """One forward for all unfinished decodings, whatever their phase; the tokens that each committed by it."""
    rows = [decoding.row for decoding in active if decoding.row is not None]
    answers = iter(forward(rows))
    return [decoding.advance(next(answers)) if decoding.row is not None else [] for decoding in active]


def stream(decoding: Decoding, forward: Forward, cancelled: Callable[[], bool]) -> Iterator[list[int]]:
    """Run one decoding to its end and yield its committed tokens, block by block. Raises Cancelled between two forwards."""
    while decoding.row is not None:
        if cancelled():
            raise Cancelled("the caller went away while the answer was being generated")
        fresh = tick([decoding], forward)[0]
        if fresh:
            yield fresh


def diffuse(decoding: Decoding, schedule: Schedule, threshold: float | None, *, leave_masks: bool = False) -> Program:
    """Block diffusion: the first token of a block comes from the causal head, the others are unmasked most confident first."""
    seed = yield from prefill(decoding)
    start, length = len(decoding.request.prompt), schedule.block_length
    while True:
        block = [seed] + [decoding.request.mask] * (length - 1)
        yield from _unmask(decoding, start, block, schedule, threshold, leave_masks)
        decoding.counts.write += 1
        decoding.commit(block)
        if decoding.finish:
            return
        best, _ = yield decoding.ask(start, block, causal=True, last=True)
        seed = int(best[-1])
        start += length


def autoregress(decoding: Decoding) -> Program:
    """One token per forward: block diffusion with blocks of one, which has nothing to unmask."""
    return diffuse(decoding, Schedule(decoding.request.max_tokens, 1, 1), None)


def speculate(decoding: Decoding, length: int, threshold: float = 0.0) -> Program:
    """Linear self-speculation: draft a block in both directions, keep what the causal head would have said itself.

    A threshold of 0 drafts a block in one forward. Equal to greedy autoregression; temperature must be 0.
    """
    counts = decoding.counts
    counts.prefill_is_counted = True
    seed = yield from prefill(decoding)
    decoding.commit([seed])
    start = len(decoding.request.prompt)
    while not decoding.finish:
        block = [seed] + [decoding.request.mask] * (length - 1)
        yield from _draft(decoding, start, block, threshold)
        counts.verify += 1
        best, _ = yield decoding.ask(start, block, causal=True)
        said = best.tolist()
        agreed = next((place for place in range(length - 1) if said[place] != block[place + 1]), length - 1)
        decoding.commit(said[: agreed + 1])
        seed = said[agreed]
        start += agreed + 1


def prefill(decoding: Decoding, allowed: Bits | None = None) -> Generator[Row, Answer, int]:
    """Write the prompt causally, in chunks so that a cancel need not wait for all of it; the token that follows, one of `allowed` [words]
    where that is given."""
    request = decoding.request
    decoding.counts.prefill += 1
    best: Sequence[int] = ()
    done = request.reused
    while done < len(request.prompt):
        tokens = tuple(request.prompt[done : done + PREFILL_CHUNK])
        features = _features_between(request, done, done + len(tokens))
        bits = None if allowed is None else allowed[None]
        answer = yield Row(request.slot, done, tokens, True, True, request.temperature, request.seed, features=features, allowed=bits)
        best = answer[0].tolist()
        done += len(tokens)
    decoding.request = replace(request, pads=(), features=None)  # pictures take memory on the device
    return best[-1]


def _features_between(request: Request, begin: int, end: int) -> Features | None:
    """The projector rows that belong to prompt positions from `begin` up to `end`."""
    if request.features is None:
        return None
    low, high = np.searchsorted(request.pads, (begin, end))
    return Features([position - begin for position in request.pads[low:high]], request.features[low:high])


def _unmask(
    decoding: Decoding, start: int, block: list[int], schedule: Schedule, threshold: float | None, leave_masks: bool
) -> Generator[Row, Answer, None]:
    """Fill the masks of one block in place, within the schedule's steps or until everything before an end token stands."""
    mask, quotas = decoding.request.mask, schedule.quotas()
    for step, quota in enumerate(quotas):
        waiting = [place for place, token in enumerate(block) if token == mask]
        if not waiting:
            return
        best, confidence = yield decoding.ask(start, block, causal=False)
        decoding.counts.denoise += 1
        if step == len(quotas) - 1 and not leave_masks:
            chosen = waiting
        elif threshold is None:
            chosen = most_confident(waiting, confidence, quota)
        else:
            chosen = confident(waiting, confidence, threshold)
        for place in chosen:
            block[place] = int(best[place])
        if _ends_whole(block, decoding.request):
            return


def _ends_whole(block: list[int], request: Request) -> bool:
    """Whether the block has an end token with no mask before it."""
    for token in block:
        if token in request.ends:
            return True
        if token == request.mask:
            return False
    return False


def _draft(decoding: Decoding, start: int, block: list[int], threshold: float) -> Generator[Row, Answer, None]:
    """Fill all masks of a block in place. End tokens and step budgets do not matter: a draft is only a guess."""
    waiting = list(range(1, len(block)))
    while waiting:
        best, confidence = yield decoding.ask(start, block, causal=False, draft=True)
        decoding.counts.draft += 1
        chosen = waiting if threshold == 0 else confident(waiting, confidence, threshold)
        for place in chosen:
            block[place] = int(best[place])
        waiting = [place for place in waiting if place not in chosen]


def most_confident(waiting: Sequence[int], confidence: Floats, count: int) -> list[int]:
    """The `count` most confident of the waiting places; equal confidence: the earlier place first."""
    order = np.argsort(-confidence[waiting], kind="stable")
    return [waiting[int(place)] for place in order[:count]]


def confident(waiting: Sequence[int], confidence: Floats, threshold: float) -> list[int]:
    """All waiting places at or above the threshold, or the single most confident one. The threshold is rounded to float32."""
    enough = np.flatnonzero(confidence[waiting] >= np.float32(threshold))
    return [waiting[int(place)] for place in enough] or most_confident(waiting, confidence, 1)
