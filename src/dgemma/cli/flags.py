"""Flags that verbs share, and everything that can be refused before torch is loaded.

The sampler's flags are made from the fields of DenoiseConfig, so that a new setting cannot be forgotten here. Knows no
model: what it reads of a checkpoint is JSON. Trap: a flag that was not given is left out of `Asked.sampler`, it does
not hold a default; the checkpoint's generation_config.json decides.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from ..config import MAX_PROMPT_CHARACTERS, DenoiseConfig, Rules
from ..config.reader import shown
from ..config.settings import PRESETS
from ..config.sizes import parse_bytes
from ..errors import ConfigError, DgemmaError, ResourceError, UsageError
from ..weights.locate import EMBEDDED_NAME, locate
from ..weights.source import Source, source
from .offer import offer

# Help of each sampler flag; every field of DenoiseConfig is either here or in NO_FLAG.
SAMPLER_HELP = {
    "max_denoising_steps": "Most steps one canvas may take; fewer steps also cool faster.",
    "t_min": "Temperature that the steps of a canvas cool down to.",
    "t_max": "Temperature that they start from.",
    "entropy_bound": "Nats of entropy that one step may accept.",
    "stability_threshold": "Steps that must repeat the draft before a canvas stands.",
    "confidence_threshold": "Mean entropy, in nats, below which a canvas may stand.",
    "eos_token_id": "Token ids that end the answer, separated by commas, or 'none'.",
    "canvas_width": "Tokens per canvas, at most the checkpoint's own.",
    "ignore_after_end": "Let a canvas stand whatever still moves behind its end token.",
    "temperature": "Multiplies t_min and t_max; 0 takes the likeliest token wherever one is accepted.",
}
SAMPLER = {*SAMPLER_HELP, "preset"}
NO_FLAG = {"max_new_tokens", "pad_token_id"}  # --max-tokens stands for the first; the second changes nothing
ALIASES = {"max_denoising_steps": ("--steps",)}
MAX_FILE_BYTES = 64 * 2**20  # of a file to fill or to score: more than any text, and less than /dev/zero
BOM = "\ufeff"
FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
DTYPES = ("bfloat16", "float16", "float32", "float64")
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclasses.dataclass(frozen=True)
class Asked:
    """The shared flags of one command line. `sampler` holds what was given, by the names that api.Model takes."""

    model: str | None = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    memory: str | None = None
    seed: int = 0
    max_tokens: int | None = None
    warmup: int = 0
    as_json: bool = False
    no_live: bool = False
    sampler: dict[str, Any] = dataclasses.field(default_factory=dict)
    terms: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """All that was given for the answer, for api.Model."""
        return self.sampler | self.terms


MEMORY = Annotated[
    str | None,
    typer.Option(
        help="Use no more of the device than this, 8GB or 8GiB; layers stream where the model needs more."
    ),
]
_SHARED: dict[str, Any] = {
    "model": Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help=f"A folder, .gguf file or hub name; {EMBEDDED_NAME}, the shipped model, if left out.",
        ),
    ],
    "revision": Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")],
    "device": Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: a CUDA card where there is one.")
    ],
    "dtype": Annotated[str | None, typer.Option(help=f"One of {', '.join(DTYPES)}.")],
    "memory": MEMORY,
    "seed": Annotated[int, typer.Option(help="The same request with the same seed gives the same text.")],
    "max_tokens": Annotated[int | None, typer.Option("--max-tokens", "-n", help="Most tokens to generate.")],
    "warmup": Annotated[
        int,
        typer.Option(help="Prepare steps of up to so many requests at once before the first.", min=0, max=64),
    ],
    "as_json": Annotated[bool, typer.Option("--json", help="Print the whole result as one JSON object.")],
    "no_live": Annotated[bool, typer.Option("--no-live", help="Do not show the canvas settling.")],
}


# Flags for the terms of an answer (tasks/terms.py), by the names that api.Model takes.
_TERMS: dict[str, Any] = {
    "stop": Annotated[
        list[str] | None, typer.Option("--stop", help="End the answer before this text; may be repeated.")
    ],
    "bad_words": Annotated[
        list[str] | None, typer.Option("--bad-words", help="A text that must not occur; may be repeated.")
    ],
    "top_k": Annotated[int | None, typer.Option(help="Only the k likeliest tokens of each position.")],
    "top_p": Annotated[
        float | None, typer.Option(help="Only the likeliest tokens of each position that have this mass.")
    ],
    "min_p": Annotated[
        float | None, typer.Option(help="Only tokens at least this times as likely as the likeliest.")
    ],
    "presence_penalty": Annotated[
        float | None, typer.Option(help="Off the logit of what stands in the answer before.")
    ],
    "frequency_penalty": Annotated[float | None, typer.Option(help="The same, as often as it stands there.")],
    "repetition_penalty": Annotated[
        float | None, typer.Option(help="Factor against what stands in prompt or answer before.")
    ],
    "min_tokens": Annotated[int | None, typer.Option(help="No end token before so many.")],
}


def sampler_options(without: Collection[str] = ()) -> dict[str, Any]:
    """Field name -> annotated option type, for every sampler setting that a request may change."""
    hints, options = get_type_hints(DenoiseConfig), {}
    text = f"One of {', '.join(PRESETS)}; the other settings go before it. All but exact cost quality."
    if "preset" not in without:
        options["preset"] = Annotated[str | None, typer.Option("--preset", help=text)]
    for field in dataclasses.fields(DenoiseConfig):
        if field.name in NO_FLAG or field.name in without:
            continue
        kind = next(
            (kind for kind in get_args(hints[field.name]) if kind is not type(None)), hints[field.name]
        )
        names = ("--" + field.name.replace("_", "-"), *ALIASES.get(field.name, ()))
        option = typer.Option(*names, help=SAMPLER_HELP[field.name])
        options[field.name] = Annotated[(kind if kind in (int, float, bool) else str) | None, option]
    return options


def asking(
    without: Collection[str] = (), terms: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the shared flags: its parameter `asked: Asked` becomes an option per flag, `without` some, with `terms` those of an answer."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        sampler = sampler_options(without)
        shared = {name: kind for name, kind in _SHARED.items() if name not in without}
        options = sampler | (_TERMS if terms else {})
        defaults = {field.name: field.default for field in dataclasses.fields(Asked) if field.name in shared}

        @functools.wraps(verb)
        def command(**given: Any) -> None:
            settings = {name: given.pop(name) for name in sampler}
            chosen = {name: _ids(value) if name == "eos_token_id" else value
                      for name, value in settings.items() if value is not None}  # fmt: skip
            wanted = {
                name: value for name in _TERMS if terms and (value := given.pop(name)) not in (None, [])
            }
            asked = Asked(**{name: given.pop(name) for name in shared}, sampler=chosen, terms=wanted)
            verb(**given, asked=asked)

        own = [p for p in inspect.signature(verb, eval_str=True).parameters.values() if p.name != "asked"]
        kind = inspect.Parameter.KEYWORD_ONLY
        more = [inspect.Parameter(name, kind, default=defaults.get(name), annotation=option)
                for name, option in (shared | options).items()]  # fmt: skip
        parameters = [p.replace(kind=kind) for p in own] + more
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        del command.__wrapped__  # or the signature of `verb` would be found behind it
        return command

    return decorate


# Parameters whose names are words by themselves; they are called so only where a message begins with them.
_PLAIN = (
    "seed",
    "dtype",
    "device",
    "memory",
    "temperature",
    "preset",
    "stop",
    "regex",
    "grammar",
    "revision",
    "warmup",
)
_OTHERS = ("max_tokens", "json_schema", "max_queue", "max_prompt_tokens", "request_timeout", "drain_timeout")


@functools.cache
def _parameters() -> re.Pattern[str]:
    names = {name for name in (*SAMPLER_HELP, *_TERMS, *_OTHERS) if "_" in name}
    anywhere = "|".join(sorted(names, key=len, reverse=True))
    return re.compile(
        rf"(?<![\w./-])(?:{anywhere})(?![\w-])|^(?:{'|'.join(_PLAIN)})(?= (?:is|holds|has|must|') ?)"
    )


def as_flags(message: str) -> str:
    """A message of the package, with its parameters called as the command line calls them: max_tokens is --max-tokens here."""
    return _parameters().sub(lambda found: "--" + found[0].replace("_", "-"), message)


def _ids(text: str) -> tuple[int, ...] | None:
    if text.strip().lower() == "none":
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--eos-token-id is {shown(text)}; give token ids separated by commas, or 'none'"
        ) from None


def check(asked: Asked) -> DenoiseConfig:
    """Refuse what cannot be served, by the flags and the checkpoint's JSON alone. -> the settings that will hold.

    Raises UsageError for a flag out of its range, and what `locate` and the configs raise for the checkpoint.
    """
    if asked.max_tokens is not None and asked.max_tokens < 1:
        raise UsageError(f"--max-tokens is {asked.max_tokens}; it must be a whole number, at least 1")
    if not 0 <= asked.seed < 2**63:
        raise UsageError(f"--seed is {asked.seed}; it must be a whole number from 0 to 2^63 - 1")
    if asked.dtype is not None and asked.dtype not in DTYPES:
        raise UsageError(f"--dtype '{asked.dtype}' is not known; use {', '.join(DTYPES)}")
    Rules.take(dict(asked.terms))
    check_device(asked.device, asked.memory)
    offer(asked.model, asked.revision)
    found = text_model(asked.model, asked.revision)
    config = found.config()
    denoise = found.denoise(config).replace(**asked.sampler)
    for token in asked.sampler.get("eos_token_id") or ():
        if token >= config.vocab_size:
            last = config.vocab_size - 1
            raise UsageError(f"--eos-token-id {token} is no token of this model; its ids end at {last}")
    if denoise.canvas_width is not None and denoise.canvas_width > config.canvas_length:
        raise UsageError(
            f"--canvas-width {denoise.canvas_width} exceeds the checkpoint's canvas_length {config.canvas_length}"
        )
    return denoise


def check_device(device: str | None, memory: str | None = None) -> None:
    """Raise UsageError for anything but cpu and cuda (torch knows more names than this package runs on), and for what is no size."""
    if device is not None and not _DEVICE.fullmatch(device):
        raise UsageError(f"--device '{device}' is not known; use cpu, cuda, cuda:1 ...")
    if memory is not None:
        parse_bytes(memory, "--memory")


def text_model(name: str | None, revision: str | None = None) -> Source:
    """A model that can read text; without a tokenizer it is of use to the library only."""
    found = source(locate(name, revision))
    found.config()  # first: a folder without config.json is no checkpoint, whatever else it lacks
    if reason := found.why_no_text():
        raise ConfigError(f"{reason}; text cannot be read without it")
    return found


def decode(data: bytes, name: str) -> str:
    """A file's UTF-8 text without a byte-order mark, or a UsageError that says which byte is none."""
    return _utf8(data, name).removeprefix("\ufeff")


