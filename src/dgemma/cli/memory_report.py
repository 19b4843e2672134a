"""What `dgemma doctor` says about memory: a table of formats and cards, and the answer for one memory, as
data and for people.

Asks the planner (memory/plan.py, advice.py) and knows no file. Sizes are decimal, as disks and shops count;
cards are sold by the GiB, so the table's 24 GB card has 24 GiB. Trap: this machine's memories count with what
is free now, other cards with all they have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..config import ModelConfig
from ..config.formats import DTYPE_OF, quant_config
from ..config.sizes import parse_bytes, parse_tokens
from ..errors import UsageError
from ..hub.locate import disk_size
from ..memory.advice import AS_IT_IS, Advice, Choice, advise, kinds
from ..memory.placement import CONTEXT, Placement, bytes_in, formats_in
from ..memory.plan import GIB, Memory, estimate_memory, longest_context
from ..memory.tensors import Formats, divides
from ..weights.layout import Layout

CONTEXTS = (4096, 32_768, 131_072)
CARDS = (8, 12, 16, 24, 48, 80, 141)  # GiB
FORMATS = ("bf16", "fp8", "nvfp4", "int4", "int4+fp8")
FLOAT32 = "float32"  # what a CPU computes in where that fits


@dataclasses.dataclass(frozen=True)
class MemoryTarget:
    """A memory to fit into. context: None for the default; host: bytes free in the RAM beside the card, 0
    where that is another machine.
    """

    memory: int
    name: str
    device: str
    context: int | None
    host: int = 0


def memory_target(
    memory: str | None, context: str | None, device: str | None, memories: Sequence[Memory]
) -> MemoryTarget:
    """From the flags, and from this machine where they say nothing. Raises UsageError."""
    if device not in (None, "cpu", "cuda"):
        raise UsageError(f"--device {device}: a memory is a card's (cuda) or the machine's (cpu)")
    tokens = None
    if context is not None:
        tokens = parse_tokens(context, "--context")
    cards = [place for place in memories if place.name != "RAM"]
    ram = next((place.free for place in memories if place.name == "RAM"), 0)
    if memory is not None:
        return _named_memory(parse_bytes(memory, "--memory"), device or "cuda", tokens, ram if cards else 0)
    if device == "cuda" and not cards:
        raise UsageError("this machine has no card; name one's size, such as --memory 24GB")
    if cards and device != "cpu":
        card = cards[0]
        return MemoryTarget(card.free, f"{card.name} with {disk_size(card.free)} free", "cuda", tokens, ram)
    return MemoryTarget(ram, f"{disk_size(ram)} of free RAM", "cpu", tokens)


def _named_memory(size: int, device: str, tokens: int | None, host: int) -> MemoryTarget:
    """A memory of which only the size is known; `host`: what a card may use of this machine's RAM."""
    if device == "cuda":
        return MemoryTarget(size, f"a card with {disk_size(size)}", device, tokens, host)
    return MemoryTarget(size, f"{disk_size(size)} of RAM", device, tokens)


def memory_report(config: ModelConfig, layout: Layout, target: MemoryTarget) -> dict[str, Any]:
    """Whether a checkpoint fits, by groups of tensors, and what else would; sizes in bytes."""
    context = _context(config, target)
    formats = formats_in(layout)
    dtype = stored_dtype(layout)
    if target.device == "cpu":
        whole = estimate_memory(config, FLOAT32, context, device="cpu", formats=formats)
        if whole.fits(target.memory):
            dtype = FLOAT32
    advice = advise(
        config,
        dtype,
        target.memory,
        context,
        target.device,
        formats=formats,
        stored=bytes_in(layout),
        host=target.host,
    )
    as_it_is = advice.choices[0]
    plan = as_it_is.plan
    words = kinds(config, dtype, formats)
    groups = {group: {"format": words[group], "bytes": size} for group, size in plan.weights.items()}
    return {
        "memory": target.memory,
        "name": target.name,
        "device": target.device,
        "context": context,
        "dtype": dtype,
        "groups": groups,
        "weights": plan.weight_bytes,
        "packed": plan.packed,
        "kv": plan.kv,
        "work": plan.work,
        "margin": advice.margin,
        "needs": plan.total + advice.margin,
        "fits": as_it_is.fits,
        "longest_context": as_it_is.longest,
        "choices": [_choice(choice, advice, len(config.layers)) for choice in advice.choices],
        "hints": list(advice.hints),
    }


