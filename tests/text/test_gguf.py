"""The vocabulary of a GGUF file: the same ids as the tokenizer.json that it was made from, and no way to a control token."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dgemma.errors import ConfigError
from dgemma.text.gguf import is_readable, tokenizer_json
from dgemma.text.tokenizer import Tokenizer
from dgemma.text.vocabulary import CONTROL_TEXTS

from .gemma_like import MERGES, gemma_like, gguf_tokens

NORMAL, BYTE = 1, 6
PIECES = [
    "hello",
    " ",
    "\n",
    "\n\n\n",
    "<table>",
    "</h1>",
    "<|turn>",
    "<bos>",
    "<turn|>",
    "é",
    "中",
    "ﬃ",
    "\u2581",
    "<0x41>",
    "x",
]


def metadata(**changes: Any) -> dict[str, Any]:
    tokens, kinds = gguf_tokens()
    found = {
        "model": "gemma4",
        "tokens": tokens,
        "token_type": kinds,
        "merges": [" ".join(pair) for pair in MERGES],
    }
    return {
        f"tokenizer.ggml.{key}": value
        for key, value in (found | {"add_space_prefix": False} | changes).items()
    }


def built(**changes: Any) -> Tokenizer:
    return Tokenizer.from_json(tokenizer_json(metadata(**changes), "x.gguf"), "x.gguf")


ORIGINAL, OURS = gemma_like(), built()


@given(st.lists(st.sampled_from(PIECES)).map("".join) | st.text())
@example("hello\n\nhello  hello")
@example(" \u2581\u2581")
def test_ids_are_those_of_the_tokenizer_it_was_made_from(text: str) -> None:
    ids = OURS.encode(text)
    assert OURS.decode(ids) == ORIGINAL.decode(ORIGINAL.encode(text))
    assert not OURS.control_ids & set(ids)
    # runs of newlines, and of U+2581 itself, are cut out whole in the original where they are added tokens; in a file they are merges
    if "\n" not in text and "\u2581\u2581" not in text:
        assert ids == ORIGINAL.encode(text)


def test_control_tokens_are_found_by_their_type() -> None:
    assert OURS.special == ORIGINAL.special
    assert {OURS.id_of(text) for text in CONTROL_TEXTS.values()} == OURS.control_ids
    unmarked = built(token_type=[BYTE if kind == BYTE else NORMAL for kind in gguf_tokens()[1]])
    # the well-known ones are control whatever the file says
    assert unmarked.control_ids == OURS.control_ids and not unmarked.control_ids & set(
        unmarked.encode("<|turn>user")
    )


def test_a_run_of_newlines_that_no_merge_builds_is_matched_whole() -> None:
    tokens, kinds = gguf_tokens()
    three = built(tokens=[*tokens, "\n\n\n"], token_type=[*kinds, NORMAL])
    last = len(tokens)
    assert three.encode("x\n\n\nx") == [three.id_of("x"), last, three.id_of("x")]
    assert last not in OURS.encode("x\n\n\nx")
    assert three.encode("\n\n") == [three.id_of("\n\n")]  # a merge builds this one


def test_newlines_never_merge_with_what_is_around_them() -> None:
    tokens, kinds = gguf_tokens()
    with_pair = built(
        tokens=[*tokens, ".\n"],
        token_type=[*kinds, NORMAL],
        merges=[". \n", *metadata()["tokenizer.ggml.merges"]],
    )
    assert with_pair.encode(".\n") == [with_pair.id_of("."), with_pair.id_of("\n")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, "its vocabulary is of the kind 'llama'; 'gemma4' is read"),
        ({"tokens": None}, "'tokenizer.ggml.tokens' is missing, or no list of str"),
        ({"token_type": [1]}, "does not give each of"),
        ({"token_type": "x"}, "no list of int"),
        ({"merges": ["h e l"]}, "the merge 'h e l' does not make a token out of two"),
        ({"merges": ["h q"]}, "the merge 'h q' does not make a token out of two"),
        ({"add_space_prefix": True}, "add_space_prefix' is set"),
    ],
)
def test_a_vocabulary_that_is_not_understood_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        built(**changes)
    assert message in str(error.value) and str(error.value).startswith("x.gguf")


def test_tokens_that_stand_twice_or_lack_bytes_are_refused() -> None:
    tokens, kinds = gguf_tokens()
    with pytest.raises(ConfigError, match="1 tokens stand twice"):
        built(tokens=[*tokens, "x"], token_type=[*kinds, NORMAL])
    gone = tokens.index("<0x41>")
    with pytest.raises(ConfigError, match="1 of 256 byte tokens are missing"):
        built(tokens=[*tokens[:gone], "<none>", *tokens[gone + 1 :]])


def test_what_is_readable() -> None:
    assert is_readable(metadata()) and not is_readable(metadata(model="gpt2")) and not is_readable({})
