"""From hidden states to the best ids and their confidences, on the device that holds them.

It knows the head, the banned id, masks of allowed ids and the noise of a temperature; not rows, caches or decoding rules. Logits are
float32 and exist for a few positions at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sensorium.engines.diffusion_vlm.noise import bits

EVEN = 32
POSITIONS = 256
"""Positions whose logits exist at once: enough that the head's matrix is not read more often than computing takes."""


@dataclass(frozen=True, slots=True)
class Draws:
    """How each position is drawn: its temperature (0: the best id, without noise) [n] float32, seed and predicted position [n] int64."""

    temperature: torch.Tensor
    seed: torch.Tensor
    position: torch.Tensor

    def piece(self, some: slice) -> Draws:
        return Draws(self.temperature[some], self.seed[some], self.position[some])


@dataclass(frozen=True, slots=True)
class Selection:
    """The head, as `even_head` makes it, and the rules: `banned` is never the best, `rounded` takes confidences in bfloat16."""

    head: torch.Tensor
    vocab: int
    banned: int | None
    rounded: bool

    def answer(self, x: torch.Tensor, allowed: torch.Tensor | None, draws: Draws | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Normed states [n, hidden] -> best ids [n] int64 and confidences [n] float32.

        `allowed` [n, bytes] uint8 has a bit for each id that may be the best, the lowest bit of a byte first.
        """
        pieces = -(-len(x) // POSITIONS)
        size = -(-len(x) // pieces)
        answers = []
        for begin in range(0, len(x), size):
            some = slice(begin, begin + size)
            answers.append(
                self.best(
                    logits_of(x[some], self.head),
                    None if allowed is None else allowed[some],
                    None if draws is None else draws.piece(some),
                )
            )
        best, confidence = zip(*answers, strict=True)
        return torch.cat(best), torch.cat(confidence)

    def best(self, logits: torch.Tensor, allowed: torch.Tensor | None, draws: Draws | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The same from logits [n, all of the head], which are overwritten. Ties go to the lowest id, confidences are free of noise."""
        if logits.shape[1] > self.vocab:
            logits[:, self.vocab :] = -torch.inf
        if self.banned is not None:
            logits[:, self.banned] = -torch.inf
        if allowed is not None:
            logits.masked_fill_(~unpacked(allowed, logits.shape[1]), -torch.inf)
        best = (logits if draws is None else drawn(logits, draws)).argmax(1, keepdim=True)
        if self.rounded:
            logits = logits.bfloat16().float()
        share = (logits - logits.amax(1, keepdim=True)).exp_()
        confidence = (share.gather(1, best) / share.sum(1, keepdim=True))[:, 0]
        return best[:, 0], confidence.bfloat16().float() if self.rounded else confidence


def even_head(head: torch.Tensor) -> torch.Tensor:
    """The head [vocab, hidden] with lines of zeros up to a multiple of 32: products of odd widths are much slower on GPUs."""
    return F.pad(head, (0, 0, 0, -len(head) % EVEN))


def logits_of(x: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """float32 logits [n, lines of the head].

    On a CUDA device straight from the product's float32 sums, elsewhere rounded to the dtype of `x` first.
    """
    if x.is_cuda and x.dtype != torch.float32:
        return torch.mm(x, head.T, out_dtype=torch.float32)
    return F.linear(x, head).float()


def unpacked(allowed: torch.Tensor, size: int) -> torch.Tensor:
    """Bytes [n, bytes], the lowest bit first -> flags [n, size]."""
    place = torch.arange(8, dtype=torch.uint8, device=allowed.device)
    return ((allowed[..., None] >> place) & 1).flatten(1)[:, :size].bool()


def drawn(logits: torch.Tensor, draws: Draws) -> torch.Tensor:
    """logits / temperature + noise where there is a temperature, the logits elsewhere."""
    temperature = draws.temperature[:, None]
    noisy = logits / torch.where(temperature > 0, temperature, 1.0) + noise(draws, logits.shape[1])
    return torch.where(temperature > 0, noisy, logits)


def noise(draws: Draws, size: int) -> torch.Tensor:
    """`noise.gumbel` for each position [n, size], float32."""
    return (-(-uniform(draws, size).log_()).log_()).float().to(draws.seed.device)


def uniform(draws: Draws, size: int) -> torch.Tensor:
    """`noise.uniform` for each position [n, size], float64; on the CPU for devices that have no double precision."""
    device = torch.device("cpu") if draws.seed.device.type == "mps" else draws.seed.device
    seed, position = draws.seed.to(device)[:, None], draws.position.to(device)[:, None]
    return (bits(seed, position, torch.arange(size, device=device)[None]).double() + 0.5) * 2.0**-52
