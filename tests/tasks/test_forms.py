"""What a form allows is known byte for byte: by the library's own masks, and its shortest text by trying all
that are shorter.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
from fractions import Fraction
from typing import Any

import llguidance
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance.gbnf_to_lark import any_to_lark

from dgemma.errors import UsageError
from dgemma.tasks.forms.characters import encoded
from dgemma.tasks.forms.expressions import Unread, expression
from dgemma.tasks.forms.formats import FORMATS
from dgemma.tasks.forms.language import NEVER, Exhausted, Expression, Language
from dgemma.tasks.forms.lark import compact_json, grammar_texts
from dgemma.tasks.forms.mended import look_ahead_apart, mended
from dgemma.tasks.forms.names import Names
from dgemma.tasks.forms.numbers import Bounds, Written
from dgemma.tasks.forms.texts import schema_texts
from tests.tasks.schemas import regexes, wide_schemas

NODE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}},
    "required": ["v", "next"],
    "additionalProperties": False,
}
SCHEMAS: list[Any] = [
    *({"type": "string", "format": name} for name in FORMATS),
    {"type": "string", "pattern": "foo"},
    {"type": "string", "pattern": r"\.py$"},
    {"type": "string", "pattern": "end$", "maxLength": 9},
    {"type": "array", "items": {"type": "integer"}, "minItems": 20},
    {"type": "array", "maxItems": 2, "items": {"type": "boolean"}},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2, "maxProperties": 3},
    {"type": "integer", "minimum": -12, "maximum": 345},
    {"type": "integer", "exclusiveMinimum": -5},
    {"type": "integer", "maximum": 17},
    {"type": "integer", "multipleOf": 12, "minimum": 100, "maximum": 200},
    {"type": "number", "multipleOf": 0.25},
    {"type": "number", "minimum": 0},
    {"type": "number", "maximum": -2.5},
    {"type": "number"},
    {"const": {"a": [1, None, 'x\n"é']}},
    {"enum": ["red", "green", 1, 2.5, None]},
    {},
    {"minLength": 3},
    {"type": ["string", "null"]},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"type": "null"}},
    {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"type": "string"}],
        "items": False,
        "minItems": 1,
    },
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "null"}},
        "required": ["b", "z"],
        "additionalProperties": {"type": "null"},
    },
    {
        "type": "object",
        "properties": {"x_1": {"type": "null"}},
        "patternProperties": {"^x_": {"type": "integer"}},
        "additionalProperties": {"type": "boolean"},
    },
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "minProperties": 1,
        "maxProperties": 2,
    },
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"a": {"maximum": 20}}},
        ]
    },
    {"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "b$"}, {"minLength": 5}]},
    {"$ref": "#/$defs/n", "$defs": {"n": NODE}},
    {
        "oneOf": [
            {"type": "object", "properties": {"a": {}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {}}, "required": ["b"]},
        ]
    },
]
REGEXES = [
    "<answer>.*</answer>",
    "Thought: [^\\n]*\\nAction: (a|b)\\n",
    "(ab)*c",
    "[a-z&&[^aeiou]]{3,5}",
    "(?i)hello|bye",
    "a{3,}b?",
    "^ab$",
    "(?s).*x",
    ".{5}",
    "é{4}",
    "[^a-z]{2}",
    "```[a-z]*\\n(.|\\n)*```",
    "(foo|bar){2,}",
    "[[:digit:]]+\\.[0-9]",
    "\\x41\\u{42}(?P<n>c)",
]


class Bytes:
    """The vocabulary of the 256 bytes."""

    eos_token_id, bos_token_id, special_token_ids = 256, None, [256]
    tokens = [*(bytes((byte,)) for byte in range(256)), b"<eos>"]

    def __call__(self, text: str) -> list[int]:
        return [*text.encode()]


@pytest.fixture(scope="module")
def vocabulary() -> Any:
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()), n_vocab=257)


def allowed(matcher: Any) -> set[int]:
    if matcher.is_stopped():
        return set()
    mask = matcher.compute_bitmask()
    return {byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1}


def possible(language: Language, one: Expression) -> set[int]:
    return {byte for byte in range(256) if language.length(language.after(one, byte)) < NEVER}


def agree(
    vocabulary: Any,
    source: str,
    language: Language,
    start: Expression,
    seed: int,
    walks: int = 2,
    steps: int = 16,
) -> None:
    """Along random texts of the form, both allow the same bytes, may end at the same places, and end with the
    shortest text.
    """
    draw = random.Random(seed)
    matcher = llguidance.LLMatcher(vocabulary, source, log_level=0)
    assert not matcher.is_error(), matcher.get_error()[:200]
    for _ in range(walks):
        at, rest, text = matcher.deep_copy(), start, b""
        for _ in range(steps):
            assert allowed(at) == possible(language, rest), text
            assert at.is_accepting() == rest.nullable, text
            way = language.shortest(rest)
            ended = at.deep_copy()
            assert (
                way is not None and ended.try_consume_tokens([*way]) == len(way) and ended.is_accepting()
            ), (text, way)
            choices = sorted(allowed(at))
            if not choices:
                break
            plain = [byte for byte in choices if byte in b'abf"{}[],:0123456789.-@']
            byte = draw.choice(plain if plain and draw.random() < 0.6 else choices)
            at.consume_token(byte)
            rest, text = language.after(rest, byte), text + bytes((byte,))


def source_of(schema: Any) -> str:
    options = {"whitespace_flexible": False, "coerce_one_of": True}
    return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_a_schema_is_the_language_that_the_library_keeps(vocabulary: Any, schema: Any) -> None:
    language = Language(10**7)
    agree(vocabulary, source_of(schema), language, schema_texts(language, schema), seed=1)


@pytest.mark.parametrize("pattern", REGEXES)
def test_an_expression_is_the_language_that_the_library_keeps(vocabulary: Any, pattern: str) -> None:
    language = Language(10**7)
    source = llguidance.LLMatcher.grammar_from_regex(pattern)
    agree(vocabulary, source, language, expression(language, pattern), seed=1)


@given(wide_schemas(), st.integers(0, 2**32))
def test_any_schema_has_its_shortest_text(vocabulary: Any, schema: Any, seed: int) -> None:
    language = Language(10**6)
    shortest = language.shortest(schema_texts(language, schema))
    matcher = llguidance.LLMatcher(vocabulary, source_of(schema), log_level=0)
    assert (
        shortest is not None
        and matcher.try_consume_tokens([*shortest]) == len(shortest)
        and matcher.is_accepting()
    )


@given(regexes())
def test_no_shorter_text_matches(pattern: str) -> None:
    """Python's `re` says which texts match; all shorter ones are tried."""
    language = Language(10**6)
    start = expression(language, pattern)
    shortest = language.shortest(start)
    assert shortest is not None and re.fullmatch(pattern, shortest.decode())
    for length in range(min(len(shortest), 4)):
        for letters in itertools.product("abc.", repeat=length):
            assert not re.fullmatch(pattern, "".join(letters))


