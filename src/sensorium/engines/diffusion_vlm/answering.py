"""One answer in the making, as its caller sees it: committed tokens become text, text meets stop strings, the end becomes a record.

It does not know what computes the rows, nor how many answers there are beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sensorium.engines.diffusion_vlm.ask import Ask, Picture
from sensorium.engines.diffusion_vlm.decode import Decoding
from sensorium.engines.diffusion_vlm.grammar import Grammar
from sensorium.engines.diffusion_vlm.prompt import Prompt
from sensorium.engines.diffusion_vlm.rows import Answer, Ids, Row
from sensorium.engines.diffusion_vlm.schedule import Schedule
from sensorium.engines.diffusion_vlm.text import StopStrings, TextStream

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer's text; the pieces put together are the whole."""

    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and forwards.

    Pictures count in `prompt_tokens`, the end token in `completion_tokens`. `cached_tokens` of the prompt had been computed for an earlier
    one. `prefill` to `verify` count forwards by purpose; `mode` is how the answer was made.
    """

    prompt_tokens: int
    completion_tokens: int
    num_function_evals: int
    prefill: int
    denoise: int
    write: int
    draft: int
    verify: int
    cached_tokens: int = 0
    mode: str = "diffusion"


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds. Parts sum to at most the total. What happens to pictures before the question is asked is not in here, nor is waiting."""

    total_time: float
    image_validation_time: float
    preprocessing_time: float
    gpu_transfer_time: float
    generation_time: float
    decode_time: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer: `reason` is "stop" (an end token or a stop string) or "length"."""

    reason: str
    usage: Usage
    timings: Timings


Event = Delta | Finished


@dataclass(frozen=True, slots=True)
class Job:
    """A question that has been checked and turned into ids and pixels.

    `identity` names what stands at each position of the prompt, pictures included: equal beginnings have equal keys and values. `room`
    counts the positions that the answer may touch, `grammar` is what its text has to fit, `preparing_s` is what all of this took.
    """

    ask: Ask
    schedule: Schedule
    prompt: Prompt
    pictures: Sequence[Picture]
    identity: Ids
    room: int
    text: TextStream
    stops: StopStrings
    grammar: Grammar | None
    preparing_s: float


class Answering:
    """An admitted answer: `slot` is where its keys and values are, `row` the forward it waits for, None once it is over.

    It began at `begun` by the clock; since then its pictures took `transfer_s` to the device.
    """

    def __init__(self, job: Job, decoding: Decoding, slot: int, mode: str, clock: Clock, begun: float, transfer_s: float) -> None:
        self.job, self.slot, self.mode = job, slot, mode
        self.decoding = decoding
        self._clock, self._begun, self._transfer_s = clock, begun, transfer_s
        self._telling_s = 0.0
        self._over = False

    @property
    def row(self) -> Row | None:
        return None if self._over else self.decoding.row

    @property
    def prefilling(self) -> bool:
        """Whether part of the prompt is still to be written."""
        return self.row is not None and self.row.start < len(self.job.prompt.ids)

    def take(self, answer: Answer) -> list[Event]:
        """Take the answer to `row`: the text that it makes certain, and the end if this was it."""
        fresh = self.decoding.advance(answer)
        if not fresh and self.decoding.row is not None:
            return []
        begun = self._clock()
        text, stops = self.job.text, self.job.stops
        piece = stops.push(text.push(fresh))
        self._over = stops.hit or self.decoding.row is None
        if self._over and not stops.hit:
            piece += stops.push(text.flush())
            piece += stops.flush()
        self._telling_s += self._clock() - begun
        events: list[Event] = [Delta(piece)] if piece else []
        return [*events, self._finished()] if self._over else events

    def _finished(self) -> Finished:
        reason = "stop" if self.job.stops.hit else str(self.decoding.finish)
        return Finished(reason, self._usage(), self._timings())

    def _usage(self) -> Usage:
        counts, request = self.decoding.counts, self.decoding.request
        return Usage(
            prompt_tokens=len(request.prompt),
            completion_tokens=len(self.decoding.tokens),
            num_function_evals=counts.evaluations,
            prefill=counts.prefill,
            denoise=counts.denoise,
            write=counts.write,
            draft=counts.draft,
            verify=counts.verify,
            cached_tokens=request.reused,
            mode=self.mode,
        )

    def _timings(self) -> Timings:
        preparing, transfer, telling = self.job.preparing_s, self._transfer_s, self._telling_s
        generation = max(0.0, self._clock() - self._begun - transfer - telling)
        return Timings(
            total_time=preparing + transfer + generation + telling,  # in this order: parts must not sum to more by a rounding
            image_validation_time=0.0,
            preprocessing_time=preparing,
            gpu_transfer_time=transfer,
            generation_time=generation,
            decode_time=telling,
        )
