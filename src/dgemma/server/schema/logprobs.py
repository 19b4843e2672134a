"""Log-probabilities in OpenAI's two shapes, of the tokens that the content is made of: their bytes, joined, are its text.

What ends an answer, thoughts and tool calls have none here. Trap: a token that a stop string cuts is not told, so that no part
of the string is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...tasks.events import TokenLogProbs
from ...text.tokenizer import Tokenizer
from ..jobs import Refusal
from .sampling import unserved

Found = Sequence[TokenLogProbs]


class ChatLogProbs(msgspec.Struct):
    content: list[dict[str, Any]]
    refusal: None = None


class CompletionLogProbs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: (
        list[dict[str, float]] | None
    )  # by the tokens' texts: of two with the same text the likelier one
    text_offset: list[int]  # characters from the start of the choice's text


def asked_of_chat(wanted: bool | None, top: int | None) -> dict[str, Any]:
    """What api.Model takes for `logprobs` and `top_logprobs`."""
    if top and not wanted:
        raise Refusal(400, "top_logprobs needs logprobs: true", parameter="top_logprobs")
    return {"logprobs": True, "top_logprobs": top or 0} if wanted else {}


def asked_of_completion(top: int | None, suffix: bool, echo: bool) -> dict[str, Any]:
    """What api.Model takes for a completion's `logprobs`, a number of alternatives. A gap has none: several candidates settle.

    Nor has a prompt, so that `echo` beside them is refused: whoever adds up those of a prompt would get nothing, and not know it.
    """
    if top is not None and suffix:
        raise unserved("logprobs")
    if top is not None and echo:
        raise Refusal(
            400,
            "an echoed prompt has no log-probabilities here; leave out echo, or logprobs",
            parameter="echo",
        )
    return {} if top is None else {"logprobs": True, "top_logprobs": top}


def of_chat(tokenizer: Tokenizer, found: Found) -> ChatLogProbs:
    def told(token: int, text: str, log_prob: float) -> dict[str, Any]:
        return {"token": text, "logprob": log_prob, "bytes": [*tokenizer.token_bytes(token)]}

    return ChatLogProbs(
        [
            told(one.token_id, one.text, one.log_prob) | {"top_logprobs": [told(*top) for top in one.top]}
            for one in found
        ]
    )


def of_completion(found: Found, top: int) -> CompletionLogProbs:
    best = [{text: log_prob for _, text, log_prob in reversed(one.top)} for one in found] if top else None
    starts = [one.start or 0 for one in found]
    return CompletionLogProbs([one.text for one in found], [one.log_prob for one in found], best, starts)
