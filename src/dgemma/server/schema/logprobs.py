"""Log-probabilities in OpenAI's two shapes, of the tokens that the content is made of: their bytes, joined,
are its text.

What ends an answer, thoughts and tool calls have none here. Trap: a token that a stop string cuts is left
out, so that no part of the string is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...tasks.events import TokenLogProbs
from ...text.tokenizer import Tokenizer
from ..jobs import RequestError
from .sampling import unserved


class ChatLogProbs(msgspec.Struct):
    content: list[dict[str, Any]]
    refusal: None = None


class CompletionLogProbs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float]
    # by the tokens' texts: of two with the same text the likelier one
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]  # characters from the start of the choice's text


def chat_logprobs_params(wanted: bool | None, top: int | None) -> dict[str, Any]:
    """What api.Model takes for `logprobs` and `top_logprobs`."""
    if top and not wanted:
        raise RequestError(400, "top_logprobs needs logprobs: true", parameter="top_logprobs")
    if wanted:
        return {"logprobs": True, "top_logprobs": top or 0}
    return {}


def completion_logprobs_params(top: int | None, suffix: bool, echo: bool) -> dict[str, Any]:
    """What api.Model takes for a completion's `logprobs`, a number of alternatives.

    A gap has none: several candidates settle. Nor has a prompt, so `echo` beside them is refused: whoever
    adds up those of a prompt would get nothing, and not know it.
    """
    if top is not None and suffix:
        raise unserved("logprobs")
    if top is not None and echo:
        message = "an echoed prompt has no log-probabilities here; leave out echo, or logprobs"
        raise RequestError(400, message, parameter="echo")
    if top is None:
        return {}
    return {"logprobs": True, "top_logprobs": top}


def of_chat(tokenizer: Tokenizer, tokens: Sequence[TokenLogProbs]) -> ChatLogProbs:
    def entry(token_id: int, text: str, log_prob: float) -> dict[str, Any]:
        return {"token": text, "logprob": log_prob, "bytes": [*tokenizer.token_bytes(token_id)]}

    content = []
    for token in tokens:
        alternatives = [entry(*alternative) for alternative in token.top]
        content.append(entry(token.token_id, token.text, token.log_prob) | {"top_logprobs": alternatives})
    return ChatLogProbs(content)


def of_completion(tokens: Sequence[TokenLogProbs], top: int) -> CompletionLogProbs:
    return CompletionLogProbs(
        tokens=[token.text for token in tokens],
        token_logprobs=[token.log_prob for token in tokens],
        top_logprobs=[_by_text(token) for token in tokens] if top else None,
        text_offset=[token.start or 0 for token in tokens],
    )


def _by_text(token: TokenLogProbs) -> dict[str, float]:
    """The alternatives' log-probabilities; from the least likely, so that the likelier of two stays."""
    return {text: log_prob for _, text, log_prob in reversed(token.top)}
