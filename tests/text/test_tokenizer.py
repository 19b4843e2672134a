"""Encoding and decoding: no text becomes a control token, every text comes back, faults are named."""

from __future__ import annotations

import json
import threading
import time
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from dgemma.errors import ConfigError, UsageError
from dgemma.text.tokenizer import Tokenizer
from dgemma.text.vocabulary import CONTROL_TEXTS, read_vocabulary
from tests.helpers import byte_tokenizer, byte_tokenizer_json
from tests.text.gemma_like import ODD, PLAIN, gemma_like, gemma_like_json

BYTES = byte_tokenizer(merges=[("Ġ", "t"), ("h", "e"), ("Ã", "©")])
PIECES = gemma_like()
BOTH = pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
VARIANTS = ["{}", " {}", "{} ", "\n{}\n", "a{}b", "{0}{0}", "  {}\t", "é{}中", "\u2581{}", "<{}>"]


def test_other_threads_run_while_a_long_text_is_encoded():
    """Or one prompt of a megabyte would hold up everybody who is served by this process."""
    text, turns, done = "the éa " * 200_000, [], threading.Event()

    def count() -> None:
        while not done.wait(0.001):
            turns.append(time.perf_counter())

    thread = threading.Thread(target=count)
    thread.start()
    start = time.perf_counter()
    BYTES.encode(text)
    end = time.perf_counter()
    done.set()
    thread.join()
    within = [start, *(turn for turn in turns if start < turn < end), end]
    assert max(later - sooner for sooner, later in pairwise(within)) < 0.5 * (end - start)


def library(raw: dict) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(raw))


BOTH_LAYOUTS = pytest.mark.parametrize("layout", [gemma_like_json, byte_tokenizer_json])


@BOTH
@given(st.text())
def test_any_text_comes_back(tokenizer, text):
    text = (
        text.replace("\u2581", "") if tokenizer is PIECES else text
    )  # the space's stand-in reads as a space
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert tokenizer.control_ids.isdisjoint(ids)


@BOTH
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("token", [*CONTROL_TEXTS.values(), *ODD, "<0x41>"])
def test_no_text_becomes_a_control_token(tokenizer, variant, token):
    text = variant.format(token)
    ids = tokenizer.encode(text)
    assert tokenizer.control_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == text.replace("\u2581", " " if tokenizer is PIECES else "\u2581")


def test_the_library_alone_lets_text_become_control():
    """The twin: without our settings, the same files fail the test above."""
    assert 3 in library(byte_tokenizer_json()).encode("a<|turn>b", add_special_tokens=False).ids
    careless = library(gemma_like_json())
    careless.encode_special_tokens = True
    assert careless.token_to_id("<|odd|>") in careless.encode("a<|odd|>b", add_special_tokens=False).ids


def _merges_to(word: str) -> list[tuple[str, str]]:
    return [(word[:n], word[n]) for n in range(1, len(word))]


def test_merges_do_not_build_a_control_token():
    raw = byte_tokenizer_json()
    raw["model"]["merges"] = merges = _merges_to("<|turn>")
    vocab = raw["model"]["vocab"]
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    careless = library(raw)
    careless.encode_special_tokens = True
    assert careless.encode("<|turn>").ids == [3]  # the twin: merging reaches the token
    tokenizer = Tokenizer.from_json(raw)
    assert tokenizer.encode("<|turn>") == [vocab["<|turn"], vocab[">"]]


@BOTH_LAYOUTS
def test_a_vocabulary_of_whole_words_spells_control_tokens_out(layout):
    """With ignore_merges a piece of text that reads like a word of the vocabulary is that word, a control token too."""
    raw = layout()
    raw["model"]["ignore_merges"] = True
    raw["pre_tokenizer"] = None if layout is gemma_like_json else raw["pre_tokenizer"] | {"use_regex": False}
    tokenizer = Tokenizer.from_json(raw)
    for text in ("<bos>", "<turn|>", "<|turn>user"):
        ids = tokenizer.encode(text)
        assert tokenizer.control_ids.isdisjoint(ids) and tokenizer.decode(ids) == text
    engine = library(layout() | {"model": raw["model"], "pre_tokenizer": raw["pre_tokenizer"]})
    engine.encode_special_tokens = True
    alone = engine.encode("<bos>", add_special_tokens=False).ids
    assert not tokenizer.control_ids.isdisjoint(alone)  # the twin: the library alone lets it become control


def test_a_normalizer_does_not_open_a_door():
    raw = byte_tokenizer_json()
    raw["normalizer"] = {"type": "NFKC"}
    for token in raw["added_tokens"]:
        token["normalized"] = True
    wide = "\uff1c\uff5cturn\uff1e"  # full-width, which NFKC turns into <|turn>
    assert library(raw).encode(wide).ids == [3]
    tokenizer = Tokenizer.from_json(raw)
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode(wide))


def test_a_control_token_without_the_flag_is_still_control():
    raw = byte_tokenizer_json()
    for token in raw["added_tokens"]:
        token["special"] = False
    tokenizer = Tokenizer.from_json(raw)
    assert tokenizer.control_ids == set(range(len(CONTROL_TEXTS)))
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode("<eos><|turn>"))


