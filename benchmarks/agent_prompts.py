"""Prompts of an agent's size against a running `dgemma serve`: seconds to the first draft, what usage says, and the second turn.

    dgemma serve &
    python benchmarks/agent_prompts.py [URL]

The same conversation in three dialects: 64 kB of system prompt, a question, and the turn behind its answer. Each answer is one canvas of one step, so that
all of its time is the way to the first draft. Each dialect's prompt begins with a line of its own: none finds another's in the cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

SIZE = 64_000  # characters
ONE_STEP = {"max_denoising_steps": 1, "seed": 1}
TEXT = Path(argparse.__file__).read_text()[:SIZE]


def post(url: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def chat(url: str, system: str, turns: list[dict[str, str]]) -> tuple[str, int]:
    reply = post(
        f"{url}/v1/chat/completions",
        messages=[{"role": "system", "content": system}, *turns],
        max_tokens=16,
        **ONE_STEP,
    )
    return reply["choices"][0]["message"]["content"], reply["usage"]["prompt_tokens"]


def responses(url: str, system: str, turns: list[dict[str, str]]) -> tuple[str, int]:
    reply = post(f"{url}/v1/responses", instructions=system, input=turns, max_output_tokens=16, **ONE_STEP)
    return "".join(part["text"] for item in reply["output"] for part in item["content"]), reply["usage"][
        "input_tokens"
    ]


def messages(url: str, system: str, turns: list[dict[str, str]]) -> tuple[str, int]:
    own = {"max_denoising_steps": 1}
    reply = post(f"{url}/v1/messages", system=system, messages=turns, max_tokens=16, seed=1, dgemma=own)
    return reply["content"][0]["text"], reply["usage"]["input_tokens"]


def main(url: str = "http://127.0.0.1:8256") -> None:
    print("dialect,turn,prompt_tokens,counted,seconds_to_first_draft")
    for ask in (chat, responses, messages):
        system, turns = f"# {ask.__name__}\n{TEXT}", [{"role": "user", "content": "Say hello."}]
        for turn in (1, 2):
            counted = post(f"{url}/v1/messages/count_tokens", system=system, messages=turns)["input_tokens"]
            start = time.perf_counter()
            said, tokens = ask(url, system, turns)
            print(f"{ask.__name__},{turn},{tokens},{counted},{time.perf_counter() - start:.2f}", flush=True)
            assert tokens == counted, "usage does not say what was read"
            turns += [
                {"role": "assistant", "content": said or "Hello."},
                {"role": "user", "content": "Go on."},
            ]


if __name__ == "__main__":
    main(*sys.argv[1:2])
