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
           (tensors.copies_of_table)
    moved  = the bytes of the layers that stream, once in each pass, whoever shares it

Arithmetic only. Trap: on a card layers take turns in two buffers, so their number is even; and layers
differ in size, so which of them stream is part of the plan (`spread`), not only how many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config import ModelConfig
from ..config.formats import Format
from ..config.sizes import disk_size
from ..errors import ResourceError
from ..weights.layout import Layout
from .plan import BYTES, Plan, estimate_memory, free_on, margin
from .tensors import Formats, LayerBytes, layer_bytes

BUFFERS = 2  # on a card: one is multiplied with while the other fills
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
    layers = layer_bytes(config, BYTES[plan.dtype], plan.formats, stored or {})
    step = BUFFERS
    if plan.device == "cpu":
        step = 1
    for count in range(step, len(layers) + 1, step):
        if not place.missing:
            break
        place = _streaming(plan, memory, layers, spread(len(layers), count))
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


def _streaming(plan: Plan, memory: int, layers: Sequence[LayerBytes], streamed: tuple[int, ...]) -> Placement:
    away = [layers[number] for number in streamed]
    stays = plan.total - plan.packed - sum(layer.held for layer in away)
    if plan.device == "cpu":
        moved = sum(layer.in_file for layer in away)
        buffer = max(layer.laid_out for layer in away)
        turned = max(0, plan.packed - plan.weights["embedding"])
        return Placement(plan, memory, streamed, stays + buffer + turned, moved, moved)
    runs = [layer.run for layer in away]
    pinned = sum(1 << (run - 1).bit_length() for run in runs)  # torch takes the next power of two
    return Placement(plan, memory, streamed, stays + BUFFERS * max(runs), pinned, sum(runs))
