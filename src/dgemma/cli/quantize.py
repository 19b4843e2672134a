"""dgemma quantize: a checkpoint in fewer bits, written as a folder that published readers take too, and a
report on what it cost.

The report goes to stdout and, as JSON, into the folder (quantize_report.json), because numbers belong to the
files they are about; it names no folder but the model's own. Trap: the comparison needs both models in
memory, the conversion none, so a machine that can do the second is not asked for the first: what did not fit
is said and left out.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config.formats import DTYPE_OF
from ..errors import INTERRUPTED, UsageError
from ..hub.locate import EMBEDDED_NAME, disk_size, locate
from ..memory.plan import estimate_memory, free_on, margin
from ..quantize.quant_config import MADE, check, chosen, readable
from ..weights.disk import check_target, write_json
from ..weights.layout import Layout, inspect
from .flags import check_device, text_model, text_of
from .progress import progress
from .screen import note, write_out

if TYPE_CHECKING:
    from ..api import Model
    from ..quantize.comparison import Comparison
    from ..quantize.convert import Converted

REPORT = "quantize_report.json"
WORST = 3  # tensors that are named on the screen
CONTEXT = 4096  # tokens that both models must have room for, to be compared


def command(
    src: Annotated[
        str,
        typer.Argument(
            help=f"Folder or pulled name of a 16-bit checkpoint; {EMBEDDED_NAME}: the shipped one."
        ),
    ],
    dst: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    format: Annotated[
        str,
        typer.Option("--format", help=f"Of the experts: {', '.join(MADE)}. fp8: of attention and dense too."),
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="GROUPS=bf16|fp8, such as attention,dense=fp8; "
            "also router, self_conditioning, embeddings (int8 too)."
        ),
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(help="Inputs that share a scale of int4: 32 (default), 64, 128.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Text file: scales that err least on it. Loads the whole 16-bit model once."),
    ] = None,
    no_compare: Annotated[
        bool, typer.Option("--no-compare", help="Do not load both models to compare predictions and steps.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ...: where scales are looked for and models compared.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Write a checkpoint in fewer bits. Needs little memory; cut off, the same command goes on."""
    formats = chosen(format, keep or (), group_size)
    check_device(device)
    source = locate(None if src == EMBEDDED_NAME else src)
    layout = readable(source)
    check(layout.known_config, formats)
    check_target(dst)
    text = ""
    if calibrate:
        text = _text(calibrate)
    if text or not no_compare:
        text_model(str(source))  # needs its tokenizer
    from ..model.target import choose_device
    from ..quantize.convert import convert

    importance = None
    about = ""
    if text:
        importance, about = _importance(source, text, device)
    with progress("quantising") as report:
        try:
            done = convert(
                source,
                dst,
                formats,
                importance,
                calibration=about,
                device=choose_device(device),
                progress=lambda now, total, _: report(now, total),
            )
        except KeyboardInterrupt:
            note("stopped: the same command goes on after the last whole shard")
            raise typer.Exit(INTERRUPTED) from None
    numbers = _report(
        done,
        layout,
        {group: str(made.name) for group, made in formats.items()},
        formats["experts"].group,
        about,
    )
    _keep(done, numbers)
    if not as_json:
        write_out(_sizes_and_errors(done, numbers))
    reason = None
    if no_compare:
        reason = "not asked for (--no-compare)"
    comparison = None
    if reason is None:
        comparison, reason = _comparison(source, layout, done, device)
    numbers["comparison"] = _numbers(comparison)
    numbers["not_compared"] = reason
    _keep(done, numbers)
    write_out(json.dumps(numbers, indent=1) + "\n" if as_json else _compared(comparison, reason))


def _text(path: Path) -> str:
    text = text_of(path)
    if not text.strip():
        raise UsageError(f"'{path}' is empty; there is nothing to calibrate with")
    return text


def _importance(source: Path, text: str, device: str | None) -> tuple[dict[str, Any], str]:
    """What matters on a text, and what is said of where that comes from."""
    from .. import api
    from ..quantize.calibration import observe

    with progress("loading") as report:
        model = api.load(source, device, progress=lambda now, total, _: report(now, total))
    ids = model.tokenizer.encode(text)
    with progress("reading the text") as report:
        importance = observe(model.net, ids, model.tokenizer.special.need("bos"), model.denoise, report)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return importance, f"{len(ids)} tokens, sha256 {digest}"


def _comparison(
    source: Path, layout: Layout, done: Converted, device: str | None
) -> tuple[Comparison | None, str | None]:
    """The two models on the same states, or why not."""
    from .. import api
    from ..model.target import choose_device
    from ..quantize.comparison import PROMPTS, compare
    from ..tasks.chat import prompt_ids

    target = choose_device(device)
    made = inspect(done.folder, layout.known_config)
    dtype, reason = _dtype_that_fits(layout, made, target.type, target.index)
    if dtype is None:
        return None, reason
    with progress("loading both models") as report:
        first, second = (
            api.load(place, target, dtype, progress=lambda now, total, _: report(now, total))
            for place in (source, done.folder)
        )
    prompts = [_prompt(first, prompt, prompt_ids) for prompt in PROMPTS]
    with progress("comparing") as report:
        return compare(first.net, second.net, prompts, first.denoise, report), None


