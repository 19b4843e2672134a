"""`dgemma doctor [MODEL]`: what this machine and a checkpoint are, what fits where, and everything that is
wrong.

Reads headers and JSON, never tensor data, so it answers for 51.6 GB in a second; of a hub model that is not
on this machine it fetches no more than these. Mends nothing. Trap: it must go on after a fault, because a
user with three faults wants one list, not three runs; only a model that cannot be found at all ends it early.
"""

from __future__ import annotations

import dataclasses
import io
import json
import platform
from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from .. import __version__
from ..config import ModelConfig
from ..config.sizes import short_count
from ..errors import CheckpointError, DgemmaError, HubError
from ..hub.locate import EMBEDDED, EMBEDDED_ABOUT, disk_size, is_embedded, locate
from ..hub.remote import headers
from ..memory.placement import formats_in
from ..memory.plan import Memory, estimate_memory, machine
from ..weights.gguf import GGUF
from ..weights.layout import INDEX, Layout
from ..weights.names import GROUPS, expected_tensors
from ..weights.source import Source, source
from .memory_report import format_table, memory_report, memory_target, report_view, table_view
from .picture import plain
from .screen import stdout_is_terminal, write_out

MOST_LINES = 100  # of problems; a config that claims ten thousand layers makes 230,000


@dataclasses.dataclass
class Report:
    """All that doctor knows, as plain data. Exit code 3 where `problems` is not empty."""

    machine: dict[str, Any]
    model: dict[str, Any] | None = None
    answer: dict[str, Any] | None = None  # for one memory; cli/memory_report.py
    fits: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # for many
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def command(
    model: Annotated[
        str | None, typer.Argument(help="A folder, file or hub name; the shipped model if left out.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="A card's memory to fit into: 24GB, 24GiB, 8.5G; default: what is free here."),
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="Tokens that must fit beside the weights: 32k, 131072; default: 4k.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu: the memory is RAM; cuda: a card's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Say what this machine and a model are, what fits in which memory, and what is wrong (exit code 3).

    A hub model that is not on this machine is examined from its headers: nothing is downloaded.
    """
    report = examine(model, memory, context, device)
    if as_json:
        write_out(json.dumps(dataclasses.asdict(report), indent=2) + "\n")
    else:
        show(report, table=memory is None and device is None)
    if report.problems:
        raise typer.Exit(CheckpointError.exit_code)


def examine(
    name: str | None, memory: str | None = None, context: str | None = None, device: str | None = None
) -> Report:
    """The whole report.

    Raises HubError, UsageError or CheckpointError only when there is no such model, UsageError for the flags.
    """
    memories = machine()
    target = memory_target(memory, context, device, memories)
    report = Report(_machine_facts(memories))
    if name is None and not (EMBEDDED / "config.json").is_file():
        report.notes.append("this installation ships no checkpoint; name one to have it examined")
        return report
    with ExitStack() as stack:
        label = None
        try:
            checkpoint = source(locate(name))
        except HubError:  # a hub name that is not, or not wholly, on this machine
            remote = stack.enter_context(headers(str(name)))
            checkpoint = source(remote.folder)
            label = remote.name
            size = disk_size(remote.fetched)
            report.notes.append(
                f"nothing was downloaded: settings and headers, {size}, were read from the hub"
            )
        config, layout = _examine(report, checkpoint, label)
    if label is not None:  # the folder was a temporary one
        report.problems = [problem.replace(str(checkpoint.place), label) for problem in report.problems]
    if config is not None:
        if layout.text:  # else nobody knows in which formats it is
            report.answer = memory_report(config, layout, target)
        report.fits = format_table(config, memories, formats_in(layout))
    return report


def _examine(report: Report, checkpoint: Source, label: str | None) -> tuple[ModelConfig | None, Layout]:
    """Everything that a checkpoint's files say.

    label: what a hub model's headers are called, None for a checkpoint of this machine.
    """
    config = _attempt(report, checkpoint.config)
    layout = checkpoint.layout(config)
    report.problems += [problem for problem in layout.problems if problem not in report.problems]
    report.notes += layout.notes() + checkpoint.remarks()
    report.model = {
        "folder": label or str(checkpoint.place),
        "weights": _weight_facts(layout),
        "config": _config_facts(config) if config else None,
        "generation": _generation_facts(report, checkpoint, config),
        "tokenizer": None if label else _tokenizer_facts(report, checkpoint, config),
    }
    if is_embedded(checkpoint.place):
        report.notes.append(EMBEDDED_ABOUT)
    if not label and _attempt(report, checkpoint.is_chat_tuned):
        report.notes.append("a chat template is there and never run: turns are written by dgemma's own code")
    return config, layout


def _attempt(report: Report, read: Callable[[], Any]) -> Any:
    """What `read` makes of a file, or None and one more problem, where that is not known yet."""
    try:
        return read()
    except DgemmaError as error:
        if str(error) not in report.problems:
            report.problems.append(str(error))
        return None


def _machine_facts(memories: list[Memory]) -> dict[str, Any]:
    import torch

    from ..kernels.c import native

    return {
        "dgemma": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "c_kernels": {str(dtype).removeprefix("torch."): native.why_not(dtype) for dtype in native.NEEDS},
        "memories": [dataclasses.asdict(memory) for memory in memories],
    }


def _weight_facts(layout: Layout) -> dict[str, Any]:
    groups = dict.fromkeys(GROUPS, 0)
    if layout.config is not None:
        for target in expected_tensors(layout.config).values():
            if target.model_name in layout.text:
                groups[target.group] += layout.text[target.model_name].nbytes
    return {
        "files": [path.name for path in layout.files],
        "index": (layout.folder / INDEX).exists(),
        "bytes": layout.total_bytes,
        "dtypes": layout.dtypes,
        "tensors": len(layout.tensors),
        "text": {"tensors": len(layout.text), "bytes": layout.text_bytes, "groups": groups},
        "vision": {"tensors": len(layout.vision), "bytes": layout.vision_bytes, "used": False},
    }


def _config_facts(config: ModelConfig) -> dict[str, Any]:
    facts = dataclasses.asdict(config)
    sliding = sum(layer.is_sliding for layer in config.layers)
    facts["layers"] = {"sliding": sliding, "full": len(config.layers) - sliding}
    facts["parameters"] = estimate_memory(config, "bfloat16", 1).weight_bytes // 2
    return facts


def _generation_facts(
    report: Report, checkpoint: Source, config: ModelConfig | None
) -> dict[str, Any] | None:
    if not _attempt(report, checkpoint.has_settings):
        report.notes.append(
            "the checkpoint has no settings for sampling: it starts from dgemma's own defaults"
        )
        return None
    settings = _attempt(report, lambda: checkpoint.denoise(config))
    if settings is None:
        return None
    if config is not None:
        size = config.vocab_size
        beyond = [token for token in settings.eos_token_id or () if token >= size]
        report.problems += [
            f"{checkpoint.place}: eos_token_id {token} is beyond the vocabulary of {size}" for token in beyond
        ]
    return dataclasses.asdict(settings)


def _tokenizer_facts(report: Report, checkpoint: Source, config: ModelConfig | None) -> dict[str, Any] | None:
    from ..text.tokenizer import Tokenizer
    from ..text.vocabulary import CONTROL_TEXTS

    path = checkpoint.vocabulary()
    if reason := _attempt(report, checkpoint.why_no_text):
        report.problems.append(f"{reason}; text cannot be read without it")  # the library still reads ids
        return None
    tokenizer = _attempt(report, lambda: Tokenizer.from_json(checkpoint.tokenizer_json(), str(path)))
    if tokenizer is None:
        return None
    ids = dataclasses.asdict(tokenizer.special)
    if config is not None and tokenizer.vocab_size > config.vocab_size:
        size = f"ids up to {tokenizer.vocab_size - 1}, the model knows {config.vocab_size}"
        report.problems.append(f"{path}: does not belong to this model: it has {size}")
    if config:
        expected = {"bos": config.bos_token_id, "pad": config.pad_token_id}
    else:
        expected = {}
    for name, token in expected.items():
        if ids.get(name) is not None and ids[name] != token:
            report.notes.append(f"the tokenizer's {name} is {ids[name]}, config.json says {token}")
    missing = [name for name, token in ids.items() if token is None]
    if "bos" in missing:
        report.problems.append(f"{path}: no token '{CONTROL_TEXTS['bos']}', which every prompt begins with")
    if missing:
        report.notes.append(f"the tokenizer has no control token for: {', '.join(missing)}")
    return {"vocab_size": tokenizer.vocab_size, "control": ids, "missing": missing}


def show(report: Report, table: bool = True) -> None:
    """The report for people, on stdout; table: with what fits into other memories."""
    from rich.console import Console

    # into a text first: rich has its own ways with a stdout that is closed, or whose reader went away
    text = io.StringIO()
    is_terminal = stdout_is_terminal()
    console = Console(
        file=text,
        force_terminal=is_terminal,
        soft_wrap=True,
        highlight=False,
        markup=False,
        width=None if is_terminal else 200,
    )
    sections: list[list[Any]] = [list(_machine_lines(report.machine))]
    if report.model is not None:
        sections.append(list(_model_lines(report.model)))
    if report.answer:
        sections.append(report_view(report.answer))
    if report.fits and table:
        sections.append(table_view(report.fits))
    sections += [_list_view(title, lines) for title, lines in _lists(report) if lines]
    if report.model is not None and not report.problems:
        sections.append(["no problem found"])
    for number, section in enumerate(sections):
        if number:
            console.print()
        for part in section:
            console.print(part)
    write_out(text.getvalue())


def _lists(report: Report) -> tuple[tuple[str, list[str]], ...]:
    return ("notes", report.notes), ("problems", report.problems)


def _list_view(title: str, lines: list[str]) -> list[str]:
    view = [title, *(f"  - {plain(line)}" for line in lines[:MOST_LINES])]
    more = len(lines) - MOST_LINES
    if more > 0:
        view.append(f"  and {more} more; --json lists them all")
    return view


def _machine_lines(facts: dict[str, Any]) -> list[str]:
    cuda = "no CUDA"
    if facts["cuda"]:
        cuda = f"CUDA {facts['cuda']}"
    torch = f"torch {facts['torch']} ({cuda}, {facts['threads']} threads)"
    lines = [f"dgemma {facts['dgemma']}, Python {facts['python']}, {torch}"]
    kernels = facts["c_kernels"]
    states = [f"not in {dtype}: {why}" for dtype, why in kernels.items() if why is not None]
    if run := [dtype for dtype, why in kernels.items() if why is None]:
        states.insert(0, ", ".join(run))
    lines.append(f"CPU kernels in C: {'; '.join(states)}")
    for memory in facts["memories"]:
        lines.append(f"{memory['name']}: {disk_size(memory['total'])}, {disk_size(memory['free'])} free")
    return lines


def _model_lines(model: dict[str, Any]) -> list[str]:
    weights = model["weights"]
    text = weights["text"]
    vision = weights["vision"]
    dtypes = ", ".join(f"{name} {disk_size(size)}" for name, size in weights["dtypes"].items()) or "none"
    index = "no index"
    if weights["index"]:
        index = "with an index"
    kind = "safetensors"
    if any(name.lower().endswith(GGUF) for name in weights["files"]):
        kind = "GGUF"
    lines = [
        f"{model['folder']}",
        f"  weights: {weights['tensors']} tensors in {len(weights['files'])} {kind} files, {index}; {dtypes}",
        f"  text: {text['tensors']} tensors, {disk_size(text['bytes'])}; "
        f"vision: {vision['tensors']} tensors, "
        f"{disk_size(vision['bytes'])}, not used yet",
    ]
    if any(text["groups"].values()):
        groups = sorted(text["groups"].items(), key=lambda item: -item[1])
        lines.append("  groups: " + ", ".join(f"{name} {disk_size(size)}" for name, size in groups))
    if (config := model["config"]) is not None:
        kinds = config["layers"]
        layers = f"{kinds['sliding']} sliding (window {config['sliding_window']}), {kinds['full']} full"
        lines.append(f"  model: {short_count(config['parameters'])} text parameters; layers: {layers}")
        lines.append(
            f"         hidden {config['hidden_size']}, {config['num_experts']} experts "
            f"(top {config['top_k_experts']}), vocabulary {config['vocab_size']}, "
            f"canvas {config['canvas_length']}, {config['max_position_embeddings']} positions"
        )
    if (settings := model["generation"]) is not None:
        lines.append(
            f"  sampling: {settings['max_denoising_steps']} steps, "
            f"t {settings['t_min']} to {settings['t_max']}, "
            f"entropy bound {settings['entropy_bound']}, stability {settings['stability_threshold']}, "
            f"confidence {settings['confidence_threshold']}, end tokens {settings['eos_token_id']}"
        )
    if (tokenizer := model["tokenizer"]) is not None:
        have = len(tokenizer["control"]) - len(tokenizer["missing"])
        known = f"{have} of {len(tokenizer['control'])} control tokens"
        lines.append(f"  tokenizer: {tokenizer['vocab_size']} ids, {known}")
    return lines
