"""The report: it holds for a whole model, and each section fails for a model, a cache or a kernel that is wrong in its way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import dgemma.model.passes
from dgemma import api
from dgemma.bench import backends, oracle, reach, verify
from dgemma.bench.report import LIMITS, Section, Skip, distance, lines, public, share
from dgemma.engine.engine import Engine
from dgemma.errors import UsageError
from dgemma.model.dgemma import DiffusionGemma
from dgemma.model.kv import KVCache
from tests import oracle as oracle_of_tests
from tests.helpers import tiny_checkpoint

CONTEXT = 160
needed = oracle_of_tests.needed
quiet = pytest.mark.filterwarnings(
    "ignore:(invalid value|divide by zero|overflow)"
)  # numpy's, in Triton's interpreter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def model(folder: Path) -> api.Model:
    return api.load(folder, "cpu", "float32")


def section(name: str, check: Callable[[Section], None]) -> Section:
    return verify._done(Section(name), check)


def reached(model: api.Model) -> Section:
    return section("reach", lambda part: reach.check(part, model.net, CONTEXT, 32))


def wrong_window(monkeypatch: pytest.MonkeyPatch, by: int) -> None:
    first = dgemma.model.passes.Pass._first
    monkeypatch.setattr(
        dgemma.model.passes.Pass, "_first", lambda self, start: max(0, min(first(self, start) + by, start))
    )


def test_a_whole_model_holds_in_every_section(model: api.Model) -> None:
    found = {part.name: part for part in verify.verify(model, CONTEXT)}
    assert list(found) == ["machine", "model", "logits", "reach", "determinism", "paths", "kernels", "speed"]
    assert not [line for part in found.values() for line in part.failures]
    assert found["kernels"].state.startswith("not run: ")
    assert found["logits"].state == "ok" or not oracle_of_tests.installed()
    assert found["model"].facts["folder"] == "tiny" and str(model.folder) not in "".join(
        sum(map(lines, found.values()), [])
    )
    assert "40, 160" in found["reach"].facts["prompts"]
    assert found["speed"].facts["recipe"].startswith("fixed16")


@needed
@pytest.mark.parametrize("dtype", ["float32", "float64"])  # random weights amplify 16-bit rounding
def test_logits_fail_where_one_weight_of_one_side_is_another(folder: Path, dtype: str) -> None:
    model = api.load(folder, "cpu", dtype)
    right = section("logits", lambda part: verify._logits(part, model))
    assert right.state == "ok" and {"prompt", "first step", "second step"} < set(right.facts)
    model.net.layers[1].post_attention_layernorm.weight.mul_(1.5)
    assert len(section("logits", lambda part: verify._logits(part, model)).failures) == 3


@needed
def test_the_borrowed_reference_is_the_one_that_was_read(model: api.Model, folder: Path) -> None:
    net = api.load(folder, "cpu", "float32", trainable=True).net  # plain weights
    ids, canvas = [*range(3, 60)], torch.arange(net.config.canvas_length)
    sides = [
        oracle.answers(one, ids, canvas, 0.7)
        for one in (oracle.read(folder, net.dtype, net.device, False), oracle.borrow(net))
    ]
    assert all(torch.equal(a, b) for a, b in zip(*sides, strict=True))
    shared = oracle.borrow(net).model.decoder.layers[0].self_attn.q_proj.weight
    assert shared.data_ptr() == net.layers[0].self_attn.q_proj.weight.data_ptr(), "no second copy"


@needed
def test_a_reference_that_cannot_be_had_says_why(model: api.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_free", lambda device: 0)
    assert "B for the reference" in section("logits", lambda part: verify._logits(part, model)).state
    monkeypatch.undo()
    monkeypatch.setattr(model, "folder", model.folder / "elsewhere")
    state = section("logits", lambda part: verify._logits(part, model)).state
    assert (
        state.startswith("not run: transformers cannot read the folder")
        and str(model.folder.parent) not in state
    )


def test_reach_holds_for_a_prompt_of_any_length(model: api.Model) -> None:
    for context in (8, 33, 200):
        assert (
            section("reach", lambda part, context=context: reach.check(part, model.net, context, 16)).state
            == "ok"
        )


@pytest.mark.parametrize(("by", "what"), [(1, "sliding layers do not read"), (-1, "behind their window")])
def test_reach_sees_a_wrong_window(
    model: api.Model, monkeypatch: pytest.MonkeyPatch, by: int, what: str
) -> None:
    wrong_window(monkeypatch, by)
    assert any(what in failure for failure in reached(model).failures)


def test_reach_sees_a_token_that_is_lost_between_chunks(
    model: api.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = KVCache.write

    def losing(self: KVCache, layer: int, position: int, k, v) -> None:
        lost = 1 if position == self.length and position and k.shape[1] > 1 else 0
        write(self, layer, position + lost, k[:, lost:], v[:, lost:])

    monkeypatch.setattr(KVCache, "write", losing)
    assert any("depend on the chunks" in failure for failure in reached(model).failures)


def test_reach_sees_a_token_that_nobody_reads(model: api.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    right = reach._read
    monkeypatch.setattr(reach, "_read", lambda net, ids, chunk: right(net, [ids[0], 5, *ids[2:]], chunk))
    assert any("no change of the tokens [1]" in failure for failure in reached(model).failures)


def test_reach_sees_a_full_layer_that_forgets_its_first_token(
    model: api.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, denoise, busy = KVCache.read, DiffusionGemma.denoise, []

    def forgetful(self: KVCache, layer: int, first: int, stop: int):
        skipped = 2 if busy and not self.config.layers[layer].is_sliding else 0
        return read(self, layer, max(first, skipped), stop)

    def denoising(self: DiffusionGemma, *arguments):
        busy.append(1)
        try:
            return denoise(self, *arguments)
        finally:
            busy.pop()

    monkeypatch.setattr(DiffusionGemma, "denoise", denoising)
    monkeypatch.setattr(KVCache, "read", forgetful)
    assert any(
        "full layers do not read the cached tokens [1]" in failure for failure in reached(model).failures
    )


def test_edges_lie_on_both_sides_of_chunks() -> None:
    assert reach.edges(10, 4) == [1, 3, 4, 7, 8, 9]
    assert reach.edges(8, 8) == [1, 7]
    assert len(reach.edges(4096, 16)) <= 2 * reach.MOST_EDGES + 2


def test_other_tokens_for_the_same_request_fail(model: api.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert section("determinism", lambda part: verify._determinism(part, model)).state == "ok"
    seeds = iter(range(1000))
    engine = verify._engine

    def fickle(model: api.Model) -> Engine:
        made, seed = engine(model), next(seeds)
        submit = made.submit
        made.submit = lambda request: submit(dataclasses.replace(request, seed=seed))  # type: ignore[method-assign]
        return made

    monkeypatch.setattr(verify, "_engine", fickle)
    assert section("determinism", lambda part: verify._determinism(part, model)).state == "FAILED"


def test_a_merged_pass_without_its_belief_fails(model: api.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert section("paths", lambda part: verify._paths(part, model)).state == "ok"
    both = DiffusionGemma.both
    monkeypatch.setattr(
        DiffusionGemma,
        "both",
        lambda self, clean, groups: both(self, clean, [g._replace(soft=None) for g in groups]),
    )
    failures = section("paths", lambda part: verify._paths(part, model)).failures
    assert failures and failures[0].startswith("prompt and step in one pass")


def test_an_engine_that_decides_otherwise_fails(model: api.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = verify._engine

    def unread(model: api.Model) -> Engine:
        made = engine(model)
        submit = made.submit
        made.submit = lambda request: submit(dataclasses.replace(request, prompt_ids=(7,)))  # type: ignore[method-assign]
        return made

    monkeypatch.setattr(verify, "_engine", unread)
    failures = section("paths", lambda part: verify._paths(part, model)).failures
    assert failures and failures[0].startswith("engine and plain loop agree in")


@quiet
@pytest.mark.parametrize(
    ("module", "name", "line"),
    [
        (None, "", ""),
        ("moe", "experts", "experts"),
        ("vocab", "head", "head at T 0.8"),
        ("attention", "attention", "attention, full layer, canvas"),
    ],
)
def test_a_wrong_kernel_fails_and_a_right_one_holds(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str | None, name: str, line: str
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv(backends.CHOICE, "triton")
    model = api.load(
        folder, "cpu", "float32", trainable=True
    )  # plain weights: whether to pack was asked before
    if module:
        kernels = pytest.importorskip(f"dgemma.kernels.triton.{module}")
        right = getattr(kernels, name)

        def wrong(*arguments, **named):
            found = right(*arguments, **named)
            return (*found[:4], found[4] * 1.1) if isinstance(found, tuple) else found * 1.01

        monkeypatch.setattr(kernels, name, wrong)
    found = section("kernels", lambda part: backends.check(part, model.net))
    assert any(text.startswith(line) for text in found.failures) if module else not found.failures, (
        found.failures
    )


def test_kernels_say_why_they_are_not_looked_at(
    folder: Path, model: api.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "on a card" in str(backends.why_not(model.net))
    monkeypatch.setenv(backends.CHOICE, "triton")
    assert "float64" in str(backends.why_not(api.load(folder, "cpu", "float64").net))
    monkeypatch.setattr(backends, "triton_backend", lambda name, tensor: None)
    assert "not installed" in str(backends.why_not(api.load(folder, "cpu", "float16").net))


def test_an_error_is_a_failure_of_its_section_alone(
    model: api.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments):
        raise RuntimeError("cannot open '/home/somebody/secret place/x.so'\nmore")

    monkeypatch.setattr(verify, "_paths", broken)
    found = {part.name: part for part in verify.verify(model, 16)}
    assert (
        found["paths"].failures[0].startswith("RuntimeError: cannot open '")
        and "somebody" not in found["paths"].failures[0]
    )
    assert found["speed"].state == "ok"
    for error, state in ((MemoryError(), "out of memory"), (Skip("no card"), "no card")):
        assert (
            section("x", lambda part, error=error: (_ for _ in ()).throw(error)).state == f"not run: {state}"
        )


def test_the_context_is_what_fits(model: api.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    most = model.config.max_position_embeddings - model.config.canvas_length
    assert verify._context(model, None) == most and verify._context(model, 9) == 9
    for wrong in (7, most + 1):
        with pytest.raises(UsageError, match="--context"):
            verify._context(model, wrong)
    monkeypatch.setattr(verify, "_free", lambda device: 0)
    assert verify._context(model, None) <= 64
    with pytest.raises(UsageError, match="memory"):
        verify._context(model, 9)


def test_reports_name_no_folder() -> None:
    assert (
        public("/home/me/x/model.safetensors: no such file\nsecond line") == "model.safetensors: no such file"
    )
    assert public("cannot read 'C:\\Users\\me\\a.json'") == "cannot read 'a.json'"
    assert public("~/models/a and ../b/c, 3/4 of x") == "a and c, 3/4 of x"
    assert public("") == "no message"


def test_distances_are_relative_to_what_is_right() -> None:
    want, got = torch.full((3, 2), 3.0), torch.tensor([[3.0, 3.0], [3.0, 6.0], [3.3, 3.3]])
    assert distance(got, want) == pytest.approx((1.0, (0.51 / 3) ** 0.5, 0.1), rel=1e-5)
    part = Section("x")
    part.compare("same", want, want, torch.float32)
    assert part.state == "ok"
    part.compare("other", got, want, torch.float32)
    part.compare("not finite", want * float("nan"), want, torch.bfloat16)
    assert len(part.failures) == 2 and all(largest > typical for largest, typical in LIMITS.values())
    assert (
        share([1, 2, 3], [1, 2, 4]) == pytest.approx(2 / 3)
        and share([1], [1, 2]) == 0.5
        and share([], []) == 0
    )


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_either_limit_alone_decides(dtype: torch.dtype) -> None:
    """An error of every row may be far below the limit of the largest one, and one of a single number below the typical row's."""
    most, usual = LIMITS[dtype]
    want = torch.ones(9, 4, dtype=torch.float64)
    single = torch.zeros_like(want)
    single[2, 3] = most

    def compared(error: torch.Tensor) -> Section:
        part = Section("x")
        part.compare("logits", want + error, want, dtype)
        return part

    for right in (torch.full_like(want, 0.9 * usual), 0.9 * single):
        assert compared(right).state == "ok"
    for wrong in (torch.full_like(want, 1.1 * usual), 1.1 * single):
        (failure,) = compared(wrong).failures
        assert f"(limit {usual:.2g})" in failure and f"(limit {most:.2g})" in failure
    assert 1.1 * usual < most


def test_the_typical_row_is_the_middle_one() -> None:
    """Half of the rows may be wrong before it moves, as where a router's near-tie falls the other way; not one more."""
    want = torch.ones(9, 4)
    for rows, typical in ((4, 0.0), (5, 0.5)):
        got = want.clone()
        got[:rows] += 0.5
        assert distance(got, want).typical == pytest.approx(typical)
