"""What editors send: gaps in two shapes and next edits, whole and streamed, against the Python calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

import dgemma
from dgemma.server.schema.nextedit import read_place
from tests.server.test_openai import chunks

Client = Callable[..., TestClient]
INFILL, FIM, EDIT = "/infill", "/v1/fim/completions", "/v1/edit/completions"
FILE = "import math\n\ndef area(r):\n    return 3\n\nprint(area(2))\n"
MESSAGE = (
    "<|recently_viewed_code_snippets|>\n<|/recently_viewed_code_snippets|>\n\n<|current_file_content|>\ncurrent_file_path: a.py\nimport math\n\n"
    "<|code_to_edit|>\ndef area(r):\n    return 3<|cursor|>\n<|/code_to_edit|>\n\nprint(area(2))\n\n<|/current_file_content|>\n\n"
    "<|edit_diff_history|>\n@@ -1 +1 @@\n<|/edit_diff_history|>\n"
)


def test_infill_is_pythons_fill_with_other_files(client: Client, model: dgemma.Model) -> None:
    want = model.fill("def f():\n  re", "\nx = 1\n", seed=2, widths=[1, 3], extra=[("b.py", "y = 2")])
    body = {
        "input_prefix": "def f():\n", "prompt": "  re", "input_suffix": "\nx = 1\n", "input_extra": [{"filename": "b.py", "text": "y = 2"}],
        "n_predict": 3, "seed": 2, "top_k": 40, "samplers": ["top_k", "infill"], "cache_prompt": True, "t_max_predict_ms": 500,
    }  # fmt: skip
    reply = client().post(INFILL, json=body).json()
    assert (
        reply["content"] == want.text
        and reply["stop"] is True
        and reply["tokens_evaluated"] == want.generation.prompt_tokens
    )
    assert reply["steps"] == sum(want.generation.steps) and reply["timings"]["predicted_n"] == len(
        want.generation.token_ids
    )
    assert reply["dgemma"]["notes"][-1] == "not heeded: samplers, t_max_predict_ms, top_k"
    told = [
        json.loads(part[6:])
        for part in client().post(INFILL, json=body | {"stream": True}).text.split("\n\n")
        if part
    ]
    assert "".join(part["content"] for part in told) == want.text and [part["stop"] for part in told] == [
        False,
        True,
    ]


def test_infill_warms_and_picks_fields(client: Client) -> None:
    asking = client()
    assert asking.post(INFILL, json={"input_prefix": "a", "n_predict": 0}).json()["content"] == ""
    reply = asking.post(
        INFILL,
        json={"input_prefix": "abc", "n_predict": 2, "response_fields": ["content", "timings/predicted_n"]},
    ).json()
    assert sorted(reply) == ["content", "timings/predicted_n"]


def test_fim_tells_text_and_delta(client: Client, model: dgemma.Model) -> None:
    want = model.fill("def f():\n", "\nx = 1\n", seed=4, widths=[1, 3])
    body = {
        "model": "codestral",
        "prompt": "def f():\n",
        "suffix": "\nx = 1\n",
        "max_tokens": 3,
        "random_seed": 4,
        "top_p": 0.5,
    }
    reply = client().post(FIM, json=body).json()
    assert reply["choices"][0]["text"] == reply["choices"][0]["message"]["content"] == want.text
    assert reply["usage"]["steps"] == sum(want.generation.steps) and reply["dgemma"] == {
        "seed": 4,
        "notes": ["not heeded: top_p"],
    }
    told = chunks(client().post(FIM, json=body | {"stream": True}).text)
    for pieces in (
        [part["choices"][0]["text"] for part in told],
        [part["choices"][0]["delta"]["content"] for part in told],
    ):
        assert "".join(pieces) == want.text
    assert told[-1]["usage"] == reply["usage"]


def test_stop_strings_cut_a_gap(client: Client, model: dgemma.Model) -> None:
    text = model.fill("def f():\n", "\nx = 1\n", seed=4, widths=[1, 3, 6]).text
    assert text
    body = {"prompt": "def f():\n", "suffix": "\nx = 1\n", "seed": 4, "max_tokens": 10**9, "stop": [text[-1]]}
    assert client().post(FIM, json=body).json()["choices"][0]["text"] == text[: text.index(text[-1])]


def test_a_marked_region_is_read() -> None:
    place = read_place(MESSAGE)
    assert place.document == FILE and place.history == "@@ -1 +1 @@"
    start, end = place.region
    assert FILE[start:end] == "def area(r):\n    return 3" and FILE[slice(*place.free)] == "    return 3"
    whole = read_place("a\n<|code_to_edit|>\nb\nc\n<|/code_to_edit|>\nd")
    assert whole.document == "a\nb\nc\nd" and whole.document[slice(*whole.free)] == "b\nc"


def test_a_next_edit_changes_the_cursors_line_alone(client: Client, model: dgemma.Model) -> None:
    place = read_place(MESSAGE)
    want = model.edit(
        FILE, "These edits were made last; make the next one.\n@@ -1 +1 @@", seed=3, spans=[place.free]
    )
    body = {"model": "mercury-edit-2", "messages": [{"role": "user", "content": MESSAGE}], "seed": 3}
    content = client().post(EDIT, json=body).json()["choices"][0]["message"]["content"]
    region = content.removeprefix("```\n").removesuffix("\n\n```")
    assert FILE[: place.region[0]] + region + FILE[place.region[1] :] == want.text and region.startswith(
        "def area(r):\n"
    )
    told = chunks(client().post(EDIT, json=body | {"stream": True}).text)
    assert told[0]["choices"][0]["delta"]["content"] == content and told[-1]["usage"]["steps"] == sum(
        want.generation.steps
    )


def windows(text: str) -> str:
    return text.replace("\n", "\r\n")


def test_line_ends_are_the_texts_in_every_dialect(client: Client, model: dgemma.Model) -> None:
    prefix, suffix = "def f():\n", "\nx = 1\n"
    newline = model.tokenizer.encode("\n")[0]
    want = windows(model.fill(prefix, suffix, seed=1, widths=[1, 3, 6], logit_bias={newline: 7.0}).text)
    assert "\r\n" in want
    more: dict[str, Any] = {"seed": 1, "logit_bias": {str(newline): 7.0}}
    around = {"prompt": windows(prefix), "suffix": windows(suffix), "max_tokens": 6} | more
    asking = client()
    for given in ({}, {"stop": ["\n"]}):
        reply = asking.post("/v1/completions", json=around | given).json()
        assert reply["choices"][0]["text"] == (want.partition("\r\n")[0] if given else want)
    seeded = {"seed": 1, "temperature": 1.0}
    plain = asking.post(FIM, json={"prompt": prefix, "suffix": suffix} | seeded).json()["choices"][0]["text"]
    assert asking.post(FIM, json={"prompt": windows(prefix), "suffix": windows(suffix)} | seeded).json()[
        "choices"
    ][0]["text"] == windows(plain)
    body = {"input_prefix": windows(prefix), "input_suffix": windows(suffix)} | seeded
    assert asking.post(INFILL, json=body).json()["content"] == windows(plain)


def test_a_next_edit_keeps_line_ends(client: Client, model: dgemma.Model) -> None:
    place, plain = read_place(windows(MESSAGE)), read_place(MESSAGE)
    assert place.document == windows(FILE) and plain.document == FILE
    for span, same in ((place.region, plain.region), (place.free, plain.free)):
        assert place.document[slice(*span)] == windows(FILE[slice(*same)])
    content = []
    for message in (MESSAGE, windows(MESSAGE)):
        body = {"messages": [{"role": "user", "content": message}], "seed": 3}
        content.append(
            client()
            .post(EDIT, json=body)
            .json()["choices"][0]["message"]["content"]
            .removeprefix("```\n")
            .removesuffix("\n\n```")
        )
    assert content[1] == windows(content[0])


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (INFILL, {}, "prefix or a suffix"), (INFILL, {"input_prefix": "a", "nope": 1}, "nope"), (FIM, {"suffix": "x"}, "prompt"),
        (FIM, {"prompt": "a", "logprobs": 2}, "logprobs"), (EDIT, {"messages": [{"role": "user", "content": "x"}]}, "code_to_edit"),
        (EDIT, {"messages": []}, "code_to_edit"), (INFILL, {"input_prefix": "a", "n_predict": -7}, "-7"),
    ],
)  # fmt: skip
def test_what_cannot_be_filled_is_named(client: Client, path: str, body: dict[str, Any], name: str) -> None:
    for streaming in (False, True):
        reply = client().post(path, json=body | {"stream": streaming})
        assert reply.status_code == 400 and name in reply.json()["error"]["message"], reply.text
