"""Muon for inner matrices and AdamW for the rest, on flat buffers, shared between data-parallel processes.

All parameters live in one flat tensor, their gradients in another: one all-reduce per step, one line for the moving average.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
WARM_UP = 60


def schedule(step: int, fraction: float, *, flat_until: float = 0.55, floor: float = 0.02) -> float:
    """Factor of the learning rate: linear warm-up, constant, then linear down to `floor` at fraction 1."""
    decay = 1.0 if fraction < flat_until else max(floor, 1 - (1 - floor) * (fraction - flat_until) / (1 - flat_until))
    return min(1.0, (step + 1) / WARM_UP) * decay


def orthogonalise(stack: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Nearly the nearest orthogonal matrices of a stack [n, rows, columns], by a quintic Newton-Schulz iteration in `dtype`."""
    a, b, c = NEWTON_SCHULZ
    tall = stack.shape[1] > stack.shape[2]
    x = (stack.transpose(1, 2) if tall else stack).to(dtype)
    x = x / x.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]
    for _ in range(steps):
        square = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.transpose(1, 2) if tall else x).to(stack.dtype)


class FlatOptimiser:
    """Muon on the matrices that `muon` accepts by name, AdamW without decay on everything else.

    With several processes each orthogonalises its share of the matrices; the updates are then added up.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], adam_only: tuple[str, ...], muon_lr: float, adam_lr: float) -> None:
        parameters = list(named)
        is_muon = {name: p.ndim == 2 and not any(part in name for part in adam_only) for name, p in parameters}
        ordered = sorted(parameters, key=lambda item: is_muon[item[0]])
        self.muon_lr, self.adam_lr, self.decay, self.count = muon_lr, adam_lr, 0.02, 0
        self.flat = torch.cat([p.data.flatten() for _, p in ordered])
        self.grad = torch.zeros_like(self.flat)
        self.ema = self.flat.clone()
        self.momentum = torch.zeros_like(self.flat)
        self.names = [name for name, _ in ordered]
        self.spans: dict[str, tuple[int, int, torch.Size]] = {}
        offset = 0
        for name, p in ordered:
            end = offset + p.numel()
            self.spans[name] = (offset, end, p.shape)
            p.data = self.flat[offset:end].view(p.shape)
            p.grad = self.grad[offset:end].view(p.shape)
            offset = end
        self.split = sum(p.numel() for name, p in ordered if not is_muon[name])
        self.second = torch.zeros(self.split)
        self.matrices = [name for name in self.names if is_muon[name]]
        self.groups = self._share(self.matrices)

    def only(self, part: str) -> None:
        """From now on Muon moves only the matrices whose names contain `part` ("" for all)."""
        self.groups = self._share([name for name in self.matrices if part in name])

    def _share(self, names: list[str]) -> list[tuple[torch.Size, list[str]]]:
        """This process's matrices, by shape."""
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        shapes: dict[torch.Size, list[str]] = defaultdict(list)
        for name in names:
            shapes[self.spans[name][2]].append(name)
        return [(shape, members[rank::world]) for shape, members in shapes.items() if members[rank::world]]

    def zero(self) -> None:
        """Forget the gradients."""
        self.grad.zero_()

    def step(self, factor: float, clip: float = 1.0) -> float:
        """One update at `factor` times the learning rates; returns the gradient's norm. Gradients must be summed over processes already."""
        self.count += 1
        norm = float(self.grad.norm())
        if not math.isfinite(norm):
            return norm
        self.grad.mul_(min(1.0, clip / (norm + 1e-6)))
        self._adam(factor)
        self._muon(factor)
        self.ema.lerp_(self.flat, 1 - min(0.998, (1 + self.count) / (10 + self.count)))
        return norm

    def _adam(self, factor: float) -> None:
        grad, first = self.grad[: self.split], self.momentum[: self.split]
        first.lerp_(grad, 0.1)
        self.second.mul_(0.98).addcmul_(grad, grad, value=0.02)
        correct_1, correct_2 = 1 - 0.9**self.count, 1 - 0.98**self.count
        self.flat[: self.split].addcdiv_(first, (self.second / correct_2).sqrt_().add_(1e-8), value=-self.adam_lr * factor / correct_1)

    def _muon(self, factor: float) -> None:
        grad, momentum = self.grad[self.split :], self.momentum[self.split :]
        momentum.lerp_(grad, 0.05)
        nesterov = torch.lerp(grad, momentum, 0.95)
        update = torch.zeros_like(grad)
        for shape, members in self.groups:
            places = [(self.spans[name][0] - self.split, self.spans[name][1] - self.split) for name in members]
            stack = orthogonalise(torch.stack([nesterov[start:end].view(shape) for start, end in places]))
            for (start, end), matrix in zip(places, stack * (0.2 * math.sqrt(max(shape))), strict=True):
                update[start:end] = matrix.flatten()
        if dist.is_initialized():
            dist.all_reduce(update)
        lr = self.muon_lr * factor
        self.flat[self.split :].mul_(1 - lr * self.decay).sub_(update, alpha=lr)

    def state(self) -> dict[str, object]:
        """What a checkpoint must keep."""
        return {name: getattr(self, name) for name in ("flat", "ema", "momentum", "second", "count", "names")}

    def restore(self, state: dict[str, object]) -> None:
        """Continue from `state`. Raises ValueError when it belongs to another model."""
        if state["names"] != self.names:
            raise ValueError("The checkpoint belongs to a model with other tensors; use an empty --out folder.")
        for name in ("flat", "ema", "momentum", "second"):
            value = state[name]
            assert isinstance(value, Tensor)
            getattr(self, name).copy_(value)
        self.count = int(str(state["count"]))

    def swap_average(self) -> None:
        """Exchange the weights and their moving average; call it twice to undo."""
        kept = self.flat.clone()
        self.flat.copy_(self.ema)
        self.ema.copy_(kept)
