"""Does this model do on this machine what it must: a report to paste into an issue, section by section.

    logits        against Transformers, where it is installed and there is memory for it
    reach         keys and values whatever the chunks, every token seen (reach.py); and whether a needle
                  comes back
    determinism   the same request twice, and beside another
    paths         the engine against the plain loop, a merged pass against two
    kernels       Triton's kernels against torch's (backends.py)
    speed         one canvas of sixteen steps, against the machine's limit

A section that fails or cannot run says so and the next one follows. Knows no prompt of a user. Trap: float32
and narrower numbers let other row counts round differently, so shares of equal tokens are told, and only
what must hold in every format is judged.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .. import __version__, api
from ..config.sizes import disk_size
from ..engine.denoise import read_prompts, run
from ..engine.engine import Engine
from ..engine.requests import Request, StepRecord, results
from ..errors import UsageError
from ..kernels.c.native import backend
from ..kernels.ops.vocab import soft_capped_logits, weigh
from ..memory.plan import GIB, RESERVE, estimate_memory, free_on, machine
from ..model.dgemma import Canvases, PrevProbs
from ..weights.source import source
from . import backends, oracle, reach, roofline
from .measure import measure
from .report import Section, Skip, public, share
from .workloads import workloads

TEMPERATURE = 0.7  # of the processed logits that a second step believes
# Of the tokens of a first draft, made in a merged pass and in two: near-ties of a flat distribution fall
# either way in 16 bits
DRAFTS = {torch.float64: 1.0, torch.float32: 0.95, torch.float16: 0.6, torch.bfloat16: 0.5}
CONTEXT = 4096


def verify(model: api.Model, context: int | None = None) -> Iterator[Section]:
    """All sections, each when it is done.

    Raises UsageError for a context that the model or the memory does not allow.
    """
    checked = _context(model, context)
    checks: dict[str, Callable[[Section], None]] = {
        "machine": lambda section: _machine(section, model),
        "model": lambda section: _model(section, model),
        "logits": lambda section: _logits(section, model),
        "reach": lambda section: _reach(section, model, checked),
        "determinism": lambda section: _determinism(section, model),
        "paths": lambda section: _paths(section, model),
        "kernels": lambda section: backends.check(section, model.net),
        "speed": lambda section: _speed(section, model),
    }
    for name, check in checks.items():
        yield _done(Section(name), check)


def _done(section: Section, check: Callable[[Section], None]) -> Section:
    try:
        with torch.no_grad():
            check(section)
    except Skip as reason:
        section.skipped = public(str(reason))
    except (MemoryError, torch.OutOfMemoryError):
        section.skipped = "out of memory"
    except Exception as error:  # a report is wanted most where something is broken
        section.failures.append(f"{type(error).__name__}: {public(str(error))}")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the allocator keeps of one section counts as taken in the next
    return section


def _context(model: api.Model, requested: int | None) -> int:
    """Tokens of the longest prompt: what was asked for, or 4,096 and no more than the positions and the
    memory allow.
    """
    config = model.config
    device = model.net.device
    most = config.max_position_embeddings - config.canvas_length

    def fits(tokens: int) -> bool:
        plan = estimate_memory(
            config, model.net.dtype, tokens, 2, device=device.type
        )  # two ways of reading it, at once
        return plan.total - plan.weight_bytes <= _free(device)

    if requested is not None:
        if not 8 <= requested <= most:
            raise UsageError(f"--context is {requested}; this model has room for 8 to {most} tokens")
        if not fits(requested):
            raise UsageError(f"--context {requested} needs more memory than is free here; ask for less")
        return requested
    tokens = min(CONTEXT, most)
    while tokens > 64 and not fits(tokens):
        tokens //= 2
    return tokens


def _free(device: torch.device) -> int:
    free = free_on(device.type, device.index)
    if free:
        return free - RESERVE
    return 2**62


def _machine(section: Section, model: api.Model) -> None:
    device = model.net.device
    memories = machine()
    section.facts |= {
        "dgemma": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "triton": _version("triton"),
        "transformers": _version("transformers"),
        "device": roofline.name_of(device),
        "threads": torch.get_num_threads(),
        "memory": ", ".join(
            f"{memory.name} {disk_size(memory.total)} ({disk_size(memory.free)} free)" for memory in memories
        ),
    }
    if device.type == "cuda":
        section.facts["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _model(section: Section, model: api.Model) -> None:
    config = model.config
    folder = model.folder
    if folder.parent.name == "snapshots":
        hub = folder.parents[1].name
    else:
        hub = folder.name
    sliding = sum(layer.is_sliding for layer in config.layers)
    layout = source(folder).layout(config)
    section.facts |= {
        "folder": hub,
        "parameters": f"{estimate_memory(config, 'bfloat16', 1).weight_bytes / 2e6:,.1f} M",
        "layers": f"{sliding} sliding (window {config.sliding_window}), {len(config.layers) - sliding} full",
        "canvas": config.canvas_length,
        "vocabulary": config.vocab_size,
        "experts": f"{config.num_experts}, top {config.top_k_experts}",
        "stored as": ", ".join(layout.dtypes),
        "runs as": _name(model.net.dtype),
        "kernels": backend(model.net.norm.weight),
    }


def _logits(section: Section, model: api.Model) -> None:
    net = model.net
    config = model.config
    width = model.config.canvas_length
    length = min(config.sliding_window + width // 2, config.max_position_embeddings - width)
    length = max(
        length, width + 1
    )  # longer than the window, so that what lies behind it must be out of sight
    ids = _random(model, length, 1)
    canvas = torch.tensor(_random(model, width, 2), device=net.device)
    reference = _reference(section, model, length)
    want = oracle.answers(reference, ids, canvas, TEMPERATURE)
    del reference
    kv = read_prompts(net, [ids[:-width]], model.engine.config.prefill_chunk, 2 * width)
    hidden = net.encode(torch.tensor([ids[-width:]], device=net.device), kv)
    got = [_capped(model, hidden)[0], _capped(model, net.denoise(canvas[None], kv))[0]]
    got.append(
        _capped(model, net.denoise(canvas[None], kv, _self_conditioning(model, want[1][None] / TEMPERATURE)))[
            0
        ]
    )
    kind = (
        torch.float32 if net.dtype == torch.float64 else net.dtype
    )  # its own norms and logits are float32 at most
    for what, mine, theirs in zip(("prompt", "first step", "second step"), got, want, strict=True):
        section.compare(what, mine, theirs, kind)


def _reference(section: Section, model: api.Model, length: int) -> Any:
    """The oracle from the same folder; where a card has no room for a second copy, with our tensors."""
    if reason := oracle.why_not():
        raise Skip(reason)
    net = model.net
    device = model.net.device
    layout = source(model.folder).layout(model.config)
    plan = estimate_memory(model.config, net.dtype, length, device=device.type)
    copy = plan.weight_bytes + layout.vision_bytes
    work = 2 * (plan.kv + plan.work)
    host = _free(torch.device("cpu"))
    if copy + work <= _free(device) and copy <= host:
        section.facts["reference"] = "transformers, from the same folder"
        try:
            return oracle.read(model.folder, net.dtype, device, bool(layout.vision))
        except Exception as error:
            raise Skip(f"transformers cannot read the folder: {public(str(error))}") from None
    if device.type == "cuda" and work <= _free(device):
        section.facts["reference"] = "transformers, with our tensors: there is no room for a second copy"
        return oracle.borrow(net)
    need = f"{disk_size(copy + work)} for the reference"
    raise Skip(f"{need}, and {disk_size(_free(device))} of {device.type} memory are free")


def _reach(section: Section, model: api.Model, context: int) -> None:
    reach.check(section, model.net, context, model.engine.config.prefill_chunk)
    if source(model.folder).why_no_text() is None:
        key = str(random.Random(3).randrange(1000, 10000))
        filler = "".join(f"v{number} = {number}\n" for number in range(min(40, context // 16)))
        answer = model.generate(f"key = {key}\n{filler}key = ", 16)
        section.facts["a key behind some lines comes back (told, not judged)"] = key in answer.text


def _determinism(section: Section, model: api.Model) -> None:
    request = _request(model, 96, 1)
    other = _request(model, 41, 2)
    alone, again = (_tokens(model, [request])[0] for _ in range(2))
    section.facts["tokens"] = len(alone)
    section.facts["the same tokens twice"] = alone == again
    section.must(alone == again, f"the same request gave other tokens: {share(again, alone):.1%} are equal")
    section.facts["equal tokens beside another request"] = (
        f"{share(_tokens(model, [other, request])[1], alone):.1%}"
    )


def _paths(section: Section, model: api.Model) -> None:
    net = model.net
    width = model.config.canvas_length
    ids = _random(model, 96, 3)
    canvas = torch.tensor([_random(model, width, 4)], device=net.device)
    whole, part = (
        read_prompts(net, [ids[:end]], model.engine.config.prefill_chunk, 2 * width)[0] for end in (96, 64)
    )
    first = _capped(model, net.denoise(canvas, [whole]))
    prev_probs = _self_conditioning(model, first / TEMPERATURE)
    want = _capped(model, net.denoise(canvas, [whole], prev_probs))
    fresh = torch.tensor(ids[64:], device=net.device)
    (merged,) = net.both([(part, fresh)], [Canvases(canvas, [part], net.self_conditioning_of(prev_probs))])
    section.compare("prompt and step in one pass", _capped(model, merged), want, net.dtype)
    request = _request(model, 96, 5)
    plain = [*run(net, [request])]
    fast = [*_engine(model).run([request])]
    drafts = [
        next(record.argmax for record in records if isinstance(record, StepRecord))
        for records in (fast, plain)
    ]
    equal = share(*drafts)
    least = DRAFTS[net.dtype]
    section.facts["equal tokens in the first draft of engine and plain loop"] = f"{equal:.1%}"
    section.must(
        equal >= least,
        f"engine and plain loop agree in {equal:.1%} of their first draft; {least:.0%} were expected",
    )
    tokens = [results(records, 1)[0].token_ids for records in (fast, plain)]
    section.facts["equal tokens of engine and plain loop"] = f"{share(*tokens):.1%}"


def _speed(section: Section, model: api.Model) -> None:
    net = model.net
    width = model.config.canvas_length
    rates = roofline.measure(net.device, net.dtype)
    prompt = min(512, model.config.max_position_embeddings - 2 * width)
    (workload,) = workloads("fixed16", model.config, model.denoise, tokens=width, prompt=prompt)
    row = measure(net, workload, rates, model.engine.config)
    section.facts |= {
        "recipe": workload.name,
        "ms per step": f"{row.step_ms:.3g} (95th percentile {row.step_p95_ms:.3g})",
        "limit": (
            f"{row.limit_ms:.3g} ms ({rates.flops / 1e9:,.0f} GFLOP/s, "
            f"{rates.bytes_per_second / 1e9:,.1f} GB/s)"
        ),
        "of the limit": f"{row.fraction:.1%}",
        "tokens per second": f"{row.tokens_per_second:.3g}",
        "peak": disk_size(row.peak_gib * GIB),
    }


def _random(model: api.Model, count: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(model.config.vocab_size) for _ in range(count)]


def _request(model: api.Model, length: int, seed: int) -> Request:
    """Two canvases of at most eight steps after random tokens."""
    settings = model.denoise.replace(max_denoising_steps=8, eos_token_id=None)
    return Request(tuple(_random(model, length, seed)), 2 * model.config.canvas_length, seed, settings)


def _engine(model: api.Model) -> Engine:
    """One that begins without cached prompts, so that it reads what the plain loop reads."""
    return Engine(model.net, dataclasses.replace(model.engine.config, prefix_cache=0))


def _tokens(model: api.Model, requests: list[Request]) -> list[list[int]]:
    return [result.token_ids for result in results(_engine(model).run(requests), len(requests))]


def _capped(model: api.Model, hidden: Tensor) -> Tensor:
    return soft_capped_logits(hidden, model.net.table, model.config.final_logit_softcapping)


def _self_conditioning(model: api.Model, processed: Tensor) -> PrevProbs:
    """What a step hands to the next one, rounded to the weights' dtype first, as the reference does."""
    logits = processed.to(model.net.dtype).to(processed.dtype)
    return weigh(logits - logits.amax(-1, keepdim=True), model.net.dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
