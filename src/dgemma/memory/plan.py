"""What fits where: bytes of weights, of K/V for a context and of one step's work, against the memories of a
machine.

Arithmetic on a ModelConfig: reads no data, and loads torch only to ask for CUDA cards. Weights and K/V are
exact; the work of a pass is an upper estimate for plain torch operations, for a request alone on a CPU
1.1-1.5 times what was counted (tests/memory/test_plan.py), and up to 2 where the vocabulary's tensors are
most: p is there twice only while rows come and go. Trap: on a card plain attention makes scores, a piece of
bounded size at a time, beside K or V once more in float32 (kernels/ops/attention.py: 0.5 GB at 32k tokens
of the published model); the kernel of torch's for CPUs makes neither (measured), nor does attention in
Triton.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ..config import LayerConfig, ModelConfig
from ..config.formats import BYTES as STORED_BYTES
from ..config.formats import DTYPES
from ..kernels.select import lacks_avx512, wants_triton
from ..kernels.sizes import BLOCKS, PACKED, PIECES, SCORES, TILE, WIDENED
from .tensors import Formats, copies_of_table, matrices_in_formats, weight_bytes

BYTES = {name: STORED_BYTES[stored] for name, stored in DTYPES.items()}
GIB = 2**30
# a CUDA context and the allocator's fragments take 0.5-1 GiB; a host keeps as much for Python and oneDNN's
# kernels
RESERVE = GIB
SHARE = 8  # but no more than this part of a host's memory, where what a small model needs is small too,
LEAST = (
    96 * 2**20
    # and no less than this (a quarter of a tiny memory): objects of Python, holes in the heap and oneDNN's
    # code
    # took 65 MB
)
# bytes that live per element while it is decoded (integers, float32 numbers, spread scales, their product):
# counted 2 to 16
DECODING = 16


@dataclass(frozen=True)
class Plan:
    """Bytes needed to run `batch` rows of up to `context_tokens` tokens in `dtype`."""

    dtype: str
    context_tokens: int
    batch: int
    weights: dict[str, int]  # by group of names.py
    kv: int
    work: int
    packed: int = 0  # further copies of the embedding that a CPU's products read
    device: str = "cuda"
    formats: Formats = field(default_factory=dict, repr=False)

    @property
    def weight_bytes(self) -> int:
        return sum(self.weights.values())

    @property
    def total(self) -> int:
        return self.weight_bytes + self.packed + self.kv + self.work

    def fits(self, memory_bytes: int) -> bool:
        """Whether it runs in a memory of so many bytes and leaves its margin."""
        return self.total + margin(memory_bytes, self.device) <= memory_bytes


@dataclass(frozen=True)
class Memory:
    """One memory of this machine, in bytes. `free` is what is available now."""

    name: str
    total: int
    free: int


def margin(memory_bytes: int, device: str = "cuda") -> int:
    """Bytes of a memory that no plan touches: 1 GiB, on a CPU an eighth of the memory where that is less,
    but 96 MiB or a quarter.
    """
    if device == "cpu":
        return min(RESERVE, max(memory_bytes // SHARE, min(memory_bytes // 4, LEAST)))
    return RESERVE


def estimate_memory(
    config: ModelConfig,
    dtype: object,
    context_tokens: int,
    batch: int = 1,
    canvas: int | None = None,
    prefill_chunk: int = 512,
    device: str = "cuda",
    formats: Formats | None = None,
    triton: bool | None = None,
) -> Plan:
    """The Plan for a text model. dtype: a torch dtype or its name, of what is not in few bits; contexts and
    chunks are in tokens; device: where it runs, "cuda" or "cpu"; formats: of matrices in few bits, by group
    or by name; triton: whether a card runs the forms of kernels/select.py, None: as this process would.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in BYTES:
        raise ValueError(f"no weights are kept as {name}; known: {', '.join(BYTES)}")
    formats = formats or {}
    kv, work = _request(
        config, BYTES[name], context_tokens, batch, canvas, prefill_chunk, device, formats, triton
    )
    weights = weight_bytes(config, BYTES[name], formats)
    table = config.vocab_size * config.hidden_size
    plain = (
        device == "cpu"
        and name in PACKED
        and not lacks_avx512()
        and not {"embedding", "embed.weight"} & set(formats)
    )
    packed = 0
    if plain:
        packed = copies_of_table(config) * table * BYTES[name]
    return Plan(name, context_tokens, batch, weights, kv, work, packed, device, formats)


