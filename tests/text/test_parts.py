"""Parts of a tokenizer.json: those in use load, those that cost too much are refused before they are run."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from dgemma.errors import ConfigError, UsageError
from dgemma.text.expressions import why_slow
from dgemma.text.parts import MOST_STEPS
from dgemma.text.tokenizer import Tokenizer
from tests.helpers import byte_tokenizer_json

from .gemma_like import gemma_like_json

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
START = r"[^\r\n\p{L}\p{N}]?"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
IN_USE = {
    "gemma": "\n+",
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": rf"{CONTRACTIONS}|{START}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}",
    "qwen": rf"{CONTRACTIONS}|{START}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}",
    "o200k": rf"{START}{UPPER}*{LOWER}+{CONTRACTIONS}?|{START}{UPPER}+{LOWER}*{CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}",
    "deepseek": rf"[!-/:-~][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACES}",
    "bloom": r" ?[^(\s|[.,!?\u2026\u3002\uff0c])]+",
    "digits": r"\p{N}{1,3}(?=(?:\p{N}{3})*\b)",
    "possessive": r"[^\r\n\p{L}\p{N}]?+\p{L}++",
    "classes": r"[[:alpha:]]+|\w+|[^\w\s]+|(?<=a)b|\d{2}x?|[]a]|[^]a]",
    "empty": "",
}
SLOW = [
    r"(a+)+$", r"(x+x+)+y", r"(a|a)*b", r"(a|aa)+$", r"(a*)*", r"(.*)*x", r"a*a*a*b", r"\s*\s*x", r"(a?){30}a{30}", "a?" * 30 + "a" * 30,
    r"\p{N}{1,3}+", r"(a{1,9}){2,9}", r"((a{1000}){1000}){1000}", r"(?=a+)b+c", r"\s+(?=\s+)x", r"(\w+\s?)+$", r"(?:a|b|ab)+",
    r"(?:a{1,16}){1,16}", "a{1,90}b?" * 5 + "c", r"\X+",
]  # fmt: skip
NOT_READ = [
    r"(a)\1",
    r"(?<n>a)",
    "[a",
    "(a",
    "a)",
    "*a",
    "a\\",
    "(" * 50 + ")" * 50,
    "a**",
    r"(?x) a",
    r"\p{L",
    "[" * 9 + "a" + "]" * 9,
]


def split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


@pytest.mark.parametrize("name", IN_USE)
def test_expressions_that_tokenizers_in_use_have_are_taken(name: str) -> None:
    tokenizer = Tokenizer.from_json(byte_tokenizer_json() | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        split(IN_USE[name]), {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}})  # fmt: skip
    text = "It's 12345 Grüße,\n\n  中文 (a|b) x_y  \t end " * 5
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("expression", SLOW + NOT_READ)
@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
def test_expressions_that_may_be_slow_or_are_not_read_are_refused(expression: str, part: str) -> None:
    step = (
        split(expression)
        if part == "pre_tokenizer"
        else {"type": "Replace", "pattern": {"Regex": expression}, "content": ""}
    )
    with pytest.raises(ConfigError, match=f"{part}: the expression .* is not taken") as caught:
        Tokenizer.from_json(byte_tokenizer_json() | {part: step})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^b]", r"\w", r"\s", " ", "(?!b)", "$", r"\b"])
REPEATS = st.sampled_from(["", "", "?", "*", "+", "{2}", "{1,3}", "{0,9}", "*?", "{2,}"])


def grouped(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    bodies = st.lists(inner, min_size=1, max_size=3)
    return st.builds(
        lambda body, mark, by: f"(?:{by.join(body)}){mark}", bodies, REPEATS, st.sampled_from(["", "|"])
    )


EXPRESSIONS = st.lists(
    st.recursive(st.builds("{}{}".format, ATOMS, REPEATS), grouped, max_leaves=8), min_size=1, max_size=5
).map("".join)


@settings(max_examples=300)
@given(EXPRESSIONS)
def test_what_is_taken_needs_few_tries(expression: str) -> None:
    """The library counts its tries and gives up after ten million at one place; (a+)+$ needs 28 characters."""
    if why_slow(expression):
        return
    try:
        pattern = tokenizers.Regex(expression)
    except Exception:  # a tokenizer with it is refused when it is built
        return
    splitter = tokenizers.pre_tokenizers.Split(pattern, "isolated")
    for text in ("a" * 400 + "!", "ab" * 200 + "!", "a " * 200 + "\t", " " * 400 + "c", "aab " * 100):
        assert "".join(piece for piece, _ in splitter.pre_tokenize_str(text)) == text


def test_a_tokenizer_that_gives_up_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: what the check is for. A panic of the library is no Exception, and ends whoever encodes."""
    monkeypatch.setattr("dgemma.text.parts.why_slow", lambda _: None)
    tokenizer = Tokenizer.from_json(byte_tokenizer_json() | {"pre_tokenizer": split("(a+)+$")})
    with pytest.raises(UsageError, match="tokenizer fails on the text"):
        tokenizer.encode("a" * 40 + "!")


