"""Predict a denoising step of the 26B shape on six cards, kernel by kernel. Nothing here is measured.

    python benchmarks/predict.py

One canvas of 256 rows after 2,048 tokens, in bf16 and with weights in fp8, nvfp4 and int4 as `dgemma bench --format` makes them
(activations rounded where the card multiplies the format as such). The limit of an operation is its work (bench/roofline.py) over the card's
published rates. The prediction adds what the compiled kernels say: registers and shared memory (how many blocks share a
multiprocessor), and the instructions inside and outside the loop of products, read from the machine code (how long a block holds
the schedulers). What neither says is a constant below, published or assumed. Rows go to benchmarks/results/predicted.csv,
tables to stdout.

The limits stand 1.5-4 % below an earlier sum by hand (H200 11.7 ms, H100 16.4, RTX 5090 35.1, RTX 4090 57.9, DGX Spark 200), whose
step reads 54.5 GB; this one reads 52.6, the vocabulary's table twice. Left out: clocks that fall under load, what the experts
write between their products, and the host, which must stay ahead of the card. Trap: it must run without TRITON_INTERPRET; launches
are counted in a process of their own that has it.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import kernels_aot
import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget

from dgemma.bench.roofline import Weights, work_by_operation
from dgemma.bench.shapes import shape
from dgemma.config import DenoiseConfig, EngineConfig, LayerConfig, ModelConfig
from dgemma.config.formats import PLAIN, quant_config
from dgemma.engine.engine import Engine
from dgemma.engine.requests import Request
from dgemma.kernels.triton import matmul as matmul_triton
from dgemma.kernels.triton.operands import rows_of
from dgemma.model.build import build_random
from dgemma.weights.names import expected_tensors

RESULTS = Path(__file__).parent / "results" / "predicted.csv"
CANVAS, CONTEXT = 256, 2048
FORMATS = (PLAIN, "fp8", "nvfp4", "int4")  # nvfp4, int4: the experts; fp8: experts, attention and dense MLP
# how many times as fast as bf16 a card multiplies a format as such, float32 sums, dense: the same papers; Triton 3.6 has no FP4 for sm_121
NATIVE = {("fp8", 89): 2.0, ("fp8", 90): 2.0, ("fp8", 120): 2.0, ("fp8", 121): 2.0, ("nvfp4", 120): 8.0}
OPERATION = {
    "attention": "projections",
    "dense": "dense MLP",
}  # of roofline.py, for groups of weights/names.py
REST, NO_GRAPH = "everything else", "launches without a graph"

# Published for Triton's fused MoE at these expert shapes on an H200 (419.6 us a layer); assumed for every other reading of weights.
BANDWIDTH = 0.76
TENSOR = 0.70  # of the tensor rate inside a product; assumed
ISSUE = 0.70  # of one instruction per clock and scheduler; assumed
SYNC = 0.6  # of Hopper's tensor rate that the instruction of the cards before it reaches; assumed
LATENCY = 0.6e-6  # seconds from a load to its data while the memory is busy; assumed
STARTS = 1.0  # blocks that a card starts per clock; assumed
SMALL = 1e-6  # seconds that a kernel with next to nothing to do takes, in a graph as well; assumed
LAUNCH = 2e-6  # seconds between two kernels without a graph; assumed


class Card(NamedTuple):
    """Published figures; a tensor rate is dense bf16 with float32 sums."""

    name: str
    generation: int  # sm_...
    gb_per_second: float
    tflops: float
    processors: int
    ghz: float  # boost
    warps: int  # that one multiprocessor holds
    shared_kib: int  # of one multiprocessor
    gib: int

    @property
    def arch(self) -> int:
        """Whose machine code is read."""
        return 120 if self.generation == 121 else self.generation


# H100, H200: NVIDIA's H100 white paper and the data sheets of the SXM cards. RTX: the white papers of GA102, Ada and RTX Blackwell,
# one table of peak rates each. Spark: 273 GB/s from its data sheet, 6,144 cores at 31 TFLOPS in float32 (Hot Chips 2025), so 48
# multiprocessors at 2.5 GHz; its bf16 rate is not published: here that of a 5090 per multiprocessor and clock, and owners report
# about 60. sm_121 code cannot be read with the wheel's tools; sm_120's stands for it. Warps, shared memory: CUDA programming guide.
CARDS = (
    Card("H200", 90, 4800, 989.4, 132, 1.83, 64, 228, 141),
    Card("H100 SXM", 90, 3350, 989.4, 132, 1.83, 64, 228, 80),
    Card("RTX 5090", 120, 1792, 209.5, 170, 2.407, 48, 100, 32),
    Card("RTX 4090", 89, 1008, 165.2, 128, 2.52, 48, 100, 24),
    Card("RTX 3090", 86, 936, 71.0, 82, 1.695, 48, 100, 24),
    Card("DGX Spark", 121, 273, 62.0, 48, 2.52, 48, 100, 128),
)


class Use(NamedTuple):
    """A Triton kernel in a step: how often it is launched and what one launch is made of."""

    operation: str
    kernel: str  # as in kernels_aot.py
    launches: int
    blocks: int
    trips: int  # through the loop of products
    flops: float  # of one trip
    share: float  # of the operation's bytes
    chained: bool = False  # a trip's products wait for each other: arithmetic and instructions add up
    early: bool = False  # every block leaves at the first exit


class Code(NamedTuple):
    """What the machine code of a kernel says, for one warp."""

    inside: int  # instructions of one trip; 0: the loop is unrolled
    outside: int
    tensor: str  # the tensor instruction
    registers: int
    shared: int
    warps: int
    stages: int


def uses(config: ModelConfig, kernels: Mapping[str, kernels_aot.Kernel], form: str, card: Card) -> list[Use]:
    """The Triton kernels of a step that do most of the work, in the shapes they are launched with; the rest counts as small."""
    hidden, vocab = config.hidden_size, config.vocab_size
    tile = kernels["vocab tiles, 128 rows"].constants
    blocks = math.ceil(CANVAS / tile["ROWS"]) * math.ceil(vocab / tile["TOKENS"])
    one = 2.0 * tile["ROWS"] * tile["TOKENS"] * tile["DEPTH"]
    found = [
        Use("head", "vocab tiles, 128 rows", 1, blocks, math.ceil(hidden / tile["DEPTH"]), one, 1.0),
        Use("head", "vocab rescale", 1, CANVAS * 16, 0, 0.0, 0.0, early=True),
        Use("head", "vocab rows", 1, CANVAS, 0, 0.0, 0.0),
    ]
    found += of_experts(config, kernels, form, card)
    for operation in ("attention", "dense"):
        if operation in quant_config(form):
            found += of_products(config, kernels, operation, form, card)
    every = sum(cached(config, layer) for layer in config.layers)
    for layer, count in Counter(config.layers).items():
        name = f"attention, head {layer.head_dim}"
        tile = kernels[name].constants
        blocks = layer.num_key_value_heads * math.ceil(CANVAS / (tile["ROWS"] // tile["group"]))
        trips, share = math.ceil(seen(config, layer) / tile["KEYS"]), count * cached(config, layer) / every
        one = 4.0 * tile["ROWS"] * tile["KEYS"] * tile["width"]
        found.append(Use("attention", name, count, blocks, trips, one, share, chained=True))
    return found


def kind_of(form: str, card: Card) -> str:
    """A format in the names of kernels_aot.py's kernels, on this card."""
    return "" if form == PLAIN else f"{form} x {form}" if (form, card.generation) in NATIVE else form


