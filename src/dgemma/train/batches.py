"""Batches as a pure function of (source, settings, step): the same step always gives the same batch.

That makes training resumable without saving a reader's state. Examples are drawn in pools; a pool is sorted
by length and cut into blocks of about equal work, one block a step, so that little is padding. Every example
is read once by the causal pass and carries several canvases, each with its own noise: what the causal pass
costs is shared.

A canvas covers the beginning of something the model writes, or what a canvas before it left over. What
follows the end inside a canvas is padding, as the sampler will see it. Some canvases keep a beginning and an
end and open a gap between them, mostly wider than its text and closed with padding: so the model learns to
fill a gap whose length nobody told it.

Trap: a denoiser is asked hardest at its first step, where all is noise and most answers are decided. A share
of canvases is pure noise for that reason; a uniform noise level alone leaves that step nearly untrained.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from .samples import Sample, Source, Span

EXAMPLES_OF_A_POOL = 1_000_000  # more than any pool draws, so that pools share none
ALIGN = 16  # clean tokens are padded to a multiple of it: fewer shapes


@dataclass(frozen=True)
class BatchConfig:
    """Sizes are in tokens, shares between 0 and 1."""

    vocab_size: int
    pad: int
    rows: int = 6144  # of one step: clean tokens and canvas cells together, padding included
    pool: int = 32  # steps whose examples are drawn and sorted together
    causal_steps: int = 0  # the first steps, which read without canvases; whole pools of them
    longest: int = 512  # of an example; what is longer loses its end
    canvases: int = 3  # over each example
    widths: tuple[int, ...] = (16, 32, 64, 128)  # of a canvas
    usual: int = 64  # the width that a request has where it names none
    usual_share: float = 0.3  # canvases of that width
    tight_share: float = 0.55  # of the narrowest width that holds what is to be written; the rest: any
    pure_share: float = 0.35  # canvases that begin as noise alone
    kept_share: float = 0.15  # canvases that keep a beginning and an end, of conversations
    gap_share: float = 0.7  # the same of documents
    prompt_weight: float = 0.2  # of a next token that the model would not write itself
    pad_weight: float = 0.1  # of a cell behind the end
    seed: int = 0

    def __post_init__(self) -> None:
        if self.causal_steps % self.pool:
            raise UsageError(f"causal_steps is {self.causal_steps}; it must be a multiple of {self.pool}")


@dataclass(frozen=True)
class Batch:
    """Clean tokens [B, T], padded on the right, and n canvases [B, n, C] over each.

    N is 0 in the first, causal steps.

    A weight of 0 leaves a place out of its loss. `pinned` cells hold their target.
    """

    clean: Tensor  # [B, T] int64
    next_weight: Tensor  # [B, T - 1] float32, of predicting clean[:, 1:]
    starts: Tensor  # [B, n] int64: clean tokens before each canvas
    targets: Tensor  # [B, n, C] int64
    noisy: Tensor  # [B, n, C] int64: as the denoiser sees it
    noisier: Tensor  # [B, n, C] int64: as the step before saw it
    pinned: Tensor  # [B, n, C] bool
    cell_weight: Tensor  # [B, n, C] float32

    def to(self, device: torch.device) -> Batch:
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    @property
    def tokens(self) -> int:
        """Clean tokens that are no padding."""
        return int((self.next_weight > 0).sum())


@dataclass(frozen=True)
class _Canvas:
    """One canvas of one example, before noise."""

    start: int
    targets: np.ndarray  # [C]
    pinned: np.ndarray  # [C] bool
    weight: np.ndarray  # [C]


@dataclass(frozen=True)
class _Example:
    sample: Sample
    canvases: list[_Canvas]  # all of one width

    @property
    def width(self) -> int:
        if self.canvases:
            return len(self.canvases[0].targets)
        return 0

    def work(self, longest: int) -> int:
        """Rows that it takes of a pass, without padding."""
        return min(len(self.sample.ids), longest) + len(self.canvases) * self.width


def _split(examples: list[_Example], count: int, config: BatchConfig) -> list[list[_Example]]:
    """Examples sorted by length, in `count` runs of about the same work."""
    examples = sorted(examples, key=lambda example: len(example.sample.ids))
    work = sum(example.work(config.longest) for example in examples)
    blocks: list[list[_Example]] = [[]]
    done = 0
    for example in examples:
        if blocks[-1] and len(blocks) < count and done >= work * len(blocks) / count:
            blocks.append([])
        blocks[-1].append(example)
        done += example.work(config.longest)
    return blocks + [blocks[-1]] * (count - len(blocks))


class Batches:
    """`batches[step]` for any step."""

    def __init__(self, source: Source, config: BatchConfig, line_breaks: np.ndarray):
        """`line_breaks` [V] bool: the tokens that begin with a line break."""
        self.source = source
        self.config = config
        self.line_breaks = line_breaks
        self._pool_number = -1
        self._blocks: list[list[_Example]] = []

    @property
    def fingerprint(self) -> str:
        """Of the text."""
        return self.source.fingerprint

    @property
    def settings(self) -> str:
        """A checksum of how the text is made into batches, the number of causal steps among it."""
        return f"{zlib.crc32(repr(self.config).encode()):08x}"

    def __getitem__(self, step: int) -> Batch:
        number, place = divmod(step, self.config.pool)
        if number != self._pool_number:
            self._blocks, self._pool_number = self._draw_pool(number), number
        return self._assemble(self._blocks[place], np.random.default_rng((self.config.seed, 2, step)))

    def _draw_pool(self, number: int) -> list[list[_Example]]:
        """Examples with their canvases, in `pool` blocks of about equal work, in random order."""
        config = self.config
        rng = np.random.default_rng((config.seed, 1, number))
        causal = number * config.pool < config.causal_steps
        examples: list[_Example] = []
        work = 0
        while work < config.rows * config.pool:
            sample = self.source.sample(config.seed, number * EXAMPLES_OF_A_POOL + len(examples))
            examples.append(_Example(sample, [] if causal else self._lay_out(sample, rng)))
            work += examples[-1].work(config.longest)
        blocks = self._cut(examples, work)
        return [blocks[i] for i in rng.permutation(len(blocks))]

    def _cut(self, examples: list[_Example], work: int) -> list[list[_Example]]:
        """Examples in `pool` blocks of about the same work, each of canvases of one width and of neighbours
        in length.
        """
        config = self.config
        widths = sorted({example.width for example in examples})
        groups = [[example for example in examples if example.width == width] for width in widths]
        shares = [sum(example.work(config.longest) for example in group) / work for group in groups]
        counts = [max(1, int(share * config.pool)) for share in shares]
        while sum(counts) < config.pool:
            fullest = max(range(len(groups)), key=lambda at: shares[at] / counts[at])
            counts[fullest] += 1
        while sum(counts) > config.pool:
            emptiest = min(
                (at for at in range(len(groups)) if counts[at] > 1), key=lambda at: shares[at] / counts[at]
            )
            counts[emptiest] -= 1
        return [
            block
            for group, count in zip(groups, counts, strict=True)
            for block in _split(group, count, config)
        ]

    def _lay_out(self, sample: Sample, rng: np.random.Generator) -> list[_Canvas]:
        """The canvases of one example, all of one width."""
        config = self.config
        longest = min(len(sample.ids), config.longest)
        spans = [(start, min(end, longest)) for start, end in sample.written if start < longest]
        span = spans[rng.integers(len(spans))]
        width = self._width(span[1] - span[0], rng)
        ids = np.array(sample.ids[:longest], dtype=np.int64)
        if sample.gaps:
            kept = config.gap_share
        else:
            kept = config.kept_share
        canvases = []
        for _ in range(config.canvases):
            start = self._start(span, width, sample.gaps, rng)
            if rng.random() < kept:
                if sample.gap and rng.random() < 0.5:
                    gap = sample.gap
                else:
                    gap = self._gap(ids, span, width, rng)
                canvases.append(self._with_gap(ids, span, gap, width, rng))
            else:
                canvases.append(self._whole(ids, (start, span[1]), width))
        return canvases

    def _width(self, length: int, rng: np.random.Generator) -> int:
        """The usual width, the narrowest that holds `length` tokens, or now and then any."""
        config = self.config
        chance = rng.random()
        if chance < config.usual_share:
            return config.usual
        if chance < config.usual_share + config.tight_share:
            return next((width for width in config.widths if width >= length), config.widths[-1])
        return config.widths[rng.integers(len(config.widths))]

    def _start(self, span: Span, width: int, anywhere: bool, rng: np.random.Generator) -> int:
        """Where a canvas begins: at the span, or where canvases before it ended."""
        start, end = span
        if anywhere and rng.random() < 0.5:
            return int(rng.integers(start, end))
        return start + width * int(rng.integers(0, max(1, -(-(end - start) // width))))

    def _whole(self, ids: np.ndarray, span: Span, width: int) -> _Canvas:
        """A canvas of what is written from `span` on, and padding."""
        text = ids[span[0] : min(span[1], span[0] + width)]
        targets = np.full(width, self.config.pad, dtype=np.int64)
        targets[: len(text)] = text
        weight = np.full(width, self.config.pad_weight, dtype=np.float32)
        weight[: len(text)] = 1.0
        return _Canvas(span[0], targets, np.zeros(width, dtype=bool), weight)

    def _with_gap(
        self, ids: np.ndarray, span: Span, gap: Span, width: int, rng: np.random.Generator
    ) -> _Canvas:
        """A canvas of given text, a gap with its text and perhaps padding, and given text again."""
        first = gap[0]
        last = min(gap[1], gap[0] + width // 2)
        lead = min(first - span[0], int(rng.integers(0, width // 8 + 1)))
        start = first - lead
        spare = width - lead - (last - first)
        padding = 0
        if rng.random() < 0.8:
            padding = int(rng.integers(0, max(1, min(spare, width // 3) + 1)))
        padding = max(padding, int(first == last))
        pad = self.config.pad
        behind = ids[last : span[1]]
        targets = np.concatenate([ids[start:last], np.full(padding, pad), behind, np.full(width, pad)])[
            :width
        ]
        pinned = np.ones(width, dtype=bool)
        pinned[lead : lead + (last - first) + padding] = False
        weight = np.where(pinned, 0.0, 1.0).astype(np.float32)
        weight[lead + (last - first) + 1 : lead + (last - first) + padding] = self.config.pad_weight
        return _Canvas(start, targets.astype(np.int64), pinned, weight)

    def _gap(self, ids: np.ndarray, span: Span, width: int, rng: np.random.Generator) -> Span:
        """A stretch of tokens to open: a line or two, the rest of a line, or any few tokens."""
        start, end = span
        most = max(1, width // 2)
        first = int(rng.integers(start, end))
        last = min(end, first + 1 + int(most ** rng.random()))
        breaks = start + np.flatnonzero(self.line_breaks[ids[start:end]])
        kind = rng.random()
        if len(breaks) < 2 or kind < 0.2:
            return first, last
        line = int(rng.integers(0, len(breaks) - 1))
        lines = 2
        if rng.random() < 0.8:
            lines = 1
        last = int(breaks[min(line + lines, len(breaks) - 1)])
        first = int(breaks[line]) + 1
        if kind < 0.45 and last - first > 1:
            first = int(rng.integers(first, last))
        return first, max(first, min(last, first + most))

    def _assemble(self, block: list[_Example], rng: np.random.Generator) -> Batch:
        """Pad a block to one shape and add noise."""
        config = self.config
        count = len(block)
        canvases = len(block[0].canvases)
        width = block[0].width
        longest = min(config.longest, max(len(example.sample.ids) for example in block))
        longest = -(-longest // ALIGN) * ALIGN
        clean = np.full((count, longest), config.pad, dtype=np.int64)
        next_weight = np.zeros((count, longest), dtype=np.float32)
        starts = np.zeros((count, canvases), dtype=np.int64)
        targets = np.zeros((count, canvases, width), dtype=np.int64)
        pinned = np.zeros(targets.shape, dtype=bool)
        weight = np.zeros(targets.shape, dtype=np.float32)
        for row, example in enumerate(block):
            sample = example.sample
            ids = sample.ids[:longest]
            clean[row, : len(ids)] = ids
            next_weight[row, : len(ids)] = config.prompt_weight
            for start, end in sample.written:
                next_weight[row, start:end] = 1.0
            next_weight[row, len(ids) :] = 0.0
            for n, canvas in enumerate(example.canvases):
                starts[row, n] = canvas.start
                targets[row, n] = canvas.targets
                pinned[row, n] = canvas.pinned
                weight[row, n] = canvas.weight
        noisy, noisier = self._noise(targets, pinned, rng)
        tensors = (clean, next_weight[:, 1:], starts, targets, noisy, noisier, pinned, weight)
        return Batch(*(torch.from_numpy(np.ascontiguousarray(array)) for array in tensors))

    def _noise(
        self, targets: np.ndarray, pinned: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the denoiser sees, and what it saw a step before: noisier, its noise drawn anew."""
        level = rng.random((*targets.shape[:2], 1))
        level = np.where(rng.random(level.shape) < self.config.pure_share, 1.0, level)
        earlier = level + (1.0 - level) * rng.random(level.shape)
        place = rng.random(targets.shape)  # a cell is noise from the level `place` on
        drawn = rng.integers(0, self.config.vocab_size, size=(2, *targets.shape))
        noisy = np.where((place < level) & ~pinned, drawn[0], targets)
        noisier = np.where((place < earlier) & ~pinned, drawn[1], targets)
        return noisy, noisier
