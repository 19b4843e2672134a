"""The Triton kernels of the operations against the torch ones, on a model's own weights and shapes.

Each operation gets the same numbers twice, once with select.py set to each backend. Knows nothing of how a
kernel works.
Trap: a backend that cannot be loaded would leave torch to be compared with itself, so what is not there is
said first.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..kernels.ops.moe import experts
from ..kernels.ops.vocab import head
from ..kernels.select import CHOICE, triton_backend, wants_triton
from ..model.dgemma import DiffusionGemma
from ..model.kv import KVCache
from ..model.passes import Pass, Span
from .reach import logits
from .report import Section, Skip

# Mass of a row that may be elsewhere (entropy: four times as many nats). Measured in the interpreter on the
# shipped checkpoint:
# float32 9.2e-6 and 1.4e-5 nats, 16 bits 0.0031 and 0.0052 nats, most of which is p's own rounding
HEAD = {torch.float32: 1e-3, torch.bfloat16: 0.01, torch.float16: 0.01}
CONTEXT = 300  # tokens: several blocks of keys, and no multiple of one


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Run every operation on this backend ("torch", "triton") where it has one."""
    before = os.environ.get(CHOICE)
    os.environ[CHOICE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[CHOICE]
        else:
            os.environ[CHOICE] = before


def why_not(net: DiffusionGemma) -> str | None:
    """Why there is nothing to compare."""
    if net.device.type != "cuda" and not wants_triton():
        return f"Triton's kernels run on a card, or where {CHOICE}=triton and TRITON_INTERPRET=1 are set"
    if net.packed is not None:
        return f"the weights are packed for a CPU; {CHOICE}=triton must be set from the beginning"
    with backend("triton"):
        if triton_backend("moe", net.norm.weight) is None:
            return "Triton is not installed, has no device here, or the weights are float64"
    return None


@torch.inference_mode()
def check(section: Section, net: DiffusionGemma) -> None:
    """Head, experts, router, attention of a layer of each kind, and a whole pass."""
    if reason := why_not(net):
        raise Skip(reason)
    make = torch.Generator(net.device).manual_seed(5)
    config = net.config
    width = config.canvas_length

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make, device=net.device).to(net.dtype)

    def both(what: str, act: Callable[[], Tensor]) -> None:
        with backend("torch"):
            want = act()
        with backend("triton"):
            section.compare(what, act(), want, net.dtype)

    with backend("torch"):
        length = min(CONTEXT, config.max_position_embeddings - 2 * width)
        kv = net.new_cache(length + 2 * width)
        net.encode(torch.randint(config.vocab_size, (1, length), generator=make, device=net.device), [kv])
        canvas = torch.randint(config.vocab_size, (1, width), generator=make, device=net.device)
        hidden = net.denoise(canvas, [kv])
        x = draw(width, config.hidden_size)
        first = next(iter(net.layers))
        weights, index = first.router(x)
    for temperature in (0.8, 0.1):
        _head(section, net, hidden, temperature, torch.rand((1, width, 2), generator=make, device=net.device))
    parts = first.experts
    both("experts", lambda: experts(x, parts.gate_up_proj, parts.down_proj, weights, index))
    both("router", lambda: first.router(x)[0])
    last_of_kind = {"sliding" if shape.is_sliding else "full": i for i, shape in enumerate(config.layers)}
    for name, layer in last_of_kind.items():
        shape = config.layers[layer]
        q = draw(1, config.num_attention_heads, width, shape.head_dim)
        k = draw(1, shape.num_key_value_heads, width, shape.head_dim)
        v = draw(1, shape.num_key_value_heads, width, shape.head_dim)
        for kind, clean in (("canvas", False), ("prompt", True)):
            attend = functools.partial(_attend, net, kv, clean, layer, q, k, v)
            both(f"attention, {name} layer, {kind}", attend)
    both("a whole pass", lambda: logits(net, kv, canvas))


def _head(
    section: Section, net: DiffusionGemma, hidden: Tensor, temperature: float, uniforms: Tensor
) -> None:
    """The reference in float32 on the same numbers: its 16-bit form rounds logits before the soft cap,
    Triton's does not.
    """
    heat = torch.tensor([1 / temperature], dtype=torch.float64, device=net.device)
    cap = net.config.final_logit_softcapping
    with backend("torch"):
        want = head(hidden.float(), net.embed.weight.float(), cap, heat, uniforms)
    with backend("triton"):
        got = head(hidden, net.embed.weight, cap, heat, uniforms)
    difference = got.p.float() / got.row_sum[..., None] - want.p / want.row_sum[..., None]
    moved = float(difference.abs().sum(-1).max() / 2)
    nats = float((got.entropy - want.entropy).abs().max())
    equal = float((got.sample == want.sample).float().mean())
    most = HEAD[net.dtype]
    name = f"head at T {temperature}"
    errors = f"{moved:.2g} of a row's mass is elsewhere, its entropy off by {nats:.2g} nats"
    section.facts[name] = f"{errors}, {equal:.1%} of the samples are equal"
    holds = moved <= most and nats <= 4 * most
    section.must(holds, f"{name}: {errors} (limits {most:.2g} and {4 * most:.2g})")


def _attend(
    net: DiffusionGemma, kv: KVCache, clean: bool, layer: int, q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    """Rows behind what is cached; the pass is never finished, so the cache keeps its length."""
    return Pass(net.config, [Span(kv, q.shape[2], clean)]).attend(layer, q, k, v)
