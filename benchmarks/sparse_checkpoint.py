"""Writes a checkpoint of full size that takes no disk: real headers, names, shapes and dtypes, data that is a hole.

First contact with the published models without their gigabytes: `dgemma doctor` reads the result and
`load(device="meta")` builds from it. Knows nothing of what the tensors mean. Trap: reading the data works and
gives zeros, which every finiteness check accepts; nothing that comes out of such a model means anything.

    python benchmarks/sparse_checkpoint.py FOLDER                    the published bf16 checkpoint in 11 shards
    python benchmarks/sparse_checkpoint.py FOLDER --layout nvfp4     the same model as one of the quantised repositories keeps it
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PUBLISHED = Path(__file__).resolve().parent.parent / "tests" / "data" / "published"
BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "U8": 1, "I32": 4, "I64": 8}
PLAIN = ("BF16", "F16", "F32", "F64")
SHARD_BYTES = 5 * 10**9
GROUP = 32  # inputs that share a scale in the int4 layouts
# ids of the real tokenizer; the bytes stand where ordinary tokens would
CONTROL = {
    "<pad>": 0, "<eos>": 1, "<bos>": 2, "<|tool>": 46, "<tool|>": 47, "<|tool_call>": 48, "<tool_call|>": 49,
    "<|tool_response>": 50, "<tool_response|>": 51, '<|"|>': 52, "<|think|>": 98, "<|channel>": 100, "<channel|>": 101,
    "<|turn>": 105, "<turn|>": 106, "<|image>": 255999, "<|image|>": 258880, "<image|>": 258882,
}  # fmt: skip

Row = (
    tuple[str, tuple[int, ...]] | tuple[str, tuple[int, ...], str]
)  # name, shape and, where it is no other's, dtype
Table = Sequence[Row]

# what may be in few bits: every projection of the layers, or the experts alone
LINEAR = re.compile(
    r"model\.decoder\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|experts\..*)"
)
EXPERTS = re.compile(r"model\.decoder\.layers\.\d+\.experts\..*")
LAYOUTS = {
    "fp8": LINEAR,
    "nvfp4": LINEAR,
    "modelopt": EXPERTS,
    "int4": EXPERTS,
    "gptq": EXPERTS,
    "awq": EXPERTS,
}


def read_table(path: Path = PUBLISHED / "tensors.tsv.gz") -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) per line of a tab-separated file, gzipped or not."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    rows = (line.split("\t") for line in text.splitlines())
    return [(name, tuple(json.loads(shape))) for name, shape in rows]


def quantised(table: Table, layout: str) -> list[Row]:
    """The table as a repository of that layout has it: experts apart, their matrices and others in fields."""
    rows: list[Row] = []
    for name, shape in table:
        if not LAYOUTS[layout].fullmatch(name.removesuffix(".weight")):
            rows.append((name, shape))
            continue
        for module, size in matrices(name, shape):
            rows += [
                (f"{module}.{leaf}", tuple(found), dtype) for leaf, dtype, found in fields(layout, *size)
            ]
    return rows


def matrices(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, int]]]:
    """A projection by itself, or gate, up and down of each expert."""
    if len(shape) == 2:
        yield name.removesuffix(".weight"), shape
        return
    count, rows, inputs = shape
    stem, _, leaf = name.rpartition(".")
    for expert in range(count):
        if leaf == "gate_up_proj":
            yield f"{stem}.{expert}.gate_proj", (rows // 2, inputs)
            yield f"{stem}.{expert}.up_proj", (rows // 2, inputs)
        else:
            yield f"{stem}.{expert}.down_proj", (rows, inputs)


def fields(layout: str, rows: int, inputs: int) -> list[tuple[str, str, list[int]]]:
    """(name, dtype, shape) of what a layout keeps of a matrix."""
    groups = inputs // GROUP
    if layout == "fp8":
        return [("weight", "F8_E4M3", [rows, inputs]), ("weight_scale", "BF16", [rows, 1])]
    if layout in ("nvfp4", "modelopt"):
        theirs = layout == "modelopt"
        one: list[int] = [] if theirs else [1]
        return [
            ("weight" if theirs else "weight_packed", "U8", [rows, inputs // 2]),
            ("weight_scale", "F8_E4M3", [rows, inputs // 16]),
            ("weight_scale_2" if theirs else "weight_global_scale", "F32", one),
            ("input_scale" if theirs else "input_global_scale", "F32", one),
        ]
    if layout == "int4":
        packed = ("weight_packed", "I32", [rows, inputs // 8])
        return [packed, ("weight_scale", "BF16", [rows, groups]), ("weight_shape", "I64", [2])]
    scales = ("scales", "F16", [groups, rows])
    zeros = ("qzeros", "I32", [groups, rows // 8])
    if layout == "gptq":
        return [("qweight", "I32", [inputs // 8, rows]), zeros, scales, ("g_idx", "I32", [inputs])]
    return [("qweight", "I32", [inputs, rows // 8]), zeros, scales]


def description(layout: str) -> dict[str, Any]:
    """The quantization_config of a layout's repository."""
    if layout == "gptq":
        how = {"bits": 4, "group_size": GROUP, "sym": False, "desc_act": False}
        return how | {"quant_method": "gptq", "checkpoint_format": "gptq"}
    if layout == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
    four = {"num_bits": 4, "type": "float", "group_size": 16, "dynamic": False}
    if layout == "modelopt":
        group = {"targets": ["Linear"], "weights": four, "input_activations": four}
        ignore = ["lm_head", "*self_attn*", "*mlp*", "*router*", "*self_conditioning*", "*vision*"]
        return {
            "quant_method": "modelopt",
            "quant_algo": "NVFP4",
            "config_groups": {"group_0": group},
            "ignore": ignore,
        }
    eight = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
    whole = four | {"strategy": "tensor_group", "symmetric": True}
    name, weights, activations = {
        "fp8": ("float-quantized", eight, eight | {"strategy": "token", "dynamic": True}),
        "nvfp4": ("nvfp4-pack-quantized", whole, whole | {"dynamic": "local"}),
        "int4": ("pack-quantized", whole | {"type": "int", "strategy": "group", "group_size": GROUP}, None),
    }[layout]
    targets = ["re:.*experts.*"] if layout == "int4" else ["Linear"]
    group = {
        "targets": targets,
        "weights": weights,
        "input_activations": activations,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors", "format": name, "quantization_status": "compressed", "kv_cache_scheme": None,
        "config_groups": {"group_0": group}, "ignore": ["lm_head", "re:.*router.*", "re:.*self_conditioning.*", "re:.*vision.*"],
    }  # fmt: skip


