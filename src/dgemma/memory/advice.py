"""What to do about a memory: whether a model fits it, up to which context, and which format, setting or
streaming would help.

Plans of the same model in several formats, side by side; the arithmetic is in plan.py and placement.py, the
words and tables in cli/memory_report.py. Trap: a format that is proposed here is made from the 16-bit model
(`dgemma quantize`), so for a checkpoint that is in few bits already it stands for another checkpoint, not
for a conversion of this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..config import ModelConfig
from ..config.formats import Format, quant_config
from ..config.sizes import disk_size
from ..kernels.select import CHOICE, wants_triton
from ..weights.names import GROUPS, expected_tensors
from .placement import Placement, stream_plan
from .plan import Plan, estimate_memory, longest_context, margin
from .tensors import Formats, divides, format_of, held_bytes

PROPOSED = (
    "bf16",
    "fp8",
    "nvfp4",
    "int4",
    "int4+fp8",
)  # the least loss first; beside them numbers have 16 bits
AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Choice:
    """The model in one set of formats, in the memory that is asked about."""

    name: str  # AS_IT_IS, or a recipe of config/formats.py
    plan: Plan
    fits: bool  # whole, with the context that is asked for
    longest: int  # tokens of context that fit beside whole weights; 0: none
    streamed: Placement | None  # where it does not fit whole


@dataclass(frozen=True)
class Advice:
    memory: int
    device: str
    context: int
    choices: tuple[Choice, ...]  # as it is, then what is proposed
    hints: tuple[str, ...]  # settings that would help where it does not fit as it is

    @property
    def margin(self) -> int:
        return margin(self.memory, self.device)


def advise(
    config: ModelConfig,
    dtype: str,
    memory: int,
    context: int,
    device: str = "cuda",
    *,
    formats: Formats | None = None,
    stored: Mapping[str, int] | None = None,
    host: int = 0,
) -> Advice:
    """dtype: of what is in no format; formats, stored: of the checkpoint (placement.py); host: free bytes of
    this machine's RAM, 0 where the card is another machine's.
    """
    choices = [_choice(AS_IT_IS, config, dtype, memory, context, device, formats or {}, stored)]
    present_bytes = choices[0].plan.weight_bytes
    for name in PROPOSED:
        proposed = quant_config(name)
        if divides(config, proposed):
            choice = _choice(name, config, "bfloat16", memory, context, device, proposed, None)
            if choice.plan.weight_bytes < present_bytes * 0.99:
                choices.append(choice)
    hints: tuple[str, ...] = ()
    if not choices[0].fits:
        hints = _hints(choices, config, memory, context, device, host)
    return Advice(memory, device, context, tuple(choices), hints)


def kinds(config: ModelConfig, dtype: str, formats: Formats) -> dict[str, str]:
    """The formats of each group's matrices in words, the largest share first: "int4 in groups of 32",
    "bf16", "q4_k, q6_k".
    """
    shares: dict[str, dict[str, int]] = {group: {} for group in GROUPS}
    for target in expected_tensors(config).values():
        name = described(format_of(target, formats), dtype)
        known = shares[target.group]
        if len(target.shape) > 1 or target.group == "norms":
            known[name] = known.get(name, 0) + held_bytes(target, 2, formats)
    return {group: ", ".join(sorted(known, key=lambda name: -known[name])) for group, known in shares.items()}


def described(format: Format | None, dtype: str) -> str:
    if format is None:
        return {"bfloat16": "bf16", "float16": "fp16", "float32": "float32", "float64": "float64"}[dtype]
    if format.name == "int4":
        return f"{format.name}, groups of {format.group}"
    return format.name


def _choice(
    name: str,
    config: ModelConfig,
    dtype: str,
    memory: int,
    context: int,
    device: str,
    formats: Formats,
    stored: Mapping[str, int] | None,
) -> Choice:
    plan = estimate_memory(config, dtype, context, device=device, formats=formats)
    fits = plan.fits(memory)
    streamed = None
    if not fits:
        streamed = stream_plan(plan, config, memory, stored)
    return Choice(name, plan, fits, longest_context(config, plan, memory), streamed)


def _hints(
    choices: list[Choice], config: ModelConfig, memory: int, context: int, device: str, host: int
) -> tuple[str, ...]:
    """Settings that help, in the words of the command line."""
    hints = []
    as_it_is = choices[0]
    if as_it_is.longest:
        hints.append(f"--context {as_it_is.longest}: the longest context that fits with these weights")
    if device == "cuda" and not wants_triton():
        fast = {
            choice.name: estimate_memory(
                config, choice.plan.dtype, context, formats=choice.plan.formats, triton=True
            )
            for choice in choices
        }
        fits = [choice.name for choice in choices if not choice.fits and fast[choice.name].fits(memory)]
        if fits:
            work = f"{disk_size(fast[fits[0]].work)} of work in place of {disk_size(as_it_is.plan.work)}"
            hints.append(f"{CHOICE}=triton, whose attention makes no scores: {work}; fits: {', '.join(fits)}")
    if device == "cuda" and host:
        slow = estimate_memory(
            config, as_it_is.plan.dtype, context, device="cpu", formats=as_it_is.plan.formats
        )
        if slow.fits(host):
            hints.append(
                f"--device cpu: {disk_size(slow.total)} of this machine's RAM, "
                f"of which {disk_size(host)} are free; slower"
            )
    return tuple(hints)
