"""Everything a training run must remember, in flat tensors that several processes share, and the optimiser that moves them.

Every process adds gradients to its own buffer; then each one sums, steps and averages its own share of the parameters in place. So there is
one copy of the weights, no message passing and no duplicated optimiser work. It does not know the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.optim import NEWTON_SCHULZ, orthogonalise

BETAS = (0.9, 0.98)
MOMENTUM, DECAY = 0.95, 0.01
STATE = ("weight", "average", "first", "second")


@dataclass(frozen=True, slots=True)
class Span:
    """Where one parameter lies in the flat tensors."""

    name: str
    shape: tuple[int, ...]
    begin: int
    end: int
    muon: bool


def spans(model: nn.Module, muon: Callable[[str, nn.Parameter], bool]) -> list[Span]:
    """Parameters in flat order: AdamW's first, then Muon's sorted by shape, so that equal shapes form stacks."""
    named = sorted(model.named_parameters(), key=lambda item: (muon(*item), tuple(item[1].shape) if muon(*item) else (), item[0]))
    result, begin = [], 0
    for name, parameter in named:
        result.append(Span(name, tuple(parameter.shape), begin, begin + parameter.numel(), muon(name, parameter)))
        begin = result[-1].end
    return result


def shared(tensor: Tensor) -> Tensor:
    """The tensor, in memory that child processes also see."""
    return tensor.share_memory_()  # type: ignore[no-any-return, no-untyped-call]


class FlatState:
    """Weights, their moving average, both moments and one gradient per process; all in shared memory."""

    def __init__(self, model: nn.Module, muon: Callable[[str, nn.Parameter], bool], processes: int) -> None:
        self.layout = spans(model, muon)
        size = self.layout[-1].end
        self.split = min((span.begin for span in self.layout if span.muon), default=size)
        self.weight = shared(self._flat(dict(model.named_parameters())))
        self.average = shared(self.weight.clone())
        self.first, self.second = (shared(torch.zeros(size)) for _ in range(2))
        self.gradients = shared(torch.zeros(processes, size))
        self.norms = shared(torch.zeros(processes, dtype=torch.float64))

    def _flat(self, named: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([named[span.name].detach().flatten() for span in self.layout])

    def bind(self, model: nn.Module, flat: Tensor, gradient: Tensor | None = None) -> None:
        """Let a model of the same shape use `flat` as its parameters, and add its gradients to `gradient`."""
        named = dict(model.named_parameters())
        for span in self.layout:
            parameter = named[span.name]
            parameter.data = flat[span.begin : span.end].view(span.shape)
            if gradient is not None:
                parameter.grad = gradient[span.begin : span.end].view(span.shape)

    def tensors(self, flat: Tensor) -> dict[str, Tensor]:
        """Copies of all parameters in `flat` by name."""
        return {span.name: flat[span.begin : span.end].view(span.shape).clone() for span in self.layout}

    def share(self, rank: int, processes: int) -> Share:
        """The part of the optimiser's work that process `rank` does."""
        begin, end = (self.split * place // processes for place in (rank, rank + 1))
        stacks = []
        for shape, members in groupby((span for span in self.layout if span.muon), key=lambda span: span.shape):
            group = list(members)
            low, high = (len(group) * place // processes for place in (rank, rank + 1))
            if high > low:
                stacks.append((slice(group[low].begin, group[high - 1].end), shape))
        return Share(slice(begin, end), tuple(stacks))

    def collect(self, share: Share, rank: int, micros: int) -> None:
        """Sum this share's gradients over the processes into buffer 0 and note their squared norm."""
        total = 0.0
        for part in share.slices():
            summed = self.gradients[0, part]
            for other in self.gradients[1:]:
                summed += other[part]
            summed /= micros
            total += float(summed.square().sum(dtype=torch.float64))
        self.norms[rank] = total

    def step(self, share: Share, *, step: int, adam_lr: float, muon_lr: float, clip: float, ema: float) -> float:
        """Move this share's weights and average; `step` counts from 1. Returns the gradient norm over everything."""
        norm = float(self.norms.sum().sqrt())
        scale = min(1.0, clip / (norm + 1e-6))
        for part in share.slices():
            self.gradients[0, part] *= scale
        self._adam(share.flat, step, adam_lr)
        for part, shape in share.stacks:
            self._muon(part, shape, muon_lr)
        for part in share.slices():
            self.average[part].lerp_(self.weight[part], 1 - ema)
            self.gradients[:, part] = 0
        return norm

    def _adam(self, part: slice, step: int, lr: float) -> None:
        gradient, first, second = self.gradients[0, part], self.first[part], self.second[part]
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        scale = (second / (1 - BETAS[1] ** step)).sqrt_().add_(1e-8)
        self.weight[part].addcdiv_(first, scale, value=-lr / (1 - BETAS[0] ** step))

    def _muon(self, part: slice, shape: tuple[int, ...], lr: float) -> None:
        """Nesterov momentum, orthogonalised; step sizes are matched to AdamW's (0.2 of a root-mean-square of one)."""
        gradient, first = self.gradients[0, part], self.first[part]
        first.lerp_(gradient, 1 - MOMENTUM)
        direction = gradient.lerp(first, MOMENTUM).view(-1, *shape)
        update = orthogonalise(direction) if shape[0] == shape[1] else orthogonalise_oblong(direction)
        self.weight[part].mul_(1 - lr * DECAY).add_(update.reshape(-1), alpha=-lr * 0.2 * max(shape) ** 0.5)

    def save(self, path: Path, extra: Mapping[str, Any]) -> None:
        """Write the state and `extra` to `path`, whole or not at all."""
        partial = path.with_suffix(".partial")
        names = [(span.name, span.shape) for span in self.layout]
        torch.save({"names": names, **{name: getattr(self, name).clone() for name in STATE}, **extra}, partial)
        partial.replace(path)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Fill the state from what `save` wrote. Raises ValueError when it was written for another model."""
        if [(name, tuple(shape)) for name, shape in saved["names"]] != [(span.name, span.shape) for span in self.layout]:
            raise ValueError("the checkpoint belongs to a model of other sizes: choose an empty folder with --out")
        for name in STATE:
            getattr(self, name).copy_(saved[name])


def orthogonalise_oblong(stack: Tensor, steps: int = 5) -> Tensor:
    """`optim.orthogonalise` for matrices far from square, in the smaller Gram space.

    With G = X Xt one step is X <- Q X, Q = a + b G + c G^2. All Q commute with G, so their product is found without touching X.
    """
    a, b, c = NEWTON_SCHULZ
    tall = stack.shape[1] > stack.shape[2]
    x = stack.mT if tall else stack
    x = x / x.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]
    gram, product = x @ x.mT, torch.eye(x.shape[1]).expand(len(x), -1, -1)
    for step in range(steps):
        q = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        q.diagonal(dim1=1, dim2=2).add_(a)
        product = q @ product if step else q
        gram = q @ gram @ q if step + 1 < steps else gram
    result: Tensor = product @ x
    return result.mT if tall else result


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part: a flat range for AdamW and stacks (range, matrix shape) for Muon."""

    flat: slice
    stacks: tuple[tuple[slice, tuple[int, ...]], ...]

    def slices(self) -> list[slice]:
        """All ranges."""
        return [self.flat, *(part for part, _ in self.stacks)]
