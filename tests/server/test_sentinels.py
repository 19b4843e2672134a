"""Marks inside a prompt: read whole and in order, or left alone; a marked prompt is the gap that a suffix would have made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from dgemma.server.schema.sentinels import FAMILIES, MarkedGap, Notation, marked_gap, without_marks
from tests.server.test_ollama import lines

Client = Callable[..., TestClient]
Files = list[tuple[str, str]]
Layout = Callable[[str, str], str]

# every order of every family's marks, as a function of prefix and suffix
LAYOUTS: list[Layout] = []
for marks in FAMILIES:
    a, b, c = marks.prefix, marks.suffix, marks.middle
    LAYOUTS += [
        lambda p, s, a=a, b=b, c=c: f"{a}{p}{b}{s}{c}",
        lambda p, s, a=a, b=b, c=c: f"{b}{s}{a}{p}{c}",
        lambda p, s, a=a, b=b, c=c: f"{a}{b}{s}{c}{p}",
    ]
CODESTRAL: Layout = lambda p, s: f"[SUFFIX]{s}[PREFIX]{p}"  # noqa: E731
SPACED: list[Layout] = [lambda p, s: f"<PRE> {p} <SUF>{s} <MID>", lambda p, s: f"<PRE> <SUF>{s} <MID> {p}"]

# what stands before a gap, as a function of files and the name of the file around it
HEADS: list[Callable[[Files, str], str]] = [
    lambda files, own: (
        "<|repo_name|>demo\n" + "".join(f"<|file_sep|>{n}\n{t}\n" for n, t in files) + f"<|file_sep|>{own}\n"
    ),
    lambda files, own: "".join(f"<|file_sep|>{n}\n{t}\n" for n, t in files) + f"<|file_sep|>{own}\n",
    lambda files, own: (
        "<repo_name>demo" + "".join(f"<file_sep>{n}\n{t}" for n, t in files) + f"<file_sep>{own}\n"
    ),
    lambda files, own: "".join(f"<file_sep>{n}\n{t}" for n, t in files) + "<file_sep>",
    lambda files, own: (
        "<reponame>demo" + "".join(f"<filename>{n}\n{t}\n" for n, t in files) + f"<filename>{own}\n"
    ),
    lambda files, own: "".join(f"{n}\n{t}\n<|file_separator|>" for n, t in files) + f"{own}\n" * bool(files),
]
TEXTS = st.text(alphabet="ab \n\r<|>", max_size=12)
NAMES = st.from_regex(r"[a-z]{1,4}(/[a-z]{1,4})?\.(py|kt|c)", fullmatch=True)
FILE_TEXTS = (
    st.text(alphabet="ab \n(=", min_size=1, max_size=12).map(lambda text: text.strip("\n")).filter(bool)
)
FILES = st.lists(st.tuples(NAMES, FILE_TEXTS), max_size=3)


def of_codellama(layout: Layout) -> bool:
    return "<PRE>" in layout("", "")


@given(
    TEXTS.filter(lambda text: text not in ("\n", "\r\n")),
    TEXTS,
    st.sampled_from(["", "<s>", "<bos>", "<｜begin▁of▁sentence｜>"]),
)
def test_what_is_marked_comes_back_from_every_layout(prefix: str, suffix: str, start: str) -> None:
    ambiguous = prefix[:1] == prefix[-1:] == suffix[-1:] == " "
    for layout in [*LAYOUTS, CODESTRAL]:
        if not (ambiguous and of_codellama(layout)):
            assert marked_gap(start + layout(prefix, suffix)) == MarkedGap(prefix, suffix), layout(
                prefix, suffix
            )
    for layout in SPACED:
        assert marked_gap(start + layout(prefix, suffix)) == MarkedGap(prefix, suffix)


@given(TEXTS, TEXTS, st.sampled_from(["\n", "\r\n"]))
def test_a_line_end_behind_the_last_mark_is_nobodys(prefix: str, suffix: str, end: str) -> None:
    for marks in FAMILIES:
        if not marks.spaced:
            prefix_first = f"{marks.prefix}{prefix}{marks.suffix}{suffix}{marks.middle}{end}"
            suffix_first = f"{marks.suffix}{suffix}{marks.prefix}{prefix}{marks.middle}{end}"
            assert marked_gap(prefix_first) == marked_gap(suffix_first) == MarkedGap(prefix, suffix)


@given(TEXTS, TEXTS, FILES, NAMES)
def test_files_come_back_from_every_layout(prefix: str, suffix: str, files: Files, own: str) -> None:
    want = MarkedGap(prefix, suffix, tuple(files))
    for head in HEADS:
        for marks in FAMILIES:
            prefix_first = f"{marks.prefix}x{prefix}{marks.suffix}{suffix}x{marks.middle}"
            suffix_first = f"{marks.suffix}{suffix}x{marks.prefix}x{prefix}{marks.middle}"
            found = MarkedGap(f"x{prefix}", f"{suffix}x", want.files)
            assert (
                marked_gap(head(files, own) + prefix_first)
                == marked_gap(head(files, own) + suffix_first)
                == found
            )
    inside = (
        "<|repo_name|>demo\n" + "".join(f"<|file_sep|>{n}\n{t}\n" for n, t in files) + f"<|file_sep|>{own}\n"
    )
    assert marked_gap(f"<|fim_prefix|>{inside}{prefix}<|fim_suffix|>{suffix}<|fim_middle|>") == want
    plus = "".join(f"+++++ {n}\n{t}\n\n" for n, t in files) + f"+++++ {own}\n"
    assert marked_gap(f"<s>[SUFFIX]{suffix}[PREFIX]{plus}{prefix}") == want


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "<|fim_prefix|>a<|fim_middle|>", "x<fim_prefix>a<fim_suffix>b<fim_middle>", "[SUFFIX]a", "[PREFIX]a[SUFFIX]",
        "<fim_prefix>a<fim_suffix>b<fim_middle>c", "see <|file_sep|>a.py\n<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
        "<|file_sep|>a.py\nx", "<fim_suffix>a<fim_prefix>b<fim_middle>c", "x[SUFFIX]a[PREFIX]b", "<fim_prefix>a<|fim_suffix|>b<fim_middle>",
    ],
)  # fmt: skip
def test_other_texts_are_texts(text: str) -> None:
    assert marked_gap(text) is None


@pytest.mark.parametrize("marks", FAMILIES, ids=lambda marks: marks.middle)
def test_a_text_may_hold_a_mark_twice(marks: Notation) -> None:
    """The first marks open and divide, the last one closes: what is between them is text, marks and all."""
    a, b, c = marks.prefix, marks.suffix, marks.middle
    told = {
        # prefix first
        f"{a}P{a}Q{b}S{c}": (f"P{a}Q", "S"),
        f"{a}P{c}Q{b}S{c}": (f"P{c}Q", "S"),
        f"{a}P{b}S{b}T{c}": ("P", f"S{b}T"),
        f"{a}P{b}S{a}T{c}": ("P", f"S{a}T"),
        f"{a}P{b}S{c}T{c}": ("P", f"S{c}T"),
        f"{a}P{b}S{c}{c}": ("P", f"S{c}"),
        f"{a}{b}S{c}T{c}P": ("P", f"S{c}T"),
        # suffix first
        f"{b}S{b}T{a}P{c}": ("P", f"S{b}T"),
        f"{b}S{c}T{a}P{c}": ("P", f"S{c}T"),
        f"{b}S{a}P{a}Q{c}": (f"P{a}Q", "S"),
        f"{b}S{a}P{c}Q{c}": (f"P{c}Q", "S"),
    }
    for prompt, (prefix, suffix) in told.items():
        assert marked_gap(prompt) == MarkedGap(prefix, suffix), prompt
    assert marked_gap(f"{a}P{b}S{c}T") is None and marked_gap(f"{a}P{b}S{c}T{c}U") is None


def test_a_text_may_hold_codestrals_marks_twice() -> None:
    assert marked_gap("[SUFFIX]S[SUFFIX]T[PREFIX]P") == MarkedGap("P", "S[SUFFIX]T")
    assert marked_gap("[SUFFIX]S[PREFIX]P[PREFIX]Q") == MarkedGap("P[PREFIX]Q", "S")


def test_stops_that_are_marks_go() -> None:
    stops = [
        "<|endoftext|>",
        "<EOT>",
        "\n\n",
        "<｜fim▁hole｜>",
        "[PREFIX]",
        "<file_sep>",
        "<|file_sep|>",
        "<[fim-middle]>",
        "</s>",
        "<div>",
    ]
    assert without_marks(stops) == ["\n\n", "<div>"] and without_marks(None) == []


FILLED = "<|file_sep|>lib.py\ny = 2\n<|file_sep|>main.py\n<|fim_prefix|>abc<|fim_suffix|>xyz<|fim_middle|>"


def test_a_marked_prompt_is_a_gap_in_every_dialect(client: Client) -> None:
    asking = client()
    infill = {
        "input_prefix": "abc",
        "input_suffix": "xyz",
        "n_predict": 3,
        "seed": 1,
        "input_extra": [{"filename": "lib.py", "text": "y = 2"}],
    }
    want = asking.post("/infill", json=infill).json()
    more: dict[str, Any] = {"max_tokens": 3, "seed": 1, "stop": ["<|endoftext|>"]}
    reply = asking.post("/v1/completions", json={"prompt": FILLED} | more).json()
    assert (
        reply["choices"][0]["text"] == want["content"]
        and reply["usage"]["prompt_tokens"] == want["tokens_evaluated"]
    )
    fim = asking.post("/v1/fim/completions", json={"prompt": FILLED} | more).json()
    assert fim["choices"][0]["text"] == want["content"] and fim["usage"] == reply["usage"]
    for raw in (True, False):
        body = {
            "model": "any",
            "prompt": FILLED,
            "raw": raw,
            "options": {"seed": 1, "num_predict": 3, "stop": ["<|file_sep|>"]},
        }
        told = lines(asking.post("/api/generate", json=body).text)
        assert "".join(line["response"] for line in told) == want["content"]
        assert told[-1]["prompt_eval_count"] == want["tokens_evaluated"]


def test_each_prompt_of_a_list_is_read_by_itself(client: Client) -> None:
    asking, more = client(), {"max_tokens": 3, "seed": 1}
    prompts = [FILLED, "abc", f"of {FILLED}"]
    alone = [
        asking.post("/v1/completions", json={"prompt": prompt} | more).json()["choices"][0]["text"]
        for prompt in prompts
    ]
    assert len(set(alone)) == 3
    for prompt, text in zip(prompts, alone, strict=True):
        choices = asking.post("/v1/completions", json={"prompt": [prompt], "n": 2} | more).json()["choices"]
        assert choices[0]["text"] == text
    together = asking.post("/v1/completions", json={"prompt": prompts} | more).json()["choices"]
    assert [choice["text"] for choice in together] == alone
    echoed = asking.post("/v1/completions", json={"prompt": prompts, "echo": True} | more).json()["choices"]
    assert [choice["text"] for choice in echoed] == [
        "abc" + alone[0],
        "abc" + alone[1],
        prompts[2] + alone[2],
    ]
