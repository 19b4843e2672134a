"""What a task hands out: drafts while a canvas settles, text once it is committed, the result at the end."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..text.calls import ToolCall
from ..text.lines import unified_diff


@dataclass(frozen=True)
class Draft:
    """One denoising step of one canvas. Lists have one entry per canvas position."""

    canvas: int  # from 0
    step: int  # from 1
    pieces: list[str]  # the text of each position's current argmax
    accepted: list[bool]  # accepted in this step
    pinned: list[bool]  # given, not generated
    entropy: list[float]  # nats
    token_ids: list[int]  # the argmax canvas
    row: int = 0  # which candidate, where a task tries several at once

    def of_canvas(self, canvas: int, row: int | None = None) -> Draft:
        """The same draft under another number, and as another candidate's."""
        return dataclasses.replace(self, canvas=canvas, row=self.row if row is None else row)


@dataclass(frozen=True)
class Committed:
    """Text that will not change any more; joined, the pieces are the answer."""

    canvas: int  # from 0
    text: str  # what the canvas adds to the answer
    token_ids: list[int]  # its tokens, the end token too
    steps: int  # that the canvas took
    # the text by channel: ("thought" or "content", text)
    parts: list[tuple[str, str]] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)  # tool calls that ended here and can be read
    # of the tokens that the content among the parts ends
    logprobs: list[TokenLogProbs] = field(default_factory=list)


@dataclass(frozen=True)
class TokenLogProbs:
    """One token of the answer and the likeliest in its place.

    Log-probabilities are in nats at temperature 1, of its canvas's last step, before any rule.
    """

    token_id: int  # the token of the answer
    text: str  # of that token
    log_prob: float  # nats
    top: list[tuple[int, str, float]]  # (id, text, log-probability), likeliest first
    # characters of the content before it; None: it is no part of the content, or a stop string cut it
    start: int | None = None


@dataclass(frozen=True)
class Generation:
    """The whole result of one request."""

    text: str  # the answer
    token_ids: list[int]  # of the answer, the end token too
    steps: list[int]  # per canvas
    finish_reason: str  # "stop": end token or stop string; "length": max_tokens
    prompt_tokens: int  # of the request
    seed: int  # with which the same answer comes again
    seconds: float  # from the request to its last token
    first_draft_seconds: float  # from the request to its first step
    notes: list[str] = field(default_factory=list)  # what was left out or done otherwise than asked
    stop: str | None = None  # the stop string that ended the text; it is not part of it
    logprobs: list[TokenLogProbs] | None = None  # one for each of token_ids, where they were asked for
    # written token by token: a step is one token, and each counts as a canvas of its own
    autoregressive: bool = False

    @property
    def canvases(self) -> int:
        """Canvases of the answer."""
        return len(self.steps)

    @property
    def steps_per_canvas(self) -> float:
        """Denoising steps of a canvas, on average."""
        return sum(self.steps) / max(1, len(self.steps))

    @property
    def tokens_per_forward(self) -> float:
        """Tokens of the answer for each denoising step."""
        return len(self.token_ids) / max(1, sum(self.steps))

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the answer for each second from the request on."""
        if self.seconds:
            return len(self.token_ids) / self.seconds
        return 0.0

    def to_dict(self) -> dict[str, Any]:
        """Everything, for --json."""
        names = (
            "text token_ids finish_reason prompt_tokens canvases steps steps_per_canvas tokens_per_forward "
            "tokens_per_second seconds first_draft_seconds seed notes stop"
        ).split()
        more: dict[str, Any] = {"autoregressive": True} if self.autoregressive else {}
        if self.logprobs is not None:
            more["logprobs"] = [dataclasses.asdict(one) for one in self.logprobs]
        return {name: getattr(self, name) for name in names} | more


@dataclass(frozen=True)
class Reply:
    """One turn of a chat, split by channel."""

    content: str  # what is said to the user
    thought: str  # what was thought before; empty without thinking
    tool_calls: list[ToolCall]  # in the order of the text
    malformed: list[str]  # tool calls that could not be read, as written
    generation: Generation  # the whole result, with tokens and times

    def to_dict(self) -> dict[str, Any]:
        calls = [{"name": call.name, "arguments": call.arguments} for call in self.tool_calls]
        return {
            "content": self.content,
            "thought": self.thought,
            "tool_calls": calls,
            "malformed": self.malformed,
            **self.generation.to_dict(),
        }


@dataclass(frozen=True)
class Filling:
    """A gap, filled. `text` replaces the marker; prefix + text + suffix is the whole file."""

    text: str  # of the gap
    closed: bool  # the model ended the text inside its gap; False: the text is exactly as long as the gap
    width: int  # tokens of the gap that won
    mean_log_prob: float  # nats per token of the winner and of the suffix behind it, read by the causal pass
    # steps of every width, all of its canvases together; generation.steps has the winner's
    row_steps: list[int]
    generation: Generation  # of the width that won
    candidates: list[str] = field(default_factory=list)  # the text of every width

    def to_dict(self) -> dict[str, Any]:
        return {
            "gap": self.text,
            "closed": self.closed,
            "gap_width": self.width,
            "mean_log_prob": self.mean_log_prob,
            "row_steps": self.row_steps,
            "candidates": self.candidates,
            **self.generation.to_dict(),
        }


@dataclass(frozen=True)
class Change:
    """A span of a document that has settled."""

    start: int  # characters of the document as it was
    end: int  # the same, behind the span
    before: str  # what stood there
    after: str  # what stands there now
    closed: bool  # as of Filling
    row: int = 0  # the candidate that it is of

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Edit:
    """A document, changed in place."""

    document: str  # as it was
    text: str  # the document with every change's `after` where its `before` stood
    changes: list[Change]  # in the order of the text
    generation: Generation  # of all windows together

    def diff(self, name: str = "document") -> str:
        """The change as a unified diff of a file called `name`; empty where nothing changed."""
        return unified_diff(self.document, self.text, name)

    def to_dict(self, name: str = "document") -> dict[str, Any]:
        changes = [change.to_dict() for change in self.changes]
        return {**self.generation.to_dict(), "text": self.text, "diff": self.diff(name), "changes": changes}


@dataclass(frozen=True)
class Decision:
    """The answer to one typed question; of `choice`, `score` and `noul` the one of its type is there."""

    type: str  # "choice", "score" or "noul"
    probabilities: dict[str, float]  # of every label (a score's levels by number, yes and no), adding up to 1
    confidence: float  # 0 where all labels are equally likely, 1 where one is certain
    choice: str | None = None  # the likeliest label
    score: float | None = None  # the expected level, from 0
    noul: float | None = None  # the probability of yes
    legend: dict[str, str] | None = None  # a score's levels

    def to_dict(self) -> dict[str, Any]:
        names = ("type", self.type, "legend", "probabilities", "confidence")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class Decisions:
    """All answers of a request, by the questions' ids."""

    answers: dict[str, Decision]  # by the names that the questions were given
    prompt_tokens: int  # read, what all questions share counted once
    steps: int  # denoising passes; 0 where no question had two possible answers
    seed: int  # with which the same answers come again
    seconds: float  # for all of them

    def to_dict(self) -> dict[str, Any]:
        usage = {"input_tokens": self.prompt_tokens, "output_tokens": 0, "steps": self.steps}
        answers = {name: answer.to_dict() for name, answer in self.answers.items()}
        return {"answers": answers, "usage": usage, "seed": self.seed, "seconds": self.seconds}
