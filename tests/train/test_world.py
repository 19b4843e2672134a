"""The world.

Every family's own answer passes its check and a broken one fails, sides do not meet, and all is a function of
the index.
"""

from __future__ import annotations

import ast
import itertools
import json
import random
from pathlib import Path

import pytest

from dgemma.errors import UsageError
from dgemma.text.tokenizer import Tokenizer
from dgemma.train.world import (
    FAMILIES,
    HOLDOUTS,
    Example,
    World,
    facts,
    judge,
    names,
    sandbox,
    vocabulary,
    words,
)
from dgemma.train.world import german as german_words
from dgemma.train.world.checks import Exact, SameCall, SameJson, SameResults, SameTable
from dgemma.train.world.compositions import LOOPED, spec
from dgemma.train.world.draw import Draw, is_held_out
from dgemma.train.world.functions import Function

MANY = 30
CASES = [(name, kind) for name, entry in FAMILIES.items() for kind in (None, *entry.holdouts)]


def examples(name: str, kind: str | None, count: int = MANY, seed: int = 1) -> list[Example]:
    world = World(seed, "test" if kind else "train", kind)
    return [world.example(name, index) for index in range(count)]


def broken(answer: str) -> str:
    """An answer with one mistake in it: its last letter or digit is wrong, by much where it is a number."""
    place = max(place for place, sign in enumerate(answer) if sign.isalnum())
    wrong = "777" if answer[place].isdigit() else "q" if answer[place] != "q" else "z"
    return answer[:place] + wrong + answer[place + 1 :]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_own_answers_pass_and_broken_ones_fail(name: str, kind: str | None) -> None:
    drawn = examples(name, kind)
    checks = [example.check for example in drawn]
    own = [example.answer for example in drawn]
    verdicts = judge(
        checks * 3, [*own, *map(broken, own), *[""] * len(own)]
    )  # at once: each call is a process
    assert verdicts == [True] * MANY + [False] * 2 * MANY


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_example_is_whole(name: str, kind: str | None) -> None:
    for example in examples(name, kind):
        assert (example.family, example.holdout) == (name, kind)
        if example.gap:
            assert not example.messages
            assert example.text[slice(*example.gap)] == example.answer
            continue
        last = example.messages[-1]
        assert last["role"] == "assistant" and example.prompt[-1]["role"] in ("user", "tool")
        said = last["content"] or example.answer
        assert said == example.answer.strip() == example.answer


def everything(example: Example) -> str:
    return json.dumps([example.messages, example.tools, example.text], ensure_ascii=False)


def test_an_example_is_a_function_of_seed_side_and_index() -> None:
    one, other = World(3), World(3)
    assert [one.sample(index) for index in range(50)] == [
        other.sample(index) for index in reversed(range(50))
    ][::-1]
    assert [next(iter(one)) for _ in range(5)] == [one.sample(index) for index in range(5)]
    assert World(4).sample(0) != one.sample(0) != World(3, "test").sample(0)


def test_most_examples_of_a_family_differ() -> None:
    closed = {"facts", "talk", "refuse", "decide", "classify"}
    for name in FAMILIES:
        drawn = {everything(example) for example in examples(name, None, 300)}
        assert len(drawn) > (100 if name in closed else 250), name


def test_the_train_side_shows_nothing_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {kind: set() for kind in HOLDOUTS}
    real = Draw.one_of

    def watched(self, kind, make, mark=str):  # type: ignore[no-untyped-def]
        thing = real(self, kind, make, mark)
        seen[kind].add(mark(thing))
        return thing

    monkeypatch.setattr(Draw, "one_of", watched)
    for index in range(3000):
        World(5).sample(index)
    assert not [thing for kind, things in seen.items() for thing in things if is_held_out(kind, thing)]
    train = {kind: set(things) for kind, things in seen.items()}
    for kind in ("words", "compositions", "pairs"):
        for things in seen.values():
            things.clear()
        for index in range(300):
            World(5, "test", kind).sample(index)
        held = {thing for thing in seen[kind] if is_held_out(kind, thing)}
        assert len(held) > 10 and not held & train[kind]
        assert not [
            thing for other in HOLDOUTS if other != kind for thing in seen[other] if is_held_out(other, thing)
        ]


def test_prompts_of_the_test_side_are_new() -> None:
    def prompts(world: World, count: int) -> set[str]:
        drawn = (world.sample(index) for index in range(count))
        return {everything(example) for example in drawn if example.family not in ("refuse", "talk", "facts")}

    assert not prompts(World(1), 4000) & prompts(World(1, "test"), 1500)


def test_every_holdout_is_reported_by_itself() -> None:
    for kind in HOLDOUTS:
        world = World(2, "test", kind)
        drawn = [world.sample(index) for index in range(60)]
        assert {example.holdout for example in drawn} == {kind}
    kinds = {example.holdout for example in itertools.islice(World(2, "test"), 400)}
    assert kinds == set(HOLDOUTS)


def test_what_cannot_be_asked_for() -> None:
    for arguments in ((0, "left"), (0, "train", "words"), (0, "test", "colors")):
        with pytest.raises(UsageError):
            World(*arguments)
    with pytest.raises(UsageError, match="facts"):
        World(0, "test", "words").example("facts")


def test_both_styles_of_a_function_do_the_same() -> None:
    draw = Draw(random.Random(0))
    specs = [spec(draw, loops=True) for _ in range(400)]
    assert {made.fold for made in specs} == set(LOOPED)
    checks = [Function(made, "f", "xs").check() for made in specs]
    assert all(judge(checks, [Function(made, "f", "xs", loop=True, doc=True).text for made in specs]))


