"""A 16-bit checkpoint folder into one in few bits, in compressed-tensors' layouts, shard by shard.

Everything is planned from headers: which tensors are read together, what they become, which shard it goes
to. Host memory holds a piece at a time: an expert's matrix, rows of a larger one beside its codes (0.74 GB
for the published embedding in eight bits). Work stands in `.NAME.partial` beside the target, with a
manifest of the source, the options and the shards that are whole; the same call goes on behind them, and
the target appears when nothing is missing. Knows no text and no model; which inputs matter is handed in.
Trap: gate and up of an expert share NVFP4's scale of a matrix, so they are read and encoded as one.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..config import read_json
from ..config.formats import Format
from ..config.sizes import Progress
from ..errors import CheckpointError
from ..kernels.dtypes import wide
from ..kernels.quant.formats import QuantTensor, empty
from ..weights.copies import check_copies
from ..weights.disk import CHUNK, check_target, sync, sync_folder, write_json
from ..weights.headers import BITS, TensorInfo
from ..weights.layout import INDEX, Layout
from ..weights.names import expected_tensors, modules
from ..weights.reader import Files, finite
from ..weights.shards import ShardFile
from ..weights.sums import digest, write_sums
from .partial import Partial, partial_folder
from .quant_config import check, describe, readable
from .scales import search_scales

SHARD_BYTES = 10**9  # a kill costs at most one shard's work
PIECE = 1 << 20  # weights of a matrix that are encoded at a time, where rows do not share anything
CARRIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "LICENSE*",
    "NOTICE*",
)

Spec = dict[str, tuple[str, tuple[int, ...]]]  # name -> (safetensors' dtype, shape)


@dataclass(frozen=True)
class Job:
    """What is read together and what it becomes: one tensor as it stands, or one matrix (gate and up of an
    expert are one).
    """

    tensor: str  # the model's name; "" for what this build does not read
    group: str
    rows: tuple[TensorInfo, ...]  # tensors, or parts of one, that stand one under the other
    format: Format | None = None
    modules: tuple[str, ...] = ()  # which the rows are dealt out to, in equal shares
    expert: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        first = self.rows[0].shape
        if self.format:
            return (sum(info.shape[0] for info in self.rows), *first[1:])
        return first

    @property
    def outputs(self) -> Spec:
        if self.format is None:
            return {info.name: (info.dtype, info.shape) for info in self.rows}
        rows, inputs = self.shape
        specs = _specs(self.format, rows // len(self.modules), inputs)
        return {f"{module}.{field}": spec for module in self.modules for field, spec in specs.items()}

    @property
    def before(self) -> int:
        return sum(info.nbytes for info in self.rows)


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk of a group of tensors."""

    before: int
    after: int


@dataclass(frozen=True)
class Converted:
    """What became of a folder. errors: model name -> root of the summed squared differences over that of the
    squares.
    """

    folder: Path
    sizes: dict[str, Sizes]
    errors: dict[str, float]
    groups: dict[str, str]  # model name -> group, of what `errors` names
    shards: int = 1
    reused: int = 0  # of them, that an earlier run had finished


