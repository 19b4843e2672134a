"""What a model would write of a conversation, and where a gap of a text lies among its tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgemma.errors import UsageError
from dgemma.text.tokenizer import Tokenizer
from dgemma.text.turns import render
from dgemma.train.samples import conversation, document
from dgemma.train.sources import Files, SmallWorld, records, texts_of
from dgemma.train.tokenizer import train
from dgemma.train.world import World

CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def texts(count: int) -> list[str]:
    """What the messages of some examples say."""
    examples = map(World(0).sample, range(count))
    return [m["content"] for example in examples for m in (*example.messages, {"content": example.text})]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_json(json.loads(train(texts(3000), 1200).to_str()))


def written(messages: list[dict], tokenizer: Tokenizer, tools: list[dict] | None = None) -> list[str]:
    sample = conversation(messages, tools, tokenizer)
    return [tokenizer.decode(sample.ids[start:end], skip_special=False) for start, end in sample.written]


def test_the_model_writes_its_turns_with_their_ends(tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "system", "content": "model\nx"},
        {"role": "user", "content": "Hi model\nHi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "model\nGood bye."},
    ]
    assert written(messages, tokenizer) == ["Hello!<turn|>", "model\nGood bye.<turn|>"]


def test_the_model_writes_its_calls_and_not_their_results(tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "user", "content": "Add 1."},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
    call, answer = written(messages, tokenizer, [TOOL])
    assert call == "<|tool_call>call:add{a:1}<tool_call|><|tool_response>" and answer == "It is 2.<turn|>"


def test_a_conversation_without_an_answer_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="needs a turn of the assistant"):
        conversation([{"role": "user", "content": "Hi"}], None, tokenizer)


def test_what_is_learned_continues_what_is_served(tokenizer: Tokenizer) -> None:
    """The ids before an answer are the prompt that a request with the same messages gets."""
    world = World(3)
    for number in range(300):
        example = world.sample(number)
        if not example.messages:
            continue
        tools = list(example.tools) or None
        sample = conversation(example.messages, tools, tokenizer)
        assert sample.ids[: sample.written[-1][0]] == render(example.prompt, tokenizer, tools=tools)


@pytest.mark.parametrize(
    ("before", "gap", "after", "swallowed"),
    [
        ("x = 1\nreturn ", "x + 1", "\n", " "),  # a space belongs to the word behind it
        ("def f(x):\n    ", "return x", "\n", ""),
        ("a = 1\n", "b = 2", "\nc = 3\n", "\n"),
    ],
)
def test_a_gap_opens_where_it_would_be_filled(
    tokenizer: Tokenizer, before: str, gap: str, after: str, swallowed: str
) -> None:
    place = (len(before), len(before) + len(gap))
    sample = document(before + gap + after, tokenizer, place)
    assert sample.gap is not None
    assert tokenizer.decode(sample.ids[slice(*sample.gap)]) == swallowed + gap
    assert sample.ids[0] == tokenizer.special.bos and sample.ids[-1] == tokenizer.special.eos


def test_the_world_can_be_asked_for_any_example(tokenizer: Tokenizer) -> None:
    one, other = SmallWorld(1, tokenizer), SmallWorld(1, tokenizer)
    assert other.sample(0, 500) == one.sample(0, 500) != one.sample(0, 501)
    assert sum(one.sample(0, number).gap is not None for number in range(300)) > 5


def test_files_are_texts_and_conversations(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f(x):\n    return x\n" * 40)
    turns = [{"role": "user", "content": "Hi\u2028"}, {"role": "assistant", "content": "Hello!"}]
    lines = [json.dumps({"messages": turns}, ensure_ascii=False), "", json.dumps({"text": "x = 1\n"})]
    (tmp_path / "b.jsonl").write_text("\ufeff" + "\n".join(lines))
    paths = [tmp_path / "a.py", tmp_path / "b.jsonl"]
    files = Files.read(paths, tokenizer, longest=64)
    drawn = [files.sample(0, number) for number in range(60)]
    assert files.sample(0, 7) == drawn[7] and max(len(sample.ids) for sample in drawn) == 64
    assert {sample.gaps for sample in drawn} == {True, False}
    assert [len(list(texts_of(record))) for _, record in records(paths)] == [1, 2, 1]
    assert Files.read(paths[:1], tokenizer, 64).fingerprint != files.fingerprint


BAD_FILES = [
    ('{"messages": [{"role": "user"', "line 1: this is not JSON"),
    ('{"prompt": "x"}', "line 1: give"),
    ('\n{"messages": [{"role": "user", "content": "x"}]}', "line 2: a conversation to learn from"),
    ("", "hold no text"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_a_file_that_is_none_is_named(tokenizer: Tokenizer, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(UsageError, match=message):
        Files.read([tmp_path / "x.jsonl"], tokenizer, 64)
