"""How many answers of which length fit into a device's memory beside a model. Pure arithmetic in bytes: no torch, no devices."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.engines.diffusion_vlm.weights import plan
from sensorium.errors import SettingsError

TOWER = ("encoder.vision_tower.", "encoder.multi_modal_projector.")
STEP = 256  # lengths that are found and not asked for are multiples of this
LEAST_LENGTH = 1024
BATCH_TOKENS = 1024  # 32 answers with blocks of 32, or one piece of a prompt
PATCHES = 10_000  # of the largest official picture
GRAPHS = 1 << 30  # recorded forwards and the libraries' own memory on a GPU


@dataclass(frozen=True, slots=True)
class Room:
    """`slots` answers side by side, each of up to `length` positions."""

    slots: int
    length: int


@dataclass(frozen=True, slots=True)
class Custom:
    """What is taken where nothing is asked for: so many slots and positions, and at most this share of the free memory for them."""

    slots: int = 32
    length: int = 8192
    share: float = 1.0


GPU, CPU = Custom(), Custom(slots=4, length=4096, share=0.25)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model takes, in bytes: its weights, what a forward works with, and one position of one answer.

    A slot's positions come in whole units, and `scratch` positions beyond those that count.
    """

    weights: int
    work: int
    position: int
    scratch: int = 0
    unit: int = 1

    def cache(self, room: Room) -> int:
        """The keys and values of all slots."""
        return room.slots * (-(-room.length // self.unit) * self.unit + self.scratch) * self.position


def demand(config: VLMConfig, item: int, vision_item: int, *, scratch: int = 0, unit: int = 1, graphs: bool = False) -> Demand:
    """What a checkpoint takes with `item` bytes per number in the decoder and its cache, and `vision_item` in the tower."""
    weights = sum(math.prod(shape) * (vision_item if name.startswith(TOWER) else item) for name, shape in plan(config).items())
    work = max(decoder_work(config, item), tower_work(config, vision_item)) + graphs * GRAPHS
    return Demand(weights, work, position_bytes(config, item), scratch, unit)


def position_bytes(config: VLMConfig, item: int) -> int:
    """Keys and values of one position in all layers: 139,264 bytes for the 8B in two-byte numbers."""
    return config.layers * 2 * config.kv_heads * config.head_dim * item


def decoder_work(config: VLMConfig, item: int) -> int:
    """The largest batch: its logits in float32 and two copies of them for the selection, and the inside of a layer."""
    return BATCH_TOKENS * (3 * 4 * config.vocab + (8 * config.hidden + 4 * config.ffn) * item)


def tower_work(config: VLMConfig, item: int) -> int:
    """The largest picture: rows, normed rows, queries, keys and values and both halves of the MLP; norm and turns in float32."""
    vision = config.vision
    inner = vision.heads * vision.head_dim
    return PATCHES * ((4 * vision.hidden + 5 * inner + 4 * vision.ffn) * item + (2 * vision.hidden + 6 * inner) * 4)


def choose_room(needs: Demand, free: int, positions: int, custom: Custom, *, slots: int = 0, context: int = 0) -> Room:
    """Slots and length for a model of `positions` on a device with `free` bytes; 0 leaves a number to the memory and the custom.

    Numbers that are asked for are kept. Raises SettingsError, with the bytes, where they do not fit or less than one short answer does.
    """
    if slots < 0 or not 0 <= context <= positions:
        raise SettingsError([f"slots is {slots} and context {context}; neither may be below 0, nor context above this model's {positions}"])
    left = free - needs.weights - needs.work
    wanted = min(left, int(free * custom.share))
    room = Room(slots or 1, context or min(positions, custom.length))
    if not context and needs.cache(room) > wanted:
        fitting = (wanted // (room.slots * needs.position) - needs.scratch) // STEP * STEP
        room = Room(room.slots, max(min(positions, LEAST_LENGTH), fitting))
    if needs.cache(room) > left:
        raise SettingsError([_refusal(needs, room, free, left)])
    return room if slots else Room(min(custom.slots, max(1, wanted // needs.cache(room))), room.length)


def _refusal(needs: Demand, room: Room, free: int, left: int) -> str:
    model = f"{needs.weights:,} bytes of weights and {needs.work:,} to work with"
    if left <= 0:
        return f"the model does not fit: it takes {model}, {free:,} bytes are free"
    cache = f"{room.slots} slots of {room.length} positions take {needs.cache(room):,} bytes"
    return f"{cache}, but only {left:,} of {free:,} free ones are left after {model}; lower slots or context"
