"""Splitting what the model wrote: by ids, in any portions, with nothing leaking from one channel to another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.text.calls import ToolCall, parse_call
from dgemma.text.channels import ChannelSplitter, Parts, split
from dgemma.text.turns import render
from tests.helpers import byte_tokenizer
from tests.text.test_stream import portions
from tests.text.test_turns import USER, ids_of

TOKENIZER = byte_tokenizer()


def parts(layout: str) -> Parts:
    return split(ids_of(layout), TOKENIZER)


CALL = '<|tool_call>call:f{a:<|"|>x<|"|>}<tool_call|>'
F = ToolCall("f", {"a": "x"})


@pytest.mark.parametrize(
    "layout, expected",
    [
        ("Hello", Parts(content="Hello")),
        ("", Parts()),
        (f"<|channel>thought\nhm\n<channel|>Hi.{CALL}Bye<turn|>", Parts("hm", "Hi.Bye", [F])),
        ("<|channel>thought\n<channel|>Hi", Parts("", "Hi")),
        ("<|channel>thought<channel|>Hi", Parts("", "Hi")),
        ("<|channel>thought\nstill at it", Parts("still at it")),  # unclosed: a thought
        ("<|channel>thou", Parts()),  # cut inside its name
        ("<|channel>\nhm<channel|>Hi", Parts("hm", "Hi")),
        ("<|channel>I see, so\nyes<channel|>Hi", Parts("I see, so\nyes", "Hi")),  # no name at all
        ("<|channel>Yes<channel|>Hi", Parts("Yes", "Hi")),
        ("<|channel>thought\na\n<channel|>b<|channel>thought\nc<channel|>d", Parts("a\nc", "bd")),
        (f"<|channel>thought\nhm{CALL}Hi", Parts("hm", "Hi", [F])),  # a call ends an unclosed thought
        (f"{CALL}{CALL}", Parts("", "", [F, F])),
        ("<|tool_call>call:f{a:1}", Parts("", "", [ToolCall("f", {"a": 1})])),  # whole, but for its closing token
        ("Hi<|tool_call>call:f{a:", Parts("", "Hi", [], ["call:f{a:"])),
        ("<|tool_call>call:f{a<|channel>thought\nhm", Parts("hm", "", [], ["call:f{a"])),
        (f"<|tool_call>call:<|think|>f{{}}<tool_call|>{CALL}", Parts("", "", [F], ["call:<|think|>f{}"])),
        ("a<turn|>\n<|turn>user\nb", Parts(content="a")),  # nothing counts after an end token
        (f"{CALL}<|tool_response>response:f{{}}", Parts("", "", [F])),
        ("a<eos>b", Parts(content="a")),
        ("<|tool_call><tool_call|>", Parts(malformed=[""])),
        ('a<pad><bos><channel|><tool_call|><|think|><|image|><|"|>b', Parts(content="ab")),  # stray control tokens
    ],
)  # fmt: skip
def test_by_hand(layout, expected):
    assert parts(layout) == expected


def test_channels_are_told_apart_by_id_not_by_text():
    text = f"<|channel>thought\nhm<channel|>{CALL}<turn|>x"
    assert split(TOKENIZER.encode(text), TOKENIZER) == Parts(content=text)
    assert parts(text) == Parts("hm", "", [F])  # the twin: the same characters as control tokens


IDS = st.lists(
    st.sampled_from(
        [*range(0, 18), *(TOKENIZER.encode(c)[0] for c in "thougcal:{}\n12 é"), *TOKENIZER.encode("中")]
    )
    | st.sampled_from(
        [TOKENIZER.special.channel, TOKENIZER.special.tool_call, TOKENIZER.special.end_tool_call]
    ),
    max_size=40,
)


def joined(spans) -> list:
    """Neighbouring spans of one channel put together; calls stay apart."""
    out = []
    for channel, ids in spans:
        if out and channel == out[-1][0] != "tool_call":
            out[-1][1].extend(ids)
        else:
            out.append((channel, list(ids)))
    return out


@given(ids=IDS, data=st.data())
def test_portions_do_not_matter(ids, data):
    whole, cut = ChannelSplitter(TOKENIZER), ChannelSplitter(TOKENIZER)
    expected = joined([*whole.feed(ids), *whole.finish()])
    spans = [span for portion in portions(data, ids) for span in cut.feed(portion)]
    assert joined([*spans, *cut.finish()]) == expected
    assert whole.ended and whole.feed(ids) == []


@given(ids=IDS)
def test_no_control_token_leaves_the_splitter_as_text(ids):
    splitter = ChannelSplitter(TOKENIZER)
    for channel, found in splitter.feed(ids) + splitter.finish():
        assert channel == "tool_call" or TOKENIZER.control_ids.isdisjoint(found)


def test_spans_come_as_soon_as_they_are_certain():
    splitter = ChannelSplitter(TOKENIZER)
    assert splitter.feed(ids_of("Hi<|channel>thou")) == [("content", TOKENIZER.encode("Hi"))]
    assert splitter.feed(ids_of("ght")) == []
    assert splitter.feed(ids_of("\nhm")) == [("thought", TOKENIZER.encode("hm"))]
    assert splitter.feed(ids_of("<channel|>a<|tool_call>call:f")) == [("content", TOKENIZER.encode("a"))]
    ids = ids_of("{}<tool_call|><turn|>")
    assert splitter.feed(ids) == [("tool_call", TOKENIZER.encode("call:f{}"))]
    assert splitter.ended and splitter.finish() == []


def test_a_newline_token_that_holds_more():
    tokenizer = byte_tokenizer(merges=[("Ċ", "Ċ"), ("Ċ", "h")])
    special = tokenizer.special
    for text, thought in (("thought\n\nm", "m"), ("thought\nhm", "hm")):
        ids = [special.channel, *tokenizer.encode(text), special.end_channel, *tokenizer.encode("a")]
        assert split(ids, tokenizer) == Parts(thought, "a")


def call(layout: str) -> ToolCall | None:
    return parse_call(ids_of(layout), TOKENIZER)


@pytest.mark.parametrize(
    "layout, arguments",
    [
        ("call:f{}", {}),
        (" call:f { } ", {}),
        ('call:f{city:<|"|>Paris<|"|>,n:42}', {"city": "Paris", "n": 42}),
        ("call:f{a:-1,b:2.5,c:1e3}", {"a": -1, "b": 2.5, "c": 1000.0}),
        ("call:f{d:true,e:false,g:null}", {"d": True, "e": False, "g": None}),
        ('call:f{o:{p:{q:<|"|>x<|"|>}},l:[1,[],{},<|"|>y<|"|>]}', {"o": {"p": {"q": "x"}}, "l": [1, [], {}, "y"]}),
        ('call:f{t:<|"|>}, {a:1} "quoted" \n<|"|>}', {"t": '}, {a:1} "quoted" \n'}),
        ('call:f{t:<|"|><|"|>}', {"t": ""}),
        ('call:f{<|"|>a b<|"|>:1, "c": "d\\n"}', {"a b": 1, "c": "d\n"}),
        ("call:f{\n  a : 1 ,\n  b : [ 1 , 2 ]\n}", {"a": 1, "b": [1, 2]}),
    ],
)  # fmt: skip
def test_calls_that_can_be_read(layout, arguments):
    found = call(layout)
    assert found == ToolCall("f", arguments)
    assert [type(v) for v in found.arguments.values()] == [type(v) for v in arguments.values()]


@pytest.mark.parametrize(
    "layout",
    [
        "", "f{}", "call:{}", "call:f", "call:f{", "call:f{a", "call:f{a:", "call:f{a:1", "call:f{a:1}}",
        "call:f{a:1,}", "call:f{a:word}", "call:f{a:truely}", "call:f{a:1 2}", "call:f{:1}", "call:f{a:[1}",
        "call:f{a:[1,]}", "call:a b{}",
        'call:f{a:<|"|>x}', 'call:f{a:<|"|>x<|"|>y}', 'call:f{a:"x}', "call:f{a:1e999}", "call:f{a:\0}", "call:f{}x",
        "call:f{a:" + "[" * 80 + "]" * 80 + "}", "call:f{a:" + "9" * 500 + "}", "call:f{a:<|tool>1}", "call:f{a:é}",
    ],
)  # fmt: skip
def test_calls_that_cannot_be_read(layout):
    assert call(layout) is None


NAMES = st.text(alphabet="abcXYZ_.-9", min_size=1, max_size=6)
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(name=NAMES, arguments=st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_is_written_can_be_read(name, arguments):
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]},
    ]
    ids = render(messages, TOKENIZER, add_generation_prompt=False)
    found = split(ids[ids.index(TOKENIZER.special.tool_call) :], TOKENIZER)
    assert found == Parts("", "", [ToolCall(name, arguments)])
