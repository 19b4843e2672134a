"""What a checkpoint folder holds and what is wrong with it, from the headers alone.

`inspect` is the gate before anything large is allocated: it raises the first problem. `read_layout` never
raises for a fault of the files and lists them all, for `doctor`. Does not read tensor data and never loads
torch.

Trap: the files of a Hugging Face cache snapshot are symlinks to `../../blobs`, so "inside the folder" is
asked of where a name leads, with that cache's own blob folders allowed; any other link out of the folder is
refused.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..config import ModelConfig, read_json
from ..config.formats import Format
from ..errors import CheckpointError, ConfigError
from .headers import HEADER_LIMIT, TensorInfo, read_header
from .names import classify
from .quantization import read_quantization
from .schemes import Quantization
from .stored import Match, Stored, match

__all__ = ["INDEX", "Layout", "Stored", "inspect", "problems", "read_layout"]

SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"
SHARD = re.compile(r"model-([0-9]{5})-of-([0-9]{5})\.safetensors")
_FEW_LAYERS = 200  # as many are looked for by name, however few tensors there are
_FOREIGN = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Layout:
    """A folder's tensors.

    `text` maps model names to what makes them and is complete only where `problems` is empty.
    """

    folder: Path
    config: ModelConfig | None
    files: tuple[Path, ...]
    tensors: dict[str, TensorInfo] = field(repr=False)
    text: dict[str, Stored] = field(repr=False)
    vision: tuple[TensorInfo, ...] = field(repr=False)
    problems: tuple[str, ...] = ()
    quantization: Quantization | None = None
    said: tuple[str, ...] = ()  # about files and quantisation: what is worth saying and no fault
    copies: tuple[
        tuple[TensorInfo, TensorInfo], ...
    ] = ()  # a second copy of a tied tensor, and the first; see copies.py

    @property
    def known_config(self) -> ModelConfig:
        """What the tensors were checked against. Raises ValueError where that was nothing."""
        if self.config is None:
            raise ValueError(f"{self.folder}: its tensors were not checked against a model's config")
        return self.config

    @property
    def total_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def text_bytes(self) -> int:
        return sum(stored.nbytes for stored in self.text.values())

    @property
    def vision_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.vision)

    @property
    def dtypes(self) -> dict[str, int]:
        """How many bytes stand in each dtype or, where matrices are in few bits, number format; the
        largest share first.
        """
        shares: Counter[str] = Counter()
        for tensor in self.tensors.values():
            shares[tensor.dtype] += tensor.nbytes
        for stored in self.text.values():
            if stored.format is not None:
                shares[stored.format.name] += stored.nbytes
                for info in (info for fields in stored.matrices for info in fields.values()):
                    shares[info.dtype] -= info.nbytes
        return {name: share for name, share in shares.most_common() if share}

    @property
    def formats(self) -> dict[str, Format]:
        """The formats of what is in few bits, by model name; what stands there in 16 bits or more is
        left out.
        """
        return {name: stored.format for name, stored in self.text.items() if stored.format is not None}

    def notes(self) -> list[str]:
        """What is worth saying and no fault: vision tensors are there and not used."""
        if not self.vision:
            return list(self.said)
        size = f"{self.vision_bytes / 1e9:.2f} GB"
        return [
            (
                f"{len(self.vision)} vision tensors ({size}) recognised, not used yet: "
                "this build reads text only"
            ),
            *self.said,
        ]


def inspect(folder: Path, config: ModelConfig) -> Layout:
    """The layout of a faultless checkpoint.

    Raises CheckpointError with the first problem (names file and tensor).
    """
    return faultless(read_layout(folder, config))


def faultless(layout: Layout) -> Layout:
    """The same layout. Raises CheckpointError with its first problem."""
    if layout.problems:
        more = len(layout.problems) - 1
        hint = ""
        if more:
            hint = f" (and {more} more: `dgemma doctor {layout.folder}`)"
        raise CheckpointError(layout.problems[0] + hint)
    return layout


def problems(folder: Path, config: ModelConfig) -> list[str]:
    """Everything that is wrong with a checkpoint's weight files, one line each; empty when it can be
    loaded.
    """
    return list(read_layout(folder, config).problems)


def read_layout(folder: Path, config: ModelConfig | None) -> Layout:
    """Headers of all shards of `folder`, checked against its index and, where given, against `config`."""
    folder = Path(folder)
    errors: list[str] = []
    if not folder.is_dir():
        return Layout(folder, config, (), {}, {}, (), (f"{folder}: no such folder",))
    said: list[str] = []
    files, weight_map = _shards(folder, errors, said)
    tensors: dict[str, TensorInfo] = {}
    unread = False
    for path in files:
        try:
            listed, faults = read_header(path)
        except CheckpointError as error:
            errors.append(str(error))
            unread = True
            continue
        errors += faults
        for tensor in listed:
            if tensor.name in tensors:
                errors.append(
                    f"{path}: tensor '{tensor.name}' stands in {tensors[tensor.name].file.name} too"
                )
            else:
                tensors[tensor.name] = tensor
    indexed = _check_index(folder, weight_map, tensors, files, errors)
    vision = tuple(tensor for tensor in tensors.values() if classify(tensor.name) == "vision")
    quantization = None
    matched = Match()
    if config is not None and len(config.layers) > len(tensors) + _FEW_LAYERS:
        errors.append(
            f"{folder}: config.json describes {len(config.layers)} layers, "
            f"and there are {len(tensors)} tensors for them"
        )
    elif config is not None and files:
        try:
            quantization = read_quantization(folder)
            # with a shard unread, "missing" would repeat its one fault for each of its tensors
            matched = match(folder, tensors, config, quantization, None if unread else indexed)
        except ConfigError as error:
            errors.append(str(error))
    errors += matched.problems
    return Layout(
        folder,
        config,
        tuple(files),
        tensors,
        matched.text,
        vision,
        tuple(errors),
        quantization,
        (*said, *matched.notes),
        tuple(matched.copies),
    )


def _shards(folder: Path, errors: list[str], said: list[str]) -> tuple[list[Path], dict[str, str] | None]:
    """The weight files to read, sorted, and the index's tensor-to-file map where there is an index."""
    on_disk = sorted(folder.glob("model*.safetensors"))
    has_index = (folder / INDEX).exists() or (folder / INDEX).is_symlink()
    weight_map = None
    if has_index:
        weight_map = _read_index(folder, errors)
    shards = [path for path in on_disk if SHARD.fullmatch(path.name)]
    if folder / SINGLE in on_disk and shards and SINGLE not in (weight_map or {}).values():
        # a folder that was saved twice: every other reader takes the single file
        said.append(
            f"{SINGLE} is read; the {len(shards)} numbered weight files beside it are not "
            "(a folder that was saved twice?)"
        )
        on_disk = [path for path in on_disk if path == folder / SINGLE or not (has_index or path in shards)]
        weight_map = None
        errors.clear()  # of what is wrong with an index that is not read
    files = []
    for path in on_disk:
        if not _stays_inside(path, folder):
            errors.append(f"{path}: a link to a file outside the checkpoint folder is not followed")
        elif weight_map is not None and path.name not in weight_map.values():
            errors.append(f"{path}: on disk, but {INDEX} does not name it; remove it or mend the index")
        else:
            files.append(path)
    if weight_map is None:
        _check_numbering(folder, on_disk, errors)
    if not on_disk and not errors:
        others = sorted(path.name for pattern in _FOREIGN for path in folder.glob(pattern))
        hint = ""
        if others:
            hint = f"; {others[0]} is a format this build does not read"
        errors.append(f"{folder}: no model*.safetensors in it{hint}")
    return files, weight_map


