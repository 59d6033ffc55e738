"""What the models of an engine process have done and what they have to do, as Prometheus text.

Labels are the ids of models and the names of devices, which come from the operator: never anything that comes with a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from sensorium.engines.hosted import Hosted

TEXT: Final = CONTENT_TYPE_LATEST
NUMPY: Final = "numpy"
PREFIX: Final = "sensorium_engine_"
PURPOSES: Final = ("prefill", "denoise", "write", "draft", "verify")
STATES: Final = ("waiting", "loading", "ready", "failed")
ENDS: Final = ("finished", "cancelled", "failed", "refused")
# Of a model's figures: what it has counted, and what it is at now.
COUNTED: Final = {
    "answers": "Answers that ended.",
    "tokens": "Tokens of answers.",
    "prompt_tokens": "Tokens of prompts, those of pictures with them.",
    "reused_tokens": "Of these, what an earlier prompt with the same beginning had computed.",
    "drafted_tokens": "Tokens of answers that were drafted and verified.",
    "failed": "Answers that a fault of the model ended.",
    "ticks": "Forwards of the batch.",
    "rows": "Answers' rows in these forwards.",
}
HELD: Final = {
    "active": "Answers in the making.",
    "slots": "Answers that fit side by side.",
    "length": "Tokens that each of them may have.",
}


def rendered(hosted: Sequence[Hosted]) -> bytes:
    """The whole text."""
    registry = CollectorRegistry()
    registry.register(_Models(hosted))
    return generate_latest(registry)


class _Models(Collector):
    def __init__(self, hosted: Sequence[Hosted]) -> None:
        self._hosted = hosted

    def collect(self) -> Iterable[Metric]:
        yield from _loading(self._hosted)
        yield from _figures([(one.name, one.model.figures) for one in self._hosted if hasattr(one.model, "figures")])
        yield from _lanes(self._hosted)
        yield from _memory(self._hosted)


def _loading(hosted: Sequence[Hosted]) -> Iterator[Metric]:
    state = GaugeMetricFamily(f"{PREFIX}model_state", "1 for the state that a model is in.", labels=("model", "state"))
    loaded = GaugeMetricFamily(f"{PREFIX}model_loaded_bytes", "Bytes of a model that are loaded.", labels=("model",))
    here = GaugeMetricFamily(
        f"{PREFIX}model_resident", "Whether a model is on its device; those that take turns come and go.", labels=("model",)
    )
    total = GaugeMetricFamily(f"{PREFIX}model_total_bytes", "Bytes of a model in all, as far as they are known.", labels=("model",))
    for one in hosted:
        for name in STATES:
            state.add_metric((one.name, name), float(one.state == name))
        here.add_metric((one.name,), float(one.model is not None))
        loaded.add_metric((one.name,), one.loaded_bytes)
        total.add_metric((one.name,), one.total_bytes)
    yield from (state, here, loaded, total)


def _figures(models: Sequence[tuple[str, Any]]) -> Iterator[Metric]:
    counted = [CounterMetricFamily(f"{PREFIX}{name}", text, labels=("model",)) for name, text in COUNTED.items()]
    held = [GaugeMetricFamily(f"{PREFIX}{name}", text, labels=("model",)) for name, text in HELD.items()]
    forwards = CounterMetricFamily(f"{PREFIX}forwards", "Forwards of answers, by purpose.", labels=("model", "purpose"))
    accepted = GaugeMetricFamily(f"{PREFIX}acceptance_length", "Tokens for each draft that was verified.", labels=("model",))
    for model, figures in models:
        for counter, name in zip(counted, COUNTED, strict=True):
            counter.add_metric((model,), getattr(figures, name))
        for gauge, name in zip(held, HELD, strict=True):
            gauge.add_metric((model,), getattr(figures, name))
        for purpose in PURPOSES:
            forwards.add_metric((model, purpose), getattr(figures, purpose))
        if figures.verify:
            accepted.add_metric((model,), figures.drafted_tokens / figures.verify)
    yield from (*counted, *held, forwards, accepted)


def _lanes(hosted: Sequence[Hosted]) -> Iterator[Metric]:
    ended = CounterMetricFamily(f"{PREFIX}calls", "Calls that ended, or were refused since too many waited.", labels=("lane", "outcome"))
    now = [
        GaugeMetricFamily(f"{PREFIX}{name}", text, labels=("lane",))
        for name, text in (("running", "Calls being worked at."), ("waiting", "Calls that wait."), ("queue", "Calls that may wait."))
    ]
    for lane in {id(one.lane): one.lane for one in hosted}.values():
        counters = asdict(lane.counters)
        for name in ENDS:
            ended.add_metric((lane.name, name), counters[name])
        for family, value in zip(now, (counters["running"], counters["waiting"], lane.limit), strict=True):
            family.add_metric((lane.name,), value)
    yield from (ended, *now)


def _memory(hosted: Sequence[Hosted]) -> Iterator[Metric]:
    """Memory of the devices that models run on through torch."""
    devices = {one.place.device for one in hosted if one.state == "ready" and one.place.device != NUMPY}
    if not devices:
        return
    # Start-up cost: torch takes seconds to import, and is there already where a device is.
    import torch

    # Start-up cost: as above.
    from sensorium.engines.devices import free_bytes, used_bytes

    used = GaugeMetricFamily(f"{PREFIX}device_used_bytes", "Memory of a device that this process holds.", labels=("device",))
    free = GaugeMetricFamily(f"{PREFIX}device_free_bytes", "Memory of a device that models may still take.", labels=("device",))
    for name in sorted(devices):
        used.add_metric((name,), used_bytes(torch.device(name)))
        free.add_metric((name,), free_bytes(torch.device(name)))
    yield from (used, free)
