"""A checkpoint folder from tensors in the model's names, in the published layout, complete or not at all.

Everything goes into a folder beside the target, which gets its name once it is whole and on the disk; where
one is replaced, the two change names in one step, so that a process killed at any time leaves the old
checkpoint or the new one. What it leaves besides is removed by the next save. Knows nothing of training.
Trap: the folder that is replaced may hold files that are nobody's to delete (a NOTICE, a log): they stand
in the new one before it gets the name.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config import DenoiseConfig, ModelConfig
from ..errors import CheckpointError, NumericsError
from .disk import check_target, disk_errors, exchange, sync, sync_folder, write_json, write_text
from .layout import INDEX
from .names import expected_tensors
from .sums import SUMS, digest, write_sums

SHARD_BYTES = 5 * 10**9  # what the hub's own tools use
PARTIAL, OLD = "partial", "old"  # what a folder beside the target is called while it is written, or replaced


def save(
    folder: Path | str,
    config: ModelConfig,
    denoise: DenoiseConfig,
    state: Iterable[tuple[str, Tensor]],
    tokenizer_json: Path | str,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = SHARD_BYTES,
    replace: bool = False,
) -> Path:
    """Write config, generation config, tokenizer and weights; returns the folder.

    state: (model name, tensor of any float dtype and device), each name once; host memory holds one shard.
    tokenizer_json: the JSON text, or the path of a file that holds it. replace: swap an existing checkpoint
    for this one. Raises UsageError when the folder is in use, CheckpointError when state does not match
    config, NumericsError for NaN or infinite weights.
    """
    folder = Path(folder)
    with disk_errors(folder, "and export again"):
        _recover(folder)
        check_target(folder, replace)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = _beside(folder, PARTIAL, os.getpid())
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            write_json(
                partial / "config.json", config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
            )
            write_json(partial / "generation_config.json", denoise.to_dict())
            write_text(partial / "tokenizer.json", _tokenizer_text(tokenizer_json))
            _write_weights(partial, config, state, dtype, shard_bytes)
            write_sums(partial, {path.name: digest(path) for path in partial.iterdir()})
            _give_name(partial, folder)
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
    folder: Path,
    config: ModelConfig,
    state: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    shard_bytes: int,
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
            shard = {}
            size = 0
        shard[name] = tensor
        size = size + tensor.nbytes
        total = total + tensor.nbytes
    if left:
        raise CheckpointError(f"{folder}: tensor '{next(iter(left))}' was not given; not saved")
    shards.append(_write_shard(folder, len(shards), shard))
    _name_shards(folder, shards, total)


def _ready(model_name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"tensor '{model_name}' has the shape {list(tensor.shape)}, not {list(shape)}; not saved"
        )
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
    """Final names, known last since they hold the number of shards; an index where there are several."""
    if len(shards) == 1:
        (folder / "0.shard").rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"{number}.shard").rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    write_json(
        folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    )


def _give_name(partial: Path, folder: Path) -> None:
    """Put the new folder in the old one's place, with what the old one holds besides a checkpoint."""
    if not folder.exists():
        os.replace(partial, folder)
        sync_folder(folder.parent)
        return
    for path in folder.iterdir():
        if not (
            path.name in (INDEX, SUMS) or path.match("model*.safetensors") or (partial / path.name).exists()
        ):
            _copy(path, partial / path.name)
    sync_folder(partial)
    if exchange(partial, folder):
        sync_folder(folder.parent)
        return
    old = _beside(
        folder, OLD, os.getpid()
    )  # two steps, where the system has no one; _recover knows what lies between them
    os.replace(folder, old)
    os.replace(partial, folder)
    sync_folder(folder.parent)
    shutil.rmtree(old)


def _copy(path: Path, to: Path) -> None:
    """A second name for a file where the disk can give one, else a copy; of folders and links a copy."""
    if path.is_symlink() or not path.is_dir():
        try:
            os.link(path, to, follow_symlinks=False)
        except (OSError, NotImplementedError):
            shutil.copy2(path, to, follow_symlinks=False)
        return
    shutil.copytree(path, to, symlinks=True)


def _beside(folder: Path, kind: str, process: int) -> Path:
    return folder.parent / f".{folder.name}.{process}.{kind}"


def _recover(folder: Path) -> None:
    """Mend what killed saves left: a checkpoint without its name gets it back, everything else goes."""
    leftovers = [
        (kind, path)
        for kind in (OLD, PARTIAL)
        for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.{kind}")
    ]
    for kind, path in leftovers:
        process = path.name[len(folder.name) + 2 : -len(kind) - 1]
        if not process.isdigit() or _runs(int(process)):
            continue
        if kind == OLD and not folder.exists() and (path / "config.json").is_file():
            os.replace(path, folder)
            sync_folder(folder.parent)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether a process may still be at work."""
    if os.name != "posix" or process == os.getpid():  # on Windows asking would end it
        return process != os.getpid()
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True
