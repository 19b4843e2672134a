"""Batches as a pure function of (documents, settings, step): the same step always gives the same batch.

That makes training resumable without saving a reader's state. Documents are lists of token ids; they are
shuffled once per epoch, joined and cut into sequences that each open with <bos>. Every block of a
sequence is one canvas. What follows an end-of-text inside a canvas is supervised as <pad>, as the
sampler will see it. Canvases tile a sequence more than once, from different places: the causal pass that they share is
read once, and noise teaches more than a second reading (docs/log.md). Some canvases keep a prefix and a suffix clean, mostly with a gap that is
wider than its text and closed with <pad>: so the model learns to fill a gap whose length nobody told it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import UsageError
from .objective import Batch


@dataclass(frozen=True)
class DataConfig:
    vocab_size: int
    canvas: int  # C, tokens per canvas
    blocks: int  # canvases that tile a sequence
    batch: int  # sequences per step
    bos: int
    eos: tuple[int, ...]  # ids after which a canvas is padding
    pad: int
    seed: int = 0
    tilings: int = 2  # sets of canvases over the same sequence, each from a place of its own
    kept_share: float = 0.4  # canvases with a clean prefix and suffix: a quarter, and the data in fill form beside
    gap_share: float = 0.75  # of those, how many hold a padded gap
    widest_gap: int = 40  # tokens of text in a padded gap, at most

    @property
    def sequence(self) -> int:
        return self.canvas * (self.blocks + 1)


class Batches:
    """`batches[step]` for any step. `line_ends` [V] bool marks tokens that begin with a line break."""

    def __init__(self, documents: list[np.ndarray], config: DataConfig, line_ends: np.ndarray):
        self.documents, self.config, self.line_ends = documents, config, line_ends
        total = sum(len(document) for document in documents)
        self.per_epoch = total // (config.sequence - 1)
        if not self.per_epoch:
            raise UsageError(f"the training text has {total} tokens; at least one sequence of {config.sequence - 1} is needed")
        self._epoch, self._stream = -1, np.zeros(0, dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """What tells one text from another, and one tokenizer from another."""
        checksum = 0
        for document in self.documents:
            checksum = zlib.crc32(document.tobytes(), checksum)
        return f"{checksum:08x}"

    def __getitem__(self, step: int) -> Batch:
        config = self.config
        rng = np.random.default_rng((config.seed, 1, step))
        clean = np.stack([self._sequence(step * config.batch + row) for row in range(config.batch)])
        prompts = rng.integers(1, config.canvas + 1, size=config.tilings)  # where a first canvas begins
        starts = [int(prompt) + n * config.canvas for prompt in prompts for n in range(config.blocks)]
        canvases = zip(*(self._canvases(clean[:, start : start + config.canvas], rng) for start in starts), strict=True)
        tensors = (torch.from_numpy(np.concatenate(parts, axis=1)) for parts in canvases)
        return Batch(torch.from_numpy(clean), starts, *tensors)

    def _sequence(self, index: int) -> np.ndarray:
        epoch, place = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng((self.config.seed, 2, epoch))
            order = rng.permutation(len(self.documents))
            stream = np.concatenate([self.documents[i] for i in order])
            self._stream = np.roll(stream, -int(rng.integers(len(stream))))
            self._order = rng.permutation(self.per_epoch)
            self._epoch = epoch
        body = self.config.sequence - 1
        start = int(self._order[place]) * body
        return np.concatenate(([self.config.bos], self._stream[start : start + body]))

    def _canvases(self, tokens: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """One block of every sequence [B, C] -> targets, noisy ids, noisier ids and pinned cells, each [B, C]."""
        targets, pinned = tokens.copy(), np.zeros(tokens.shape, dtype=bool)
        for row in range(len(targets)):
            self._end_of_text(targets[row])
            if rng.random() < self.config.kept_share:
                if rng.random() < self.config.gap_share:
                    self._padded_gap(targets[row], pinned[row], rng)
                else:
                    first, last = sorted(rng.integers(0, self.config.canvas + 1, size=2))
                    pinned[row, :first], pinned[row, last:] = True, True
        level = rng.random((len(targets), 1))  # t, one per canvas
        earlier = level + (1.0 - level) * rng.random(level.shape) ** 2  # of the step before; mostly not far
        place = rng.random(targets.shape)  # a cell is noise from the level `place` on, so the noisier canvas has all of it
        noise = rng.integers(0, self.config.vocab_size, size=(2, *targets.shape))  # drawn anew in each step
        noisy, noisier = (
            np.where((place < t) & ~pinned, drawn, targets) for t, drawn in zip((level, earlier), noise, strict=True)
        )
        return targets, noisy, noisier, pinned

    def _end_of_text(self, row: np.ndarray) -> None:
        ends = np.flatnonzero(np.isin(row, self.config.eos))
        if len(ends):
            row[ends[0] + 1 :] = self.config.pad

    def _padded_gap(self, row: np.ndarray, pinned: np.ndarray, rng: np.random.Generator) -> None:
        """Turn a canvas into prefix, gap text, padding, suffix; half of the gaps are whole lines."""
        canvas = self.config.canvas
        start = int(rng.integers(0, canvas - 8))
        length = 1 + int(self.config.widest_gap ** rng.random())
        if rng.random() < 0.6:
            breaks = np.flatnonzero(self.line_ends[row])
            if len(breaks) >= 2:
                first = int(rng.integers(0, len(breaks) - 1))
                lines = 1 if rng.random() < 0.8 else 2
                start = int(breaks[first]) + 1
                length = int(breaks[min(first + lines, len(breaks) - 1)]) - start
        length = max(0, min(length, canvas - start, self.config.widest_gap))
        padding = int(rng.integers(0, max(1, min(32, canvas - start - length))))  # 0: a gap just as wide as its text
        suffix = row[start + length : canvas - padding].copy()
        row[start + length : start + length + padding] = self.config.pad
        row[start + length + padding :] = suffix
        pinned[:start] = True
        pinned[start + length + padding :] = True
