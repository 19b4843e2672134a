"""A checkpoint folder from tensors in the model's names, in the published layout, complete or not at all.

Everything goes into a folder beside the target and is renamed once it is whole and on the disk, so that a killed
process leaves the old checkpoint or the new one. Knows nothing of training. Trap: the folder that is replaced may
hold files that are nobody's to delete (a NOTICE, a log): they move over to the new one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config import DenoiseConfig, ModelConfig
from ..errors import CheckpointError, NumericsError
from .disk import check_target, sync, write_json, write_text
from .layout import INDEX
from .names import expected_tensors

SHARD_BYTES = 5 * 10**9  # what the hub's own tools use


def save(
    folder: Path | str, config: ModelConfig, denoise: DenoiseConfig, state: Iterable[tuple[str, Tensor]],
    tokenizer_json: Path | str, dtype: torch.dtype = torch.bfloat16, shard_bytes: int = SHARD_BYTES,
    replace: bool = False,
) -> Path:  # fmt: skip
    """Write config, generation config, tokenizer and weights; returns the folder.

    state: (model name, tensor of any float dtype and device), each name once; host memory holds one shard.
    tokenizer_json: the JSON text, or the path of a file that holds it. replace: swap an existing checkpoint for
    this one. Raises UsageError when the folder is in use, CheckpointError when state does not match config,
    NumericsError for NaN or infinite weights.
    """
    folder = Path(folder)
    check_target(folder, replace)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write_json(partial / "config.json", config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")})
        write_json(partial / "generation_config.json", denoise.to_dict())
        write_text(partial / "tokenizer.json", _tokenizer_text(tokenizer_json))
        _write_weights(partial, config, state, dtype, shard_bytes)
        _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _tokenizer_text(source: Path | str) -> str:
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return source
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{source}: the tokenizer is not readable ({error})") from None


def _write_weights(
    folder: Path, config: ModelConfig, state: Iterable[tuple[str, Tensor]], dtype: torch.dtype, shard_bytes: int
) -> None:
    left = {target.model_name: (name, target.shape) for name, target in expected_tensors(config).items()}
    shards: list[list[str]] = []
    shard: dict[str, Tensor] = {}
    total = size = 0
    for model_name, tensor in state:
        if model_name not in left:
            raise CheckpointError(f"{folder}: tensor '{model_name}' is unknown or was given twice; not saved")
        name, shape = left.pop(model_name)
        tensor = _ready(model_name, tensor, shape, dtype)
        if shard and size + tensor.nbytes > shard_bytes:
            shards.append(_write_shard(folder, len(shards), shard))
            shard, size = {}, 0
        shard[name] = tensor
        size, total = size + tensor.nbytes, total + tensor.nbytes
    if left:
        raise CheckpointError(f"{folder}: tensor '{next(iter(left))}' was not given; not saved")
    shards.append(_write_shard(folder, len(shards), shard))
    _name_shards(folder, shards, total)


def _ready(model_name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if tuple(tensor.shape) != shape:
        raise CheckpointError(f"tensor '{model_name}' has the shape {list(tensor.shape)}, not {list(shape)}; not saved")
    # clone: the writer refuses tensors that share memory, and later steps of training must not reach this one
    tensor = tensor.detach().to(device="cpu", dtype=dtype).clone(memory_format=torch.contiguous_format)
    low, high = torch.aminmax(tensor)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise NumericsError(f"tensor '{model_name}' holds NaN or infinite values as {dtype}; not saved")
    return tensor


def _write_shard(folder: Path, number: int, shard: dict[str, Tensor]) -> list[str]:
    path = folder / f"{number}.shard"
    save_file(shard, path, metadata={"format": "pt"})
    path.chmod(0o644)
    sync(path)
    return list(shard)


def _name_shards(folder: Path, shards: list[list[str]], total: int) -> None:
    """Final names, which hold the number of shards and so are known last; an index where there are several."""
    if len(shards) == 1:
        (folder / "0.shard").rename(folder / "model.safetensors")
        return
    weight_map = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"{number}.shard").rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _swap(partial: Path, folder: Path) -> None:
    """Put the new folder in the old one's place; what the old one held besides a checkpoint moves over."""
    old = folder.parent / f".{folder.name}.{os.getpid()}.old"
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    if not old.exists():
        return
    for path in old.iterdir():
        ours = path.name == INDEX or path.match("model*.safetensors") or (folder / path.name).exists()
        if not ours:
            path.rename(folder / path.name)
    shutil.rmtree(old)