def of_experts(
    config: ModelConfig, kernels: Mapping[str, kernels_aot.Kernel], form: str, card: Card
) -> Iterator[Use]:
    kind, experts, inner, hidden = (
        kind_of(form, card),
        config.num_experts,
        config.moe_intermediate_size,
        config.hidden_size,
    )
    rows = rows_of(CANVAS * config.top_k_experts / experts, 2, kind == form, card.generation // 10)
    for name, columns, depth, share in (("inner", 2 * inner, hidden, 2 / 3), ("outer", hidden, inner, 1 / 3)):
        name = f"{kernels_aot.named(f'experts {name}', kind)}, {rows} rows"
        blocks = expert_blocks(CANVAS, config.top_k_experts, experts, rows)
        yield product("experts", kernels[name], len(config.layers), blocks, columns, depth, share)


def of_products(
    config: ModelConfig, kernels: Mapping[str, kernels_aot.Kernel], group: str, form: str, card: Card
) -> Iterator[Use]:
    """The dense products of a group of weights, one for each shape; blocks of 64 rows, cut finer where they are few."""
    shapes = [
        target.shape
        for target in expected_tensors(config).values()
        if target.group == group and len(target.shape) == 2
    ]
    every = sum(outs * depth for outs, depth in shapes)
    for (outs, depth), count in Counter(shapes).items():
        blocks = math.ceil(CANVAS / 64)
        columns = 128 if blocks * math.ceil(outs / 128) >= matmul_triton.FULL else 64
        kernel = kernels[f"product {kind_of(form, card)}, 64 x {columns}"]
        yield product(OPERATION[group], kernel, count, blocks, outs, depth, count * outs * depth / every)


def product(
    operation: str,
    kernel: kernels_aot.Kernel,
    launches: int,
    blocks: int,
    columns: int,
    depth: int,
    share: float,
) -> Use:
    """blocks: of rows; columns, depth: of the weight."""
    tile = kernel.constants
    trip = 2.0 * tile["ROWS"] * tile["COLS"] * tile["DEEP"]
    blocks *= math.ceil(columns / tile["COLS"])
    return Use(operation, kernel.name, launches, blocks, math.ceil(depth / tile["DEEP"]), trip, share)


def seen(config: ModelConfig, layer: LayerConfig) -> int:
    """Keys that a canvas row sees."""
    return (min(CONTEXT, config.sliding_window - 1) if layer.is_sliding else CONTEXT) + CANVAS


def cached(config: ModelConfig, layer: LayerConfig) -> int:
    return 2 * layer.num_key_value_heads * layer.head_dim * seen(config, layer)


def expert_blocks(rows: int, top_k: int, experts: int, block: int) -> int:
    """How many blocks of `block` rows the experts' rows make, if every expert is as likely as any other."""
    p = top_k / experts
    chances = (
        (count, math.comb(rows, count) * p**count * (1 - p) ** (rows - count)) for count in range(rows + 1)
    )
    return round(experts * sum(chance * math.ceil(count / block) for count, chance in chances))


def read_code(text: str) -> tuple[int, int, str]:
    """(inside, outside, tensor instruction) of a disassembled kernel; of its loops that with most products is the one."""
    text = text[text.index("\n.text.") :].split("//----")[0]
    code = [
        line
        for line in text.splitlines()
        if re.match(r"\s+/\*[0-9a-f]{4,}\*/\s", line) or line.startswith(".L_x")
    ]
    labels = {line.split(":")[0]: place for place, line in enumerate(code) if line.startswith(".L_x")}
    end = max(place for place, line in enumerate(code) if re.search(r"\bEXIT\b", line)) + 1
    products = [bool(re.search(kernels_aot.TENSOR, line)) for line in code]
    loops = []
    for place, line in enumerate(code[:end]):
        jump = re.search(r"\bBRA.*`\((\.L_x_\d+)\)", line)
        if jump and labels[jump[1]] < place:
            loops.append((sum(products[labels[jump[1]] : place]), labels[jump[1]], place + 1))
    most, first, last = max(loops, default=(0, 0, 0))
    parts = (code[:end], code[first:last] if most else [])
    every, inside = ([line for line in part if not line.startswith(".L_x")] for part in parts)
    name = re.search(kernels_aot.TENSOR, text)
    return len(inside), len(every) - len(inside), name[1] if name else ""


def compiled(kernel: kernels_aot.Kernel, arch: int) -> Code:
    needs = kernels_aot.resources(kernel, arch)
    options = kernel.launch
    built = triton.compile(kernel.source(), target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        call = [kernels_aot.TOOLS / "nvdisasm", file.name]
        text = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    return Code(
        *read_code(text),
        needs["registers"],
        needs["shared_bytes"],
        options["num_warps"],
        options["num_stages"],
    )


def resident(code: Code, card: Card) -> int:
    """Blocks that one multiprocessor holds at once: 65,536 registers, eights per thread; each block costs 1 KiB of shared memory."""
    threads = 32 * code.warps
    by_registers = 65536 // (threads * math.ceil(code.registers / 8) * 8)
    by_shared = card.shared_kib * 1024 // (code.shared + 1024)
    return max(1, min(by_registers, by_shared, card.warps // code.warps, 32))


def on_card(use: Use, code: Code, card: Card, faster: float = 1.0) -> float:
    """Seconds that one launch holds the multiprocessors, whatever the memory does. faster: its products, than bf16's.

    A block cannot go faster than its own trips follow each other, nor all blocks of a multiprocessor than its tensor units and its
    four schedulers can serve together. Blocks beyond what it holds at once wait for the next wave.
    """
    clock = card.ghz * 1e9
    if use.early:
        return use.blocks / (STARTS * clock)
    rate = (
        faster
        * card.tflops
        * 1e12
        / card.processors
        / clock
        * TENSOR
        * (SYNC if card.arch == 90 and code.tensor == "HMMA" else 1.0)
    )
    turn = (
        code.warps / 4 / ISSUE
    )  # clocks in which the schedulers issue one instruction of every warp of a block
    unrolled = bool(use.trips) and not code.inside
    inside = (code.outside / use.trips if unrolled else code.inside) * turn
    outside = 0.0 if unrolled else code.outside * turn
    product, wait = use.flops / rate, LATENCY * clock
    alone = product + inside if use.chained else max(product, inside)
    alone = (
        alone + wait if code.stages == 1 else max(alone, wait / (code.stages - 1))
    )  # stages: how far ahead is loaded
    busiest = math.ceil(use.blocks / card.processors)
    together = min(resident(code, card), busiest)
    wave = max(
        use.trips * alone + outside, together * use.trips * product, together * (use.trips * inside + outside)
    )
    return math.ceil(busiest / together) * wave / clock


def predict(
    card: Card,
    config: ModelConfig,
    kernels: Mapping[str, kernels_aot.Kernel],
    form: str,
    launches: Counter[str],
) -> Iterator[dict[str, Any]]:
    """A row per kernel, per operation of a library's products, per kind of overhead: the least and the predicted ms of a step."""
    own = uses(config, kernels, form, card)
    memory, tensor = card.gb_per_second * 1e9, card.tflops * 1e12
    few = (
        {"experts", *(OPERATION[group] for group in quant_config(form) if group in OPERATION)}
        if form != PLAIN
        else set()
    )

    def row(
        operation: str, kernel: str, count: int | str, least: float, taken: float, why: str
    ) -> dict[str, Any]:
        return {
            "card": card.name, "format": form, "status": "predicted", "operation": operation, "kernel": kernel, "launches": count,
            "limit_ms": round(1e3 * least, 3), "predicted_ms": round(1e3 * taken, 3), "bound_by": why,
        }  # fmt: skip

    for operation, flops, size in works(config, form):
        named = [use for use in own if use.operation == operation]
        faster = NATIVE.get((form, card.generation), 1.0) if operation in few else 1.0
        if not named:
            by_bytes, by_flops = size / memory / BANDWIDTH, flops / tensor / TENSOR
            least, why = max(flops / tensor, size / memory), "bytes" if by_bytes > by_flops else "products"
            yield row(operation, "library products", "", least, max(by_bytes, by_flops), why)
        done = [use.flops * use.trips * use.blocks * use.launches for use in named]
        for use, part in zip(named, done, strict=True):
            code = compiled(kernels[use.kernel], card.arch)
            least = max(part / sum(done) * flops / tensor / faster, use.share * size / memory)
            by_bytes, by_blocks = (
                use.share * size / memory / BANDWIDTH,
                use.launches * on_card(use, code, card, faster),
            )
            why = f"blocks: {code.inside} + {code.outside} instructions, {resident(code, card)} at once on a multiprocessor"
            why = "bytes" if by_bytes > by_blocks else "starts of blocks" if use.early else why
            yield row(operation, use.kernel, use.launches, least, max(by_bytes, by_blocks), why)
    rounding = (
        rounded_products(config, form) if (form, card.generation) in NATIVE else 0
    )  # each rounds what it multiplies with
    every = sum(launches.values()) + rounding
    products = sum(launches[f"aten::{name}"] for name in ("linear", "mm", "matmul", "bmm"))
    small = every - products - sum(use.launches for use in own if use.operation not in OPERATION.values())
    yield row(REST, "small kernels", small, 0.0, small * SMALL, "launches")
    yield row(REST, NO_GRAPH, every, 0.0, every * LAUNCH, "launches")


def weights_of(config: ModelConfig, form: str) -> Weights:
    """Bytes per weight, scales included, of the groups that a format's recipe names."""
    formats, held, elements = quant_config(form), Counter(), Counter()
    for target in expected_tensors(config).values():
        if target.group in formats and len(target.shape) > 1:
            held[target.group] += formats[target.group].nbytes(target.shape)
            elements[target.group] += math.prod(target.shape)
    return {group: held[group] / elements[group] for group in held}


def rounded_products(config: ModelConfig, form: str) -> int:
    """Products of a step with weights in few bits; those of all experts of a layer are two. As many as the plain model's have."""
    return sum(
        target.group in quant_config(form) and len(target.shape) > 1
        for target in expected_tensors(config).values()
    )


def works(config: ModelConfig, form: str = PLAIN) -> Iterator[tuple[str, float, float]]:
    """(operation, FLOPs, bytes) of the step. The vocabulary's table is read by the head and by p @ E; roofline.py counts it once."""
    for operation, work in work_by_operation(
        config, 2, 0, CANVAS, CANVAS, CONTEXT, 1, weights_of(config, form)
    ):
        again = 2.0 * config.vocab_size * config.hidden_size if operation == "expected embedding" else 0.0
        yield operation, work.flops, work.bytes + again


def count_launches() -> Counter[str]:
    """Kernels of one step of the 26B shape without a graph: counted on small models, and carried on to its 25 and 5 layers."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "DGEMMA_KERNELS": "triton"}
    call = [sys.executable, __file__, "--count"]
    told = subprocess.run(call, stdout=subprocess.PIPE, check=True, env=environment).stdout
    one, sliding, full = map(Counter, json.loads(told))
    names = {*one, *sliding, *full}
    return Counter(
        {name: one[name] + 24 * (sliding[name] - one[name]) + 4 * (full[name] - one[name]) for name in names}
    )


def launches_of(kinds: str) -> Counter[str]:
    """In the interpreter's process: what one step with self-conditioning launches, on a small model of these layers."""
    from triton.runtime.interpreter import GridExecutor

    text = {
        "model_type": "diffusion_gemma_text", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": len(kinds), "layer_types": [{"S": "sliding_attention", "F": "full_attention"}[kind] for kind in kinds],
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32,
        "num_global_key_value_heads": 1, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16,
        "sliding_window": 16, "max_position_embeddings": 512,
    }  # fmt: skip
    config = ModelConfig.from_dict(
        {"model_type": "diffusion_gemma", "canvas_length": 16, "text_config": text}, "counted"
    )
    engine = Engine(build_random(config, dtype=torch.bfloat16), EngineConfig(prefix_cache=0))
    engine.submit(
        Request(
            (1, 2, 3),
            16,
            0,
            DenoiseConfig(eos_token_id=None, max_denoising_steps=8, confidence_threshold=1e-9),
        )
    )
    for _ in range(2):
        engine.advance()
    found, plain = Counting(), GridExecutor.__call__

    def launch(self: GridExecutor, *arguments: Any, **named: Any) -> None:
        found.seen[f"triton {self.fn.__name__}"] += 1
        with (
            torch.utils._python_dispatch._disable_current_modes()
        ):  # the interpreter's own copies are no launches
            plain(self, *arguments, **named)

    with mock.patch.object(GridExecutor, "__call__", launch), found:
        engine.advance()
    return found.seen


class Counting(TorchDispatchMode):
    """Counts operations that would launch a kernel: all but views, allocations and looks at a number."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, returns = function._schema.name, function._schema.returns
        view = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        if not view and not re.match(r"aten::(empty|new_empty|_local_scalar|detach|_unsafe_view|item)", name):
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def total(rows: Sequence[dict[str, Any]], column: str, graph: bool = True, **where: str) -> float:
    """ms of a column of the rows whose card, format or operation is that."""
    own = (row for row in rows if all(row[name] == value for name, value in where.items()))
    return sum(row[column] for row in own if not (graph and row["kernel"] == NO_GRAPH))


def report(rows: Sequence[dict[str, Any]], config: ModelConfig) -> Iterator[str]:
    """The tables of docs/numbers.md: every card and format; one card by operation; what is lost where."""
    gib = {
        form: sum(
            size for name, _, size in works(config, form) if name not in ("attention", "expected embedding")
        )
        / 2**30
        for form in FORMATS
    }
    yield (
        "| limit / predicted, ms (captured) | "
        + " | ".join(f"{form}, {gib[form]:.0f} GiB" for form in FORMATS)
        + " |"
    )
    yield "|---" * (len(FORMATS) + 1) + "|"
    for card in CARDS:
        cells = []
        for form in FORMATS:
            least, taken = (
                total(rows, column, card=card.name, format=form) for column in ("limit_ms", "predicted_ms")
            )
            cells.append(
                f"{least:.1f} / {taken:.1f}, {least / taken:.0%}"
                + ("" if card.gib > gib[form] else " (too large)")
            )
        yield f"| {card.name} | " + " | ".join(cells) + " |"
    for card in (CARDS[0], CARDS[2]):
        yield f"\n| {card.name}, limit / predicted, ms | " + " | ".join(FORMATS) + " |"
        yield "|---" * (len(FORMATS) + 1) + "|"
        operations = list(dict.fromkeys(row["operation"] for row in rows))
        for name in operations:
            where = {"card": card.name, "operation": name}
            cells = [
                [total(rows, c, **where, format=form) for c in ("limit_ms", "predicted_ms")]
                for form in FORMATS
            ]
            yield f"| {name} | " + " | ".join(f"{least:.2f} / {taken:.2f}" for least, taken in cells) + " |"
    yield ""
    for card in CARDS:
        for form in FORMATS:
            where = {"card": card.name, "format": form}
            lost = {
                name: total(rows, "predicted_ms", **where, operation=name)
                - total(rows, "limit_ms", **where, operation=name)
                for name in operations
            }
            most = sorted(lost, key=lost.get, reverse=True)[:3]
            eager = total(rows, "predicted_ms", graph=False, **where)
            yield (
                f"{card.name}, {form}: "
                + ", ".join(f"{name} {lost[name]:.1f} ms" for name in most)
                + f"; uncaptured {eager:.1f} ms"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().count:
        json.dump([launches_of(kinds) for kinds in ("SF", "SSF", "SFF")], sys.stdout)
        return
    config = shape("diffusiongemma-26b")
    plain = {kernel.name: kernel for kernel in kernels_aot.kernels()}
    launches = count_launches()
    rows: list[dict[str, Any]] = []
    for card in CARDS:
        kernels = plain | {kernel.name: kernel for kernel in kernels_aot.of_weights(card.arch)}
        for form in FORMATS:
            rows += predict(card, config, kernels, form, launches)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{sum(launches.values())} launches a step, where nothing is rounded")
    print("\n".join(report(rows, config)))


if __name__ == "__main__":
    main()
