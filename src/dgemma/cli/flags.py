"""Flags that verbs share, and everything that can be refused before torch is loaded.

The flags of an answer are made from GenerationParams, so that a new parameter cannot be forgotten here. Knows
no model: what it reads of a checkpoint is JSON. Trap: a flag that was not given is not given in
`CommandOptions.params` either, whatever its help says; the checkpoint's generation_config.json decides.
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

from ..config import MAX_PROMPT_CHARACTERS, DenoiseConfig, GenerationParams
from ..config.formats import DTYPES
from ..config.params import PARAMS, names_in
from ..config.reader import shown
from ..config.sizes import parse_bytes
from ..errors import ConfigError, DgemmaError, ResourceError, UsageError
from ..hub.locate import EMBEDDED_NAME, locate
from ..weights.source import Source, source
from .offer import offer

MAX_FILE_BYTES = 64 * 2**20  # of a file to fill or to score: more than any text, and less than /dev/zero
BOM = "\ufeff"
if hasattr(errno, "EDQUOT"):
    FULL = {errno.ENOSPC, errno.EDQUOT}
else:
    FULL = {errno.ENOSPC}
WRITTEN = ("answer", "schedule", "tokens", "text")  # groups of parameters that an answer has flags for
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclasses.dataclass(frozen=True)
class CommandOptions:
    """The shared flags of one command line."""

    model: str | None = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    memory: str | None = None
    warmup: int = 0
    as_json: bool = False
    no_live: bool = False
    params: GenerationParams = GenerationParams()


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
    "warmup": Annotated[
        int,
        typer.Option(help="Prepare steps of up to so many requests at once before the first.", min=0, max=64),
    ],
    "as_json": Annotated[bool, typer.Option("--json", help="Print the whole result as one JSON object.")],
    "no_live": Annotated[bool, typer.Option("--no-live", help="Do not show the canvas settling.")],
}


_TYPES = get_type_hints(GenerationParams)


def param_options(groups: Collection[str], without: Collection[str] = ()) -> dict[str, Any]:
    """Name -> annotated option type, for every parameter of some groups that has a flag."""
    return {name: _option(name) for name in names_in(*groups) if PARAMS[name].flag and name not in without}


def _option(name: str) -> Any:
    param = PARAMS[name]
    flags = ("--" + name.replace("_", "-"), *param.aliases)
    return Annotated[_flag_type(name), typer.Option(*flags, help=param.summary, show_default=False)]


def _flag_type(name: str) -> Any:
    param = PARAMS[name]
    if param.repeated:
        return list[str] | None
    if param.range is not None:
        return param.range.kind | None
    if bool in get_args(_TYPES[name]):
        return bool | None
    return str | None


def _from_flag(name: str, value: Any) -> Any:
    if name == "eos_token_id":
        return _ids(value)
    return value


def with_options(
    without: Collection[str] = (), groups: Collection[str] = ("answer", "schedule")
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the shared flags and those of the parameters of some groups, `without` some.

    Its parameter `options: CommandOptions` becomes an option per flag.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        params = param_options(groups, without)
        shared = {name: kind for name, kind in _SHARED.items() if name not in without}
        defaults = {
            field.name: field.default for field in dataclasses.fields(CommandOptions) if field.name in shared
        }

        @functools.wraps(verb)
        def command(**given: Any) -> None:
            chosen = {}
            for name in params:
                value = given.pop(name)
                if value is not None and value != []:
                    chosen[name] = _from_flag(name, value)
            flags = {name: given.pop(name) for name in shared}
            verb(**given, options=CommandOptions(**flags, params=_params(chosen)))

        signature = inspect.signature(verb, eval_str=True)
        of_verb = [parameter for parameter in signature.parameters.values() if parameter.name != "options"]
        kind = inspect.Parameter.KEYWORD_ONLY
        more = [
            inspect.Parameter(name, kind, default=defaults.get(name), annotation=option)
            for name, option in (shared | params).items()
        ]
        parameters = [parameter.replace(kind=kind) for parameter in of_verb] + more
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del command.__wrapped__  # or the signature of `verb` would be found behind it
        return command

    return decorate


def _params(chosen: dict[str, Any]) -> GenerationParams:
    """The parameters of a command line. Raises UsageError that calls them by their flags."""
    try:
        return GenerationParams(**chosen)
    except UsageError as error:
        raise UsageError(as_flags(str(error))) from None


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
_OTHERS = ("max_queue", "max_prompt_tokens", "request_timeout", "drain_timeout")


@functools.cache
def _parameters() -> re.Pattern[str]:
    names = {name for name in (*PARAMS, *_OTHERS) if "_" in name}
    anywhere = "|".join(sorted(names, key=len, reverse=True))
    return re.compile(
        rf"(?<![\w./-])(?:{anywhere})(?![\w-])|^(?:{'|'.join(_PLAIN)})(?= (?:is|holds|has|must|') ?)"
    )


def as_flags(message: str) -> str:
    """A message of the package, with its parameters called as the command line calls them: max_tokens is
    --max-tokens here.
    """
    return _parameters().sub(lambda match: "--" + match[0].replace("_", "-"), message)


def _ids(text: str) -> tuple[int, ...] | None:
    if text.strip().lower() == "none":
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--eos-token-id is {shown(text)}; give token ids separated by commas, or 'none'"
        ) from None


def check(options: CommandOptions) -> DenoiseConfig:
    """Refuse what cannot be served, by the flags and the checkpoint's JSON alone.

    -> the settings that will hold.

    Raises UsageError for a flag out of its range, and what `locate` and the configs raise for the checkpoint.
    """
    if options.dtype is not None and options.dtype not in DTYPES:
        raise UsageError(f"--dtype '{options.dtype}' is not known; use {', '.join(DTYPES)}")
    check_device(options.device, options.memory)
    offer(options.model, options.revision)
    checkpoint = text_model(options.model, options.revision)
    config = checkpoint.config()
    denoise = options.params.schedule(checkpoint.denoise(config))
    named: tuple[int, ...] = ()
    if options.params.eos_token_id != "default":
        named = denoise.eos_token_id or ()
    for token in named:
        if token >= config.vocab_size:
            last = config.vocab_size - 1
            raise UsageError(f"--eos-token-id {token} is no token of this model; its ids end at {last}")
    width = denoise.canvas_width
    most = config.canvas_length
    if width is not None and width > most:
        raise UsageError(f"--canvas-width {width} exceeds the checkpoint's canvas_length {most}")
    return denoise


def check_device(device: str | None, memory: str | None = None) -> None:
    """Raise UsageError for anything but cpu and cuda (torch knows more names than this package runs on), and
    for what is no size.
    """
    if device is not None and not _DEVICE.fullmatch(device):
        raise UsageError(f"--device '{device}' is not known; use cpu, cuda, cuda:1 ...")
    if memory is not None:
        parse_bytes(memory, "--memory")


def text_model(name: str | None, revision: str | None = None) -> Source:
    """A model that can read text; without a tokenizer it is of use to the library only."""
    checkpoint = source(locate(name, revision))
    checkpoint.config()  # first: a folder without config.json is no checkpoint, whatever else it lacks
    if reason := checkpoint.why_no_text():
        raise ConfigError(f"{reason}; text cannot be read without it")
    return checkpoint


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
    """A prompt from its bytes.

    Raises UsageError for an empty, overlong or unreadable one, naming limit or offset.
    """
    text = None
    if len(data) <= 4 * MAX_PROMPT_CHARACTERS:
        text = _utf8(data, name)
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
    """What is piped in (or its next line), up to `most` bytes.

    Raises UsageError where stdin cannot be read.
    """
    if sys.stdin is None:
        return b""
    try:
        if line:
            return sys.stdin.buffer.readline(most)
        return sys.stdin.buffer.read(most)
    except OSError as error:
        raise UsageError(f"the text on stdin cannot be read: {error.strerror or error}") from None


def write_fault(path: Path, error: OSError) -> DgemmaError:
    """What to raise where a file cannot be written: a full disk is another matter than a wrong name."""
    if error.errno in FULL:
        return ResourceError(f"'{path}' cannot be written: {error.strerror}; make room and try again")
    return UsageError(f"'{path}' cannot be written: {error.strerror or error}")


def appendable(path: Path) -> Path:
    """A file that rows or lines can be appended to, asked before any work is done for it.

    Raises UsageError, ResourceError.
    """
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