def _prompt(model: Model, text: str, prompt_ids: Callable[..., list[int]]) -> list[int]:
    if model.chat_tuned:
        return prompt_ids(model.tokenizer, [{"role": "user", "content": text}], None, False)
    return [model.tokenizer.special.need("bos"), *model.tokenizer.encode(text)]


def _dtype_that_fits(before: Layout, after: Layout, device: str, index: int | None) -> tuple[str | None, str]:
    """The dtype in which both models fit into the device's memory, or what they would need."""
    free = free_on(device, index)
    stored = DTYPE_OF.get(next(iter(before.dtypes)), "bfloat16")
    need = 0
    for dtype in ("float32", stored):
        if dtype == "float32" and device != "cpu" and stored != dtype:
            continue  # products of 16 bits are only slow on a CPU
        need = sum(
            estimate_memory(before.known_config, dtype, CONTEXT, device=device, formats=layout.formats).total
            for layout in (before, after)
        )
        if need + margin(free, device) <= free:
            return dtype, ""
    return None, f"both models would need {disk_size(need)} of memory, and {disk_size(free)} are free"


def _report(
    done: Converted, layout: Layout, formats: dict[str, str], group: int, about: str
) -> dict[str, Any]:
    """All that is known without a model."""
    return {
        "source": _name(layout.folder),
        "formats": formats,
        "group_size": group or None,
        "calibration": about or None,
        "bytes": {group: {"before": size.before, "after": size.after} for group, size in done.sizes.items()},
        "errors": {
            name: {"group": done.groups[name], "relative": error} for name, error in done.errors.items()
        },
        "comparison": None,
        "not_compared": "not yet",
    }


def _name(folder: Path) -> str:
    """A model's own name: a folder's last part, or the hub's name of a snapshot."""
    if folder.parent.name == "snapshots":
        return folder.parents[1].name
    return folder.name


def _keep(done: Converted, report: dict[str, Any]) -> None:
    """Into the folder, whole or as it was."""
    new = done.folder / (REPORT + ".part")
    write_json(new, report)
    new.replace(done.folder / REPORT)


def _sizes_and_errors(done: Converted, report: dict[str, Any]) -> str:
    """A line per group: bytes before and after, the mean and largest relative error of its tensors."""
    lines = [f"{'group':<18}{'before':>12}{'after':>12}{'':>7}  {'format':<8}{'error':>8}{'largest':>9}"]
    for group, size in sorted(done.sizes.items(), key=lambda item: -item[1].before):
        errors = [error for name, error in done.errors.items() if done.groups[name] == group]
        format = report["formats"].get(group, "as is")
        if format == "int4":
            format = f"int4/{report['group_size']}"
        line = f"{_sizes(group, size.before, size.after)}  {format:<8}"
        if errors:
            line += f"{statistics.mean(errors):>8.4f}{max(errors):>9.4f}"
        lines.append(line.rstrip())
    before = sum(size.before for size in done.sizes.values())
    after = sum(size.after for size in done.sizes.values())
    lines.append(_sizes("all", before, after))
    worst = sorted(done.errors, key=lambda name: -done.errors[name])[:WORST]
    lines.append("largest relative errors: " + ", ".join(f"{name} {done.errors[name]:.4f}" for name in worst))
    if report["calibration"]:
        lines.append(
            "these errors count all inputs alike; calibrated scales err less where it "
            "counts, and more elsewhere"
        )
    if done.reused:
        lines.append(f"{done.reused} of {done.shards} shards were there from a run that was cut off")
    return "\n".join(lines) + "\n"


def _sizes(group: str, before: int, after: int) -> str:
    return f"{group:<18}{disk_size(before):>12}{disk_size(after):>12}{after / before:>7.1%}"


def _numbers(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    error = comparison.steps_error
    return vars(comparison) | {
        "steps_change": comparison.steps_change,
        "steps_error": None if math.isnan(error) else error,
    }


def _compared(comparison: Comparison | None, reason: str | None) -> str:
    if comparison is None:
        return f"predictions and steps not compared: {reason}\n"
    before = statistics.mean(comparison.steps_before)
    after = statistics.mean(comparison.steps_after)
    divergence = f"KL {comparison.kl:.4f} nats per cell"
    parts = f"(first steps {comparison.kl_first:.4f}, later ones {comparison.kl_later:.4f})"
    agreement = f"the same likeliest token in {comparison.agreement:.1%} of the cells"
    states = f"{comparison.states} steps of {len(comparison.steps_before)} canvases"
    change = f"{comparison.steps_change:+.1%}, standard error {comparison.steps_error:.1%}"
    return (
        f"predictions: {divergence} {parts}, {agreement}; {states}\n"
        f"steps per canvas: {before:.1f} -> {after:.1f} ({change})\n"
    )
