"""Decisions: their probabilities by hand from `denoise_logits`, labels of several tokens, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import dgemma
from dgemma.config.formats import Format
from dgemma.errors import NumericsError, UsageError
from dgemma.kernels.ops.random import noise
from dgemma.model.build import quantise
from dgemma.tasks import decide as decide_task
from dgemma.tasks.decide import _branches, _tokens, prepare
from dgemma.tasks.events import Decisions
from dgemma.tasks.questions import read_questions
from tests.helpers import tiny_checkpoint

STATE = {"subject": "print", "lines": ["import os", "ünï"]}
ABC = {
    "type": "choice",
    "instructions": "Which letter?",
    "criteria": {"a": "the first", "b": None, "c": "the third"},
}
WORDS = {"type": "choice", "criteria": ["no", "nothing", "now", "yes"]}
SCORE = {"type": "score", "instructions": {"rate": "it"}, "criteria": ["bad", "fair", "good"]}
YES = {"type": "noul", "instructions": "Is it code?", "criteria": {"true": "it is"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dgemma.Model:
    folder = tiny_checkpoint(
        tmp_path_factory.mktemp("tiny") / "model",
        canvas_length=32,
        dtype="float64",
        max_position_embeddings=2048,
    )
    return dgemma.load(folder, dtype="float64")


def by_hand(
    model: dgemma.Model, question: dict, seed: int, sampled: int | None = None
) -> list[dict[int, float]]:
    """The chances of every branch's next tokens, from whole logits of the same prompts and canvases. sampled: the token that the
    first of two steps, at temperature 0.8, put in the one free cell."""
    sheet = prepare(
        model.engine,
        model.tokenizer,
        STATE,
        {"q": question},
        "Judge.",
        chat=model.chat_tuned,
        steps=1,
        seed=seed,
    )
    found = []
    for branch in sheet.branches:
        pins, zero = torch.tensor(branch.pins), torch.zeros(1, dtype=torch.int64)
        start = noise(torch.tensor([seed]), zero, zero, len(pins), model.config.vocab_size)[0]
        canvas = torch.where(pins >= 0, pins, start)[None]
        logits, cell, tokens = (
            model.denoise_logits([branch.prompt], canvas),
            len(branch.path),
            branch.allowed[0],
        )
        if sampled is not None:
            believed = torch.full_like(logits, -math.inf)
            believed[0, torch.arange(1, len(pins)), pins[1:]] = 0.0  # a pinned cell believes in its own token
            believed[0, 0, tokens] = logits[0, 0, tokens] / 0.8
            canvas[0, 0] = sampled
            logits = model.denoise_logits([branch.prompt], canvas, believed)
        found.append(dict(zip(tokens, logits[0, cell, tokens].softmax(-1).tolist(), strict=True)))
    return found


@pytest.mark.parametrize("question", [ABC, SCORE])
def test_labels_of_one_token_are_the_softmax_of_their_logits(
    model: dgemma.Model, question: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        model, "chat_tuned", True
    )  # its labels begin without a blank, so that a byte is a token
    answer = model.decide(STATE, {"q": question}, "Judge.", seed=3).answers["q"]
    (hands,) = by_hand(model, question, 3)
    assert sorted(answer.probabilities.values()) == pytest.approx(sorted(hands.values()), rel=1e-9)
    letters = [model.tokenizer.encode(label)[0] for label in answer.probabilities]
    assert [*answer.probabilities.values()] == pytest.approx([hands[letter] for letter in letters], rel=1e-9)
    assert max(hands.values()) - min(hands.values()) > 1e-3, "all alike: the test shows nothing"
    other = model.decide(STATE, {"q": question}, "Judge.", seed=4).answers["q"]
    assert [*other.probabilities.values()] != pytest.approx([*answer.probabilities.values()], rel=1e-3)


def test_every_step_is_a_turn_of_its_own(model: dgemma.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that others have passes between, and a client that leaves is not decided for; of a long state every chunk is one as well."""
    turns, do = [], model.engine.do
    monkeypatch.setattr(model.engine, "do", lambda *asked: (turns.append(asked), do(*asked))[1])
    model.decide(STATE, {"q": ABC}, steps=7)
    assert len(turns) == 7
    model.decide("abcdefgh" * 150, {"q": ABC})
    assert len(turns) == 7 + 3  # 1,200 bytes of 512 at a time, the last with the step


