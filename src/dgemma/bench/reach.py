"""Whether everything that was read is seen: keys and values whatever the chunks, and each token at each
chunk's edge.

What arithmetic can show of any model, trained or not:
    chunks    a prompt read in two ways of cutting it: keys and values of every token, and a canvas's logits,
              are the same
    tokens    another token at a chunk's edge changes the logits of the canvas (their bits: the rest of the
              run is the same)
    cache     a value that is not finite reaches every row of the canvas from any place of a full layer, and
              on sliding layers from the last `window - 1` places and from no other

Knows no text. Trap: a run that is not repeatable changes bits by itself, so changes are measured against its
own noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..engine.denoise import read_prompts
from ..kernels.ops.vocab import soft_capped_logits
from ..model.dgemma import DiffusionGemma
from ..model.kv import KVCache
from .report import Section, distance

# A token's keys or values may be off by so much of their size: a lost one is off by 1, another's by about
# 1.4. Measured on the shipped
# checkpoint: float32 1.4e-6, bfloat16 0.29, where a router's near-tie fell the other way
NEAR = {torch.float64: 1e-6, torch.float32: 1e-2, torch.float16: 0.8, torch.bfloat16: 0.8}
MOST_EDGES = 8  # of a prompt that places are taken from


def check(section: Section, net: DiffusionGemma, context: int, chunk: int) -> None:
    """Prompts of a sixteenth, a quarter and all of `context` tokens, read in chunks of `chunk` and less."""
    draw = random.Random(11)
    canvas = torch.tensor(
        [[draw.randrange(net.config.vocab_size) for _ in range(net.config.canvas_length)]], device=net.device
    )
    lengths = sorted({max(8, context // part) for part in (16, 4, 1)})
    section.facts["prompts"] = f"{', '.join(map(str, lengths))} random tokens"
    for length in lengths:
        ids = [draw.randrange(net.config.vocab_size) for _ in range(length)]
        size = min(chunk, max(2, length // 4))
        places = edges(length, size)
        kv = _read(net, ids, size)
        want = logits(net, kv, canvas)
        _chunks(section, net, ids, canvas, kv, want, max(1, size * 3 // 5))
        _cache(section, net, canvas, kv, places)
        del kv
        positions = places
        if length != lengths[0]:
            positions = [1]

        def answer(ids: Sequence[int], size: int = size) -> Tensor:
            return logits(net, _read(net, ids, size), canvas)

        _tokens(section, net, want, positions, answer, ids)


def edges(length: int, chunk: int) -> list[int]:
    """Places near the start, on both sides of the edges of chunks (some of them, where there are many), and
    the last.
    """
    inner = [*range(chunk, length, chunk)]
    inner = inner[:: -(-len(inner) // MOST_EDGES)] if inner else []
    return sorted({1, *(edge - 1 for edge in inner), *inner, length - 1})


def logits(net: DiffusionGemma, kv: KVCache, canvas: Tensor) -> Tensor:
    """[C, V] of one denoising pass."""
    return soft_capped_logits(net.denoise(canvas, [kv])[0], net.table, net.config.final_logit_softcapping)


def _read(net: DiffusionGemma, ids: Sequence[int], chunk: int) -> KVCache:
    return read_prompts(net, [ids], chunk, net.config.canvas_length)[0]


def _chunks(
    section: Section,
    net: DiffusionGemma,
    ids: list[int],
    canvas: Tensor,
    kv: KVCache,
    want: Tensor,
    chunk: int,
) -> None:
    other = _read(net, ids, chunk)
    section.compare(f"{len(ids)} tokens in other chunks", logits(net, other, canvas), want, net.dtype)
    worst = 0.0
    where = (0, 0)
    for layer, shape in enumerate(net.config.layers):
        first = 0
        if shape.is_sliding:
            first = max(0, len(ids) - net.config.sliding_window + 1)
        for mine, theirs in zip(
            other.read(layer, first, len(ids)), kv.read(layer, first, len(ids)), strict=True
        ):
            wrong = (mine.float() - theirs.float()).square().sum((0, 1, 3)) / theirs.float().square().sum(
                (0, 1, 3)
            )
            wrong = wrong.nan_to_num(torch.inf).sqrt()
            if float(wrong.max()) > worst:
                worst = float(wrong.max())
                where = (layer, first + int(wrong.argmax()))
    section.facts[f"{len(ids)} tokens, keys and values"] = (
        f"off by at most {worst:.2g}, at token {where[1]} in layer {where[0]}"
    )
    section.must(
        worst <= NEAR[net.dtype],
        f"keys or values of token {where[1]} of {len(ids)} depend on the chunks: off by {worst:.2g}",
    )


def _tokens(
    section: Section,
    net: DiffusionGemma,
    want: Tensor,
    places: list[int],
    answer: Callable[[list[int]], Tensor],
    ids: list[int],
) -> None:
    noise = distance(answer(ids), want).rms
    lost = []
    for place in places:
        changed = [*ids]
        changed[place] = (changed[place] + 1) % net.config.vocab_size
        if not distance(answer(changed), want).rms > noise:
            lost.append(place)
    section.facts[f"{len(ids)} tokens, changed and seen"] = f"{len(places) - len(lost)} of {len(places)}"
    section.must(not lost, f"no change of the tokens {lost} of {len(ids)} reaches the canvas")


def _cache(section: Section, net: DiffusionGemma, canvas: Tensor, kv: KVCache, places: list[int]) -> None:
    shapes = net.config.layers
    length = kv.length
    full = [i for i, shape in enumerate(shapes) if not shape.is_sliding]
    sliding = [i for i, shape in enumerate(shapes) if shape.is_sliding]
    oldest = length - net.config.sliding_window + 1  # the first place that sliding layers see
    unseen = [
        place
        for place in places
        if full and not _poisoned(net, kv, canvas, full, place).isnan().any(-1).all()
    ]
    section.must(not unseen, f"full layers do not read the cached tokens {unseen} of {length}")
    seen = [place for place in (max(0, oldest), length - 1) if sliding]
    unseen = [place for place in seen if not _poisoned(net, kv, canvas, sliding, place).isnan().any(-1).all()]
    section.must(
        not unseen,
        f"sliding layers do not read the cached tokens {unseen} of {length}, which are in their window",
    )
    if sliding and oldest - 1 >= max(0, kv.window_start):
        apart = bool(_poisoned(net, kv, canvas, sliding, oldest - 1).isfinite().all())
        section.must(
            apart, f"sliding layers read token {oldest - 1} of {length}, which is behind their window"
        )
    section.facts[f"{length} tokens, places read in the cache"] = (
        f"{len(places) * bool(full)} full, {len(seen)} sliding"
    )


def _poisoned(net: DiffusionGemma, kv: KVCache, canvas: Tensor, layers: list[int], place: int) -> Tensor:
    """Logits while the value at one place of these layers is NaN."""
    values = [kv.read(layer, place, place + 1)[1] for layer in layers]
    kept = [value.clone() for value in values]
    try:
        for value in values:
            value.fill_(torch.nan)
        return logits(net, kv, canvas)
    finally:
        for value, old in zip(values, kept, strict=True):
            value.copy_(old)
