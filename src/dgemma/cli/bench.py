"""dgemma bench: how fast a model, or a shape with random weights, runs here, and how near that is to the
machine's limit.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .. import __version__
from ..config.formats import DTYPES, Format, quant_config
from ..errors import UsageError
from ..weights.disk import replace_text
from .files import append_whole
from .flags import MEMORY, appendable, check_device, text_of, write_fault
from .run import print_notes
from .screen import count, note, write_out

if TYPE_CHECKING:
    from ..bench.roofline import Machine
    from ..config import DenoiseConfig, EngineConfig
    from ..model.dgemma import DiffusionGemma

# by a row's key: the head of its column
HEADS = {
    "recipe": "recipe",
    "step_ms": "ms/step",
    "step_p95_ms": "p95",
    "limit_ms": "limit",
    "fraction": "of limit",
    "steps_per_canvas": "steps/canvas",
    "tokens_per_second": "tok/s",
    "tokens_per_second_each": "each",
    "first_draft_ms": "draft ms",
    "first_text_ms": "text ms",
    "prefill_tokens_per_second": "prefill tok/s",
    "gib_per_step": "GB/step",
    "peak_gib": "peak GB",
}


def command(
    workload_names: Annotated[
        list[str] | None,
        typer.Option("--recipe", "-r", help="fixed16, real, short, long, load or race; several: repeat it."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Folder or pulled name; default: shipped.")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Random weights instead of a model: diffusiongemma-26b, 1b, 140m or 100m."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file for 'real' and 'race'; blank lines part its prompts.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="Number format of --shape's weights: fp8, nvfp4, int4, int4+fp8 (experts+the rest) ..."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="New tokens of fixed16, load, real and race.", min=1)] = 1024,
    prompt: Annotated[
        int, typer.Option(help="Prompt tokens of fixed16, load, and race without --prompts.", min=1)
    ] = 1024,
    longest: Annotated[int, typer.Option(help="Longest prompt of 'long'.", min=1024)] = 16384,
    most: Annotated[int, typer.Option(help="Most requests at once of 'load'.", min=1, max=256)] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = None,
    memory: MEMORY = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: torch's choice.", min=1)] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Run each recipe once more: where a step goes.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Append the rows to this CSV file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the rows as this SVG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure recipes: ms per step, steps per canvas, tokens/s, and the fraction of this machine's limit."""
    from ..bench.workloads import NAMES

    wanted = workload_names or ["fixed16"]
    for name in wanted:
        if name not in NAMES:
            raise UsageError(f"there is no recipe '{name}'; recipes: {', '.join(NAMES)}")
    if "race" in wanted and (len(wanted) > 1 or profile or save or plot):
        raise UsageError("a race is run by itself: leave other recipes, --profile, --save and --plot out")
    if shape and memory:
        raise UsageError("--shape makes weights on the device, whole; --memory is for a model")
    if shape and model:
        raise UsageError("--shape makes a model of its own; leave --model out")
    if format and not shape:
        raise UsageError(
            "--format makes random weights and needs --shape; "
            "a model has a format of its own (dgemma quantize)"
        )
    if shape and "real" in wanted:
        raise UsageError("random weights write no text; 'real' needs a model")
    if "real" in wanted and prompts is None:
        raise UsageError("the recipe 'real' needs texts; name a file with --prompts")
    if prompts:
        texts = _texts(prompts)
    else:
        texts = []
    check_device(device, memory)
    if plot and plot.suffix.lower() != ".svg":
        raise UsageError(f"--plot draws an SVG; give '{plot}' a name that ends in .svg")
    for path in filter(None, (save, plot)):
        appendable(path)
    formats = quant_config(format or "bf16")
    subject = Subject(model, shape, formats, texts, device, dtype, memory, threads)
    if wanted == ["race"]:
        _race(subject, tokens, prompt, as_json)
        return
    rows = _measure(subject, wanted, tokens, prompt, longest, most, profile, not as_json)
    if not rows:
        raise UsageError("no prompt of 'long' fits this model; choose another recipe")
    if save:
        _append(save, [{key: value for key, value in row.items() if key != "profile"} for row in rows])
    if plot:
        _draw(plot, rows)
    if as_json:
        write_out(json.dumps([_plain(row) for row in rows], indent=1) + "\n")


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is measured: a model, or a shape with random weights, and where it runs."""

    model: str | None
    shape: str | None
    formats: dict[str, Format]
    texts: list[str]
    device: str | None
    dtype: str | None
    memory: str | None
    threads: int | None

    @property
    def name(self) -> str:
        return self.shape or self.model or "shipped"


class Opened(NamedTuple):
    """A subject in memory."""

    net: DiffusionGemma
    denoise: DenoiseConfig
    engine: EngineConfig
    prompts: list[list[int]]  # its texts as ids: turns of a chat where the model is chat-tuned


def _open(subject: Subject, say: bool) -> Opened:
    import torch

    from .. import api
    from ..bench import shapes
    from ..config import DenoiseConfig, EngineConfig
    from ..model.target import choose_device, rounded_formats
    from ..text.turns import render

    if subject.threads:
        torch.set_num_threads(subject.threads)
    if subject.shape:
        config = shapes.shape(subject.shape)
        target = choose_device(subject.device)
        kind = getattr(torch, subject.dtype or ("bfloat16" if target.type == "cuda" else "float32"))
        rounds = rounded_formats(None, target)  # as a published checkpoint of the format would run
        net = shapes.random_model(config, target, kind, formats=subject.formats, rounds=rounds)
        return Opened(net, DenoiseConfig(), EngineConfig(), [])
    model = api.load(subject.model, subject.device, subject.dtype, memory=subject.memory)
    print_notes(model.notes if say else ())
    prompts = []
    for text in subject.texts:
        if model.chat_tuned:
            prompts.append(render([{"role": "user", "content": text}], model.tokenizer))
        else:
            prompts.append([model.tokenizer.special.need("bos"), *model.tokenizer.encode(text)])
    return Opened(model.net, model.denoise, model.engine.config, prompts)


def _race(subject: Subject, tokens: int, prompt: int, as_json: bool) -> None:
    """Both ways of answering, side by side."""
    from ..bench.race import race
    from ..bench.roofline import name_of
    from ..bench.workloads import workloads
    from ..engine.engine import Engine
    from ..model.build import format_of

    opened = _open(subject, not as_json)
    net = opened.net
    chosen = workloads(
        "race", net.config, opened.denoise, tokens=tokens, prompt=prompt, prompts=opened.prompts
    )
    requests = [request for workload in chosen for request in workload.requests]
    result = race(Engine(net, dataclasses.replace(opened.engine, prefix_cache=0)), requests)
    if as_json:
        write_out(json.dumps(_about(net, subject.name) | result.to_dict(), indent=1) + "\n")
        return
    prompts = count(len(requests), "prompt")
    note(f"{subject.name}, {format_of(net)}, {name_of(net.device)}: {prompts}, one at a time")
    write_out(f"{'':16}  {'tokens':>6}  {'passes':>6}  {'ms/pass':>8}  {'tok/s':>8}  {'CPU s':>8}\n")
    for name, side in (("by canvas", result.canvas), ("token by token", result.autoregressive)):
        numbers = [_number(value) for value in (side.ms_per_pass, side.tokens_per_second, side.cpu_seconds)]
        write_out(f"{name:16}  {side.tokens:>6}  {side.passes:>6}  {'  '.join(f'{n:>8}' for n in numbers)}\n")
    became_text = f"{result.full:.0%} of the cells became text"
    write_out(f"by canvas {result.ratio:.2f} times as many tokens a second; {became_text}\n")


def _measure(
    subject: Subject,
    wanted: list[str],
    tokens: int,
    prompt: int,
    longest: int,
    most: int,
    profiled: bool,
    say: bool,
) -> list[dict[str, Any]]:
    from ..bench import roofline
    from ..bench.measure import measure
    from ..bench.profile import profile
    from ..bench.workloads import workloads
    from ..model.build import format_of

    net, denoise, engine, prompts = _open(subject, say)
    machine = roofline.measure(net.device, net.dtype)
    if say:
        title = subject.shape or subject.model or "the shipped model"
        note(
            f"{title}, {format_of(net)}, {roofline.name_of(net.device)}: "
            f"{machine.flops / 1e9:,.0f} GFLOP/s, {machine.bytes_per_second / 1e9:,.1f} GB/s"
        )
        write_out("  ".join(f"{head:>{_width(key)}}" for key, head in HEADS.items()) + "\n")
    rows = []
    for name in wanted:
        chosen = workloads(
            name,
            net.config,
            denoise,
            prompts=prompts,
            longest=longest,
            most=most,
            tokens=tokens,
            prompt=prompt,
        )
        for workload in chosen:
            figures = dataclasses.asdict(measure(net, workload, machine, engine))
            row = _about(net, subject.name) | _machine(machine) | figures
            if say:
                write_out(_line(row))
            if profiled:
                parts = profile(net, workload, machine, engine)
                row["profile"] = [dataclasses.asdict(part) for part in parts]
                if say:
                    write_out(_breakdown(row["profile"]))
            rows.append(row)
    return rows


def _line(row: dict[str, Any]) -> str:
    cells = [f"{_number(_decimal(key, row[key])):>{_width(key)}}" for key in HEADS]
    return "  ".join(cells) + "\n"


def _about(net: DiffusionGemma, name: str) -> dict[str, Any]:
    import torch

    from ..bench.roofline import name_of
    from ..kernels.c.native import backend
    from ..model.build import format_of

    return {
        "date": datetime.date.today().isoformat(),
        "machine": name_of(net.device),
        "version": __version__,
        "commit": os.environ.get("DGEMMA_COMMIT", ""),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "model": name,
        "dtype": format_of(net),
        "forms": backend(net.norm.weight),
    }


def _machine(machine: Machine) -> dict[str, float]:
    return {
        "gflops": round(machine.flops / 1e9, 1),
        "gb_per_second": round(machine.bytes_per_second / 1e9, 1),
    }


def _breakdown(parts: list[dict[str, Any]]) -> str:
    """A table of a step's operations."""
    lines = [f"{'':22}  {'operation':18}  {'ms':>8}  {'share':>6}  {'limit ms':>8}  {'of limit':>8}"]
    for part in parts:
        measured = f"{part['operation']:18}  {_number(part['ms']):>8}  {part['share']:>6.1%}"
        limits = ["-" if part[key] is None else _number(part[key]) for key in ("limit_ms", "fraction")]
        lines.append(f"{'':22}  {measured}  {limits[0]:>8}  {limits[1]:>8}")
    return "\n".join([*lines, ""])


