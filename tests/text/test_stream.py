"""Text out of a stream: any portions give the same text, nothing is taken back, stop strings end it exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.errors import UsageError
from dgemma.text.stream import StopFinder, StreamDecoder, cut_at_stop
from dgemma.text.tokenizer import Tokenizer
from tests.helpers import byte_tokenizer
from tests.text.gemma_like import gemma_like, gemma_like_json

BYTES, PIECES = byte_tokenizer(), gemma_like()


def portions(data: st.DataObject, items):
    """The items cut into portions at drawn places (empty portions too)."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(items)), max_size=6)))
    return [items[a:b] for a, b in zip([0, *cuts], [*cuts, len(items)], strict=True)]


def stream(tokenizer, pieces) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.feed(ids) for ids in pieces), decoder.flush()]


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
@given(data=st.data())
def test_any_ids_in_any_portions_give_the_whole_text(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=24))  # invalid UTF-8 and all
    assert "".join(stream(tokenizer, portions(data, ids))) == tokenizer.decode(ids)


@given(text=st.text(), data=st.data())
def test_no_half_characters(text, data):
    pieces = stream(BYTES, portions(data, BYTES.encode(text)))
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_decoding_portion_by_portion_would_not_do():
    """The twin: without the decoder's memory the same portions give broken characters."""
    ids = BYTES.encode("né中😀")
    assert "".join(BYTES.decode([i]) for i in ids) != "né中😀"
    assert stream(BYTES, [[i] for i in ids]) == ["n", "", "é", "", "", "中", "", "", "", "😀", ""]


def test_control_tokens_are_hidden_unless_asked_for():
    ids = [BYTES.special.channel, *BYTES.encode("a"), BYTES.special.end_channel]
    assert StreamDecoder(BYTES).feed(ids) == "a"
    assert StreamDecoder(BYTES, skip_special=False).feed(ids) == "<|channel>a<channel|>"


def _stripping() -> Tokenizer:
    raw = gemma_like_json()
    raw["decoder"]["decoders"].append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return Tokenizer.from_json(raw)


STRIPPING = _stripping()


@given(text=st.text(alphabet=" ah\u2581", max_size=8), data=st.data())
def test_a_leading_space_is_taken_off_only_at_the_start(text, data):
    ids = STRIPPING.encode(text)
    assert "".join(stream(STRIPPING, portions(data, ids))) == STRIPPING.decode(ids)
    assert STRIPPING.decode(ids) == PIECES.decode(ids).removeprefix(" ")


def test_flush_starts_anew():
    decoder = StreamDecoder(BYTES)
    assert decoder.feed(BYTES.encode("中")[:2]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.feed(BYTES.encode("中")) == "中"


def run(stops, pieces) -> tuple[str, str | None]:
    finder = StopFinder(stops)
    return "".join([*(finder.feed(piece) for piece in pieces), finder.flush()]), finder.hit


STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3)


@given(text=st.text(alphabet="ab\n", max_size=20), stops=STOPS, data=st.data())
def test_stop_strings_do_not_depend_on_the_portions(text, stops, data):
    whole, hit = run(stops, [text])
    assert run(stops, portions(data, text)) == (whole, hit)
    if hit is None:
        assert whole == text and not any(stop in text for stop in stops)
    else:
        assert text.startswith(whole + hit) and not any(stop in whole for stop in stops)


@given(text=st.text(alphabet="ab", max_size=12), stops=STOPS)
def test_only_what_could_begin_a_stop_string_is_held_back(text, stops):
    finder = StopFinder(stops)
    given_out = finder.feed(text)
    if finder.hit is None:
        held = text.removeprefix(given_out)
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


@pytest.mark.parametrize(
    "stops, text, expected",
    [
        (["END"], "one END two", ("one ", "END")),
        (["END"], "one EN", ("one EN", None)),
        (["bc", "abcd"], "xabcd", ("xa", "bc")),  # ends first, though it starts later
        (["b", "ab"], "xab", ("x", "ab")),  # both end together: the longer one
        (["aab"], "aaab", ("a", "aab")),  # a false start inside the match
        ("\n\n", "a\n\nb", ("a", "\n\n")),  # one string is one stop string
        (None, "text", ("text", None)),
        (["", "b"], "ab", ("a", "b")),  # an empty string stops nothing
        ("", "ab", ("ab", None)),
    ],
)
def test_stop_strings_by_hand(stops, text, expected):
    assert run(stops, [text]) == expected
    assert run(stops, list(text)) == expected


def test_nothing_follows_a_hit():
    finder = StopFinder(["."])
    assert [finder.feed("a.b"), finder.feed("c."), finder.flush()] == ["a", "", ""]


@pytest.mark.parametrize("stops", [["a", 3], [None], [b"a"]])
def test_an_impossible_stop_string_is_refused(stops):
    with pytest.raises(UsageError, match="stop string"):
        StopFinder(stops)


def test_a_whole_text_is_cut_at_its_first_stop() -> None:
    assert cut_at_stop("abcd", ["d", "bc", ""]) == ("a", "bc") and cut_at_stop("abcd", None) == ("abcd", "")
    assert cut_at_stop("abcd", "x") == ("abcd", "") and cut_at_stop("a\r\nb", "") == ("a\r\nb", "")
    for stop in ("\nc", "\r\nc"):
        assert cut_at_stop("a\r\nb\r\nc", stop) == ("a\r\nb", "\nc")
    assert cut_at_stop("a\r\nb", ["\n"]) == ("a", "\n")
