"""Captured steps: all that a step does on a card, recorded once per number of canvases and replayed with one launch.

A step of the published model is some 1,150 launches (benchmarks/predict.py), which Python may take longer to ask for than a card
to do. A graph replays them on the same addresses, so everything that changes lies in named buffers: the state of the canvases,
what the last step believed, and the tables of where each sequence's K and V lie and how long it is. The kernels read their loop's
ends from those tables, so one graph serves every context. It runs the step functions of the eager pass; passes that also read or
commit stay eager.

Knows no requests. The first step of a kind runs eagerly on the buffers, which is the warm-up that a capture needs, and is
recorded right after. Trap: whatever is made from a Python number during capture keeps that number for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..kernels.select import triton_form
from ..model.dgemma import DiffusionGemma
from ..model.passes import Pass, Span
from ..sampling.step import CanvasState, cloned
from .canvases import advance
from .decks import Deck

Replay = Callable[[], object]
Capture = Callable[[Callable[[], None]], Replay]


def can_capture(model: DiffusionGemma) -> bool:
    """Whether a step can be captured here: the torch forms of experts and attention read numbers on the host."""
    weight = model.norm.weight
    if not isinstance(model.embed.weight, torch.Tensor):  # a table in few bits has no Triton form of the head
        return False
    attention, moe = (triton_form(name, weight) if weight.is_cuda else None for name in ("attention", "moe"))
    if attention is None or moe is None:
        return False
    experts = [
        part for layer in model.layers for part in (layer.experts.gate_up_proj, layer.experts.down_proj)
    ]
    return all(map(moe.takes, experts)) and all(
        attention.takes(layer.head_dim, weight) for layer in model.config.layers
    )


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
        self.model, self.capture = model, capture or on_card()
        self.steps: dict[tuple[int, int], Step] = {}  # by canvases and their width
        self.memory: dict[int, Tensor] = {}  # by width: probabilities, shared by the steps of all sizes

    def step(self, deck: Deck) -> Tensor:
        """One step of every canvas of a deck. -> what is told of it; valid until the next step."""
        rows, width = deck.state.canvas.shape
        if (
            len(self.memory.get(width, ())) < rows
        ):  # captured addresses: whoever used the old memory is captured anew
            self.steps = {size: step for size, step in self.steps.items() if size[1] != width}
            weight, count = self.model.embed.weight, 1 << (rows - 1).bit_length()
            self.memory[width] = weight.new_zeros((count, width, len(weight)))
        if (rows, width) not in self.steps:
            self.steps[rows, width] = Step(self.model, deck, self.memory[width][:rows])
        return self.steps[rows, width].run(deck, self.capture)


class Step:
    """One step of so many canvases of one width, and its buffers."""

    def __init__(self, model: DiffusionGemma, deck: Deck, p: Tensor):
        rows, width = deck.state.canvas.shape
        self.model = model
        self.state = cloned(deck.state)
        row_sum = p.new_ones((rows, width), dtype=torch.float32)
        self.previous = p, row_sum  # what the last step believed, and what this one does
        self.known = torch.zeros(
            (rows, 1, 1), dtype=torch.bool, device=p.device
        )  # whether a row has a last step
        self.told = torch.zeros((rows, 4 + 3 * width), dtype=torch.int64, device=p.device)
        self.sequences: list[tuple[int, int]] = []  # those that the tables tell of, and their lengths
        self.context: Pass | None = None
        self.replay: Replay | None = None

    def run(self, deck: Deck, capture: Capture) -> Tensor:
        self._load_canvases(deck)
        self._load_tables(deck)
        if self.replay is None:
            self._body()
            self.replay = capture(self._body)
        else:
            self.replay()
        deck.goes_on(self.state, self.previous)
        return self.told

    def _load_canvases(self, deck: Deck) -> None:
        """The state and the beliefs of a deck whose rows have changed, or were last moved by another pass."""
        if deck.state is not self.state:
            for mine, theirs in zip(_fields(self.state), _fields(deck.state), strict=True):
                mine.copy_(theirs)
        if deck.previous is self.previous and deck.known == [*range(len(deck.known))]:
            return
        known = [(row, at) for row, at in enumerate(deck.known) if at is not None]
        if known and deck.previous is not None:
            rows, places = (torch.tensor(part, device=self.known.device) for part in zip(*known, strict=True))
            for mine, theirs in zip(self.previous, deck.previous, strict=True):
                mine[rows] = theirs[places].to(mine.dtype)
        self.known.copy_(torch.tensor([at is not None for at in deck.known])[:, None, None])

    def _load_tables(self, deck: Deck) -> None:
        sequences = [(slot.kv.number, slot.kv.length) for slot in deck.slots]
        if sequences == self.sequences:
            return
        width = self.state.canvas.shape[1]
        fresh = Pass(self.model.config, [Span(slot.kv, width, False) for slot in deck.slots])
        if self.context is None:
            attention = triton_form("attention", self.model.norm.weight)
            if attention is None:
                raise RuntimeError("a step can only be captured with the Triton form of attention")
            self.context = fresh
            fresh.prepare(attention)
        else:
            self.context.becomes(fresh)
        self.context.spans, self.sequences = [], sequences  # a span would keep its sequence's memory

    def _body(self) -> None:
        """The step: buffers in, buffers out."""
        model, state, context = self.model, self.state, self.context
        if context is None:
            raise RuntimeError("the tables of a captured step are loaded before it runs")
        rows, width = state.canvas.shape
        soft = torch.where(self.known, model.belief(self.previous, state.pins), 0.0)
        hidden = model.denoise_with(
            state.canvas.view(1, -1), soft.view(1, rows * width, -1), context.positions, context
        )
        after, previous, told = advance(model, hidden.view(rows, width, -1), state, spent=self.previous[0])
        self.told.copy_(told)
        for mine, theirs in zip(_fields(state), _fields(after), strict=True):
            if mine is not theirs:
                mine.copy_(theirs)
        self.previous[1].copy_(previous[1])
        self.known.fill_(True)


def _fields(state: CanvasState) -> Iterator[Tensor]:
    yield from state[:-1]
    yield from state.settings