@pytest.mark.parametrize(
    ("normalizer", "message"),
    [
        ({"type": "Replace", "pattern": {"Regex": "x" * 5000}, "content": ""}, "no text of at most"),
        ({"type": "Sequence", "normalizers": [replace("e", "ee")] * 12}, "may make 4096 bytes of one"),
        ({"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [replace("e", "ee")] * 6}] * 2}, "may make 4096 bytes"),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}] * (MOST_STEPS + 1)}, "more than 16 steps"),
        (replace("e", "e" * 3000), "may make 3000 bytes of one"),
        (replace("e", "e" * 10**7), "no text of at most"),
        (replace("", "x"), "is no pattern"),
        ({"type": "Replace", "pattern": {"Regex": "a?"}, "content": "x" * 100}, "may make 101 bytes"),
        ({"type": "Prepend", "prepend": "x" * 10**6}, "no text of at most"),
        ({"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "'Precompiled' is not read; readable: ByteLevel"),
        ({"type": ["Replace"]}, "is not read"),
        ([1], "is not read"), ("NFC", "is not read"), ({"type": "Sequence"}, "without a list of normalizers"),
        ({"type": "Replace", "pattern": {"String": "a", "Regex": "a"}, "content": ""}, "is no pattern"),
    ],
)  # fmt: skip
def test_a_normalizer_that_makes_too_much_of_a_text_is_refused(normalizer: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tokenizer.from_json(byte_tokenizer_json() | {"normalizer": normalizer})


@pytest.mark.parametrize(
    ("decoders", "message"),
    [
        ([replace("e", "ee")] * 12, "decoder may make 4096 bytes"), ([{"type": "Strip", "content": " ", "start": 10**9, "stop": 0}], "strips 1000000000"),
        ([{"type": "CTC"}], "'CTC' is not read"), ([{"type": "Metaspace", "replacement": "ab"}], "no single character"),
    ],
)  # fmt: skip
def test_a_decoder_that_makes_too_much_of_a_token_is_refused(decoders: list[Any], message: str) -> None:
    raw = gemma_like_json()
    raw["decoder"]["decoders"] += decoders
    with pytest.raises(ConfigError, match=message):
        Tokenizer.from_json(raw)


def test_a_metaspace_tokenizer_is_read() -> None:
    raw = gemma_like_json() | {"normalizer": None}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never", "split": False}
    raw["pre_tokenizer"] = metaspace
    raw["decoder"]["decoders"][0] = metaspace
    tokenizer = Tokenizer.from_json(raw)
    for text in ("hello hello", " a  b", "a\n中"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("number", [10**8, 2**32 - 1, -1, True, "5", 1.5, None, 10**400])
@pytest.mark.parametrize("added", [True, False])
def test_ids_that_tables_are_not_made_for_are_refused(number: Any, added: bool) -> None:
    raw = copy.deepcopy(byte_tokenizer_json())
    if added:
        raw["added_tokens"].append(raw["added_tokens"][0] | {"id": number, "content": "zz"})
    else:
        raw["model"]["vocab"]["zz"] = number
    with pytest.raises(ConfigError, match="token 'zz' has the id") as caught:
        Tokenizer.from_json(raw)
    assert len(str(caught.value)) < 300


def test_a_text_of_a_token_has_a_length() -> None:
    raw = copy.deepcopy(byte_tokenizer_json())
    raw["model"]["vocab"]["z" * 10**6] = 999
    with pytest.raises(ConfigError, match="has 1000000 characters"):
        Tokenizer.from_json(raw)


@pytest.mark.parametrize("part", ["post_processor", "truncation", "padding"])
@pytest.mark.parametrize("value", [{"type": "TemplateProcessing", "single": 5}, "x", {"max_length": 2**64}])
def test_parts_that_nothing_uses_are_not_even_read(part: str, value: Any) -> None:
    assert Tokenizer.from_json(byte_tokenizer_json() | {part: value}).encode("ab") == Tokenizer.from_json(
        byte_tokenizer_json()
    ).encode("ab")


@pytest.mark.parametrize("raw", [byte_tokenizer_json, gemma_like_json])
def test_what_is_written_reads_the_same_here_and_elsewhere(raw: Callable[[], dict[str, Any]]) -> None:
    text = Tokenizer.from_json(raw()).to_json()
    again, library = Tokenizer.from_json(json.loads(text)), tokenizers.Tokenizer.from_str(text)
    for sample in ("hello hello", " a  b\n\n", "中é"):
        ids = Tokenizer.from_json(raw()).encode(sample)
        assert again.encode(sample) == ids
        assert library.decode(ids) == sample == again.decode(ids)
