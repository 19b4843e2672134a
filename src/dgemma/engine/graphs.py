"""Captured steps: all that a step does on a card, recorded once per number of canvases and replayed with one
launch.

A step of the published model is some 1,150 launches (benchmarks/predict.py), which Python may take longer to
ask for than a card to do. A graph replays them on the same addresses, so everything that changes lies in
named buffers: the state of the canvases, the last step's probabilities, and the tables of where each
sequence's K and V lie and how long it is. The kernels read their loop's ends from those tables, so one graph
serves every context. It runs the step functions of the eager pass; passes that also read or commit stay
eager.

Knows no requests. The first step of a kind runs eagerly on the buffers, which is the warm-up that a capture
needs, and is recorded right after. Trap: whatever is made from a Python number during capture keeps that
number for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..kernels.select import triton_backend
from ..model.dgemma import DiffusionGemma
from ..model.passes import Pass, Span
from ..sampling.step import CanvasState, cloned
from .canvas_batch import CanvasBatch
from .canvases import advance

Replay = Callable[[], object]
Capture = Callable[[Callable[[], None]], Replay]


def can_capture(model: DiffusionGemma) -> bool:
    """Whether a step can be captured here: experts and attention in plain torch read numbers on the host."""
    weight = model.norm.weight
    if not isinstance(
        model.embed.weight, torch.Tensor
    ):  # a table in few bits has no Triton kernel of the head
        return False
    if not weight.is_cuda:
        return False
    attention = triton_backend("attention", weight)
    moe = triton_backend("moe", weight)
    if attention is None or moe is None:
        return False
    for layer in model.layers:
        if not (moe.takes(layer.experts.gate_up_proj) and moe.takes(layer.experts.down_proj)):
            return False
    return all(attention.takes(layer.head_dim, weight) for layer in model.config.layers)


def on_card() -> Capture:
    """Capture as CUDA graphs that share the memory of their temporaries: they never run at the same time."""
    pool = torch.cuda.graph_pool_handle()

    def capture(body: Callable[[], None]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            body()
        return graph.replay

    return capture


class Graphs:
    """The captured steps of one engine."""

    def __init__(self, model: DiffusionGemma, capture: Capture | None = None):
        self.model = model
        self.capture = capture or on_card()
        self.steps: dict[tuple[int, int], Step] = {}  # by canvases and their width
        self.memory: dict[int, Tensor] = {}  # by width: probabilities, shared by the steps of all sizes

    def step(self, batch: CanvasBatch) -> Tensor:
        """One step of every canvas of a batch. -> its output; valid until the next step."""
        rows, width = batch.state.canvas.shape
        if len(self.memory.get(width, ())) < rows:
            # captured addresses: whoever used the old memory is captured anew
            self.steps = {size: step for size, step in self.steps.items() if size[1] != width}
            weight = self.model.embed.weight
            count = 1 << (rows - 1).bit_length()
            self.memory[width] = weight.new_zeros((count, width, len(weight)))
        if (rows, width) not in self.steps:
            self.steps[rows, width] = Step(self.model, batch, self.memory[width][:rows])
        return self.steps[rows, width].run(batch, self.capture)


class Step:
    """One step of so many canvases of one width, and its buffers."""

    def __init__(self, model: DiffusionGemma, batch: CanvasBatch, p: Tensor):
        rows, width = batch.state.canvas.shape
        self.model = model
        self.state = cloned(batch.state)
        row_sum = p.new_ones((rows, width), dtype=torch.float32)
        self.prev_probs = p, row_sum  # the last step's, and then this one's
        # whether a row has a last step
        self.known = torch.zeros((rows, 1, 1), dtype=torch.bool, device=p.device)
        self.output = torch.zeros((rows, 4 + 3 * width), dtype=torch.int64, device=p.device)
        self.sequences: list[tuple[int, int]] = []  # those that the tables tell of, and their lengths
        self.context: Pass | None = None
        self.replay: Replay | None = None

    def run(self, batch: CanvasBatch, capture: Capture) -> Tensor:
        self._load_canvases(batch)
        self._load_tables(batch)
        if self.replay is None:
            self._body()
            self.replay = capture(self._body)
        else:
            self.replay()
        batch.goes_on(self.state, self.prev_probs)
        return self.output

    def _load_canvases(self, batch: CanvasBatch) -> None:
        """Take over a batch whose rows have changed, or were last moved by another pass: its state and last
        probabilities.
        """
        if batch.state is not self.state:
            for mine, theirs in zip(_fields(self.state), _fields(batch.state), strict=True):
                mine.copy_(theirs)
        if batch.prev_probs is self.prev_probs and batch.known == [*range(len(batch.known))]:
            return
        known = [(row, at) for row, at in enumerate(batch.known) if at is not None]
        if known and batch.prev_probs is not None:
            rows = torch.tensor([row for row, _ in known], device=self.known.device)
            places = torch.tensor([at for _, at in known], device=self.known.device)
            for mine, theirs in zip(self.prev_probs, batch.prev_probs, strict=True):
                mine[rows] = theirs[places].to(mine.dtype)
        self.known.copy_(torch.tensor([at is not None for at in batch.known])[:, None, None])

    def _load_tables(self, batch: CanvasBatch) -> None:
        sequences = [(slot.kv.number, slot.kv.length) for slot in batch.slots]
        if sequences == self.sequences:
            return
        width = self.state.canvas.shape[1]
        fresh = Pass(self.model.config, [Span(slot.kv, width, False) for slot in batch.slots])
        if self.context is None:
            attention = triton_backend("attention", self.model.norm.weight)
            if attention is None:
                raise RuntimeError("a step can only be captured with the Triton form of attention")
            self.context = fresh
            fresh.prepare(attention)
        else:
            self.context.becomes(fresh)
        self.context.spans = []  # a span would keep its sequence's memory
        self.sequences = sequences

    def _body(self) -> None:
        """The step: buffers in, buffers out."""
        model = self.model
        state = self.state
        context = self.context
        if context is None:
            raise RuntimeError("the tables of a captured step are loaded before it runs")
        rows, width = state.canvas.shape
        soft = torch.where(self.known, model.self_conditioning_of(self.prev_probs, state.pins), 0.0)
        soft = soft.view(1, rows * width, -1)
        hidden = model.denoise_with(state.canvas.view(1, -1), soft, context.positions, context)
        hidden = hidden.view(rows, width, -1)
        after, prev_probs, output = advance(model, hidden, state, self.prev_probs)
        self.output.copy_(output)
        for mine, theirs in zip(_fields(state), _fields(after), strict=True):
            if mine is not theirs:
                mine.copy_(theirs)
        self.prev_probs[1].copy_(prev_probs[1])
        self.known.fill_(True)


def _fields(state: CanvasState) -> Iterator[Tensor]:
    yield from state[:-1]
    yield from state.settings