def test_the_head_is_run_over_the_labels_alone(model: dgemma.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """No product with the whole vocabulary, in either of two steps; and 20 questions are two passes a step."""
    tables, passes, logits, both = [], [], decide_task.soft_capped_logits, model.net.both
    monkeypatch.setattr(
        decide_task,
        "soft_capped_logits",
        lambda hidden, table, cap: (tables.append(len(table)), logits(hidden, table, cap))[1],
    )
    monkeypatch.setattr(model.net, "both", lambda *args: (passes.append(len(args[1][0].ids)), both(*args))[1])
    monkeypatch.setattr(
        type(model.net), "table", property(lambda net: pytest.fail("the whole head was asked for"))
    )
    monkeypatch.setattr(model, "chat_tuned", True)
    model.decide(STATE, {str(number): ABC for number in range(20)}, steps=2)
    assert tables == [3] * 4 and passes == [16, 16, 4, 4]


def test_another_canvas_is_another_softmax(model: dgemma.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of the figures by hand: without the pins behind the answer's cell they are not the same."""
    monkeypatch.setattr(model, "chat_tuned", True)
    shares = [*model.decide(STATE, {"q": ABC}, "Judge.", seed=3).answers["q"].probabilities.values()]
    monkeypatch.setattr(torch, "where", lambda condition, pins, start: start)
    assert shares != pytest.approx([*by_hand(model, ABC, 3)[0].values()], rel=1e-3)


def test_labels_of_several_tokens_are_a_tree(model: dgemma.Model) -> None:
    """ " no" and then its end, "t" or "w": every branch's softmax by hand, multiplied along the way."""
    answer = model.decide(STATE, {"q": WORDS}, "Judge.", seed=5).answers["q"]
    tokenizer, (root, behind_no) = model.tokenizer, by_hand(model, WORDS, 5)
    n, y, t, w = (tokenizer.encode(letter)[0] for letter in "nytw")
    want = [
        root[n] * behind_no[tokenizer.special.eos], root[n] * behind_no[t], root[n] * behind_no[w], root[y],
    ]  # fmt: skip
    assert [*answer.probabilities.values()] == pytest.approx(want, rel=1e-9) and sum(want) == pytest.approx(1)
    assert answer.choice == max(answer.probabilities, key=answer.probabilities.get)


def test_a_second_step_is_conditioned_on_the_first(
    model: dgemma.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, the second step's canvas holds whichever label was sampled; one of the ways must be the one taken."""
    monkeypatch.setattr(model, "chat_tuned", True)
    answer = model.decide(STATE, {"q": ABC}, "Judge.", steps=2, seed=3).answers["q"]
    once = model.decide(STATE, {"q": ABC}, "Judge.", seed=3).answers["q"]
    shares = [*answer.probabilities.values()]
    ways = [by_hand(model, ABC, 3, sampled=model.tokenizer.encode(label)[0])[0] for label in "abc"]
    assert sum(shares == pytest.approx([*way.values()], rel=1e-9) for way in ways) == 1
    assert shares != pytest.approx([*once.probabilities.values()], rel=1e-3)


def test_questions_do_not_see_each_other(model: dgemma.Model) -> None:
    alone = {name: model.decide(STATE, {"q": question}, seed=7).answers["q"] for name, question in
             {"a": ABC, "w": WORDS, "s": SCORE, "y": YES}.items()}  # fmt: skip
    together = model.decide(STATE, {"a": ABC, "w": WORDS, "s": SCORE, "y": YES}, seed=7)
    for name, answer in together.answers.items():
        assert [*answer.probabilities.values()] == pytest.approx(
            [*alone[name].probabilities.values()], rel=1e-9
        )
    assert isinstance(together, Decisions) and together.steps == 1
    again = model.decide(STATE, {"a": ABC, "w": WORDS, "s": SCORE, "y": YES}, seed=7)
    assert again.answers == together.answers


def test_nothing_is_committed_and_one_pass_is_made(
    model: dgemma.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, both = [], model.net.both
    monkeypatch.setattr(model.net, "both", lambda *args: (passes.append(len(args[0])), both(*args))[1])
    model.decide(STATE, {"a": ABC, "y": YES}, steps=3)
    assert passes == [passes[0], 0, 0] and passes[0] >= 2
    monkeypatch.setattr("dgemma.tasks.decide.ROWS", 1)
    assert len(model.decide(STATE, {"a": ABC, "y": YES}).answers) == 2 and len(passes) == 3 + passes[0]


def test_answers_by_type(model: dgemma.Model) -> None:
    found = model.decide(
        STATE, {"a": ABC, "s": SCORE, "y": YES, "one": {"type": "choice", "criteria": ["only"]}}
    ).answers
    score, yes = found["s"], found["y"]
    assert found["a"].to_dict().keys() == {"type", "choice", "probabilities", "confidence"}
    assert score.score == pytest.approx(
        sum(int(level) * share for level, share in score.probabilities.items())
    )
    assert score.to_dict()["legend"] == {"0": "bad", "1": "fair", "2": "good"} and [*score.probabilities] == [
        "0",
        "1",
        "2",
    ]
    assert yes.noul == yes.probabilities["yes"] == pytest.approx(1 - yes.probabilities["no"])
    assert (
        found["one"].choice == "only"
        and found["one"].probabilities == {"only": 1.0}
        and found["one"].confidence == 1.0
    )
    peak = max(found["a"].probabilities.values())
    assert found["a"].confidence == pytest.approx((3 * peak - 1) / 2)


def test_one_possible_answer_needs_no_model(model: dgemma.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.net, "both", None)
    assert model.decide("x", {"q": {"type": "score", "criteria": ["fine"]}}).steps == 0


@pytest.mark.parametrize(
    ("dtype", "name"), [("float32", None), ("bfloat16", None), ("float32", "fp8"), ("float32", "int8")]
)
def test_packed_and_quantised_tables_answer_alike(tmp_path: Path, dtype: str, name: str | None) -> None:
    folder = tiny_checkpoint(tmp_path / "model", canvas_length=32, max_position_embeddings=2048)
    plain, other = (
        dgemma.load(folder, dtype="float64"),
        dgemma.load(folder, dtype=dtype, trainable=name is not None),
    )
    if name:
        quantise(other.net, {"embedding": Format(name)})
    one, two = (model.decide(STATE, {"a": ABC, "w": WORDS}).answers for model in (plain, other))
    for key in one:
        tolerance = 1e-4 if (dtype, name) == ("float32", None) else 0.2
        assert [*two[key].probabilities.values()] == pytest.approx(
            [*one[key].probabilities.values()], abs=tolerance
        )


def test_the_tree_of_labels() -> None:
    assert _branches([(1,), (2,)]) == [((), [[1, 2]])]
    assert _branches([(5, 0), (5, 7), (6, 8)]) == [((), [[5, 6], [0, 7, 8]]), ((5,), [[0, 7]])]
    assert _branches([(5, 7)]) == []


def test_shorter_labels_are_filled_up_and_twins_refused(model: dgemma.Model) -> None:
    special = model.tokenizer.special
    assert _tokens(model.tokenizer, ["a", "abc"], "", special.eos, "q")[0][1:] == (special.eos, special.pad)
    with pytest.raises(
        UsageError, match="the label ' a' stands there twice|the label 'a' stands there twice"
    ):
        _tokens(model.tokenizer, ["a", " a"], "", special.eos, "q")


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ({}, "at least one question"), ([], "at least one question"), ({"q": 5}, "questions\\['q'\\] must be a dict"),
        ({"q": {"type": "maybe"}}, "type 'maybe' is not one of choice, score, noul"),
        ({"q": {"type": "noul", "criterias": 1}}, "unknown key 'criterias'"),
        ({"q": {"type": "choice"}}, "criteria of a choice"), ({"q": {"type": "choice", "criteria": [1, 2]}}, "criteria of a choice"),
        ({"q": {"type": "choice", "criteria": {"": None}}}, "the label '' is no text"),
        ({"q": {"type": "score", "criteria": "bad"}}, "criteria of a score"),
        ({"q": {"type": "noul", "criteria": {"maybe": "x"}}}, "criteria of a yes or no"),
        ({"q": {"type": "choice", "criteria": {"a": {1, 2}}}}, "neither text nor JSON"),
        ({"q": {"type": "choice", "criteria": [str(n) for n in range(256)]}}, "has 256 answers; at most 255"),
        ({str(n): {"type": "noul"} for n in range(257)}, "257 questions; at most 256"),
    ],
)  # fmt: skip
def test_bad_questions_are_refused_by_name(questions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_questions(questions)


def test_bad_requests_are_refused(model: dgemma.Model) -> None:
    for asked, message in (
        ({"state": ""}, "state is empty"), ({"state": "x" * 3000}, "max_prompt_tokens"), ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True"), ({"seed": -1}, "seed is -1"), ({"state": {1}}, "neither text nor JSON"),
        ({"questions": {"q": {"type": "choice", "criteria": ["x" * 40, "y"]}}}, "a label has 41 tokens; a canvas of 32"),
        ({"state": "x" * 1_000_000}, "characters"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            model.decide(**({"state": "x", "questions": {"q": YES}} | asked))


def test_logits_that_are_not_finite_decide_nothing(tmp_path: Path) -> None:
    broken = dgemma.load(tiny_checkpoint(tmp_path / "model", canvas_length=32), dtype="float64")
    broken.net.norm.weight.data[0] = float("nan")
    with pytest.raises(NumericsError, match="nothing was decided"):
        broken.decide("x", {"q": {"type": "choice", "criteria": ["a", "b"]}})


def test_a_state_that_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another question about it finds it in the prefix cache, and answers as it does without."""
    folder = tiny_checkpoint(tmp_path / "model", canvas_length=32, max_position_embeddings=2048)
    model, fresh = dgemma.load(folder, dtype="float64"), dgemma.load(folder, dtype="float64")
    model.decide(STATE, {"q": ABC})
    read, encode = [], model.net.encode
    monkeypatch.setattr(
        model.net, "encode", lambda ids, *rest: (read.append(ids.shape[1]), encode(ids, *rest))[1]
    )
    again = model.decide(STATE, {"q": YES}).answers["q"]
    assert read == []
    assert again.noul == pytest.approx(fresh.decide(STATE, {"q": YES}).answers["q"].noul, rel=1e-9)