def _draw(path: Path, rows: list[dict[str, Any]]) -> None:
    from ..bench.plot import draw

    about = rows[0]
    title = f"{about['model']}, {about['dtype']}, {about['machine']}, {about['date']}: ms per step"
    try:
        replace_text(path, draw(rows, title))  # a full disk leaves the picture that was there
    except OSError as error:
        raise write_fault(path, error) from None


def _texts(path: Path) -> list[str]:
    parts = [part.strip("\n") for part in text_of(path).replace("\r\n", "\n").split("\n\n")]
    if not any(part.strip() for part in parts):
        raise UsageError(f"{path}: there is no prompt in it")
    return [part for part in parts if part.strip()]


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    if not path.exists() or not path.stat().st_size:
        writer.writeheader()
    writer.writerows(
        {key: _number(value) if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    )
    try:
        with path.open("ab", buffering=0) as file:
            append_whole(file, text.getvalue().encode())
    except OSError as error:
        raise write_fault(path, error) from None


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON knows numbers: what was not measured is null."""
    return {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}


def _width(key: str) -> int:
    if key == "recipe":
        return 22
    return max(8, len(HEADS[key]))


def _decimal(key: str, value: Any) -> Any:
    """A number for people: bytes are told in GB, as everywhere; the files' columns keep the GiB of their
    names.
    """
    if key in ("gib_per_step", "peak_gib"):
        return value * 2**30 / 1e9
    return value


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return "-"
    if abs(value) < 10:
        return f"{value:.3g}"
    return f"{value:.0f}"
