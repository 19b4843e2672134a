"""dgemma.load and the object it returns, on a tiny random checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dgemma
from dgemma.engine.requests import Request
from dgemma.errors import CheckpointError, NumericsError, UsageError
from dgemma.tasks.events import Committed, Draft, Generation
from dgemma.tasks.generate import EMPTY_ONCE, EMPTY_TWICE, again
from tests.helpers import assert_close, tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dgemma.Model:
    return dgemma.load(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


def test_the_same_request_gives_the_same_text_and_another_seed_does_not(model: dgemma.Model) -> None:
    one = model.generate("abc", max_tokens=30, seed=1)
    assert one.text == model.generate("abc", max_tokens=30, seed=1).text
    assert one.token_ids != model.generate("abc", max_tokens=30, seed=2).token_ids
    assert len(one.token_ids) == 30 and one.finish_reason == "length" and one.canvases == 3
    assert one.tokens_per_forward == 30 / sum(one.steps)


def test_a_stream_is_the_generation_watched(model: dgemma.Model) -> None:
    events = list(model.stream("abc", max_tokens=20, seed=3))
    drafts = [e for e in events if isinstance(e, Draft)]
    commits = [e for e in events if isinstance(e, Committed)]
    last = events[-1]
    assert isinstance(last, Generation) and last.text == "".join(c.text for c in commits)
    assert len(drafts) == sum(last.steps) and [c.steps for c in commits] == last.steps
    assert all(len(d.pieces) == len(d.entropy) == len(d.accepted) == 12 for d in drafts)
    assert last.text == model.generate("abc", max_tokens=20, seed=3).text


def test_token_by_token_is_the_causal_passes_own_answer(model: dgemma.Model) -> None:
    answer = model.generate("ab", max_tokens=9, autoregressive=True, temperature=0)
    ids = [model.tokenizer.special.need("bos"), *model.tokenizer.encode("ab")]
    for _ in answer.token_ids:
        hidden = model.net.encode(torch.tensor([ids]), [model.net.new_cache()])
        ids.append(int((hidden[0, -1] @ model.net.embed.weight.T).argmax()))
    assert answer.token_ids == ids[-len(answer.token_ids) :] and answer.steps == [1] * len(answer.token_ids)
    assert answer.autoregressive and answer.to_dict()["autoregressive"] is True
    assert "autoregressive" not in model.generate("ab", max_tokens=9).to_dict()
    assert model.chat([{"role": "user", "content": "ab"}], 4, autoregressive=True).generation.autoregressive


def test_token_by_token_refuses_what_a_canvas_is_needed_for(model: dgemma.Model) -> None:
    for asked in ({"regex": "a+", "eos_token_id": 3}, {"bad_words": ["b"]}, {"logprobs": True}):
        with pytest.raises(UsageError, match="token by token"):
            model.stream("ab", 9, autoregressive=True, **asked)


def test_none_is_nothing(model: dgemma.Model) -> None:
    plain = model.generate("ab", 9)
    nothing = {
        "temperature": None,
        "top_p": None,
        "stop": None,
        "bad_words": None,
        "entropy_bound": None,
        "logit_bias": None,
    }
    assert model.generate("ab", 9, **nothing).token_ids == plain.token_ids


def test_the_default_length_says_that_it_cut(model: dgemma.Model) -> None:
    assert "raise max_tokens" in model.generate("abc").notes[0]
    assert not model.generate("abc", max_tokens=5).notes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "prompt is empty"),
        ({"text": "x" * 1_000_000}, "1000000 characters"),
        ({"text": "x" * 2_000}, "max_prompt_tokens"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"max_tokens": 10**6}, "max_tokens 1000000"),
        ({"seed": -1}, "seed is -1"),
        ({"max_denoising_steps": 0}, "max_denoising_steps"),
        ({"t_min": 2.0}, "t_max"),
        ({"entropy_bound": -0.1}, "entropy_bound"),
        ({"confidence_threshold": 0}, "confidence_threshold"),
        ({"canvas_width": 13}, "canvas_width 13"),
        ({"eos_token_id": (1, 280)}, "eos_token_id 280"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"heat": 1.0}, "unknown parameter 'heat'"),
        ({"top_p": 2}, "top_p is 2"),
        ({"stop": [3]}, "stop string"),
        ({"bad_words": ["x"], "regex": "a"}, "together"),
    ],
)
def test_bad_requests_are_refused_by_name(model: dgemma.Model, arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.generate(**({"text": "abc", "max_tokens": 5} | arguments))


def test_generate_ids_takes_lists_and_tensors(model: dgemma.Model) -> None:
    start = [[7] * 12, [8] * 12]
    one = model.generate_ids([2, 30, 31], 24, canvas_ids=start)
    two = model.generate_ids(torch.tensor([2, 30, 31]), 24, canvas_ids=torch.tensor(start))
    assert one.token_ids == two.token_ids and len(one.steps) == 2
    narrow = model.generate_ids([2, 30, 31], 24, canvas_ids=[7] * 5)
    assert len(narrow.steps) == 5 and len(narrow.token_ids) == 24
    with pytest.raises(UsageError, match="starting canvas has 5"):
        model.generate_ids([2], 4, canvas_ids=[7] * 5, canvas_width=6)
    with pytest.raises(UsageError, match="no token id"):
        model.generate_ids([2, 280], 4)


def test_denoise_logits_of_ragged_prompts_equal_those_alone(model: dgemma.Model) -> None:
    prompts = [[2, 40, 41], [2] + list(range(30, 55))]
    canvas = torch.randint(280, (2, 12), generator=torch.Generator().manual_seed(0))
    both = model.denoise_logits(prompts, canvas)
    assert both.shape == (2, 12, 280) and both.dtype == torch.float32 and both.abs().max() < 30
    for row in range(2):
        alone = model.denoise_logits([prompts[row]], canvas[row : row + 1])
        assert_close(both[row : row + 1], alone)
    conditioned = model.denoise_logits(prompts, canvas, both / 0.8)
    assert (conditioned - both).abs().max() > 1e-3
    both.mul_(2.0)  # an ordinary tensor: whoever studies it may change it


CANVAS = [[5] * 12]


@pytest.mark.parametrize(
    ("prompts", "canvas", "more", "message"),
    [
        ([[2]], [5] * 12, {}, "canvas_ids is int"),
        ([2, 3], CANVAS, {}, "prompt_ids is int"),
        ([], [], {}, "canvas_ids has 0 rows"),
        ([[2], [3]], CANVAS, {}, "canvas_ids has 1 rows"),
        ([[2]], [[5] * 13], {}, "1 to 12 were expected"),
        ([[2]], [[]], {}, "1 to 12 were expected"),
        ([[280]], CANVAS, {}, "280 is no token id"),
        ([[2.5]], CANVAS, {}, "holds 2.5"),
        ([[2]], torch.rand(1, 12), {}, "which is no token id"),
        ([[2]], CANVAS, {"self_conditioning": torch.zeros(280)}, r"floats \[1, 12, 280\]"),
        ([[2]], CANVAS, {"self_conditioning": torch.zeros(1, 12, 280, dtype=torch.int64)}, "int64"),
        ([[2]], CANVAS, {"self_conditioning": torch.full((1, 12, 280), float("nan"))}, "NaN"),
    ],
)
def test_denoise_logits_refuses_by_name(
    model: dgemma.Model, prompts, canvas, more: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        model.denoise_logits(prompts, canvas, **more)


def test_texts_and_ids_of_another_kind_are_refused(model: dgemma.Model) -> None:
    for call in (
        lambda: model.generate(5), lambda: model.fill(None, "x"), lambda: model.fill("a", b"x"), lambda: model.chat(None),
        lambda: model.chat([{"role": "user", "content": "x" * 1_000_000}]), lambda: model.generate_ids(None),
        lambda: model.generate_ids([2], canvas_ids=3), lambda: model.generate_ids([2], canvas_ids=torch.rand(12)),
        lambda: model.fill("a", "b", ignore_after_end=True),
        lambda: model.generate("a", pad_token_id=3), lambda: model.generate("a", max_new_tokens=3),
        lambda: dgemma.load(5), lambda: dgemma.load(device="mps"), lambda: dgemma.load(device=[1]),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            call()


def test_ids_may_be_arrays(model: dgemma.Model) -> None:
    want = model.generate_ids([2, 40], 12, canvas_ids=CANVAS).token_ids
    assert model.generate_ids(np.array([2, 40]), 12, canvas_ids=[np.int64(5)] * 12).token_ids == want
    assert (
        len(model.generate_ids([2], canvas_ids=CANVAS * 3, eos_token_id=None).token_ids) == 36
    )  # longer than the default


def test_a_model_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="meta"):
        dgemma.load(tiny_checkpoint(tmp_path / "model"), device="meta").generate("abc")


def test_an_answer_without_text_is_drawn_once_more(model: dgemma.Model) -> None:
    """Any token ends the answer here, so that its one token decides whether there is text."""
    answers = [model.generate("abc", 12, seed=seed, eos_token_id=tuple(range(280))) for seed in range(40)]
    again = [found for seed, found in enumerate(answers) if found.seed == seed + 1]
    assert again, "no seed gave an empty answer; the test shows nothing"
    for found in answers:
        assert found.notes == (
            [] if found not in again else [EMPTY_ONCE if found.text.strip() else EMPTY_TWICE]
        )
        assert found.text.strip() or found in again


def test_logits_that_are_not_finite_give_an_error_and_no_text(tmp_path: Path) -> None:
    broken = dgemma.load(tiny_checkpoint(tmp_path / "model"))
    broken.net.norm.weight.data[0] = float("nan")
    seen = []
    with pytest.raises(NumericsError, match="not finite"):
        for event in broken.stream("abc", max_tokens=5):
            seen.append(event)
    assert not any(isinstance(event, (Committed, Generation)) for event in seen)
    with pytest.raises(NumericsError):
        broken.generate_ids([2, 3], 5)
    with pytest.raises(NumericsError):
        broken.fill("abc", "def")


def test_loading_names_what_is_wrong(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    with pytest.raises(UsageError, match="dtype 'int8'"):
        dgemma.load(folder, dtype="int8")
    with pytest.raises(UsageError, match="device 'tpu9'"):
        dgemma.load(folder, device="tpu9")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="model.safetensors"):
        dgemma.load(folder)


def test_a_folder_without_a_tokenizer_still_works_on_ids(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "generation_config.json").unlink()
    model = dgemma.load(folder, dtype="float64")
    assert len(model.generate_ids([2, 9], 5, max_denoising_steps=3).token_ids) == 5
    with pytest.raises(UsageError, match="tokenizer.json"):
        model.generate("abc")


def test_chat_splits_its_reply(model: dgemma.Model) -> None:
    reply = model.chat([{"role": "user", "content": "hi"}], max_tokens=24, seed=4)
    assert reply.generation.prompt_tokens > 5 and isinstance(reply.content, str)
    assert set(reply.to_dict()) >= {"content", "thought", "tool_calls", "malformed", "token_ids", "steps"}
    with pytest.raises(UsageError):
        model.chat([])


def test_a_chat_is_marked_where_its_turns_begin_and_a_text_nowhere(model: dgemma.Model, monkeypatch) -> None:
    asked, submit = [], model.engine.submit
    monkeypatch.setattr(model.engine, "submit", lambda request: (asked.append(request), submit(request))[1])
    talk = [{"role": role, "content": "<|turn>hi"} for role in ("system", "user", "assistant", "user")]
    model.chat(talk, max_tokens=12)
    resume_points, ids = asked[0].resume_points, asked[0].prompt_ids
    assert len(resume_points) == 5, "four messages and the turn that is to be written"
    assert [model.tokenizer.decode(ids[place + 1 : place + 5]) for place in resume_points] == [
        "syst",
        "user",
        "mode",
        "user",
        "mode",
    ]
    asked.clear()
    model.generate("<|turn>hi", 12)
    assert asked[0].resume_points == ()


def test_importing_dgemma_does_not_import_torch() -> None:
    code = "import sys, dgemma; assert 'torch' not in sys.modules; dgemma.errors; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_end_tokens_come_from_config_json_where_the_settings_name_none(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", eos_token_id=7)
    settings = json.loads((folder / "generation_config.json").read_text())
    del settings["eos_token_id"]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert dgemma.load(folder).denoise.eos_token_id == dgemma.load(folder).config.eos_token_ids


def test_an_answer_shorter_than_half_a_canvas_gets_a_narrow_one(tmp_path: Path) -> None:
    model = dgemma.load(tiny_checkpoint(tmp_path / "wide", canvas_length=64))

    def widths(**asked) -> set[int]:
        events = model.stream("abc", max_denoising_steps=2, **asked)
        return {len(event.token_ids) for event in events if isinstance(event, Draft)}

    assert widths(max_tokens=14) == {16} and widths(max_tokens=17) == {32} and widths(max_tokens=33) == {64}
    assert widths(max_tokens=14, canvas_width=64) == {64} and widths(max_tokens=14, canvas_width=5) == {5}
    result = model.generate_ids([1, 2, 3], max_tokens=14, max_denoising_steps=2)
    assert len(result.canvases[0]) == 64, "ids are for those who study the model: nothing is chosen for them"


LAST_SEED = 2**63 - 1


def test_an_answer_that_is_drawn_again_has_the_first_seed_behind_the_last() -> None:
    assert [again(Request((1,), 1, seed)).seed for seed in (0, LAST_SEED)] == [1, 0]


def test_windows_of_an_edit_go_on_behind_the_last_seed(
    model: dgemma.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = "".join(f"line {number} = value\n" for number in range(12))
    seen, submit = [], model.engine.submit
    monkeypatch.setattr(
        model.engine, "submit", lambda request: (seen.append(request.seed), submit(request))[1]
    )
    edit = model.edit(document, seed=LAST_SEED, spans=[(5, 6), (90, 91), (170, 171)], max_denoising_steps=2)
    assert len(edit.changes) == 3 and {LAST_SEED, 0, 1} <= set(seen) <= {LAST_SEED, 0, 1, 2}


def test_a_gap_that_stays_empty_wraps_as_well(model: dgemma.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgemma.tasks.pinned._texts", lambda *_: [""])
    filling = model.fill("abc", "xyz" * 5, seed=LAST_SEED, widths=[2])
    assert (filling.generation.seed, filling.generation.notes[:1]) == (0, [EMPTY_TWICE])
