"""Writes a checkpoint of full size that takes no disk: real headers, names, shapes and dtypes, data that is a hole.

First contact with the published model without its 51.6 GB: `dgemma doctor` reads the result and
`load(device="meta")` builds from it. Knows nothing of what the tensors mean. Trap: reading the data works and
gives zeros, which every finiteness check accepts; nothing that comes out of such a model means anything.

    python benchmarks/sparse_checkpoint.py FOLDER        the published bf16 checkpoint in 11 shards
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PUBLISHED = Path(__file__).resolve().parent.parent / "tests" / "data" / "published"
BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
SHARDS = 11
# ids of the real tokenizer; the bytes stand where ordinary tokens would
CONTROL = {
    "<pad>": 0, "<eos>": 1, "<bos>": 2, "<|tool>": 46, "<tool|>": 47, "<|tool_call>": 48, "<tool_call|>": 49,
    "<|tool_response>": 50, "<tool_response|>": 51, '<|"|>': 52, "<|think|>": 98, "<|channel>": 100, "<channel|>": 101,
    "<|turn>": 105, "<turn|>": 106, "<|image>": 255999, "<|image|>": 258880, "<image|>": 258882,
}  # fmt: skip

Table = Sequence[tuple[str, tuple[int, ...]]]


def read_table(path: Path = PUBLISHED / "tensors.tsv.gz") -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) per line of a tab-separated file, gzipped or not."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    rows = (line.split("\t") for line in text.splitlines())
    return [(name, tuple(json.loads(shape))) for name, shape in rows]


def write_shard(path: Path, table: Table, dtype: str = "BF16") -> None:
    """One safetensors file whose data is a hole of the right length."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in table:
        end = position + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data starts at a multiple of 8, as in files of the library
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)


def split(table: Table, shards: int, dtype: str = "BF16") -> list[Table]:
    """The table in `shards` runs of about equal bytes; a tensor is never divided."""
    sizes = [math.prod(shape) * BYTES[dtype] for _, shape in table]
    limit, parts, part, done = sum(sizes) / shards, [], [], 0
    for row, size in zip(table, sizes, strict=True):
        if part and done + size / 2 > limit * (len(parts) + 1) and len(parts) < shards - 1:
            parts.append(part)
            part = []
        part.append(row)
        done += size
    return [*parts, part]


def write(folder: Path, table: Table | None = None, shards: int = SHARDS, dtype: str = "BF16") -> Path:
    """A whole checkpoint folder: shards, index, the published configs and a stand-in tokenizer. Returns the folder."""
    folder, table = Path(folder), read_table() if table is None else table
    folder.mkdir(parents=True, exist_ok=True)
    parts, weight_map = split(table, shards, dtype), {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        write_shard(folder / file, part, dtype)
        weight_map |= {name: file for name, _ in part}
    total = sum(math.prod(shape) for _, shape in table) * BYTES[dtype]
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(PUBLISHED / name, folder / name)
    stand_in_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def stand_in_tokenizer(control: dict[str, int] = CONTROL, first_byte: int = 300) -> Tokenizer:
    """Control tokens at their ids and the 256 bytes after `first_byte`. Not the real vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = control | {letter: first_byte + number for number, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in control])
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the published checkpoint's files without their data.")
    parser.add_argument("folder", type=Path, help="a new or empty folder")
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--dtype", choices=sorted(BYTES), default="BF16")
    arguments = parser.parse_args()
    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        parser.error(f"{arguments.folder} is not empty")
    folder = write(arguments.folder, shards=arguments.shards, dtype=arguments.dtype)
    files = list(folder.iterdir())
    said, used = sum(f.stat().st_size for f in files), sum(f.stat().st_blocks * 512 for f in files)
    print(f"{folder}: {said / 1e9:.2f} GB by name, {used / 1e6:.2f} MB on the disk")


if __name__ == "__main__":
    main()
