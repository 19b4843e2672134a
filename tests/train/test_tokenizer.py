"""The tokenizer: every text comes back, control ids stand where they should, and training is repeatable."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from dgemma.errors import UsageError
from dgemma.train.tokenizer import CONTROL_TOKENS, train
from dgemma.train.world import World

VOCAB = 900
SNIPPETS = {
    "tree.py": "class Tree:\n    def __init__(self, left=None):\n        self._left_side = left\n\n" * 20,
    "sums.py": "def total(values):\n    result = 0\n    for value in values:\n        result += value\n" * 20,
    "words.py": 'import os\nNAMES = ["alpha", "beta"]  # 12345\nprint(" ".join(NAMES), os.path)\n' * 20,
}


def texts(count: int) -> list[str]:
    """What the messages of some examples say."""
    examples = map(World(0).sample, range(count))
    return [m["content"] for example in examples for m in (*example.messages, {"content": example.text})]


@pytest.fixture(scope="module")
def small() -> list[str]:
    """Texts with enough merges for 900 tokens, learned in a tenth of a second."""
    return texts(2000)


@pytest.fixture(scope="module")
def tokenizer(small) -> Tokenizer:
    made = train(small, VOCAB)
    made.encode_special_tokens = True
    return made


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [text[start:stop] for start, stop in tokenizer.encode(text).offsets]


def test_control_ids(tokenizer):
    assert [tokenizer.token_to_id(text) for text in CONTROL_TOKENS] == list(range(len(CONTROL_TOKENS)))
    assert [tokenizer.token_to_id(text) for text in ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")] == [
        0,
        1,
        2,
        3,
        4,
    ]
    added = tokenizer.get_added_tokens_decoder()
    assert len(added) == len(CONTROL_TOKENS) and all(token.special for token in added.values())


def test_the_vocabulary_has_the_size_asked_for_and_every_byte(tokenizer):
    assert tokenizer.get_vocab_size() == VOCAB
    singles = [token for token in tokenizer.get_vocab() if len(token) == 1]
    assert len(singles) == 256


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200))
@example("\r\n\t \n  x\n\n\n")
@example("<|turn>user\n<bos><eos>")
@example("\x00\ud7ff\U0010ffff e\u0301 مرحبا 你好 123456789")
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert all(token >= len(CONTROL_TOKENS) for token in ids)  # no text becomes a control token


def test_control_tokens_are_found_unless_switched_off(tokenizer, small):
    assert len(tokenizer.encode("<|turn>").ids) > 1
    plain = train(small, VOCAB)
    assert plain.encode("<|turn>").ids == [CONTROL_TOKENS.index("<|turn>")]


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "def f(self):\n        return 12345\n"
    assert again.encode(text).ids == tokenizer.encode(text).ids and again.to_str() == tokenizer.to_str()


def test_training_is_repeatable_and_depends_on_the_texts(tokenizer, small):
    assert train(iter(small), VOCAB).to_str() == tokenizer.to_str()
    assert train([*small, "zyx zyx zyx\n" * 500], VOCAB).to_str() != tokenizer.to_str()


def test_a_line_break_takes_the_indentation_along(tokenizer):
    assert pieces(tokenizer, "x\n        return") == ["x", "\n        ", "return"]


def test_no_token_reaches_over_a_line_or_joins_digits():
    made = train(["pass\n    pass\n    x = 123456789\n" * 500], 287)
    tokens = [
        token.replace("Ċ", "\n").replace("Ġ", " ")
        for token in made.get_vocab()
        if token not in CONTROL_TOKENS
    ]
    assert "\n    " in tokens and "pass" in tokens  # it did merge what it may
    assert not [token for token in tokens if "\n" in token and token.strip(" \n")]
    assert not [token for token in tokens if sum(map(str.isdigit, token)) > 1]


def test_nothing_is_put_around_or_in_front(tokenizer):
    assert tokenizer.encode("").ids == []
    assert pieces(tokenizer, "return")[0] == "return" and tokenizer.post_processor is None
    assert tokenizer.normalizer is None


@pytest.mark.parametrize(("size", "reason"), [(278, "too small"), (100_000, "ends at")])
def test_sizes_that_cannot_be_had(size, reason):
    with pytest.raises(UsageError, match=f"{size}.*{reason}"):
        train(SNIPPETS.values(), size)