def _read_index(folder: Path, errors: list[str]) -> dict[str, str] | None:
    path = folder / INDEX
    if not _stays_inside(path, folder):
        errors.append(f"{path}: a link to a file outside the checkpoint folder is not followed")
        return None
    try:
        if path.exists() and path.stat().st_size > HEADER_LIMIT:  # that it is missing is said by read_json
            raise CheckpointError(f"{path}: larger than {HEADER_LIMIT} bytes; not read")
        raw = read_json(path).get("weight_map")
        if not isinstance(raw, dict) or not raw or not all(isinstance(file, str) for file in raw.values()):
            raise CheckpointError(f"{path}: 'weight_map' must map tensor names to file names")
        if strange := sorted(name for name in raw if not name.isprintable()):
            raise CheckpointError(f"{path}: the tensor name {strange[0]!r} holds control characters")
    except (CheckpointError, ValueError) as error:  # ValueError: a number of more digits than Python converts
        errors.append(
            str(error) if isinstance(error, CheckpointError) else f"{path}: not readable as JSON ({error})"
        )
        return None
    for file in sorted(set(raw.values())):
        tensor = min(name for name, named in raw.items() if named == file)
        if not re.fullmatch(r"model[A-Za-z0-9._-]*\.safetensors", file):
            errors.append(
                f"{path}: tensor '{tensor}' is put into {file!r}, which is no file name of this folder"
            )
        elif not _exists(folder / file):
            errors.append(f"{folder / file}: the shard is missing; {INDEX} puts tensor '{tensor}' there")
    return raw


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than a file's can be
        return False


def _stays_inside(path: Path, folder: Path) -> bool:
    """Whether `path` leads to a file of the folder or, for a hub cache snapshot, to one of that cache's
    blobs.
    """
    try:
        target = path.resolve(strict=False)
        home = folder.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return False
    roots = [home]
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        # the repository's blobs, or the store that newer hub clients share between repositories
        roots += [home.parents[1] / "blobs", home.parents[2] / "blobs"]
    return any(target.is_relative_to(root) for root in roots)


def _check_numbering(folder: Path, files: list[Path], errors: list[str]) -> None:
    """Without an index the names alone say how many shards there are."""
    numbered = [match for path in files if (match := SHARD.fullmatch(path.name))]
    for total in sorted({match[2] for match in numbered}):
        have = {int(match[1]) for match in numbered if match[2] == total}
        for number in range(1, min(int(total), 10_000) + 1):
            if number not in have:
                errors.append(f"{folder / f'model-{number:05}-of-{total}.safetensors'}: the shard is missing")


def _check_index(
    folder: Path,
    weight_map: dict[str, str] | None,
    tensors: dict[str, TensorInfo],
    files: list[Path],
    errors: list[str],
) -> set[str]:
    """Index against headers; returns the names it complained about, so that nobody complains twice."""
    if weight_map is None:
        return set()
    path = folder / INDEX
    read = {tensor.file for tensor in tensors.values()}
    reported = set()
    readable = {file.name for file in files if file in read}
    for name, file in sorted(weight_map.items()):
        tensor = tensors.get(name)
        if tensor is None:
            reported.add(name)
            if file in readable:
                errors.append(f"{folder / file}: tensor '{name}' is missing; {INDEX} puts it there")
        elif tensor.file.name != file:
            errors.append(
                f"{path}: tensor '{name}' is said to stand in {file}, but stands in {tensor.file.name}"
            )
    for name in sorted(set(tensors) - set(weight_map)):
        errors.append(f"{tensors[name].file}: tensor '{name}' is not in {INDEX}")
    return reported
