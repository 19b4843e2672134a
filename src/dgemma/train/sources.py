"""Where examples come from: the small world (world/), or a user's own files.

A file that ends in .jsonl holds one conversation a line, `{"messages": [...], "tools": [...]}` in the shape
that chat takes, or one `{"text": ...}`; any other file is a text. Refuses to know batches.

Trap: an example is drawn by its number, not by a reader that moves on, so that a run can go on at any step.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..text.tokenizer import Tokenizer
from .samples import Sample, conversation, document
from .world import World


@dataclass(frozen=True)
class Files:
    """Examples of a user's files, each read once; a long text gives any stretch of it."""

    samples: list[Sample]
    longest: int  # tokens of a stretch
    fingerprint: str
    converses: bool  # whether there are conversations among them

    @classmethod
    def read(cls, paths: Sequence[Path], tokenizer: Tokenizer, longest: int) -> Files:
        """Read and encode. Raises UsageError that names the file, and the line where there is one."""
        read = list(records(paths))
        samples = [encode(record, tokenizer, where) for where, record in read]
        if not samples:
            raise UsageError("the training files hold no text and no conversation")
        checksum = 0
        for sample in samples:
            checksum = zlib.crc32(repr(sample.ids).encode(), checksum)
        converses = any("messages" in record for _, record in read)
        return cls(samples, longest, f"{checksum:08x}", converses)

    def sample(self, seed: int, number: int) -> Sample:
        rng = random.Random(f"{seed}/{number}")
        weights = [max(1, len(sample.ids) // self.longest) for sample in self.samples]
        sample = rng.choices(self.samples, weights)[0]
        if not sample.gaps or len(sample.ids) <= self.longest:
            return sample
        start = rng.randrange(1, len(sample.ids) - self.longest + 2)
        ids = [sample.ids[0], *sample.ids[start : start + self.longest - 1]]
        return Sample(ids, [(1, len(ids))], gaps=True)


class SmallWorld:
    """Examples of the world's train side, without end."""

    converses = True

    def __init__(self, seed: int, tokenizer: Tokenizer):
        self.world = World(seed)
        self.tokenizer = tokenizer
        self.fingerprint = f"world {seed}"

    def sample(self, seed: int, number: int) -> Sample:
        example = self.world.sample(seed * 1_000_000_000 + number)
        if example.messages:
            return conversation(example.messages, example.tools or None, self.tokenizer)
        return document(example.text, self.tokenizer, example.gap)


def records(paths: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the files hold, one by one, each with the place it stands at, for errors."""
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: the training file is not readable ({error})") from None
        if path.suffix != ".jsonl":
            yield str(path), {"text": text}
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}, line {number}", _record(line, f"{path}, line {number}")


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: this is not JSON ({error})") from None
    if not isinstance(record, dict) or not ("messages" in record or isinstance(record.get("text"), str)):
        raise UsageError(f'{where}: give {{"messages": [...]}} or {{"text": "..."}}')
    return record


def encode(record: dict[str, Any], tokenizer: Tokenizer, where: str) -> Sample:
    """One record as an example. Raises UsageError that begins with `where`."""
    try:
        if "messages" in record:
            return conversation(record["messages"], record.get("tools"), tokenizer)
        return document(record["text"], tokenizer)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def texts_of(record: dict[str, Any]) -> Iterator[str]:
    """The plain texts of a record, from which a vocabulary is learned."""
    if "text" in record:
        yield record["text"]
    for message in record.get("messages", ()):
        if isinstance(message, dict) and isinstance(content := message.get("content"), str):
            yield content
