"""`dgemma doctor [MODEL]`: what this machine and a checkpoint are, what fits where, and everything that is wrong.

Reads headers and JSON, never tensor data, so it answers for 51.6 GB in a second. Mends nothing. Trap: it must go on
after a fault, because a user with three faults wants one list, not three runs; only a model that cannot be found
at all ends it early.
"""

from __future__ import annotations

import dataclasses
import io
import json
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..config import DenoiseConfig, ModelConfig
from ..errors import CheckpointError, DgemmaError
from ..weights.layout import INDEX, Layout, read_layout
from ..weights.locate import EMBEDDED, disk_size, is_chat_tuned, locate
from ..weights.names import GROUPS, expected_tensors
from ..weights.plan import GIB, Memory, fit, machine
from .picture import plain
from .screen import stdout_is_terminal, write_out

CONTEXTS = (4096, 32_768, 131_072)
CARDS = (24, 48, 80, 141)  # GiB
DTYPES = ("bfloat16", "float32")
MOST_LINES = 100  # of problems; a config that claims ten thousand layers makes 230,000


@dataclasses.dataclass
class Report:
    """All that doctor knows, as plain data. Exit code 3 where `problems` is not empty."""

    machine: dict[str, Any]
    model: dict[str, Any] | None = None
    fits: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def command(
    model: Annotated[str | None, typer.Argument(help="A folder or hub name; the shipped model if left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Say what this machine and a model are, what fits in which memory, and what is wrong (exit code 3)."""
    report = examine(model)
    if as_json:
        write_out(json.dumps(dataclasses.asdict(report), indent=2) + "\n")
    else:
        show(report)
    if report.problems:
        raise typer.Exit(CheckpointError.exit_code)


def examine(name: str | None) -> Report:
    """The whole report. Raises HubError, UsageError or CheckpointError only when there is no such model."""
    memories = machine()
    report = Report(_machine_facts(memories))
    if name is None and not (EMBEDDED / "config.json").is_file():
        report.notes.append("this installation ships no checkpoint; name one to have it examined")
        return report
    folder = locate(name)
    config = _attempt(report, ModelConfig.from_file, folder / "config.json")
    layout = read_layout(folder, config)
    report.problems += layout.problems
    report.notes += layout.notes()
    report.model = {
        "folder": str(folder),
        "weights": _weight_facts(layout),
        "config": _config_facts(config) if config else None,
        "generation": _generation_facts(report, folder, config),
        "tokenizer": _tokenizer_facts(report, folder, config),
    }
    if _attempt(report, is_chat_tuned, folder):
        report.notes.append("a chat template is there and never run: turns are written by dgemma's own code")
    if config is not None:
        report.fits = fit_table(config, memories)
    return report


def fit_table(config: ModelConfig, memories: list[Memory]) -> list[dict[str, Any]]:
    """One row per dtype and context: bytes needed, and which memories hold them.

    This machine's memories count with what is free now, cards that are not here with their whole size.
    """
    places = [(memory.name, memory.free, "cpu" if memory.name == "RAM" else "cuda") for memory in memories]
    places += [(f"{size} GB card", size * GIB, "cuda") for size in CARDS]
    contexts = [n for n in CONTEXTS if n <= config.max_position_embeddings] or [config.max_position_embeddings]
    rows = []
    for dtype in DTYPES:
        for context in contexts:
            plans = {device: fit(config, dtype, context, device=device) for device in ("cpu", "cuda")}
            one = plans["cuda"]
            rows.append({
                "dtype": dtype,
                "context": context,
                "weights": one.weight_bytes,
                "kv": one.kv,
                "work": {device: plan.work for device, plan in plans.items()},
                "total": {device: plan.total for device, plan in plans.items()},
                "fits": {name: plans[device].fits(size) for name, size, device in places},
            })  # fmt: skip
    return rows


def _attempt(report: Report, read: Any, path: Path) -> Any:
    """What `read` makes of a file, or None and one more problem."""
    try:
        return read(path)
    except DgemmaError as error:
        report.problems.append(str(error))
        return None


def _machine_facts(memories: list[Memory]) -> dict[str, Any]:
    import torch

    return {
        "dgemma": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
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
    facts["parameters"] = fit(config, "bfloat16", 1).weight_bytes // 2
    return facts


def _generation_facts(report: Report, folder: Path, config: ModelConfig | None) -> dict[str, Any] | None:
    path = folder / "generation_config.json"
    if not path.exists() and not path.is_symlink():
        report.notes.append("no generation_config.json: sampling starts from dgemma's own defaults")
        return None
    ends = config.eos_token_ids if config else ()
    settings = _attempt(report, lambda place: DenoiseConfig.from_folder(place, ends), folder)
    if settings is None:
        return None
    for token in settings.eos_token_id or () if config else ():
        if token >= config.vocab_size:
            report.problems.append(f"{path}: eos_token_id {token} is beyond the vocabulary of {config.vocab_size}")
    return dataclasses.asdict(settings)


def _tokenizer_facts(report: Report, folder: Path, config: ModelConfig | None) -> dict[str, Any] | None:
    from ..text.tokenizer import Tokenizer
    from ..text.vocabulary import CONTROL_TEXTS

    path = folder / "tokenizer.json"
    tokenizer = _attempt(report, Tokenizer.from_file, path)
    if tokenizer is None:
        return None
    ids = dataclasses.asdict(tokenizer.special)
    if config is not None and tokenizer.vocab_size > config.vocab_size:
        size = f"ids up to {tokenizer.vocab_size - 1}, the model knows {config.vocab_size}"
        report.problems.append(f"{path}: does not belong to this model: it has {size}")
    for name, expected in (("bos", config.bos_token_id), ("pad", config.pad_token_id)) if config else ():
        if ids.get(name) is not None and ids[name] != expected:
            report.notes.append(f"the tokenizer's {name} is {ids[name]}, config.json says {expected}")
    missing = [name for name, token in ids.items() if token is None]
    if "bos" in missing:
        report.problems.append(f"{path}: no token '{CONTROL_TEXTS['bos']}', which every prompt begins with")
    if missing:
        report.notes.append(f"the tokenizer has no control token for: {', '.join(missing)}")
    return {"vocab_size": tokenizer.vocab_size, "control": ids, "missing": missing}


def show(report: Report) -> None:
    """The report for people, on stdout."""
    from rich.console import Console

    # into a text first: rich has its own ways with a stdout that is closed, or whose reader went away
    text, terminal = io.StringIO(), stdout_is_terminal()
    console = Console(
        file=text, force_terminal=terminal, soft_wrap=True, highlight=False, markup=False,
        width=None if terminal else 200,
    )  # fmt: skip
    for line in _machine_lines(report.machine):
        console.print(line)
    if report.model is not None:
        console.print()
        for line in _model_lines(report.model):
            console.print(line)
    if report.fits:
        console.print()
        console.print(_fit_view(report.fits))
    for title, lines in (("notes", report.notes), ("problems", report.problems)):
        if lines:
            console.print(f"\n{title}")
            for line in lines[:MOST_LINES]:
                console.print(f"  - {plain(line)}")
            if (more := len(lines) - MOST_LINES) > 0:
                console.print(f"  and {more} more; --json lists them all")
    if report.model is not None and not report.problems:
        console.print("\nno problem found")
    write_out(text.getvalue())


def _machine_lines(facts: dict[str, Any]) -> list[str]:
    cuda = f"CUDA {facts['cuda']}" if facts["cuda"] else "no CUDA"
    torch = f"torch {facts['torch']} ({cuda}, {facts['threads']} threads)"
    lines = [f"dgemma {facts['dgemma']}, Python {facts['python']}, {torch}"]
    for memory in facts["memories"]:
        lines.append(f"{memory['name']}: {_gib(memory['total'])}, {_gib(memory['free'])} free")
    return lines


def _model_lines(model: dict[str, Any]) -> list[str]:
    weights = model["weights"]
    text, vision = weights["text"], weights["vision"]
    dtypes = ", ".join(f"{name} {disk_size(size)}" for name, size in weights["dtypes"].items()) or "none"
    index = "with an index" if weights["index"] else "no index"
    lines = [
        f"{model['folder']}",
        f"  weights: {weights['tensors']} tensors in {len(weights['files'])} safetensors files, {index}; {dtypes}",
        f"  text: {text['tensors']} tensors, {disk_size(text['bytes'])}; vision: {vision['tensors']} tensors, "
        f"{disk_size(vision['bytes'])}, not used yet",
    ]
    if any(text["groups"].values()):
        groups = sorted(text["groups"].items(), key=lambda item: -item[1])
        lines.append("  groups: " + ", ".join(f"{name} {disk_size(size)}" for name, size in groups))
    if (config := model["config"]) is not None:
        kinds, window = config["layers"], config["sliding_window"]
        layers = f"{kinds['sliding']} sliding (window {window}), {kinds['full']} full"
        lines.append(f"  model: {config['parameters'] / 1e9:.3g} B text parameters; layers: {layers}")
        lines.append(
            f"         hidden {config['hidden_size']}, {config['num_experts']} experts "
            f"(top {config['top_k_experts']}), vocabulary {config['vocab_size']}, "
            f"canvas {config['canvas_length']}, {config['max_position_embeddings']} positions"
        )
    if (settings := model["generation"]) is not None:
        lines.append(
            f"  sampling: {settings['max_denoising_steps']} steps, t {settings['t_min']} to {settings['t_max']}, "
            f"entropy bound {settings['entropy_bound']}, stability {settings['stability_threshold']}, "
            f"confidence {settings['confidence_threshold']}, end tokens {settings['eos_token_id']}"
        )
    if (tokenizer := model["tokenizer"]) is not None:
        have = len(tokenizer["control"]) - len(tokenizer["missing"])
        known = f"{have} of {len(tokenizer['control'])} control tokens"
        lines.append(f"  tokenizer: {tokenizer['vocab_size']} ids, {known}")
    return lines


def _fit_view(rows: list[dict[str, Any]]) -> Any:
    """Rows of the fit table; needs are shown for a card, and for the host where that is less."""
    from rich.table import Table

    places = list(rows[0]["fits"])
    table = Table("dtype", "context", "weights", "K/V", "work", "needs", box=None)
    table.title = "what fits (GiB, one request)"
    table.title_justify = "left"
    for place in places:
        table.add_column(f"{place} (free)" if place not in _card_names() else place)
    for row in rows:
        work, total = row["work"], row["total"]
        table.add_row(
            row["dtype"], str(row["context"]), _number(row["weights"]), _number(row["kv"]),
            _both(work), _both(total), *("yes" if row["fits"][place] else "no" for place in places),
        )  # fmt: skip
    return table


def _card_names() -> set[str]:
    return {f"{size} GB card" for size in CARDS}


def _both(sizes: dict[str, int]) -> str:
    card, host = _number(sizes["cuda"]), _number(sizes["cpu"])
    return card if card == host else f"{card} ({host} on CPU)"


def _number(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.3f}"


def _gib(size: int) -> str:
    return f"{_number(size)} GiB"