def test_different_compositions_give_different_results() -> None:
    """Must-fail twin of the inputs: a check that any function passed would show nothing."""
    draw = Draw(random.Random(1))
    pairs = []
    while len(pairs) < 300:
        one, other = spec(draw, "numbers"), spec(draw, "numbers")
        if one.composition != other.composition:
            pairs.append((one, other))
    checks = [Function(one, "f", "xs").check() for one, _ in pairs]
    verdicts = judge(checks, [Function(other, "f", "xs").text for _, other in pairs])
    assert sum(verdicts) <= 3


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (Exact("a b\nc"), " a b  \nc\n", "a  b\nc"),
        (SameJson({"a": 1, "b": [True]}), '{"b": [true], "a": 1}', '{"b": [1], "a": 1}'),
        (SameJson([1]), "[1]", "[1"),
        (SameTable((("a", "b"), ("1", "2")), "csv"), "a, b\n1,2", "a,b\n2,1"),
        (SameTable((("a", "b"), ("1", "2")), "markdown"), "|a|b|\n|-|:-:|\n|1|2|", "a,b\n1,2"),
        (SameCall("f", {"x": 1}), 'f{"x": 1}', 'f{"x": "1"}'),
        (SameCall("f", {}), "f{}", "g{}"),
    ],
)
def test_a_check_tells_right_from_wrong(check, right: str, wrong: str) -> None:  # type: ignore[no-untyped-def]
    assert judge([check, check], [right, wrong]) == [True, False]


def test_a_program_is_judged_by_what_it_does() -> None:
    check = SameResults("def f(x):\n    return x * 2", "f", ((3,), ("a",)), contains=("return",))
    answers = {
        "def f(y):\n    return y + y": True,
        "def f(x):\n    return x + 3": False,
        "def g(x):\n    return x * 2": False,
        "def f(x:\n": False,
        "def f(x):\n    while True:\n        return x * 2": True,
        "def f(x):\n    import os\n    return x * 2": False,
        "def f(x):\n    return [].__class__ and x * 2": False,
        "def f(x):\n    return open('/etc/passwd').read() and x * 2": False,
        "f = lambda x: x * 2": False,
    }
    assert judge([check] * len(answers), list(answers)) == list(answers.values())


def test_a_program_that_does_not_end_costs_only_itself() -> None:
    def job(source: str) -> sandbox.Job:
        return sandbox.Job(source, "def f(x):\n    return x", "f", ((1,),))

    good = job("def f(x):\n    return x")
    endless = job("def f(x):\n    while True:\n        pass")
    greedy = job("def f(x):\n    return [0] * 10 ** 10 and x")
    deep = job("def f(x):\n    return f(x)")
    assert sandbox.run([good, endless, good, greedy, deep, good], seconds=1.0) == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]


def test_a_program_is_run_for_its_results() -> None:
    square = "def f(x):\n    return [n * n for n in x]"
    assert sandbox.results(square, "f", [([1, 2],), ([],), (3,)]) == ["[1, 4]", "[]", "TypeError", ""]
    assert sandbox.results("def f(x):\n    print(x)", "f", [(1,)]) == ["None", "1\n"]
    for source in ("def f(x:", "import os", "def f(x):\n    while True:\n        pass"):
        assert sandbox.results(source, "f", [(1,)], seconds=1.0) is None


def test_every_closed_word_and_every_syllable_is_one_token(tmp_path: Path) -> None:
    tokenizer = vocabulary.vocabulary(2048, examples=1500)
    assert tokenizer.get_vocab_size() == 2048
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_file(tmp_path / "tokenizer.json")  # which lets no text become a control token
    for control in (
        loaded.special.need("turn"),
        loaded.special.need("tool_call"),
        loaded.special.need("pad"),
    ):
        assert control not in loaded.encode("<|turn> <|turn>x<|tool_call><pad>")

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    spoken = [
        *words.COLORS,
        *words.THINGS,
        *words.ANIMALS,
        *words.JOBS,
        *facts.CAPITALS.values(),
        *facts.DAYS,
    ]
    spoken += [german for _, german in german_words.NOUNS.values()]
    assert not [word for word in spoken if tokens(f" {word}") != 1]
    assert not [word for word in ("def", "return", "for", "in", "numbers", "Return") if tokens(word) != 1]
    made = [names.made(Draw(random.Random(number))) for number in range(300)]
    assert max(tokens(f" {word.capitalize()}") for word in made) <= 3  # one a syllable
    assert max(tokens(f"_{word}") for word in made) <= 3
    assert tokens(" extraordinary") > 1  # must fail: nobody put it in
    for text in ("Größe: 3\n\n  x", '{"a":[1,"ß"]}', "日本", "a  b\t\n"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_the_held_out_wording_is_not_among_the_others() -> None:
    folder = Path(sandbox.__file__).parent
    found = 0
    for node in (
        node for file in folder.glob("*.py") for node in ast.walk(ast.parse(file.read_text("utf-8")))
    ):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" | ") > 1:
            *seen, held = node.value.split(" | ")
            found += 1
            assert held not in seen, held
    assert found > 100


def test_decisions_and_edits_are_put_as_the_tasks_put_them() -> None:
    for example in examples("decide", None):
        state, _, asked = example.messages[-2]["content"].partition("\n\n")
        assert state and asked.endswith(".")
        labels = asked.rpartition("Answer with one of: ")[2][:-1].split(", ")
        assert example.answer in labels
    for name in ("edit", "rename", "change", "restyle", "two_code_edits"):
        for example in examples(name, None):
            instruction, _, document = example.messages[-2]["content"].partition("\n")
            assert (
                instruction and "\n" in document
            )  # tasks/edit.py: the document in the line below the instruction
