"""What `dgemma doctor` says about memory: a table of formats and cards, and the answer for one memory, as data and for people.

Asks the planner (weights/plan.py, advice.py) and knows no file. Sizes are decimal, as disks and shops count; cards are sold by the GiB,
so the table's 24 GB card has 24 GiB. Trap: this machine's memories count with what is free now, other cards with all they have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..config import ModelConfig
from ..config.formats import recipe
from ..config.sizes import parse_bytes, parse_tokens
from ..errors import UsageError
from ..weights.advice import AS_IT_IS, Advice, Choice, advise, kinds
from ..weights.headers import READABLE
from ..weights.layout import Layout
from ..weights.locate import disk_size
from ..weights.placement import CONTEXT, bytes_in, formats_in
from ..weights.plan import GIB, Formats, Memory, divides, fit, longest_context

CONTEXTS = (4096, 32_768, 131_072)
CARDS = (8, 12, 16, 24, 48, 80, 141)  # GiB
FORMATS = ("bf16", "fp8", "nvfp4", "int4", "int4+fp8")
FLOAT32 = "float32"  # what a CPU computes in where that fits
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A memory to fit into. context: None for the default; host: bytes free in the RAM beside the card, 0 where that is another
    machine."""

    memory: int
    name: str
    device: str
    context: int | None
    host: int = 0


def asked(memory: str | None, context: str | None, device: str | None, memories: Sequence[Memory]) -> Asked:
    """From the flags, and from this machine where they say nothing. Raises UsageError."""
    if device not in (None, "cpu", "cuda"):
        raise UsageError(f"--device {device}: a memory is a card's (cuda) or the machine's (cpu)")
    tokens = None if context is None else parse_tokens(context, "--context")
    cards, ram = (
        [one for one in memories if one.name != "RAM"],
        next((one.free for one in memories if one.name == "RAM"), 0),
    )
    if memory is not None:
        size, kind = parse_bytes(memory, "--memory"), device or "cuda"
        name = f"a card with {disk_size(size)}" if kind == "cuda" else f"{disk_size(size)} of RAM"
        return Asked(size, name, kind, tokens, ram if cards and kind == "cuda" else 0)
    if device == "cuda" and not cards:
        raise UsageError("this machine has no card; name one's size, such as --memory 24GB")
    if cards and device != "cpu":
        return Asked(
            cards[0].free, f"{cards[0].name} with {disk_size(cards[0].free)} free", "cuda", tokens, ram
        )
    return Asked(ram, f"{disk_size(ram)} of free RAM", "cpu", tokens)


def answer(config: ModelConfig, layout: Layout, question: Asked) -> dict[str, Any]:
    """Whether a checkpoint fits, by groups of tensors, and what else would; sizes in bytes."""
    formats, dtype, most = formats_in(layout), stored_dtype(layout), config.max_position_embeddings
    if (context := question.context or min(CONTEXT, most)) > most:
        raise UsageError(f"--context is {context} tokens; this model has {most} positions")
    if question.device == "cpu" and fit(config, FLOAT32, context, device="cpu", formats=formats).fits(
        question.memory
    ):
        dtype = FLOAT32
    advice = advise(
        config,
        dtype,
        question.memory,
        context,
        question.device,
        formats=formats,
        stored=bytes_in(layout),
        host=question.host,
    )
    plan, words = advice.choices[0].plan, kinds(config, dtype, formats)
    return {
        "memory": question.memory, "name": question.name, "device": question.device, "context": context, "dtype": dtype,
        "groups": {group: {"format": words[group], "bytes": size} for group, size in plan.weights.items()},
        "weights": plan.weight_bytes, "packed": plan.packed, "kv": plan.kv, "work": plan.work, "margin": advice.margin,
        "needs": plan.total + advice.margin, "fits": advice.choices[0].fits, "longest_context": advice.choices[0].longest,
        "choices": [_choice(choice, advice, len(config.layers)) for choice in advice.choices], "hints": list(advice.hints),
    }  # fmt: skip


def stored_dtype(layout: Layout) -> str:
    """What a card would compute in: the dtype of most numbers, and bfloat16 beside matrices in few bits."""
    if any(stored.format is not None for stored in layout.text.values()):
        return "bfloat16"
    return next((_DTYPES[name] for name in layout.dtypes if name in READABLE), "bfloat16")


def _choice(choice: Choice, advice: Advice, layers: int) -> dict[str, Any]:
    found = {
        "format": choice.name, "weights": choice.plan.weight_bytes, "needs": choice.plan.total + advice.margin, "fits": choice.fits,
        "longest_context": choice.longest, "streaming": None,
    }  # fmt: skip
    if choice.streamed is not None:
        one = choice.streamed
        found["streaming"] = {
            "fits": not one.missing, "missing": one.missing, "layers": layers, "resident": layers - len(one.streamed),
            "device": one.device_bytes + one.margin, "host": one.host_bytes, "moved_per_step": one.moved,
        }  # fmt: skip
    return found


