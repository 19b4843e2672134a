"""encode() and denoise() in float64: one masked pass, any chunks, any company, and what a window lets through."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dgemma.model.passes
from dgemma.config import SLIDING, ModelConfig
from dgemma.engine.denoise import read_prompts
from dgemma.kernels.ops.vocab import soft_capped_logits
from dgemma.model.dgemma import Canvases, DiffusionGemma
from dgemma.model.kv import KVCache
from tests.helpers import assert_close, closeness, is_close, lively_model, tiny_config
from tests.model import naive

LAYERS = ("SSF", "FSF", "SF")
WIDTH = tiny_config().canvas_length


@functools.cache
def model_of(layers: str, window: int = 5) -> DiffusionGemma:
    return lively_model(tiny_config(layers, sliding_window=window), seed=3, dtype="float64")


def ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(48, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def encoded(model: DiffusionGemma, prompt: list[int], chunks: list[int]) -> list[KVCache]:
    kv, start = [model.new_cache()], 0
    for size in chunks:
        model.encode(torch.tensor([prompt[start : start + size]]), kv)
        start += size
    assert start == len(prompt)
    return kv


@torch.no_grad()
def logits(model: DiffusionGemma, kv: list[KVCache], canvas: list[list[int]], prev_probs=None) -> Tensor:
    hidden = model.denoise(torch.tensor(canvas), kv, prev_probs)
    return soft_capped_logits(hidden, model.embed.weight, model.config.final_logit_softcapping)


def naively(
    model: DiffusionGemma, prompt: list[int], canvas: list[int], chances: Tensor | None = None
) -> Tensor:
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    told = naive.run(model.config, weights, prompt, canvas, None if chances is None else chances.numpy())
    return torch.from_numpy(told)


@pytest.mark.parametrize("window", [1, 2, 5, 40])
@pytest.mark.parametrize("layers", LAYERS)
def test_encode_and_denoise_are_one_masked_pass(layers: str, window: int) -> None:
    model = model_of(layers, window)
    for length in (1, 4, 5, 6, 17):
        prompt, canvas = ids(length), ids(WIDTH, 9)
        chances = (
            torch.rand(WIDTH, 48, generator=torch.Generator().manual_seed(length), dtype=torch.float64) ** 8
        )
        row_sum = chances.sum(-1)
        want = naively(model, prompt, canvas, chances / row_sum[:, None])
        kv = [model.new_cache()]
        with torch.no_grad():
            hidden = model.encode(torch.tensor([prompt]), kv)
        clean = soft_capped_logits(hidden, model.embed.weight, model.config.final_logit_softcapping)[0]
        # rope angles are float32 on both sides, and numpy's and torch's differ in their last bits
        assert closeness(clean, want[:length])[0] < 1e-5
        assert (
            closeness(logits(model, kv, [canvas], (chances[None], row_sum[None]))[0], want[length:])[0] < 1e-5
        )
        assert closeness(logits(model, kv, [canvas])[0], naively(model, prompt, canvas)[length:])[0] < 1e-5


@pytest.mark.parametrize("rule", ["one key more", "window of the row"])
def test_a_masked_pass_with_another_window_is_rejected(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = naive.may_see

    def wrong(config, layer, length, width):
        if rule == "one key more":
            return right(
                dataclasses.replace(config, sliding_window=config.sliding_window + 1), layer, length, width
            )
        sees = right(config, layer, length, width)
        for row in range(length, length + width) if layer.is_sliding else ():
            sees[row, :length] &= [row - key < config.sliding_window for key in range(length)]
        return sees

    model, prompt, canvas = model_of("SSF"), ids(17), ids(WIDTH, 9)
    got = logits(model, encoded(model, prompt, [17]), [canvas])[0]
    assert is_close(got, naively(model, prompt, canvas)[17:])
    monkeypatch.setattr(naive, "may_see", wrong)
    assert not is_close(got, naively(model, prompt, canvas)[17:])


@st.composite
def splits(draw: st.DrawFn) -> list[int]:
    return draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))


@settings(max_examples=30)
@given(splits(), st.sampled_from(LAYERS), st.sampled_from((1, 2, 5, 12)))
def test_any_chunks_are_one_chunk(sizes: list[int], layers: str, window: int) -> None:
    model, prompt, canvas = model_of(layers, window), ids(sum(sizes), 4), [ids(WIDTH, 5)]
    whole = logits(model, encoded(model, prompt, [len(prompt)]), canvas)
    assert_close(logits(model, encoded(model, prompt, sizes), canvas), whole, "float64")


@settings(max_examples=20)
@given(
    st.lists(st.integers(1, 19), min_size=2, max_size=4), st.integers(1, 8), st.sampled_from((1, 4, 8)),
    st.sampled_from(LAYERS),
)  # fmt: skip
def test_alone_equals_beside_others(lengths: list[int], chunk: int, window: int, layers: str) -> None:
    model = model_of(layers, window)
    prompts = [ids(length, seed) for seed, length in enumerate(lengths)]
    canvases = [ids(WIDTH, 50 + seed) for seed in range(len(lengths))]
    with torch.no_grad():
        kv = read_prompts(model, prompts, chunk)
        together = [logits(model, kv, canvases)]
        model.encode(torch.tensor(canvases), kv)  # the second canvas continues rows of different lengths
        together.append(logits(model, kv, canvases))
        picked = [kv[-1], kv[0]]
        swapped = logits(model, picked, [canvases[-1], canvases[0]])
    assert_close(swapped, together[1][[len(lengths) - 1, 0]], "float64")
    for row, prompt in enumerate(prompts):
        alone = encoded(model, prompt, [len(prompt)])
        assert_close(logits(model, alone, [canvases[row]])[0], together[0][row], "float64")
        with torch.no_grad():
            model.encode(torch.tensor([canvases[row]]), alone)
        assert_close(logits(model, alone, [canvases[row]])[0], together[1][row], "float64")


def test_a_chunk_that_forgets_its_past_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt, canvas = model_of("SSF"), ids(12), [ids(WIDTH, 1)]
    whole = logits(model, encoded(model, prompt, [12]), canvas)
    right = dgemma.model.passes.Pass._seen

    def forgetful(self, number: int, sliding: bool, first: int):
        seen = right(self, number, sliding, first)
        own = torch.arange(first, first + seen.shape[-1]) >= self.starts[number] if seen is not None else None
        return seen & own if sliding and own is not None else seen

    monkeypatch.setattr(dgemma.model.passes.Pass, "_seen", forgetful)
    assert is_close(logits(model, encoded(model, prompt, [12]), canvas), whole, "float64")
    assert not is_close(logits(model, encoded(model, prompt, [7, 5]), canvas), whole)


def one_sliding_layer(window: int) -> DiffusionGemma:
    """A model that only sees through a window (a checkpoint's last layer is always full, so no file says this)."""
    config = tiny_config("SF", sliding_window=window)
    return lively_model(dataclasses.replace(config, layers=config.layers[:1]), seed=5, dtype="float64")


@pytest.mark.parametrize("chunk", [1, 3, 4, 5, 6, 11, 12])
@pytest.mark.parametrize("window", [1, 2, 5, 12])
def test_a_needle_is_seen_through_exactly_the_window(window: int, chunk: int) -> None:
    model, length, canvas = one_sliding_layer(window), 11, [ids(WIDTH, 2)]
    prompt = ids(length, 8)

    def answer(tokens: list[int]) -> Tensor:
        with torch.no_grad():
            return logits(model, read_prompts(model, [tokens], chunk), canvas)

    plain = answer(prompt)
    for place in range(length):
        needle = list(prompt)
        needle[place] = (needle[place] + 1) % 48
        seen = closeness(answer(needle), plain)[0]
        assert (seen > 1e-6) == (place >= length - (window - 1)), (
            f"token {place} of {length}, window {window}"
        )


@pytest.mark.parametrize("chunk", [1, 4, 5, 6, 20])
def test_full_layers_recall_every_token_across_chunks(chunk: int) -> None:
    model, prompt, canvas = model_of("SF"), ids(21, 8), [ids(WIDTH, 2)]
    with torch.no_grad():
        plain = logits(model, read_prompts(model, [prompt], chunk), canvas)
        for place in range(len(prompt)):
            needle = list(prompt)
            needle[place] = (needle[place] + 1) % 48
            assert closeness(logits(model, read_prompts(model, [needle], chunk), canvas), plain)[0] > 1e-6


def test_denoise_leaves_what_is_encoded_as_it_is() -> None:
    model = model_of("SSF")
    kv = encoded(model, ids(9), [9])
    first = logits(model, kv, [ids(WIDTH, 1)])
    layers = range(len(model.config.layers))
    before = [tensor.clone() for i in layers for tensor in kv[0].read(i, 5, 9)]
    assert torch.equal(first, logits(model, kv, [ids(WIDTH, 1)])) and kv[0].length == 9
    after = [tensor for i in layers for tensor in kv[0].read(i, 5, 9)]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_sliding_layers_keep_no_more_than_their_window_and_room_for_two_canvases() -> None:
    model = model_of("SSF")
    (kv,) = encoded(model, ids(400), [8] * 50)
    slots = [buffer.shape[1] for buffer in kv.keys]
    assert slots[:2] == [4 + 2 * WIDTH] * 2 and slots[2] >= 400
    assert [layer.kind for layer in model.config.layers][:2] == [SLIDING] * 2


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 14), st.integers(0, 9)), min_size=1, max_size=3), st.sampled_from(LAYERS),
    st.sampled_from((1, 2, 5, 12)),
)  # fmt: skip
def test_reading_and_denoising_in_one_pass_equal_both_in_turn(
    rows: list[tuple[int, int]], layers: str, window: int
) -> None:
    """Rows have read some tokens and may have more to read (0: none) before their canvas."""
    model = model_of(layers, window)
    canvas = torch.tensor([ids(WIDTH, 70 + row) for row in range(len(rows))])
    with torch.no_grad():
        apart = [encoded(model, ids(length, row), [length])[0] for row, (length, _) in enumerate(rows)]
        joined = [kv.copy() for kv in apart]
        fresh = [torch.tensor(ids(more, 40 + row), dtype=torch.int64) for row, (_, more) in enumerate(rows)]
        for kv, tokens in zip(apart, fresh, strict=True):
            if len(tokens):
                model.encode(tokens[None], [kv])
        want = model.denoise(canvas, apart)
        clean = [(kv, tokens) for kv, tokens in zip(joined, fresh, strict=True) if len(tokens)]
        (got,) = model.both(clean, [Canvases(canvas, joined, None)])
        assert_close(got, want, "float64")
        assert [kv.length for kv in joined] == [kv.length for kv in apart]
        assert_close(model.denoise(canvas, joined), want, "float64")  # and the cache holds the same


