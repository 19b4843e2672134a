"""Which tensors of a folder make each tensor of the model: Stored, and the match of names, dtypes and
shapes that fills it.

The files say which matrices are quantised (by the fields that are there), the quantisation config what that
means. Knows no data and never loads torch. Trap: a field that no scheme asks for is as much a fault as one
that is missing; the tensors of one model tensor share a fate, and a fault of 256 experts is told once.
"""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from ..config import ModelConfig
from ..config.formats import Format
from .headers import READABLE, TensorInfo
from .names import Target, classify, expected_tensors, modules, tied_to, why_unknown
from .schemes import Quantization, Scheme

Fields = dict[str, TensorInfo]


@dataclass(frozen=True)
class Stored:
    """One tensor of the model on disk: matrices of equal shape that stand one after the other along its rows.

    matrices: field name -> tensor; one for whatever is stored as a whole; of experts that stand apart, for
    `experts.gate_up_proj` gate 0, up 0, gate 1 ..., for `experts.down_proj` down 0, down 1 ... A plain
    tensor has no format and the one field "weight".
    """

    shape: tuple[int, ...]  # as the model asks for it
    matrices: tuple[Fields, ...]
    format: Format | None = None
    scheme: Scheme | None = None

    @property
    def encoding(self) -> tuple[Scheme, Format]:
        """How a tensor in few bits stands in its file, and its format here. ValueError for a plain one."""
        if self.scheme is None or self.format is None:
            raise ValueError(f"{self.file}: '{self.name}' is not in few bits")
        return self.scheme, self.format

    @property
    def first(self) -> TensorInfo:
        """The tensor that is named where one name must do, and decides the order of reading."""
        return min(self.matrices[0].values(), key=lambda info: (info.file, info.offset))

    @property
    def name(self) -> str:
        return self.first.name

    @property
    def file(self) -> Path:
        return self.first.file

    @property
    def offset(self) -> int:
        return self.first.offset

    @property
    def nbytes(self) -> int:
        """Bytes in the files."""
        return sum(info.nbytes for fields in self.matrices for info in fields.values())

    def kept(self, size: int) -> int:
        """Bytes in memory, where a number of a plain tensor takes `size`."""
        if self.format is not None:
            return self.format.nbytes(self.shape)
        return (
            sum(fields["weight"].nbytes // READABLE[fields["weight"].dtype] for fields in self.matrices)
            * size
        )


@dataclass
class Match:
    """What `match` found: model name -> Stored, one line per fault, what is worth saying, second copies."""

    text: dict[str, Stored] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    copies: list[tuple[TensorInfo, TensorInfo]] = field(
        default_factory=list
    )  # a second copy of a tied tensor, and the first


def match(
    folder: Path,
    tensors: dict[str, TensorInfo],
    config: ModelConfig,
    quantization: Quantization | None,
    reported: set[str] | None,
) -> Match:
    """Tensors against the names and shapes of the config. reported: missing names already complained of;
    None: complain of none.
    """
    matching = _Matching(folder, tensors, quantization, reported)
    for name, target in expected_tensors(config).items():
        matching.place(name, target)
    matching.finish()
    return matching.result


class _Matching:
    """The work of `match`: `place` for each tensor of the model, then `finish`."""

    def __init__(
        self,
        folder: Path,
        tensors: dict[str, TensorInfo],
        quantization: Quantization | None,
        reported: set[str] | None,
    ):
        self.folder = folder
        self.tensors = tensors
        self.quantization = quantization
        self.reported = reported
        self.result = Match()
        self.claimed: set[str] = set()
        self.missing: list[str] = []
        self.kinds = {name: classify(name) for name in tensors}
        self.modules: dict[str, Fields] = defaultdict(dict)  # what stands under each name
        for name, info in tensors.items():
            module, _, leaf = name.rpartition(".")
            if self.kinds[name] in ("text", "unknown"):
                self.modules[module][leaf] = info
        self.ignored: list[str] = []  # stored in few bits against the ignore list
        self.left: list[str] = []  # stored plain although a target names it
        self.inputs = 0  # stored scales of activations

    def place(self, name: str, target: Target) -> None:
        """Find one tensor of the model.

        What a config says of experts is believed as far as there are tensors for them.
        """
        kind = "Linear"
        if target.group == "embedding":
            kind = "Embedding"
        apart = len(target.shape) == 3 and name not in self.tensors
        if len(target.shape) == 3 and not (apart and target.shape[0] <= len(self.tensors)):
            self._whole(name, target, kind)
            return
        matrices = modules(name, target)
        if (
            apart
            and any(module in self.modules for module, _ in matrices)
            or len(matrices) == 1
            and self.quantization is not None
            and not self._is_plain(matrices[0][0])
        ):
            self._gather(target, matrices, kind)
        else:
            self._whole(name, target, kind)

    def _is_plain(self, module: str) -> bool:
        fields = self.modules.get(module, {})
        return not fields or (set(fields) == {"weight"} and fields["weight"].dtype in READABLE)

    def _whole(self, name: str, target: Target, kind: str) -> None:
        """A tensor that stands in one file as the model has it."""
        info = self.tensors.get(name)
        self.claimed.add(name)
        if info is None:
            self.missing.append(name)
            return
        fault = _plain_fault(info, target.shape)
        if fault:
            self.result.problems.append(fault)
            return
        if self.quantization is not None:
            self.left += [module for module, _ in modules(name, target) if self._targeted(module, kind)]
        self.result.text[target.model_name] = Stored(target.shape, ({"weight": info},))

    def _gather(self, target: Target, matrices: list[tuple[str, tuple[int, int]]], kind: str) -> None:
        """A tensor that is kept in fields, or as a matrix per expert."""
        names = [module for module, _ in matrices]
        for module in names:
            self.claimed |= {f"{module}.{leaf}" for leaf in self.modules.get(module, ())}
        plain = all(self._is_plain(module) for module in names)
        quantization = None
        if not plain:
            quantization = self.quantization
        schemes = [
            quantization.scheme_of(module, kind) if quantization is not None else None for module in names
        ]
        faults = [
            self._plain_matrix(module, shape) if plain else self._matrix_fault(module, scheme, shape)
            for (module, shape), scheme in zip(matrices, schemes, strict=True)
        ]
        if any(fault is not None for fault in faults):
            self._report([fault for fault in faults if fault])
            return
        fields = tuple(self.modules[module] for module in names)
        formats = [
            scheme.stored(field_infos[scheme.scales].dtype) if scheme is not None else None
            for scheme, field_infos in zip(schemes, fields, strict=True)
        ]
        if odd := next(
            (n for n in range(len(names)) if (schemes[n], formats[n]) != (schemes[0], formats[0])), 0
        ):
            odd_one = f"{self.folder}: '{names[odd]}' is stored in another way than '{names[0]}'"
            self.result.problems.append(
                f"{odd_one}; the experts of a layer must share one format and one dtype of scales"
            )
            return
        self._note(names, kind, plain)
        self.result.text[target.model_name] = Stored(target.shape, fields, formats[0], schemes[0])

    def _plain_matrix(self, module: str, shape: tuple[int, int]) -> str | None:
        fields = self.modules.get(module, {})
        if not fields:
            return self._absent(f"{module}.weight")
        return _plain_fault(fields["weight"], shape)

    def _matrix_fault(self, module: str, scheme: Scheme | None, shape: tuple[int, int]) -> str | None:
        """What is wrong with the fields of a quantised matrix, or None; an empty text for what was told
        already.
        """
        fields = self.modules.get(module, {})
        if not fields:
            return self._absent(f"{module}.weight")
        place = next(iter(fields.values())).file
        if self._is_plain(module):
            return (
                f"{place}: '{module}' is stored as {fields['weight'].dtype}, "
                "but other experts of its layer are quantised"
            )
        if self.quantization is None:
            return (
                f"{place}: '{module}' is stored in a quantised layout, "
                "but config.json has no quantization_config"
            )
        if scheme is None:
            return (
                f"{place}: '{module}' is stored in few bits, "
                f"but no target of {self.quantization.source} names it"
            )
        if not scheme.format.divides(shape[1]):
            return f"{place}: '{module}' has {shape[1]} inputs, which are no whole groups of {scheme}"
        return self._field_fault(module, fields, scheme, shape, place)

    def _field_fault(
        self, module: str, fields: Fields, scheme: Scheme, shape: tuple[int, int], place: Path
    ) -> str | None:
        wanted = scheme.fields(shape)
        says = f"quantization_config says {scheme}"
        for leaf, want in wanted.items():
            info = fields.get(leaf)
            if info is None:
                if want.needed:
                    there = ", ".join(f"{leaf} ({info.dtype})" for leaf, info in sorted(fields.items()))
                    return self._absent(f"{module}.{leaf}", f": {says}, and there is {there}")
            elif info.dtype not in want.dtypes:
                return (
                    f"{info.file}: tensor '{info.name}' is stored as {info.dtype}, but {says}, "
                    f"so {' or '.join(want.dtypes)}"
                )
            elif info.shape not in want.shapes:
                fault = f"has the shape {list(info.shape)}, but {says}, so {list(want.shapes[0])}"
                return f"{info.file}: tensor '{info.name}' {fault}"
        extra = next((leaf for leaf in fields if leaf not in wanted), None)
        if extra is None:
            return None
        return f"{place}: unexpected tensor '{module}.{extra}': {says}, which has no such field"

    def _absent(self, name: str, why: str = "") -> str:
        if self.reported is None or name in self.reported:
            return ""
        return f"{self.folder}: tensor '{name}' is missing{why}"

    def _report(self, faults: list[str]) -> None:
        if faults:
            more = ""
            if len(faults) > 1:
                more = f" (and {len(faults) - 1} more of the same layer's experts)"
            self.result.problems.append(faults[0] + more)

    def _targeted(self, module: str, kind: str) -> bool:
        quantization = self.quantization
        return (
            quantization is not None
            and quantization.scheme_of(module, kind) is not None
            and not quantization.ignores(module, kind)
        )

    def _note(self, names: list[str], kind: str, plain: bool) -> None:
        for module in names:
            if plain and self._targeted(module, kind):
                self.left.append(module)
            elif not plain and self.quantization is not None and self.quantization.ignores(module, kind):
                self.ignored.append(module)
            self.inputs += any(leaf.startswith("input_") for leaf in self.modules[module])

    def _is_copy(self, name: str) -> bool:
        """Whether a tensor may be a second copy of a tied one; then it is noted, to be compared
        (copies.py).
        """
        original = self.tensors.get(tied_to(name) or "")
        if (
            original is None
            or original.name not in self.claimed
            or not may_be_equal(self.tensors[name], original)
        ):
            return False
        self.result.copies.append((self.tensors[name], original))
        return True

    def finish(self) -> None:
        """Complaints about names, and the notes."""
        result = self.result
        unclaimed = [
            name
            for name in sorted(self.tensors)
            if name not in self.claimed and self.kinds[name] in ("text", "unknown")
        ]
        strange = [name for name in unclaimed if not self._is_copy(name)]
        if self.reported is None:
            untold = []
        else:
            untold = [name for name in self.missing if name not in self.reported]
        result.problems += [
            f"{self.folder}: tensor '{name}' is missing{_hint(name, strange)}" for name in untold
        ]
        for name in strange:
            reason = f"{why_unknown(name)}{_hint(name, self.missing)}"
            result.problems.append(f"{self.tensors[name].file}: unexpected tensor '{name}': {reason}")
        if result.copies:
            result.notes.append(copies_note([copy.name for copy, _ in result.copies]))
        if self.quantization is not None:
            result.notes += self.quantization.notes
        for matrices, what in (
            (self.ignored, "on the ignore list of the quantisation config but stored in few bits"),
            (self.left, "named by the targets of the quantisation config but stored in 16 bits or more"),
        ):
            if matrices:
                result.notes.append(
                    f"{len(matrices)} matrices are {what} ('{matrices[0]}' ...): read as they are stored"
                )
        if self.inputs:
            result.notes.append(
                f"{self.inputs} stored scales of activations are not used: activations are scaled per token"
            )
        if cache := sum(kind == "cache" for kind in self.kinds.values()):
            result.notes.append(
                f"{cache} scales of a K/V cache in few bits are not used: K and V keep the model's precision"
            )


def may_be_equal(copy: TensorInfo, original: TensorInfo) -> bool:
    """Whether two tensors can hold the same, by their headers: one shape, and one dtype or two that are
    numbers as they stand.
    """
    numbers = copy.dtype in READABLE and original.dtype in READABLE
    return copy.shape == original.shape and (copy.dtype == original.dtype or numbers)


def copies_note(names: list[str]) -> str:
    return f"second copies of tied tensors are compared, and not kept: '{names[0]}'" + (
        f" and {len(names) - 1} more" if names[1:] else ""
    )


def _plain_fault(info: TensorInfo, shape: tuple[int, ...]) -> str | None:
    if (
        info.shape != shape and not math.prod(info.shape) == math.prod(shape) == 1
    ):  # one number, whatever its shape
        return (
            f"{info.file}: tensor '{info.name}' has the shape {list(info.shape)}, "
            f"config.json asks for {list(shape)}"
        )
    if info.dtype not in READABLE:
        return f"{info.file}: tensor '{info.name}' is stored as {info.dtype}; readable: {', '.join(READABLE)}"
    return None


def _hint(name: str, candidates: list[str]) -> str:
    """The likeliest misspelling; only among few, since comparing 700 names with 700 takes a minute."""
    if len(candidates) <= 20:
        close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.8)
    else:
        close = []
    if close:
        return f"; is it '{close[0]}'?"
    return ""
