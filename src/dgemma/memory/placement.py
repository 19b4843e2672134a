"""Where a model's weights go, by the plan: all on the device, whole layers passing through it, or nowhere
(with the numbers).

A step needs every expert of every layer, so less memory than weights means whole layers that pass by
(model/streaming.py). What stays is the embedding, norms, routers and self-conditioning, K/V, the work of a
step and a margin; of the layers as many stay as the budget allows:

    device = weights that stay + buffers + K/V + work          device + margin <= memory
    CUDA   buffers: 2 of the largest layer that streams, every part begun at a multiple of 256 bytes; the
           host pins all that stream, each layer in one piece, for which torch takes the next power of two
    CPU    they are read from mapped files, whose pages the system may drop, so they count as nothing;
           matrices that are in no format are laid out for their layer's time only: a layer's worth in the
           dtype of the products, and its largest matrix once more where the file has another; of the
           embedding a product packs a part at a time, and all of it where it is turned for p @ E
           (plan.copies_of_table)
    moved  = the bytes of the layers that stream, once in each pass, whoever shares it

Arithmetic only. Trap: on a card layers take turns in two buffers, so their number is even; and layers
differ in size, so which of them stream is part of the plan (`spread`), not only how many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..config import ModelConfig
from ..config.formats import Format
from ..config.sizes import disk_size
from ..errors import ResourceError
from ..weights.layout import Layout
from ..weights.names import Target, expected_tensors
from .plan import BYTES, Formats, Plan, estimate_memory, format_of, free_on, held_bytes, margin

BUFFERS = 2  # on a card: one is multiplied with while the other fills
ALIGNED = 256  # bytes: where a part may begin in a buffer
STREAMED = ("attention", "dense", "experts")  # groups whose matrices pass through
CONTEXT = 4096  # tokens that must fit where nobody says how many


@dataclass(frozen=True)
class Placement:
    """`streamed`: numbers of the layers that pass through the device, in order; () where everything stays.

    Sizes are bytes.
    """

    plan: Plan  # as if everything stood on the device
    memory: int  # of the device, its margin included
    streamed: tuple[int, ...]
    device_bytes: int  # what stays, buffers, K/V and work
    host_bytes: int = (
        0  # of the layers that stream: pinned memory of the host for a card, pages of files for a CPU
    )
    moved: int = 0  # in each pass

    @property
    def margin(self) -> int:
        return margin(self.memory, self.plan.device)

    @property
    def missing(self) -> int:
        """Bytes that the memory lacks; 0: it fits."""
        return max(0, self.device_bytes + self.margin - self.memory)


def formats_in(layout: Layout) -> dict[str, Format]:
    """The number formats of a checkpoint's matrices, by model name, as `fit` and `placement` take them."""
    return {name: stored.format for name, stored in layout.text.items() if stored.format is not None}


def bytes_in(layout: Layout) -> dict[str, int]:
    """What each tensor of the model takes in the files, as `placement` takes it."""
    return {name: stored.nbytes for name, stored in layout.text.items()}


