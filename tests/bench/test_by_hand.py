"""benchmarks/by_hand.py: its prompts are whole, its judges tell right from wrong. No model is loaded."""

from __future__ import annotations

import collections
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dgemma.tasks.offer import offer
from dgemma.tasks.questions import read_questions
from dgemma.text.calls import ToolCall
from dgemma.train.world import judge
from dgemma.train.world.checks import SameCall
from dgemma.train.world.worker import results

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
UNKNOWN = "I do not know that. I am a tiny model and know only a small world."


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import by_hand

    return by_hand


def verdict_of(by_hand: ModuleType, name: str, answer: str) -> str:
    (prompt,) = [prompt for prompt in by_hand.read_prompts() if prompt.id == name]
    return by_hand.verdict(prompt, answer)


def test_there_are_a_hundred_prompts_of_all_families(by_hand: ModuleType) -> None:
    prompts = by_hand.read_prompts()
    assert len(prompts) == len({prompt.id for prompt in prompts}) == 100
    assert min(collections.Counter(prompt.family for prompt in prompts).values()) >= 2
    assert {prompt.task for prompt in prompts} == set(by_hand.TASKS.values())
    outside = [prompt for prompt in prompts if prompt.is_outside]
    assert len(outside) == 14 and all(prompt.kind == "outside" for prompt in outside)


def test_every_prompt_can_be_asked(by_hand: ModuleType) -> None:
    for prompt in by_hand.read_prompts():
        if prompt.task == "chat":
            roles = [message["role"] for message in prompt.asked["messages"]]
            expected = ["user", "assistant"] * len(roles)
            is_result = roles == ["user", "assistant", "tool"]
            assert is_result or roles == expected[: len(roles)] and len(roles) % 2, prompt.id
            assert len(offer(prompt.asked.get("tools"), None).tools) == len(prompt.asked.get("tools", ()))
        elif prompt.task == "decide":
            labels = read_questions({"q": prompt.asked["question"]})["q"].labels
            assert sum(judge([prompt.check] * len(labels), list(labels))) == 1, prompt.id
        else:
            assert all(isinstance(text, str) and text for text in prompt.asked.values()), prompt.id


def test_every_call_is_of_a_declared_tool(by_hand: ModuleType) -> None:
    called = [prompt for prompt in by_hand.read_prompts() if isinstance(prompt.check, SameCall)]
    assert len(called) >= 2
    for prompt in called:
        declared = {
            tool["function"]["name"]: tool["function"]["parameters"] for tool in prompt.asked["tools"]
        }
        assert set(prompt.check.arguments) == set(declared[prompt.check.name]["properties"]), prompt.id


def test_every_reference_runs_on_its_cases(by_hand: ModuleType) -> None:
    """A case on which the reference fails would call every answer right that fails in the same way."""
    programs = [
        prompt.check for prompt in by_hand.read_prompts() if isinstance(prompt.check, by_hand.Program)
    ]
    assert len(programs) >= 15
    for program in programs:
        name = by_hand.last_function(program.reference, program.name).name
        found = results(program.reference, name, [list(given) for given in program.inputs], {})[:-1]
        assert len(set(found)) > 1 and not any(result.endswith("Error") for result in found), (
            program.reference
        )


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "\n",
        "the the in in kitchen of",
        UNKNOWN,
        "def f(x):\n    return x",
        "{}",
        "| a |\n| --- |",
        "get_x{}",
    ],
)
def test_no_judge_takes_anything(by_hand: ModuleType, answer: str) -> None:
    prompts = [prompt for prompt in by_hand.read_prompts() if not prompt.is_outside]
    expected = "refused" if answer == UNKNOWN else "wrong"
    assert not [prompt.id for prompt in prompts if by_hand.verdict(prompt, answer) != expected]


EVENS = """\
def evens(numbers):
    found = []
    for n in numbers:
        if n % 2 == 0:
            found.append(n)
    return found"""
MEAN = """\
def average(numbers):
    return sum(numbers) / len(numbers)"""
SQUARES = """\
def squares(numbers):
    result = []
    for n in numbers:
        result.append(n ** 2)
    return result"""
MASUN = '''\
def masun(nums):
    """Return the numbers less than 12 in nums."""
    return [n for n in nums if n < 12]'''
