"""What an answer took: tokens read and written, steps and canvases. Each dialect says it in its own words.

Trap: a prompt that several choices share is read, and counted, once.
"""

from __future__ import annotations

import msgspec

from ...tasks.events import Generation


class Usage(msgspec.Struct):
    """In OpenAI's words."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    steps: int  # denoising steps of all canvases
    canvases: int


def usage_of(*results: Generation, choices: int = 1) -> Usage:
    """Of all results together, each prompt's `choices` one after the other."""
    prompt = sum(result.prompt_tokens for result in results[::choices])
    completion = sum(len(result.token_ids) for result in results)
    steps = sum(sum(result.steps) for result in results)
    canvases = sum(result.canvases for result in results)
    return Usage(prompt, completion, prompt + completion, steps, canvases)