def spread(layers: int, streamed: int) -> tuple[int, ...]:
    """Which of `layers` layers stream: `streamed` of them, evenly apart, so that copies have the others'
    arithmetic to hide behind.
    """
    return tuple((2 * place + 1) * layers // (2 * streamed) for place in range(streamed))


def stream_plan(
    plan: Plan, config: ModelConfig, memory: int, stored: Mapping[str, int] | None = None
) -> Placement:
    """The fewest layers that have to stream for `plan` to run in `memory` bytes; none where it fits whole.

    Where even all of them leave too much, that is what comes back, and its `missing` says how much.

    stored: bytes in the files by model name, for a CPU; without it numbers that are in no format are taken
    to have 16 bits there.
    """
    place = Placement(plan, memory, (), plan.total)
    layers = _layers(config)
    step = BUFFERS
    if plan.device == "cpu":
        step = 1
    for count in range(step, len(layers) + 1, step):
        if not place.missing:
            break
        place = _streaming(plan, memory, layers, spread(len(layers), count), stored or {})
    return place


def placement(
    config: ModelConfig,
    dtype: object,
    device: str = "cuda",
    memory: int | None = None,
    *,
    index: int | None = None,
    context: int = CONTEXT,
    formats: Formats | None = None,
    stored: Mapping[str, int] | None = None,
    host: int | None = None,
    may_stream: bool = True,
) -> Placement:
    """What a loader does with a memory of so many bytes (None: what is free on the device now; a memory that
    tells nothing about itself is large enough): everything stays, or some layers stream.

    dtype: of what is in no format; device: "cuda" or "cpu"; context: tokens that must fit beside the
    weights; host: bytes that a card's layers may take of the host (None: what is free). Raises ResourceError
    that names the numbers and what would help.
    """
    budget = memory if memory is not None else free_on(device, index) or 2**62
    plan = estimate_memory(
        config, dtype, min(context, config.max_position_embeddings), device=device, formats=formats
    )
    place = (
        stream_plan(plan, config, budget, stored) if may_stream else Placement(plan, budget, (), plan.total)
    )
    need = (
        f"{disk_size(plan.weight_bytes + plan.packed)} of weights, "
        f"{disk_size(plan.kv + plan.work)} for {plan.context_tokens} tokens"
    )
    need += f" and a margin of {disk_size(place.margin)}"
    if place.missing:
        where = f"{'the card' if device == 'cuda' else 'this machine'} has {disk_size(budget)} for it"
        streams = (
            f"; {disk_size(place.missing)} are missing even where {len(place.streamed)} layers stream"
            if place.streamed
            else ""
        )
        raise ResourceError(
            f"the model needs {need}, and {where}{streams}; "
            "`dgemma doctor MODEL --memory SIZE` says what would fit"
        )
    if place.streamed and device == "cuda":
        free = host
        if host is None:
            free = free_on("cpu")
        if free and place.host_bytes + margin(free, "cpu") > free:
            raise ResourceError(
                f"the model needs {need}: {len(place.streamed)} layers would stream "
                f"and take {disk_size(place.host_bytes)} of the host's "
                f"memory, of which {disk_size(free)} are free; use weights in fewer bits, or `--device cpu`"
            )
    return place


def _streaming(
    plan: Plan, memory: int, layers: list[list[Target]], streamed: tuple[int, ...], stored: Mapping[str, int]
) -> Placement:
    size = BYTES[plan.dtype]
    formats = plan.formats
    away = [target for number in streamed for target in layers[number]]
    stays = plan.total - plan.packed - sum(held_bytes(target, size, formats) for target in away)
    if plan.device == "cpu":
        moved = sum(_in_file(target, formats, stored) for target in away)
        buffer = max(_laid_out(layers[number], size, formats, stored) for number in streamed)
        turned = max(0, plan.packed - plan.weights["embedding"])
        return Placement(plan, memory, streamed, stays + buffer + turned, moved, moved)
    runs = [_run(layers[number], size, formats) for number in streamed]
    pinned = sum(1 << (run - 1).bit_length() for run in runs)
    return Placement(plan, memory, streamed, stays + BUFFERS * max(runs), pinned, sum(runs))


def _layers(config: ModelConfig) -> list[list[Target]]:
    """The matrices of each layer that stream."""
    layers: list[list[Target]] = [[] for _ in config.layers]
    for target in expected_tensors(config).values():
        if target.group in STREAMED and len(target.shape) > 1:
            layers[int(target.model_name.split(".")[1])].append(target)
    return layers


def _run(layer: list[Target], size: int, formats: Formats) -> int:
    """Bytes of a layer's matrices one after another, every part begun at a multiple of ALIGNED."""
    total = 0
    for target in layer:
        format = format_of(target, formats)
        if format:
            parts = format.part_bytes(target.shape)
        else:
            parts = [held_bytes(target, size, formats)]
        total += sum(-(-part // ALIGNED) * ALIGNED for part in parts)
    return total


def _in_file(target: Target, formats: Formats, stored: Mapping[str, int]) -> int:
    return stored.get(target.model_name) or held_bytes(target, 2, formats)


def _laid_out(layer: list[Target], size: int, formats: Formats, stored: Mapping[str, int]) -> int:
    """What a CPU makes of the plain matrices of a layer while it is at work."""
    plain = [target for target in layer if format_of(target, formats) is None]
    bytes_of = [held_bytes(target, size, formats) for target in plain]
    same = all(
        _in_file(target, formats, stored) == held for target, held in zip(plain, bytes_of, strict=True)
    )
    return sum(bytes_of) + (0 if same else max(bytes_of, default=0))