def nbytes(row: Row, dtype: str) -> int:
    return math.prod(row[1]) * BYTES[row[2] if len(row) > 2 else dtype]


def write_shard(path: Path, table: Table, dtype: str = "BF16") -> None:
    """One safetensors file whose data is a hole of the right length."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for row in table:
        end = position + nbytes(row, dtype)
        own = row[2] if len(row) > 2 else dtype
        header[row[0]] = {"dtype": own, "shape": list(row[1]), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data starts at a multiple of 8, as in files of the library
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)


def split(table: Table, shards: int, dtype: str = "BF16") -> list[Table]:
    """The table in `shards` runs of about equal bytes; a tensor is never divided."""
    sizes = [nbytes(row, dtype) for row in table]
    limit, parts, part, done = sum(sizes) / shards, [], [], 0
    for row, size in zip(table, sizes, strict=True):
        if part and done + size / 2 > limit * (len(parts) + 1) and len(parts) < shards - 1:
            parts.append(part)
            part = []
        part.append(row)
        done += size
    return [*parts, part]


def write(
    folder: Path,
    table: Table | None = None,
    shards: int | None = None,
    dtype: str = "BF16",
    layout: str | None = None,
) -> Path:
    """A whole checkpoint folder: shards, index, the published configs and a stand-in tokenizer. Returns the folder.

    shards: default of at most 5 GB. layout: one of LAYOUTS, or None for plain tensors of `dtype`.
    """
    folder, table = Path(folder), read_table() if table is None else table
    table = table if layout is None else quantised(table, layout)
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(nbytes(row, dtype) for row in table)
    parts, weight_map = split(table, shards or -(-total // SHARD_BYTES), dtype), {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        write_shard(folder / file, part, dtype)
        weight_map |= dict.fromkeys((row[0] for row in part), file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    for name in ("config.json", "generation_config.json"):
        raw = json.loads((PUBLISHED / name).read_text())
        if layout is not None and name == "config.json":
            raw["quantization_config"] = description(layout)
        (folder / name).write_text(json.dumps(raw, indent=2))
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
    parser.add_argument("--shards", type=int, help="default: of at most 5 GB")
    parser.add_argument("--dtype", choices=PLAIN, default="BF16")
    parser.add_argument("--layout", choices=LAYOUTS, help="of a quantised repository")
    arguments = parser.parse_args()
    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        parser.error(f"{arguments.folder} is not empty")
    folder = write(arguments.folder, shards=arguments.shards, dtype=arguments.dtype, layout=arguments.layout)
    files = list(folder.iterdir())
    said, used = sum(f.stat().st_size for f in files), sum(f.stat().st_blocks * 512 for f in files)
    print(f"{folder}: {said / 1e9:.2f} GB by name, {used / 1e6:.2f} MB on the disk")


if __name__ == "__main__":
    main()