LEO = '{"age": 27, "name": "Leo", "city": "Oslo"}'
STORY = "One day Kate found a purple bag. Kate took it to the garden. There Kate met Paul. Paul was happy."


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("code-1", EVENS, EVENS.replace("== 0", "== 1")),
        ("code-1", f"```python\n{EVENS}\n```", f"Here you are:\n{EVENS}"),  # a fence is no fault
        ("code-4", MEAN, MEAN.replace("average", "mean")),  # the name was asked for
        ("code-4", MEAN, MEAN.replace("/", "//")),
        ("code-edit-7", SQUARES, "def squares(numbers):\n    return [n ** 2 for n in numbers]"),
        ("code-edit-7", SQUARES, SQUARES.replace("2", "3")),
        ("code-edit-11", MASUN, MASUN.replace("less", "greater")),
        ("code-edit-11", MASUN, MASUN.replace("n < 12", "n > 12")),
        ("code-edit-4", "for line in range(7):\n    print(line)", "for line in range(7):\n    print(p)"),
        ("explain-4", "It returns whether the text is a palindrome.", "It returns the text in upper case."),
        ("gap-1", "return [n for n in numbers if n > 0]", "return [n for n in numbers if n < 0]"),
        ("gap-1", "return [x for x in numbers if x >= 1]", "return [n for n in numbers"),
        ("gap-3", "Madrid", "Rome"),
        ("json-1", LEO, LEO.replace("27", '"27"')),
        ("json-3", "Mia is 52 years old and lives in Lima.", '{"name": "Mia", "age": 52, "city": "Lima"}'),
        ("table-1", "| name | age |\n|---|---|\n| Ben | 31 |\n| Olga | 45 |", "name,age\nBen,31\nOlga,45"),
        ("edit-1", "name: Emma\ncity: Athens\nage: 29\ncolor: blue", "name: Emma\ncity: Athens\nage: 29"),
        ("edit-5", "Noah sold the green lamp in the market.", "Noah sold the lamp in the market."),
        ("translate-1", '"Der Hund ist klein."', "Die Hund ist klein."),
        ("lists-2", "- horse\n- duck\n- sheep", "horse, duck, sheep"),
        ("sums-1", "23 + 18 is 41.", "23 + 18 is 14."),
        ("story-1", STORY, STORY.replace("purple", "red")),
        ("story-1", STORY, STORY.replace("took it", "took took it")),  # a canvas that has not settled
        ("decide-1", "positive", "negative"),
        ("tools-1", 'get_weather{"city":"Dublin"}', 'get_weather{"city":"Berlin"}'),
        ("tools-1", 'get_weather{"city": "Dublin"}', "It is sunny in Dublin."),
        ("turns-5", "Your name is Jonas.", "Your name is Lara."),
        ("facts-1", "The capital of Austria is Vienna.", "The capital of Vienna is Austria."),
        ("talk-1", "Hello! What can I do for you?", "Goodbye!"),
    ],
)  # fmt: skip
def test_right_and_wrong_answers(by_hand: ModuleType, name: str, right: str, wrong: str) -> None:
    assert verdict_of(by_hand, name, right) == "right"
    assert verdict_of(by_hand, name, wrong) == "wrong"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (UNKNOWN, "refused"),
        ("I don't know that, sorry!", "refused"),
        ("I’m sorry. I cannot help with that.", "refused"),
        ("Sorry, I have no idea.", "refused"),
        ("I know only a small world.", "refused"),
        ("I am fine, thank you. What can I do for you?", "wrong"),
        ("I am a tiny diffusion model. I write all words of an answer at once.", "wrong"),
        ("I do not know that. The capital of Saturn is 12.", "wrong"),  # an answer all the same
        ("Saturn has 146 moons.", "wrong"),
        ("def know():\n    return 'I do not know'", "wrong"),
        ("", "wrong"),
    ],
)
def test_what_a_refusal_is(by_hand: ModuleType, answer: str, verdict: str) -> None:
    assert verdict_of(by_hand, "outside-9", answer) == verdict


class Parrot:
    """A model that answers from a list, through the four calls that the script makes."""

    def __init__(self, content: str = "", calls: tuple[ToolCall, ...] = ()):
        self.content, self.calls = content, list(calls)
        self.generation = SimpleNamespace(steps=[4, 2])

    def chat(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> Any:
        return SimpleNamespace(
            content=self.content, tool_calls=self.calls, malformed=[], generation=self.generation
        )

    def fill(self, prefix: str, suffix: str) -> Any:
        return SimpleNamespace(text=self.content, generation=self.generation)

    def edit(self, document: str, instruction: str) -> Any:
        return SimpleNamespace(text=document, generation=self.generation)

    def decide(self, state: Any, questions: dict[str, dict[str, Any]]) -> Any:
        labels = list(read_questions(questions)["q"].labels)
        decision = SimpleNamespace(probabilities=dict.fromkeys(labels, 0.0) | {labels[-1]: 1.0})
        return SimpleNamespace(answers={"q": decision}, steps=1)


def test_answers_are_read_from_all_four_calls(by_hand: ModuleType) -> None:
    call = ToolCall("get_weather", {"city": "Dublin"})
    prompts = {prompt.id: prompt for prompt in by_hand.read_prompts()}
    assert by_hand.ask(Parrot("", (call,)), prompts["tools-1"]).text == 'get_weather{"city":"Dublin"}'
    assert by_hand.ask(Parrot("Hi."), prompts["talk-1"]) == by_hand.Answer("Hi.", [4, 2])
    assert by_hand.ask(Parrot("Madrid"), prompts["gap-3"]).text == "Madrid"
    assert by_hand.ask(Parrot(), prompts["edit-1"]).text == prompts["edit-1"].asked["document"]
    assert by_hand.ask(Parrot(), prompts["decide-1"]) == by_hand.Answer("negative", [1])
    assert by_hand.ask(Parrot(), prompts["decide-2"]).text == "no"


@pytest.mark.parametrize("show", [False, True])
def test_a_run_counts_honest_refusals_and_names_prompts_by_id(
    by_hand: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    show: bool,
) -> None:
    monkeypatch.setattr(by_hand.dgemma, "load", lambda name: Parrot(UNKNOWN))
    file = tmp_path / "rows.csv"
    monkeypatch.setattr(sys, "argv", ["by_hand.py", "--csv", str(file), *(["--show"] if show else [])])
    by_hand.main()
    printed = capsys.readouterr().out
    assert "right or honestly refused: 14 of 100 (0 right, 14 refused outside the world)" in printed
    assert (UNKNOWN in printed) == show
    asked = [
        prompt.asked["messages"][-1]["content"] for prompt in by_hand.read_prompts() if prompt.is_outside
    ]
    assert all((text in printed) == show for text in asked)
    head, *rows = file.read_text().splitlines()
    kinds = {prompt.kind for prompt in by_hand.read_prompts()}
    assert head.startswith("date,machine,commit,recipe,model,kind") and len(rows) == len(kinds) + 1
    assert rows[-1].split(",")[-6:-1] == ["all", "100", "0", "95", "5"]  # edits and decisions are no text