def longest_context(config: ModelConfig, plan: Plan, memory_bytes: int, triton: bool | None = None) -> int:
    """The most tokens that fit beside a plan's weights, one request alone; 0 where none do."""
    available = memory_bytes - margin(memory_bytes, plan.device) - plan.weight_bytes - plan.packed
    fits = 0
    refused = config.max_position_embeddings + 1
    while refused - fits > 1:
        middle = (fits + refused) // 2
        need = sum(
            _request(config, BYTES[plan.dtype], middle, 1, None, 512, plan.device, plan.formats, triton)
        )
        fits, refused = (middle, refused) if need <= available else (fits, middle)
    return fits


def _request(
    config: ModelConfig,
    size: int,
    context: int,
    batch: int,
    canvas: int | None,
    chunk: int,
    device: str,
    formats: Formats,
    triton: bool | None,
) -> tuple[int, int]:
    """Bytes of K and V, and of work."""
    canvas = canvas or config.canvas_length
    cuda = device != "cpu"
    fast = cuda and (wants_triton() if triton is None else triton)
    clean = max(canvas, min(chunk, context))  # rows of a canvas that stood, or of a chunk
    kv = sum(_kv_elements(layer, config, context) for layer in config.layers) * batch * size
    previous = canvas * config.vocab_size * size  # p of the last step, kept for self-conditioning
    layers = _layer_bytes(config, clean, clean + canvas, context, size, cuda, fast)
    work = batch * (
        previous + max(layers, previous + _head_bytes(config, canvas, size, cuda))
    )  # the step writes a p of its own
    decoding = 0
    if formats:
        decoding = _decoding_bytes(config, batch * (clean + canvas), size, formats, cuda, fast)
    return kv, work + decoding


def machine() -> list[Memory]:
    """The host's memory (a container's limit, where that is lower) and every CUDA card torch can see."""
    return [_host(), *_cards()]


def free_on(kind: str, index: int | None = None) -> int:
    """Bytes free where tensors of a device ("cpu", "cuda") live; 0 where the memory tells nothing about
    itself.
    """
    name = "RAM"
    if kind == "cuda":
        name = f"cuda:{index or 0}"
    return max((memory.free for memory in machine() if memory.name.split()[0] == name), default=0)


def _kv_elements(layer: LayerConfig, config: ModelConfig, context: int) -> int:
    """K and V of one row; both are stored, on full layers too, where V differs from K by its norm and
    rope.
    """
    entries = context
    if layer.is_sliding:
        entries = config.sliding_window - 1 + 2 * config.canvas_length
    return 2 * entries * layer.num_key_value_heads * layer.head_dim


def _layer_bytes(
    config: ModelConfig, clean: int, rows: int, context: int, size: int, cuda: bool, fast: bool
) -> int:
    """A pass of `rows`, of which `clean` are causal: the masks of both kinds of layers, what flows
    between operations, and the largest operation (on CUDA, where nobody counted, both kinds). Counted:
    at most 8 arrays [rows, hidden] are alive beside it.
    """
    masks = clean * (context + min(context, config.sliding_window - 1 + clean))
    widest = max(
        _attention_bytes(
            layer, config, clean, rows, context, size, cuda and not (fast and _flows(layer.head_dim, size))
        )
        for layer in config.layers
    )
    if not cuda:
        widest = max(
            widest, *(_widened_heads(layer, config, clean, rows, context, size) for layer in config.layers)
        )
    mlp = max(_mlp_bytes(config, rows, size), 0 if cuda else _widened_bytes(config, rows, size))
    return masks + 8 * rows * config.hidden_size * size + (widest + mlp if cuda else max(widest, mlp))


def _flows(head_dim: int, size: int) -> bool:
    """Whether attention in Triton takes heads of this dim on a card (kernels/triton/attention.py,
    compared by a test).
    """
    return size <= 2 and 16 <= head_dim <= 512 and head_dim & (head_dim - 1) == 0


def _attention_bytes(
    layer: LayerConfig, config: ModelConfig, clean: int, rows: int, context: int, size: int, scored: bool
) -> int:
    """The queries in their norm, twice in float32, or with the mask as numbers; where scores are made, a
    piece of them with its softmax, its queries, mask and result, and K or V of all heads in the scores'
    kind of number (counted on a CPU).
    """
    heads = config.num_attention_heads
    wide = max(size, 4)
    if layer.is_sliding:
        seen = min(context, config.sliding_window - 1 + clean)
    else:
        seen = context + rows - clean
    queries = heads * rows * layer.head_dim
    if scored:
        scores = min(heads * rows * seen, max(SCORES, heads * seen))
        copies = 0
        if size < wide:
            copies = layer.num_key_value_heads * seen * layer.head_dim * wide
        return 3 * queries * size + 2 * queries * wide + 2 * scores * wide + scores // heads + copies
    fresh = 2 * layer.num_key_value_heads * rows * layer.head_dim * size  # keys and values of the rows
    mixing = clean * seen * size + 4 * queries * size + _scratch(rows, seen, layer.head_dim, size)
    return fresh + max(queries * (2 * size + 2 * wide), mixing)