def _context(config: ModelConfig, target: MemoryTarget) -> int:
    """Tokens that must fit. Raises UsageError for more than the model has positions for."""
    most = config.max_position_embeddings
    context = target.context or min(CONTEXT, most)
    if context > most:
        raise UsageError(f"--context is {context} tokens; this model has {most} positions")
    return context


def stored_dtype(layout: Layout) -> str:
    """What a card would compute in: the dtype of most numbers, and bfloat16 beside matrices in few bits."""
    if any(stored.format is not None for stored in layout.text.values()):
        return "bfloat16"
    return next((DTYPE_OF[name] for name in layout.dtypes if name in DTYPE_OF), "bfloat16")


def _choice(choice: Choice, advice: Advice, layers: int) -> dict[str, Any]:
    return {
        "format": choice.name,
        "weights": choice.plan.weight_bytes,
        "needs": choice.plan.total + advice.margin,
        "fits": choice.fits,
        "longest_context": choice.longest,
        "streaming": None if choice.streamed is None else _streaming(choice.streamed, layers),
    }


def _streaming(placement: Placement, layers: int) -> dict[str, Any]:
    return {
        "fits": not placement.missing,
        "missing": placement.missing,
        "layers": layers,
        "resident": layers - len(placement.streamed),
        "device": placement.device_bytes + placement.margin,
        "host": placement.host_bytes,
        "moved_per_step": placement.moved,
    }


def format_table(
    config: ModelConfig, memories: Sequence[Memory], formats: Formats | None = None
) -> list[dict[str, Any]]:
    """One row per format and context: bytes needed, which memories hold them, and each one's longest context.

    formats: of the checkpoint itself, where it is in few bits; it has rows of its own then.
    """
    places = [(memory.name, memory.free, "cpu" if memory.name == "RAM" else "cuda") for memory in memories]
    places += [(card_name(size), size * GIB, "cuda") for size in CARDS]
    most = config.max_position_embeddings
    contexts = [length for length in CONTEXTS if length <= most] or [most]
    rows = []
    for name, (dtype, stored_formats) in _known_formats(config, formats).items():
        longest: dict[str, int] = {}
        for context in contexts:
            plans = {
                device: estimate_memory(config, dtype, context, device=device, formats=stored_formats)
                for device in ("cpu", "cuda")
            }
            if not longest:
                for place, size, device in places:
                    longest[place] = longest_context(config, plans[device], size)
            rows.append(
                {
                    "format": name,
                    "context": context,
                    "weights": plans["cuda"].weight_bytes,
                    "kv": plans["cuda"].kv,
                    "work": {device: plan.work for device, plan in plans.items()},
                    "total": {device: plan.total for device, plan in plans.items()},
                    "fits": {place: plans[device].fits(size) for place, size, device in places},
                    "longest": longest,
                }
            )
    return rows


def _known_formats(config: ModelConfig, formats: Formats | None) -> dict[str, tuple[str, Formats]]:
    """By name: the dtype in which something is computed, and the formats of the groups."""
    known: dict[str, tuple[str, Formats]] = {}
    if formats:
        known[AS_IT_IS] = ("bfloat16", formats)
    for name in FORMATS:
        if divides(config, quant_config(name)):
            known[name] = ("bfloat16", quant_config(name))
    known[FLOAT32] = (FLOAT32, {})
    return known


def card_name(size: int) -> str:
    return f"{size} GB card"


