"""A process of its own in which forms are compiled first: `python child.py`, which compiler.py starts.

Reads messages from its input and answers each on its output. The first brings the vocabulary; each other one
is a form, which is compiled, and its first mask computed. Whatever takes too long or too much memory ends
this process, and nothing else.

Trap: it imports nothing of the package, which would load torch. On Windows there is no limit but the parent's
clock.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from typing import IO, Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # a module else

MOST_MEMORY = 1 << 30  # bytes beyond what the vocabulary takes


def read_message(stream: IO[bytes]) -> Any:
    """The next message; None at the end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return json.loads(stream.read(struct.unpack("<I", head)[0]))


def write_message(stream: IO[bytes], message: Any) -> None:
    data = json.dumps(message).encode()
    stream.write(struct.pack("<I", len(data)) + data)
    stream.flush()


class Vocabulary:
    """A tokenizer as llguidance wants it.

    It encodes byte by byte, which is enough to see what a form costs.
    """

    def __init__(self, pieces: list[bytes], special: list[int], eos: int, bos: int | None):
        self.tokens = pieces
        self.special_token_ids = special
        self.eos_token_id = eos
        self.bos_token_id = bos
        self._bytes = {piece[0]: token for token, piece in enumerate(pieces) if len(piece) == 1}

    def __call__(self, text: str | bytes) -> list[int]:
        data = text
        if isinstance(text, str):
            data = text.encode()
        return [self._bytes[byte] for byte in data if byte in self._bytes]


def limit_memory() -> None:
    if resource is None:
        return
    try:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        most = pages * resource.getpagesize() + MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (OSError, ValueError):
        pass  # no such limit here


def limit_time(seconds: int) -> None:
    """Of the processor, from now on: the system ends the process behind it."""
    if resource is None:
        return
    try:
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime) + 1 + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    except (OSError, ValueError):
        pass


def seconds_used() -> float:
    return time.process_time()


def compiled(library: Any, vocabulary: Any, request: dict[str, Any]) -> dict[str, Any]:
    """What compiling a form says.

    `error` is empty where the form can be kept; `source` is new where a text was translated.
    """
    before = seconds_used()
    source = request["source"]
    error = ""
    warnings: list[str] = []
    if request.get("translate"):
        from llguidance.gbnf_to_lark import any_to_lark

        try:
            source = library.LLMatcher.grammar_from_lark(any_to_lark(source))
        except Exception as fault:  # it raises whatever its reader meets
            error = str(fault)
            return {"error": error, "warnings": [], "source": source, "seconds": seconds_used() - before}
    limits = library._lib.LLParserLimits(**request["limits"])
    is_broken, messages = library.LLMatcher.validate_grammar_with_warnings(source, limits=limits)
    if is_broken:
        error = ""
        if messages:
            error = messages[0]
    else:
        warnings = list(messages)
        matcher = library.LLMatcher(vocabulary, source, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()
        error = matcher.get_error()
    return {"error": error, "warnings": warnings, "source": source, "seconds": seconds_used() - before}


def main() -> None:
    stream = sys.stdin.buffer
    out = sys.stdout.buffer
    first = read_message(stream)
    if first is None:
        return
    sys.path[:] = first["path"]
    if hasattr(os, "nice"):
        os.nice(5)
    import llguidance as library

    pieces = [piece.encode("latin-1") for piece in first["pieces"]]
    made = Vocabulary(pieces, first["special"], first["eos"], first["bos"])
    vocabulary = library.LLTokenizer(library.TokenizerWrapper(made), n_vocab=len(pieces))
    limit_memory()
    write_message(out, {"ready": True})
    while (request := read_message(stream)) is not None:
        limit_time(request["seconds"])
        try:
            answer = compiled(library, vocabulary, request)
        except MemoryError:
            answer = {"error": "memory", "warnings": [], "source": "", "seconds": 0.0}
        write_message(out, answer)


if __name__ == "__main__":
    main()