def convert(
    source: Path,
    target: Path,
    formats: Mapping[str, Format],
    importance: Mapping[str, Tensor] | None = None,
    *,
    calibration: str = "",
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Converted:
    """Write the folder `target` with the groups of `formats` (quantize/quant_config.py) in few bits,
    everything else byte for byte.

    importance: model name -> mean squares [..., I] of what a matrix is multiplied with, for scales that err
    least where it counts; what is not named counts alike. calibration: where that comes from; a run that was
    cut off goes on only with the same source, formats and calibration. device: where scales are looked for.
    Raises UsageError for a source in few bits, inputs that are no whole groups, a target that is in use or a
    partial folder of other options, CheckpointError for a faulty source, ResourceError where the disk has no
    room.
    """
    source = Path(source)
    target = Path(os.path.abspath(target))
    check_target(target)
    layout = readable(source)
    check(layout.known_config, formats)
    check_copies(layout)
    shards = deal(plan(layout, formats), shard_bytes)
    options = {
        "formats": {group: _spelled(format) for group, format in sorted(formats.items())},
        "calibration": calibration,
        "shard_bytes": shard_bytes,
    }
    with partial_folder(target, layout, options) as partial:
        reused = len(partial.whole)
        partial.check_room({name: sum(map(written, jobs)) for name, jobs in shards.items()})
        _convert(partial, shards, importance or {}, device, progress)
        _finish(partial, source, shards, formats)
        os.replace(partial.folder, target)
        sync_folder(target.parent)
    return _result(target, partial, shards, reused)


def plan(layout: Layout, formats: Mapping[str, Format]) -> list[Job]:
    """Every tensor of a plain folder once, in the order of the files."""
    jobs = [Job("", "vision", (info,)) for info in layout.vision]
    for name, target in expected_tensors(layout.known_config).items():
        infos = [fields["weight"] for fields in layout.text[target.model_name].matrices]
        matrices = [module for module, _ in modules(name, target)]
        format = formats.get(target.group)
        if format is None or not matrices:
            jobs += [Job(target.model_name, target.group, (info,)) for info in infos]
            continue
        experts = 1
        if len(target.shape) == 3:
            experts = target.shape[0]
        each = len(matrices) // experts
        for number in range(experts):
            of_expert = slice(number * each, (number + 1) * each)
            rows = tuple(infos[of_expert])
            if infos[0].name == name:
                rows = (_slice(infos[0], number),)
            expert = None
            if len(target.shape) == 3:
                expert = number
            jobs.append(
                Job(target.model_name, target.group, rows, format, tuple(matrices[of_expert]), expert)
            )
    return sorted(jobs, key=lambda job: (job.rows[0].file, job.rows[0].offset))


def _slice(info: TensorInfo, number: int) -> TensorInfo:
    """One matrix of a tensor of several, or the only one."""
    if len(info.shape) == 2:
        return info
    nbytes = info.nbytes // info.shape[0]
    return replace(info, shape=info.shape[1:], offset=info.offset + number * nbytes, nbytes=nbytes)


def deal(jobs: list[Job], shard_bytes: int) -> dict[str, list[Job]]:
    """Jobs by the file that they go to; a shard has at least one job and otherwise at most so many bytes of
    data.
    """
    shards: list[list[Job]] = [[]]
    size = 0
    for job in jobs:
        nbytes = written(job)
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(job)
        size += nbytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {
        f"model-{number + 1:05}-of-{len(shards):05}.safetensors": shard for number, shard in enumerate(shards)
    }


def written(job: Job) -> int:
    """Bytes of data that a job becomes."""
    return sum(BITS[dtype] * math.prod(shape) // 8 for dtype, shape in job.outputs.values())


def _specs(format: Format, rows: int, inputs: int) -> Spec:
    """The fields of one matrix [rows, inputs].

    Scales per row are bfloat16 where encoding made them so (fp8), else float32.
    """
    if format.name in ("fp8", "int8"):
        code, scale = ("F8_E4M3", "BF16") if format.name == "fp8" else ("I8", "F32")
        return {"weight": (code, (rows, inputs)), "weight_scale": (scale, (rows, 1))}
    groups = inputs // format.group
    if format.name == "int4":
        return {
            "weight_packed": ("I32", (rows, inputs // 8)),
            "weight_scale": (format.scale, (rows, groups)),
            "weight_shape": ("I64", (2,)),
        }
    return {
        "weight_packed": ("U8", (rows, inputs // 2)),
        "weight_scale": ("F8_E4M3", (rows, groups)),
        "weight_global_scale": ("F32", (1,)),
    }


def fields(weight: QuantTensor) -> dict[str, Tensor]:
    """What is written of one matrix [O, I]: unpack.py the other way round.

    Its values are those that encoding made, bit for bit.
    """
    parts = weight.parts
    name = weight.format.name
    if name in ("fp8", "int8"):
        row = parts["row"][:, None]
        return {"weight": parts["codes"], "weight_scale": row.bfloat16() if name == "fp8" else row}
    if name == "int4":
        packed = (
            parts["codes"].contiguous().view(torch.int32)
        )  # eight codes in a word, the first in its lowest bits
        return {
            "weight_packed": packed,
            "weight_scale": parts["scales"],
            "weight_shape": torch.tensor(weight.shape),
        }
    return {  # the scale is a power of two, so its inverse is exact
        "weight_packed": parts["codes"],
        "weight_scale": parts["scales"],
        "weight_global_scale": parts["row"][:1].reciprocal(),
    }


def _convert(
    partial: Partial,
    shards: Mapping[str, list[Job]],
    importance: Mapping[str, Tensor],
    device: str | torch.device,
    progress: Progress | None,
) -> None:
    total = sum(job.before for jobs in shards.values() for job in jobs)
    done = 0
    with Files() as files:
        for name, jobs in shards.items():
            if name in partial.whole:
                done += sum(job.before for job in jobs)
                continue
            errors: dict[str, list[float]] = {}
            with ShardFile(
                partial.folder / name, {key: spec for job in jobs for key, spec in job.outputs.items()}
            ) as file:
                for job in jobs:
                    if progress is not None:
                        progress(done, total, job.rows[0].name)
                    if job.format is None:
                        _copy(job, files, file)
                    else:
                        sums = errors.setdefault(job.tensor, [0.0, 0.0])
                        for place, value in enumerate(
                            _encode(job, job.format, files, file, importance.get(job.tensor), device)
                        ):
                            sums[place] += value
                    done += job.before
            partial.add(name, errors)
    if progress is not None:
        progress(total, total, "")


def _copy(job: Job, files: Files, file: ShardFile) -> None:
    """A tensor as it stands."""
    for info in job.rows:
        for start in range(0, info.nbytes, CHUNK):
            count = min(CHUNK, info.nbytes - start)
            file.write(
                info.name,
                files.read(
                    replace(info, dtype="U8", shape=(count,), offset=info.offset + start, nbytes=count)
                ),
            )


def _encode(
    job: Job,
    format: Format,
    files: Files,
    file: ShardFile,
    importance: Tensor | None,
    device: str | torch.device,
) -> tuple[float, float]:
    """Quantise a matrix to its job's format and write its fields.

    -> sums of the squared differences and of the squares.
    """
    weight = empty(format, job.shape, "cpu")
    lost = 0.0
    whole = 0.0
    place = 0
    if importance is not None:
        importance = (importance if job.expert is None else importance[job.expert]).to(device)
    for piece in _pieces(job, format, files):
        quantised = search_scales(piece.to(device), format, importance)
        for name, part in quantised.parts.items():
            weight.parts[name][place : place + len(piece)] = part.to("cpu")
        place += len(piece)
        for rows, some in quantised.pieces(max(1, PIECE // piece.shape[1])):
            exact = piece[rows].to(device).to(wide(piece.dtype))
            lost += float((some.dequantised(exact.dtype) - exact).square_().sum())
            whole += float(exact.square().sum())
    share = len(weight) // len(job.modules)
    for number, module in enumerate(job.modules):
        for field, tensor in fields(weight[number * share : (number + 1) * share]).items():
            file.write(f"{module}.{field}", tensor)
    return lost, whole


def _pieces(job: Job, format: Format, files: Files) -> Iterator[Tensor]:
    """The rows of a matrix as they stand: in runs where each row is encoded by itself, else at once."""
    if format.name == "nvfp4":
        yield torch.cat([_checked(files.read(info), info) for info in job.rows])
        return
    for info in job.rows:
        size = info.nbytes // info.shape[0]
        run = max(1, PIECE // info.shape[1])
        for start in range(0, info.shape[0], run):
            count = min(run, info.shape[0] - start)
            part = replace(
                info, shape=(count, info.shape[1]), offset=info.offset + start * size, nbytes=count * size
            )
            yield _checked(files.read(part), info)


def _checked(tensor: Tensor, info: TensorInfo) -> Tensor:
    if not finite(tensor):
        raise CheckpointError(
            f"{info.file}: tensor '{info.name}' holds NaN or infinite values; fetch it again"
        )
    return tensor


def _finish(
    partial: Partial, source: Path, shards: Mapping[str, list[Job]], formats: Mapping[str, Format]
) -> None:
    """What stands beside the weights, and the hashes of all."""
    folder = partial.folder
    for pattern in CARRIED:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
                sync(folder / path.name)
    if len(shards) > 1:
        weight_map = {key: name for name, jobs in shards.items() for job in jobs for key in job.outputs}
        total = sum(written(job) for jobs in shards.values() for job in jobs)
        write_json(
            folder / INDEX,
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
        )
    write_json(
        folder / "config.json", read_json(source / "config.json") | {"quantization_config": describe(formats)}
    )
    known = {name: entry["sha256"] for name, entry in partial.whole.items()}
    write_sums(folder, {path.name: known.get(path.name) or digest(path) for path in folder.iterdir()})


def _result(target: Path, partial: Partial, shards: Mapping[str, list[Job]], reused: int) -> Converted:
    jobs = [job for of_shard in shards.values() for job in of_shard]
    sizes = {
        group: Sizes(
            sum(job.before for job in jobs if job.group == group),
            sum(written(job) for job in jobs if job.group == group),
        )
        for group in dict.fromkeys(job.group for job in jobs)
    }
    sums: dict[str, list[float]] = {}
    for shard in partial.whole.values():
        for name, (lost, whole) in shard["errors"].items():
            before = sums.get(name, [0.0, 0.0])
            sums[name] = [before[0] + lost, before[1] + whole]
    errors = {
        job.tensor: math.sqrt(sums[job.tensor][0] / (sums[job.tensor][1] or 1.0))
        for job in jobs
        if job.tensor in sums
    }
    groups = {job.tensor: job.group for job in jobs if job.tensor in sums}
    return Converted(target, sizes, errors, groups, len(shards), reused)


def _spelled(format: Format) -> str:
    if format.name == "int4":
        return f"{format.name} {format.group}"
    return format.name