def table_view(rows: list[dict[str, Any]]) -> list[Any]:
    """The table for people: a row per format, and in a column per memory the longest context that fits."""
    from rich.table import Table

    known = {card_name(size): str(size) for size in CARDS}
    places = list(rows[0]["longest"])
    table = Table("format", "weights", box=None, pad_edge=False)
    for place in places:
        table.add_column(known.get(place, place.split()[0]), justify="right")
    for row in {row["format"]: row for row in rows}.values():
        table.add_row(
            row["format"], disk_size(row["weights"]), *(short(row["longest"][place]) for place in places)
        )
    lines: list[Any] = [
        "the longest context that fits whole (RAM, cuda: what is free; cards of so many GB)",
        table,
    ]
    for row in rows:
        if row["format"] == rows[0]["format"]:
            card, host = (disk_size(row["kv"] + row["work"][device]) for device in ("cuda", "cpu"))
            lines.append(
                f"{row['context']:,} tokens take {card} for K/V and work, {host} on a CPU ({row['format']})"
            )
    return lines


def report_view(report: dict[str, Any]) -> list[Any]:
    """The report for people, as lines and tables."""
    lines: list[Any] = [_headline(report), _parts_view(report)]
    if report["fits"]:
        return lines
    lines += ["", "what would fit:"]
    lines += [f"  {hint}" for hint in report["hints"]]
    lines.append(_choices_view(report["choices"]))
    if report["device"] == "cuda":
        stays = "layers that stay on the card; GB that the host pins and GB that pass in each step"
    else:
        stays = "layers that stay in memory; GB that are read from the files in each step"
    lines.append(f"  streamed: {stays}")
    if len(report["choices"]) > 1:
        lines.append("  int4+fp8 is: dgemma quantize MODEL FOLDER --format int4 --keep attention,dense=fp8")
    return lines


def _headline(report: dict[str, Any]) -> str:
    context = f"with a context of {report['context']:,} tokens"
    if report["fits"]:
        return f"{report['name']}: fits {context}, up to {report['longest_context']:,}"
    return f"{report['name']}: does not fit {context}"


def _parts_view(report: dict[str, Any]) -> Any:
    """A table of what takes memory."""
    from rich.table import Table

    parts = Table(box=None, show_header=False, pad_edge=False)
    parts.add_column()
    parts.add_column()
    parts.add_column(justify="right")
    for group, row in sorted(report["groups"].items(), key=lambda item: -item[1]["bytes"]):
        parts.add_row(f"  {group}", row["format"], disk_size(row["bytes"]))
    parts.add_row("  weights", "", disk_size(report["weights"]))
    if report["packed"]:
        parts.add_row("  embedding once more", "for products", disk_size(report["packed"]))
    for name in ("kv", "work", "margin"):
        parts.add_row(f"  {_ROWS[name]}", "", disk_size(report[name]))
    over = report["needs"] - report["memory"]
    remark = ""
    if over > 0:
        remark = f"{disk_size(over)} too much"
    parts.add_row("  together", remark, disk_size(report["needs"]))
    return parts


_ROWS = {"kv": "K/V", "work": "work of a step", "margin": "margin, kept free"}


def _choices_view(choices: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("  format", "weights", "needs", "longest context", "streamed"):
        table.add_column(name, justify="left" if name in ("  format", "streamed") else "right")
    for choice in choices:
        table.add_row(
            f"  {choice['format']}",
            disk_size(choice["weights"]),
            disk_size(choice["needs"]),
            short(choice["longest_context"]),
            _streamed(choice["streaming"]),
        )
    return table


def _streamed(streaming: dict[str, Any] | None) -> str:
    if streaming is None:
        return "not needed"
    if not streaming["fits"]:
        return f"no: {disk_size(streaming['missing'])} too much"
    moved = f"{streaming['moved_per_step'] / 1e9:.1f}"
    if streaming["host"] != streaming["moved_per_step"]:
        moved = f"{streaming['host'] / 1e9:.1f}, {moved}"
    return f"{streaming['resident']} of {streaming['layers']} stay; {moved} GB"


def short(tokens: int) -> str:
    """Tokens in thousands of 1,024, rounded down: "32k", "900", "no"."""
    if tokens >= 1024:
        return f"{tokens // 1024}k"
    if tokens:
        return str(tokens)
    return "no"