def fit_table(
    config: ModelConfig, memories: Sequence[Memory], formats: Formats | None = None
) -> list[dict[str, Any]]:
    """One row per format and context: bytes needed, which memories hold them, and the longest context that each holds.

    formats: of the checkpoint itself, where it is in few bits; it has rows of its own then.
    """
    places = [(memory.name, memory.free, "cpu" if memory.name == "RAM" else "cuda") for memory in memories]
    places += [(card_name(size), size * GIB, "cuda") for size in CARDS]
    contexts = [n for n in CONTEXTS if n <= config.max_position_embeddings] or [
        config.max_position_embeddings
    ]
    known: dict[str, tuple[str, Formats]] = {}
    if formats:
        known[AS_IT_IS] = ("bfloat16", formats)
    known |= {name: ("bfloat16", recipe(name)) for name in FORMATS if divides(config, recipe(name))}
    known[FLOAT32] = (FLOAT32, {})
    rows = []
    for name, (dtype, own) in known.items():
        first = {
            device: fit(config, dtype, contexts[0], device=device, formats=own) for device in ("cpu", "cuda")
        }
        longest = {place: longest_context(config, first[device], size) for place, size, device in places}
        for context in contexts:
            plans = {
                device: fit(config, dtype, context, device=device, formats=own) for device in ("cpu", "cuda")
            }
            rows.append({
                "format": name,
                "context": context,
                "weights": plans["cuda"].weight_bytes,
                "kv": plans["cuda"].kv,
                "work": {device: plan.work for device, plan in plans.items()},
                "total": {device: plan.total for device, plan in plans.items()},
                "fits": {place: plans[device].fits(size) for place, size, device in places},
                "longest": longest,
            })  # fmt: skip
    return rows


def card_name(size: int) -> str:
    return f"{size} GB card"


def table_view(rows: list[dict[str, Any]]) -> list[Any]:
    """The fit table for people: a row per format, and in a column per memory the longest context that fits."""
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


def answer_view(found: dict[str, Any]) -> list[Any]:
    """The answer for people, as lines and tables."""
    from rich.table import Table

    verdict = "fits" if found["fits"] else "does not fit"
    upto = f", up to {found['longest_context']:,}" if found["fits"] else ""
    lines: list[Any] = [f"{found['name']}: {verdict} with a context of {found['context']:,} tokens{upto}"]
    parts = Table(box=None, show_header=False, pad_edge=False)
    parts.add_column()
    parts.add_column()
    parts.add_column(justify="right")
    for group, one in sorted(found["groups"].items(), key=lambda item: -item[1]["bytes"]):
        parts.add_row(f"  {group}", one["format"], disk_size(one["bytes"]))
    parts.add_row("  weights", "", disk_size(found["weights"]))
    if found["packed"]:
        parts.add_row("  embedding once more", "for products", disk_size(found["packed"]))
    for name in ("kv", "work", "margin"):
        parts.add_row(f"  {_ROWS[name]}", "", disk_size(found[name]))
    over = found["needs"] - found["memory"]
    parts.add_row("  together", f"{disk_size(over)} too much" if over > 0 else "", disk_size(found["needs"]))
    lines.append(parts)
    if not found["fits"]:
        lines += [
            "",
            "what would fit:",
            *(f"  {hint}" for hint in found["hints"]),
            _choices_view(found["choices"]),
        ]
        if found["device"] == "cuda":
            lines.append(
                "  streamed: layers that stay on the card; GB that the host pins and GB that pass in each step"
            )
        else:
            lines.append(
                "  streamed: layers that stay in memory; GB that are read from the files in each step"
            )
        if len(found["choices"]) > 1:
            lines.append(
                "  int4+fp8 is: dgemma quantize MODEL FOLDER --format int4 --keep attention,dense=fp8"
            )
    return lines


_ROWS = {"kv": "K/V", "work": "work of a step", "margin": "margin, kept free"}


def _choices_view(choices: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("  format", "weights", "needs", "longest context", "streamed"):
        table.add_column(name, justify="left" if name in ("  format", "streamed") else "right")
    for one in choices:
        table.add_row(
            f"  {one['format']}", disk_size(one["weights"]), disk_size(one["needs"]),
            short(one["longest_context"]), _streamed(one["streaming"]),
        )  # fmt: skip
    return table


def _streamed(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not needed"
    if not found["fits"]:
        return f"no: {disk_size(found['missing'])} too much"
    host, moved = found["host"] / 1e9, found["moved_per_step"] / 1e9
    both = f"{moved:.1f} GB" if host == moved else f"{host:.1f}, {moved:.1f} GB"
    return f"{found['resident']} of {found['layers']} stay; {both}"


def short(tokens: int) -> str:
    """Tokens in thousands of 1,024, rounded down: "32k", "900", "no"."""
    return f"{tokens // 1024}k" if tokens >= 1024 else str(tokens) if tokens else "no"