@given(regexes(), st.text("abc.", max_size=8))
def test_a_walk_accepts_what_matches(pattern: str, text: str) -> None:
    language = Language(10**6)
    assert language.walk(expression(language, pattern), text.encode()).nullable == bool(
        re.fullmatch(pattern, text)
    )


@given(regexes(), regexes(), st.text("abc.", max_size=6))
def test_both_is_what_matches_both_and_no_is_what_does_not(a: str, b: str, text: str) -> None:
    language = Language(10**6)
    one, other = expression(language, a), expression(language, b)
    both, only = language.both(one, other), language.both(one, language.no(other))
    first, second = bool(re.fullmatch(a, text)), bool(re.fullmatch(b, text))
    assert language.walk(both, text.encode()).nullable == (first and second)
    assert language.walk(only, text.encode()).nullable == (first and not second)
    for made in (both, only):
        shortest = language.shortest(made)
        assert shortest is None or language.walk(made, shortest).nullable


@given(
    st.booleans(),
    st.none() | st.integers(-99, 99),
    st.integers(0, 120),
    st.booleans(),
    st.booleans(),
    st.none() | st.sampled_from([Fraction(3), Fraction(1, 2), Fraction(7), Fraction(1, 10)]),
    st.text("-.0123456789", max_size=4),
)
def test_a_number_is_ended_by_the_fewest_digits(
    integer: bool,
    low: int | None,
    width: int,
    low_open: bool,
    high_open: bool,
    step: Fraction | None,
    text: str,
) -> None:
    high = None if low is None else low + width
    bounds = Bounds(
        integer,
        None if low is None else Fraction(low),
        None if high is None else Fraction(high),
        low_open,
        high_open,
        step,
    )
    written: Written | None = Written(bounds)
    for letter in text:
        written = written.after(ord(letter)) if written is not None else None
    if written is None:
        return
    ending = written.shortest()
    if ending is None:
        return
    value = Fraction(text + ending.decode())
    assert low is None or low < value or (low == value and not low_open)
    assert high is None or value < high or (value == high and not high_open)
    assert step is None or (value / step).denominator == 1
    for length in range(min(len(ending), 3)):
        for letters in itertools.product(".0123456789", repeat=length):
            at: Written | None = written
            for letter in letters:
                at = at.after(ord(letter)) if at is not None else None
            assert at is None or not at.nullable