def test_a_copy_of_a_sequence_goes_its_own_way() -> None:
    model = model_of("SSF")
    (kv,) = encoded(model, ids(9), [9])
    twin = kv.copy()
    with torch.no_grad():
        model.encode(torch.tensor([ids(7, 3)]), [twin])
    canvas = [ids(WIDTH, 1)]
    assert kv.length == 9 and twin.length == 16
    assert_close(logits(model, [kv], canvas), logits(model, encoded(model, ids(9), [9]), canvas), "float64")


def test_every_canvas_row_sees_every_other() -> None:
    model, canvas = model_of("SF", 1), ids(WIDTH, 1)
    kv = encoded(model, ids(3), [3])
    plain = logits(model, kv, [canvas])[0]
    for place in range(WIDTH):
        other = list(canvas)
        other[place] = (other[place] + 1) % 48
        changed = (logits(model, kv, [other])[0] - plain).abs().amax(-1)
        assert (changed > 1e-9).all()


def test_encode_is_causal() -> None:
    model, prompt = model_of("SSF"), ids(12)
    with torch.no_grad():
        plain = model.encode(torch.tensor([prompt]), [model.new_cache()])[0]
        prompt[7] = (prompt[7] + 1) % 48
        changed = (model.encode(torch.tensor([prompt]), [model.new_cache()])[0] - plain).abs().amax(-1)
    assert changed[:7].max() < 1e-12 and changed[7:].min() > 1e-9


def test_bf16_is_as_close_as_its_digits() -> None:
    config: ModelConfig = tiny_config("SSF")
    wide, narrow = lively_model(config, 3), lively_model(config, 3, "bfloat16")
    wide.load_state_dict({name: tensor.float() for name, tensor in narrow.state_dict().items()})
    prompt, canvas = ids(13), [ids(WIDTH, 1)]
    answers = [logits(model, encoded(model, prompt, [6, 7]), canvas) for model in (narrow, wide)]
    assert answers[0].dtype == torch.float32
    assert_close(answers[0], answers[1], "bfloat16")
    assert not is_close(answers[0], answers[1], "float32")