def _utf8(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # as PowerShell writes by default
            raise UsageError(
                f"{name} is not UTF-8 text: it begins as UTF-16 does; save it as UTF-8"
            ) from None
        raise UsageError(
            f"{name} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}"
        ) from None


def argument(text: str, name: str) -> str:
    """A text from the command line, as the bytes that were typed."""
    return read_text(os.fsencode(text), name)


def read_text(data: bytes, name: str) -> str:
    """A prompt from its bytes. Raises UsageError for an empty, overlong or unreadable one, naming limit or offset."""
    text = _utf8(data, name) if len(data) <= 4 * MAX_PROMPT_CHARACTERS else None
    if text is None or len(text) > MAX_PROMPT_CHARACTERS:
        count = (
            f"{len(text)} characters" if text is not None else f"more than {MAX_PROMPT_CHARACTERS} characters"
        )
        raise UsageError(f"{name} has {count}; max_prompt_characters is {MAX_PROMPT_CHARACTERS}")
    if not text:
        raise UsageError(f"{name} is empty; give at least one character")
    if (zero := data.find(0)) >= 0:
        raise UsageError(f"{name} is not text: byte {zero} is 0x00")
    return text


def read_prompt(given: str | None) -> str:
    """The prompt of a verb: its argument, or what is piped in where that is missing or '-'."""
    if given is not None and given != "-":
        return argument(given, "the prompt")
    if sys.stdin is None or (given is None and sys.stdin.isatty()):
        raise UsageError("there is no prompt; give one as an argument, or pipe text in")
    # one byte more than could be allowed is enough to refuse, however much is piped in
    return read_text(
        from_stdin(4 * MAX_PROMPT_CHARACTERS + 1).removeprefix(BOM.encode()), "the text on stdin"
    )


def from_stdin(most: int, line: bool = False) -> bytes:
    """What is piped in (or its next line), up to `most` bytes. Raises UsageError where stdin cannot be read."""
    if sys.stdin is None:
        return b""
    try:
        return sys.stdin.buffer.readline(most) if line else sys.stdin.buffer.read(most)
    except OSError as error:
        raise UsageError(f"the text on stdin cannot be read: {error.strerror or error}") from None


def write_fault(path: Path, error: OSError) -> DgemmaError:
    """What to raise where a file cannot be written: a full disk is another matter than a wrong name."""
    if error.errno in FULL:
        return ResourceError(f"'{path}' cannot be written: {error.strerror}; make room and try again")
    return UsageError(f"'{path}' cannot be written: {error.strerror or error}")


def appendable(path: Path) -> Path:
    """A file that rows or lines can be appended to, asked before any work is done for it. Raises UsageError, ResourceError."""
    there = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise write_fault(path, error) from None
    if not there:
        path.unlink()
    return path


def text_of(path: Path) -> str:
    """A file's text, without the byte order mark that some programs begin it with. Raises UsageError."""
    return decode(read_file(path, f"'{path}'"), f"'{path}'").removeprefix(BOM)


def read_file(path: Path, name: str) -> bytes:
    """A text file's bytes. Raises UsageError where it cannot be read, or has more bytes than any text."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{name} has more than {MAX_FILE_BYTES} bytes; max_file_bytes is {MAX_FILE_BYTES}")
    return data