@given(st.integers(0, 0x10FFFF), st.integers(0, 3000), st.integers(0, 0x10FFFF))
def test_a_range_of_characters_is_its_bytes(first: int, count: int, code: int) -> None:
    language = Language(10**6)
    last = min(first + count, 0x10FFFF)
    one = encoded(language, [(first, last)])
    for other in {first, last, code, max(0, first - 1), min(0x10FFFF, last + 1)}:
        if not 0xD800 <= other <= 0xDFFF:
            assert language.walk(one, chr(other).encode()).nullable == (first <= other <= last)


def test_a_search_goes_on_where_its_budget_ended() -> None:
    language = Language(10**6)
    either = "|".join(f"[^{letter}]*{letter}[^{letter}]*" for letter in "abc")
    parts = [expression(language, f"(?:{either}|x){{3}}.*{letter}") for letter in "cba"]
    start = language.both(expression(language, ".*abc.*"), expression(language, ".{12}"), *parts[:1])
    turns = 0
    while True:
        language.budget, turns = language.work + 300, turns + 1
        try:
            shortest = language.shortest(start)
            break
        except Exhausted:
            assert turns < 10_000
    assert turns > 2 and shortest is not None and len(shortest) == 12 and b"abc" in shortest


@pytest.mark.parametrize(
    "pattern",
    ["a\\b", "(?=a)b", "a^b", "$a", "(", "[a", "a{x}", "*", "\\q", "(?m)a", "[[:what:]]", "(?<=a)b"],
)
def test_what_is_not_read_is_said(pattern: str) -> None:
    with pytest.raises(Unread):
        expression(Language(10**5), pattern)


@pytest.mark.parametrize(
    "pattern", ["(" * 3000, "(a" * 40 + ")" * 40, "(?:a|b)*" * 2000, "[" * 500, "a" * 50_000]
)
def test_a_hostile_pattern_is_read_or_refused(pattern: str) -> None:
    language = Language(10**6)
    with contextlib.suppress(Unread, Exhausted, RecursionError):
        language.shortest(expression(language, pattern))


DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"  # pydantic's


@pytest.mark.parametrize(
    "pattern",
    [DECIMAL, r"^(?=.*[A-Z])(?=.*\d).{4,}$", r"^(?=a|b)[a-c]+$", r"^(?!^[-+.]*$)[+-]?\d{0,3}\.?\d{0,2}0*$"],
)
@given(st.text("-+.0123aAbB", max_size=6))
def test_a_pattern_without_its_look_ahead_means_the_same(pattern: str, text: str) -> None:
    patterns, dropped = look_ahead_apart(pattern)
    assert not dropped and not any("(?=" in one or "(?!" in one for one in patterns)
    assert all(re.search(one, text) for one in patterns) == bool(re.search(pattern, text))