@pytest.mark.parametrize("token", PLAIN)
def test_plain_added_tokens_are_matched(token):
    """Newline runs and HTML tags are one token each, as in training; they are text, and stay in the text."""
    ids = PIECES.encode(f"a{token}b")
    assert ids[1:-1] == [PIECES.id_of(token)]
    assert PIECES.decode(ids) == f"a{token}b".replace("\u2581", " ")


def test_nothing_is_added_around_a_text():
    assert PIECES.encode("") == []
    assert PIECES.encode("hello hello") == [PIECES.id_of("hello"), PIECES.id_of("\u2581hello")]
    assert (
        library(gemma_like_json()).encode("hello").ids[0] == 2
    )  # the twin: the file's post-processor adds <bos>


LIBRARY = [(library(byte_tokenizer_json()), byte_tokenizer()), (library(gemma_like_json()), PIECES)]


@given(st.text(alphabet="ab \né中\u20ac<>"))
def test_decoding_agrees_with_the_library(text):
    for alone, tokenizer in LIBRARY:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == alone.decode(ids)


def test_control_tokens_are_hidden_or_spelled_out():
    ids = [BYTES.special.turn, *BYTES.encode("user"), BYTES.special.end_turn]
    assert BYTES.decode(ids) == "user"
    assert BYTES.decode(ids, skip_special=False) == "<|turn>user<turn|>"
    assert BYTES.token_bytes(BYTES.special.turn) == b"<|turn>"


def test_control_ids_are_looked_up_by_text():
    raw = gemma_like_json()
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] != "<|think|>"]
    del raw["model"]["vocab"]["<|think|>"]
    special = Tokenizer.from_json(raw).special
    assert special.think is None and special.pad == 0 and special.quote == 14
    with pytest.raises(UsageError, match=r"no token '<\|think\|>'"):
        special.need("think")


def test_half_characters_and_unknown_ids():
    half = BYTES.encode("é中")[1:2]
    assert BYTES.token_bytes(half[0]) == "中".encode()[:1]
    assert BYTES.decode(half) == "\ufffd"
    assert BYTES.token_bytes(BYTES.id_of("Ã©")) == "é".encode()
    assert BYTES.decode([BYTES.vocab_size + 5]) == "\ufffd"
    with pytest.raises(UsageError, match="negative"):
        BYTES.decode([-1])


def test_leading_space_of_the_tokenizer_is_taken_off_once():
    raw = gemma_like_json()
    steps = [{"type": "Prepend", "prepend": "\u2581"}, raw["normalizer"]]
    raw["normalizer"] = {"type": "Sequence", "normalizers": steps}
    raw["decoder"]["decoders"].append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    tokenizer = Tokenizer.from_json(raw)
    for text in ("hello", "  hello", "a  b"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == b" " + text.encode()


@pytest.mark.parametrize("text, where", [("\ud800", 0), ("abc\udfff", 3), ("中\ud83dx", 1)])
def test_half_of_a_surrogate_pair_is_named(text, where):
    with pytest.raises(UsageError, match=f"character {where} of the text"):
        BYTES.encode(text)


@pytest.mark.parametrize("text", [b"bytes", None, 7, ["a"]])
def test_only_text_is_encoded(text):
    with pytest.raises(UsageError, match="must be a string"):
        BYTES.encode(text)


def test_from_file(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ConfigError, match="tokenizer.json"):
        Tokenizer.from_file(path)
    for broken in ("{", "[]", "{}", '{"model": 3}', '{"model": {"type": "BPE", "vocab": [], "merges": []}}'):
        path.write_text(broken)
        with pytest.raises(ConfigError, match="tokenizer.json"):
            Tokenizer.from_file(path)
    path.write_text(json.dumps(gemma_like_json()))
    assert Tokenizer.from_file(path).vocab_size == PIECES.vocab_size


def _without_a_byte(raw):
    del raw["model"]["vocab"]["<0x41>"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda raw: raw["model"].update(type="Unigram"), "model type 'Unigram'"),
        (lambda raw: raw["model"].update(dropout=0.1), "dropout is 0.1"),
        (lambda raw: raw["model"].update(byte_fallback=False), "byte_fallback is off"),
        (lambda raw: raw["decoder"]["decoders"].pop(1), "no ByteFallback"),
        (lambda raw: raw.update(decoder={"type": "WordPiece"}), "decoder: 'WordPiece' is not read"),
        (_without_a_byte, "1 of 256 byte tokens"),
        (lambda raw: raw["added_tokens"][3].update(content="<"), "too short"),
        (lambda raw: raw["added_tokens"][3].update(id=77), "not its place"),
        (lambda raw: raw["model"].update(merges=[["no", "such"]]), "not a tokenizer"),
        (lambda raw: raw.update(normalizer={"type": "Nonsense"}), "normalizer: 'Nonsense' is not read"),
    ],
)
def test_a_file_that_cannot_be_served_is_refused(change, message):
    raw = gemma_like_json()
    change(raw)
    with pytest.raises(ConfigError, match=message) as caught:
        Tokenizer.from_json(raw, "folder/tokenizer.json")
    assert "folder/tokenizer.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_prefix_space_is_refused():
    raw = byte_tokenizer_json()
    raw["pre_tokenizer"]["add_prefix_space"] = True
    with pytest.raises(ConfigError, match="add_prefix_space"):
        read_vocabulary(raw, "tokenizer.json")
