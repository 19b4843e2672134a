"""A line of a batch gets the answer that the service gives to the same body: one dialect, one code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

import dgemma
from dgemma.cli.batch import CHAT, COMPLETION, Line, answers

Client = Callable[..., TestClient]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
SHARED: dict[str, Any] = {
    "max_tokens": st.sampled_from([1, 8, 20, 0, -1, "many", 4.0]),
    "max_denoising_steps": st.sampled_from([1, 2, 0]),
    "n": st.sampled_from([1, 2, 17, None]),
    "temperature": st.sampled_from([0, 0.5, 1, None, "hot"]),
    "top_k": st.sampled_from([0, 3]),
    "stop": st.sampled_from(["e", ["a", ""], "", []]),
    "logit_bias": st.sampled_from([{}, {"100": 5}]),
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}, {"type": "odd"}]),
    "regex": st.sampled_from(["", "[ab]{1,3}"]),
    "model": st.sampled_from(["dgemma", "other"]),
    "user": st.just("somebody"),
    "temprature": st.just(1),
}
BODIES = {
    CHAT: SHARED
    | {
        "logprobs": st.booleans(),
        "top_logprobs": st.integers(0, 2),
        "tools": st.sampled_from([[], [TOOL]]),
        "thinking": st.booleans(),
    },
    COMPLETION: SHARED
    | {
        "logprobs": st.integers(0, 2),
        "echo": st.booleans(),
        "suffix": st.sampled_from(["", "\nend"]),
        "best_of": st.sampled_from([1, 3]),
    },
}
PROMPTS = {
    CHAT: {
        "messages": st.sampled_from([[{"role": "user", "content": "hi \ud800"}], [], [{"role": "odd"}], "hi"])
    },
    COMPLETION: {"prompt": st.sampled_from(["import os", "", [30, 31], ["a", "b"], [300, "a"], 7])},
}


def of_batch(model: dgemma.Model, path: str, body: dict[str, Any]) -> dict[str, Any]:
    (answer,) = answers(model, [Line("a", path, body)], {})
    return answer["response"]


def without_ids(value: Any) -> Any:
    """A body without what differs from one answer to the next: ids, and a product's last digit, which follows the memory's alignment."""
    if isinstance(value, list):
        return [without_ids(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if not isinstance(value, dict):
        return value
    return {name: without_ids(one) for name, one in value.items() if name not in ("id", "created")}


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_line_and_a_request_get_the_same_answer(
    client: Client, model: dgemma.Model, path: str, data: st.DataObject
) -> None:
    few = st.sets(st.sampled_from([*BODIES[path]]), max_size=4)
    body = {"seed": data.draw(st.integers(0, 3))} | {"max_tokens": 8, "max_denoising_steps": 2}
    body |= {name: data.draw(strategy) for name, strategy in PROMPTS[path].items()}
    body |= {name: data.draw(BODIES[path][name], label=name) for name in sorted(data.draw(few))}
    if body["max_tokens"] == -1:
        body["stop"] = "e"  # or the answer has the length that the checkpoint names
    served = client().post(path, content=json.dumps(body).encode())
    answer = of_batch(model, path, body)
    assert answer["status_code"] == served.status_code
    assert without_ids(answer["body"]) == without_ids(served.json())


def test_usage_and_log_probabilities_have_the_service_s_shapes(model: dgemma.Model) -> None:
    body = {"prompt": "import os", "max_tokens": 4, "max_denoising_steps": 2, "logprobs": 1}
    answer = of_batch(model, COMPLETION, body)["body"]
    assert answer["usage"]["steps"] >= answer["usage"]["canvases"] == 1
    assert set(answer["choices"][0]["logprobs"]) == {
        "tokens",
        "token_logprobs",
        "top_logprobs",
        "text_offset",
    }


def test_a_stream_is_refused_and_the_other_lines_go_on(model: dgemma.Model) -> None:
    body = {"prompt": "import os", "max_tokens": 4, "max_denoising_steps": 1}
    lines = [Line("a", COMPLETION, body | {"stream": True}), Line("b", COMPLETION, body)]
    by_id = {answer["custom_id"]: answer["response"] for answer in answers(model, lines, {})}
    assert by_id["a"]["status_code"] == 400 and by_id["a"]["body"]["error"]["param"] == "stream"
    assert by_id["b"]["status_code"] == 200


def test_a_line_s_own_settings_go_before_the_flags(model: dgemma.Model) -> None:
    def of(body: dict[str, Any], **flags: Any) -> Any:
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8} | body
        (answer,) = answers(model, [Line("a", CHAT, body)], flags)
        assert answer["response"]["status_code"] == 200, answer
        return without_ids(answer["response"]["body"])

    flags = {"regex": "(ab)+", "temperature": 0.5}
    assert of({}, **flags)["choices"][0]["message"]["content"].startswith("ab")
    assert of({"temperature": None, "grammar": ""}, **flags) == of(flags)  # these ask for nothing
    own_form = {"guided_regex": "(cd)+"}
    assert of(own_form, **flags) == of(own_form, temperature=0.5)
    assert of({"temperature": 0}, **flags) == of({"temperature": 0}, regex="(ab)+")


def test_a_batch_needs_none_of_the_service_s_packages(tmp_path: Path) -> None:
    line = {"custom_id": "a", "url": COMPLETION, "body": {"prompt": "import os", "max_tokens": 2}}
    (tmp_path / "in.jsonl").write_text(json.dumps(line))
    code = (
        "import sys\n"
        "from dgemma.config.extras import SERVE_MODULES\n"
        "for name in SERVE_MODULES: sys.modules[name] = None\n"
        "from dgemma.cli.main import main\n"
        "sys.exit(main(['batch', *sys.argv[1:]]))\n"
    )
    files = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]
    ended = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text())["response"]["status_code"] == 200