def _scratch(rows: int, seen: int, dim: int, size: int) -> int:
    """What each thread of torch's attention for CPUs keeps: scores of some queries with 512 keys, sums,
    and of 16 bits the scores again.
    """
    queries = 256 if rows >= 768 else 64 if rows >= 192 else 32
    again = 0
    if size < 4:
        again = size
    return (
        (os.cpu_count() or 1) * queries * (min(seen, 512) * (max(size, 4) + again) + (2 + dim) * max(size, 4))
    )


def _widens(size: int) -> bool:
    """Whether products on this CPU turn numbers of so many bytes into float32 (kernels/ops/widen.py)."""
    return size == 2 and lacks_avx512()


def _mlp_bytes(config: ModelConfig, rows: int, size: int) -> int:
    """Experts: rows gathered, their outputs, these sorted back and weighted, beside gate, up and inner;
    the dense MLP: gate, up, the activation and the product.
    """
    routed = rows * config.top_k_experts * (4 * config.hidden_size + 3 * config.moe_intermediate_size)
    return max(routed, rows * 4 * config.intermediate_size) * size


def _widened_heads(
    layer: LayerConfig, config: ModelConfig, clean: int, rows: int, context: int, size: int
) -> int:
    """Queries, keys, values, mask and result of attention in float32, beside what they were."""
    if layer.is_sliding:
        seen = min(context, config.sliding_window - 1 + clean)
    else:
        seen = context + rows - clean
    heads = 2 * config.num_attention_heads * rows + 2 * layer.num_key_value_heads * seen
    if _widens(size):
        return (4 + size) * heads * layer.head_dim + 4 * clean * seen
    return 0


def _widened_bytes(config: ModelConfig, rows: int, size: int) -> int:
    """A piece of a matrix in float32, and of the dense MLP the gate, up, and up in float32."""
    piece = min(WIDENED, config.hidden_size * config.intermediate_size)
    if _widens(size):
        return 4 * piece + 8 * rows * config.intermediate_size
    return 0


def _head_bytes(config: ModelConfig, canvas: int, size: int, cuda: bool) -> int:
    """Blocks of float32 beside the [canvas, vocabulary] tensor: logits, exact p, and both padded where a
    tile is not full.
    """
    rows = min(canvas, max(1, BLOCKS["cuda" if cuda else "cpu"] // config.vocab_size))
    ragged = config.vocab_size % TILE > 0
    sums = (
        canvas * -(-config.vocab_size // TILE) * 40
    )  # of tiles: float32 four times and int64 three times, while one is drawn
    return rows * config.vocab_size * max(size, 4) * (4 if ragged else 2) + sums


def _decoding_bytes(
    config: ModelConfig, rows: int, size: int, formats: Formats, cuda: bool, fast: bool
) -> int:
    """The piece of a matrix in few bits that is decoded at a time, and what products round their rows to
    (fp8, nvfp4).

    The embedding is mixed in pieces four times as large, which are summed in float32. Triton decodes inside
    its products.
    """
    piece = PIECES["cuda" if cuda else "cpu"]
    most = 0
    rounding = 0
    cost = DECODING * max(1, size // 4)
    for target, format in matrices_in_formats(config, formats):
        outputs, inputs = target.shape[-2:]
        table = target.group == "embedding"
        if table or not fast:
            wider = 0
            if not cuda and _widens(size):
                wider = 4 * rows * inputs
            most = max(
                most, min(outputs, max(16, (4 if table else 1) * piece // inputs)) * inputs * cost + wider
            )
        if target.group != "experts" and format.name in ("fp8", "nvfp4"):
            rounding = max(rounding, rows * inputs * cost)
    return most + rounding


def _host() -> Memory:
    total = free = 0
    try:
        facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(facts[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        try:
            total = free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (OSError, ValueError, AttributeError):
            pass  # unknown: shown as 0, and nothing is said to fit
    limit = _number("/sys/fs/cgroup/memory.max")
    used = _number("/sys/fs/cgroup/memory.current")
    if limit is not None and limit < total:
        total = limit
        free = min(free, limit - (used or 0))
    return Memory("RAM", total, free)


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # no cgroup, or "max"
        return None


def _cards() -> list[Memory]:
    import torch

    if not torch.cuda.is_available():
        return []
    cards = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        cards.append(Memory(f"cuda:{number} {torch.cuda.get_device_name(number)}", total, free))
    return cards