def test_remarks_are_left_out_and_told_where_they_ask_for_something() -> None:
    schema = {
        "title": "x",
        "uniqueItems": False,
        "properties": {
            "format": {"type": "string", "format": "password"},
            "n": {"type": "integer", "format": "int32"},
            "title": {"type": "array", "uniqueItems": True, "items": {"type": "string", "format": "date"}},
            "d": {"anyOf": [{"type": "number"}, {"type": "string", "pattern": "a(?!b)"}], "default": 10**400},
        },
    }
    made, notes = mended(schema, "json_schema")
    assert made == {
        "properties": {
            "format": {"type": "string"},
            "n": {"type": "integer"},
            "d": {"anyOf": [{"type": "number"}, {"type": "string"}]},
            "title": {"type": "array", "items": {"type": "string", "format": "date"}},
        }
    }
    assert len(notes) == 3 and all(
        any(word in note for note in notes) for word in ("password", "uniqueItems", "look-around")
    )


@pytest.mark.parametrize("value", [10**309, -(10**400), float("inf"), float("nan")])
@pytest.mark.parametrize("keyword", ["minimum", "multipleOf", "minItems", "const", "maxLength"])
def test_a_number_beyond_all_numbers_is_refused(keyword: str, value: float) -> None:
    with pytest.raises(UsageError, match="number"):
        mended({"properties": {"a": {keyword: value}}}, "json_schema")


PARTS = st.recursive(
    st.integers(0, 9) | st.sampled_from(["a", 'q"', "\\", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["", "a", "b", '"', "\\\\"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(PARTS, st.integers(0, 40))
def test_names_that_stand_once_are_let_through_and_others_told_apart(value: Any, cut: int) -> None:
    text = json.dumps(value).encode()
    names = Names()
    assert names.take(text)
    for letters in (b'{"a":1,"a":2,"\\u0061":3}', b'[{"":{"":1},"":0},{"":1}]'):
        at = Names()
        assert not Names().take(letters) and at.take(letters[: min(cut, 6)])
        changed = letters[: min(cut, 6)] + at.distinct(letters[min(cut, 6) :])
        assert Names().take(changed) and Names().distinct(letters) != letters
        json.loads(changed)


GRAMMARS = [
    'start: pair\npair: "(" pair ")" | WORD\nWORD: /[a-z]+/',
    'root ::= object\nobject ::= "{" pair ("," pair)* "}"\npair ::= string ":" value\n'
    'string ::= "\\"" [a-z]+ "\\""\n'
    "value ::= string | object | [0-9]+\n",
    'start: expr\nexpr: expr "+" term | term\nterm: NUM | "(" expr ")"\nNUM: /[0-9]+/ // digits',
    'start: "<items>" item{5,} "</items>"\nitem: "<i>" /[^<]*foo[^<]*/ "</i>"',
    'start: line+\nline: KEY "=" VALUE "\\n"\nKEY: /[A-Z_]+/\nVALUE: /[^\\n]+end/',
    'start: %json {"type":"object","properties":{"a":{"type":"string","format":"email"}},"required":["a"]}',
    'start: "select "i cols [" where " NAME] tail?\ncols: NAME (", " NAME)~1..3 -> columns\n'
    'NAME: "a".."c" /[x-z]{2}/\ntail: empty ";"\nempty:',
]


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_a_grammar_is_the_language_that_the_library_keeps(vocabulary: Any, grammar: str) -> None:
    language, source = Language(10**7), any_to_lark(compact_json(grammar))
    agree(vocabulary, source, language, grammar_texts(language, source), seed=2, steps=12)


@pytest.mark.parametrize(
    "grammar",
    [
        'start: a\na: b "x" | "y"\nb: a "z"',
        'start: "a" %ignore / /',
        "start: nothing",
        'start[max_tokens=3]: "a"',
        "start: <think>",
        "a: b",
        "$",
        "",
    ],
)
def test_a_grammar_that_is_not_read_is_said(grammar: str) -> None:
    with pytest.raises(Unread):
        grammar_texts(Language(10**5), grammar)


def test_json_in_a_grammar_is_written_without_blanks() -> None:
    assert '"whitespace_flexible": false' in compact_json('start: %json {"type": "null"} "x"')
    assert compact_json('start: "%json {" "a"') == 'start: "%json {" "a"'
    told = 'start: %json {"type": "null", "x-guidance": {"whitespace_flexible": true}}'
    assert '"whitespace_flexible": true' in compact_json(told)
