"""What fits where: bytes of weights, of K/V for a context and of one step's work, against the memories of a machine.

Arithmetic on a ModelConfig: reads no data, and loads torch only to ask for CUDA cards. Weights and K/V are exact;
the work of a pass is an upper estimate for plain torch operations, for a request alone on a CPU 1.1-1.5 times what was counted
(tests/weights/test_plan.py), and up to 2 where the vocabulary's tensors are most: p is there twice only while rows come and go.
Trap: on CUDA a head dim of 512 is beyond the flash kernels, so one full layer makes its scores (chunk x context, per head) and
repeats K and V per query head, both in float32: at 128k tokens that is a third of the published weights. The CPU kernel makes
neither (measured).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..config import LayerConfig, ModelConfig
from .names import GROUPS, expected_tensors

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
PACKED = ("float32", "bfloat16")  # what CPU weights are packed in (kernels/matmul.py)
GIB = 2**30
RESERVE = GIB  # a CUDA context and the allocator's fragments take 0.5-1 GiB; a host keeps as much for Python and oneDNN's kernels
BLOCKS = {"cpu": 1 << 19, "cuda": 1 << 24}  # logits that the head works on at a time (kernels/vocab.py, compared by a test)
TILE = 128  # of these, those whose sum is kept


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

    @property
    def weight_bytes(self) -> int:
        return sum(self.weights.values())

    @property
    def total(self) -> int:
        return self.weight_bytes + self.packed + self.kv + self.work

    def fits(self, memory_bytes: int) -> bool:
        """Whether it runs in a memory of so many bytes, with a reserve of 1 GiB."""
        return self.total + RESERVE <= memory_bytes


@dataclass(frozen=True)
class Memory:
    """One memory of this machine, in bytes. `free` is what is available now."""

    name: str
    total: int
    free: int


def fit(
    config: ModelConfig, dtype: object, context_tokens: int, batch: int = 1, canvas: int | None = None,
    prefill_chunk: int = 512, device: str = "cuda",
) -> Plan:  # fmt: skip
    """The Plan for a text model. dtype: a torch dtype or its name; contexts and chunks are in tokens; device: where
    it runs, "cuda" or "cpu"."""
    name = str(dtype).removeprefix("torch.")
    if name not in BYTES:
        raise ValueError(f"no weights are kept as {name}; known: {', '.join(BYTES)}")
    size, canvas = BYTES[name], canvas or config.canvas_length
    clean = max(canvas, min(prefill_chunk, context_tokens))  # rows of a canvas that stood, or of a chunk
    kv = sum(_kv_elements(layer, config, context_tokens) for layer in config.layers) * batch * size
    cuda = device != "cpu"
    previous = canvas * config.vocab_size * size  # p of the last step, kept for self-conditioning
    layers = _layer_bytes(config, clean, clean + canvas, context_tokens, size, cuda)
    work = batch * (previous + max(layers, previous + _head_bytes(config, canvas, size, cuda)))  # the step writes a p of its own
    weights, table = weight_bytes(config, size), config.vocab_size * config.hidden_size * size
    packed = copies_of_table(table, sum(weights.values())) * table if not cuda and name in PACKED else 0
    return Plan(name, context_tokens, batch, weights, kv, work, packed)


def copies_of_table(table: int, model: int) -> int:
    """How many packed copies of the embedding pay, by its elements and the model's: the head's, and one turned for p @ E where that is
    much of a step (140 M parameters: 18 of 450 ms for 24 % of the memory; 1.1 B: 2 % for 6 %)."""
    return 2 if 10 * table >= model else 1


def weight_bytes(config: ModelConfig, bytes_per_element: int) -> dict[str, int]:
    """Bytes of the text weights by group; vision is not loaded, so not counted."""
    groups = dict.fromkeys(GROUPS, 0)
    for target in expected_tensors(config).values():
        elements = 1
        for dim in target.shape:
            elements *= dim
        groups[target.group] += elements * bytes_per_element
    return groups


def machine() -> list[Memory]:
    """The host's memory (a container's limit, where that is lower) and every CUDA card torch can see."""
    return [_host(), *_cards()]


def free_on(kind: str, index: int | None = None) -> int:
    """Bytes free where tensors of a device ("cpu", "cuda") live; 0 where the memory tells nothing about itself."""
    name = f"cuda:{index or 0}" if kind == "cuda" else "RAM"
    return max((memory.free for memory in machine() if memory.name.split()[0] == name), default=0)


def _kv_elements(layer: LayerConfig, config: ModelConfig, context: int) -> int:
    """K and V of one row; both are stored, on full layers too, where V differs from K by its norm and rope."""
    entries = config.sliding_window - 1 + 2 * config.canvas_length if layer.is_sliding else context
    return 2 * entries * layer.num_key_value_heads * layer.head_dim


def _layer_bytes(config: ModelConfig, clean: int, rows: int, context: int, size: int, cuda: bool) -> int:
    """A pass of `rows`, of which `clean` are causal: the masks of both kinds of layers, what flows between operations, and the
    largest operation (on CUDA, where nobody counted, both kinds). Counted: at most 8 arrays [rows, hidden] are alive beside it."""
    masks = clean * (context + min(context, config.sliding_window - 1 + clean))
    widest = max(_attention_bytes(layer, config, clean, rows, context, size, cuda) for layer in config.layers)
    mlp = _mlp_bytes(config, rows, size)
    return masks + 8 * rows * config.hidden_size * size + (widest + mlp if cuda else max(widest, mlp))


def _attention_bytes(
    layer: LayerConfig, config: ModelConfig, clean: int, rows: int, context: int, size: int, cuda: bool
) -> int:
    """The queries in their norm, twice in float32, or with the mask as numbers; on CUDA scores, softmax, K and V per query head."""
    heads, wide = config.num_attention_heads, max(size, 4)  # the fallback kernel computes in float32
    seen = min(context, config.sliding_window - 1 + rows) if layer.is_sliding else context + rows
    queries = heads * rows * layer.head_dim
    scores = 2 * heads * seen * (rows + layer.head_dim) * wide if cuda else 0
    return max(queries * (2 * size + 2 * wide), clean * seen * size + 4 * queries * size) + scores


def _mlp_bytes(config: ModelConfig, rows: int, size: int) -> int:
    """Experts: rows gathered, their outputs, these sorted back and weighted, beside gate, up and inner; the dense MLP: gate, up,
    the activation and the product."""
    routed = rows * config.top_k_experts * (4 * config.hidden_size + 3 * config.moe_intermediate_size)
    return max(routed, rows * 4 * config.intermediate_size) * size


def _head_bytes(config: ModelConfig, canvas: int, size: int, cuda: bool) -> int:
    """Blocks of float32 beside the [canvas, vocabulary] tensor: logits, exact p, and both padded where a tile is not full."""
    rows = min(canvas, max(1, BLOCKS["cuda" if cuda else "cpu"] // config.vocab_size))
    ragged = config.vocab_size % TILE > 0
    sums = canvas * -(-config.vocab_size // TILE) * 40  # of tiles: float32 four times and int64 three times, while one is drawn
    return rows * config.vocab_size * max(size, 4) * (4 if ragged else 2) + sums


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
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if limit is not None and limit < total:
        total, free = limit, min(free, limit - (used or 0))
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
