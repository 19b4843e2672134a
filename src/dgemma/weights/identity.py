"""What a checkpoint's files are, in a few figures: a digest of their content, their size, how many
parameters, in what format.

Trap: the digest reads samples of large files, so that 50 GB are no wait. It tells checkpoints apart that
were trained or quantised apart, and is the same for a copy; it proves nothing of a file's every byte (the
hub's hashes do).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from .gguf_config import FILE_TYPES
from .source import GgufSource, Source, source

WHOLE = 2**20  # bytes: files up to this size are read whole
EDGE = 2**16  # bytes at either end of a larger file; a header's shapes stand at the start
SAMPLES, SAMPLE = 64, 4096  # places between, and bytes at each


@dataclass(frozen=True)
class Identity:
    """A checkpoint, as its files say. Sizes in bytes."""

    digest: str  # 64 hexadecimal digits
    size: int  # of the files that hold the model and its text
    modified: float  # seconds since 1970, of the newest file
    parameters: int
    kind: str  # "safetensors" or "gguf"
    quantization: str  # the format of most bytes: "BF16", "Q4_K_M", "NVFP4" ...


def identify(place: Path) -> Identity:
    """The identity of the checkpoint at a place that `locate` returned.

    Raises CheckpointError, ConfigError, OSError.
    """
    checkpoint = source(place)
    layout = checkpoint.layout(checkpoint.config())
    beside = (
        ()
        if isinstance(checkpoint, GgufSource)
        else ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja")
    )
    files = [*layout.files, *(path for name in beside if (path := place / name).is_file())]
    digest = hashlib.sha256()
    for path in files:
        _add(digest, path)
    states = [path.stat() for path in files]
    return Identity(
        digest=digest.hexdigest(),
        size=sum(state.st_size for state in states),
        modified=max((state.st_mtime for state in states), default=0.0),
        parameters=sum(math.prod(stored.shape) for stored in layout.text.values()),
        kind="gguf" if isinstance(checkpoint, GgufSource) else "safetensors",
        quantization=_quantization(checkpoint, next(iter(layout.dtypes), "unknown")),
    )


def _add(digest: hashlib._Hash, path: Path) -> None:
    """Feed a file's size and bytes, or samples of them, to a hash."""
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
            return
        digest.update(file.read(EDGE))
        for number in range(SAMPLES):
            file.seek(EDGE + number * (size - 2 * EDGE - SAMPLE) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
        file.seek(size - EDGE)
        digest.update(file.read(EDGE))


def _quantization(checkpoint: Source, most: str) -> str:
    """The name of the file's own mix of formats, where it has one; else the format of most bytes."""
    if isinstance(checkpoint, GgufSource):
        file_type = checkpoint.file.metadata.get("general.file_type")
        if isinstance(file_type, int):
            return FILE_TYPES.get(file_type, most.upper())
        return most.upper()
    return most.upper()
