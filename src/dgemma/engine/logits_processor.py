"""What one request asks of its tokens, applied to its canvas: penalties, bans, restricted sampling, a
grammar, log-probabilities.

The unfused path: only here does anybody see logits, and only those of rows that asked. Everything happens to
the [C, V] logits of one request before the statistics are taken of them, so that argmax, sample, entropy and
self-conditioning tell of the same distribution. A row's arithmetic is its own: who shares its batch changes
nothing. docs/sampling.md has the meaning of each rule.

What a rule needs to remember between canvases is the LogitsProcessor's: the tokens of the answer so far, and
where its grammar stands. Trap: masked logits are MASKED, a large finite number, because p log p of an
infinite one is not a number.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from ..kernels.ops.vocab import CanvasStats, soft_capped_logits, stats_of
from ..model.dgemma import DiffusionGemma
from ..sampling.pins import hold
from ..sampling.step import CanvasState, draws, inverse_temperature
from .grammar import MASKED, Walk, project
from .requests import LogProbs, Request


class StepLogProbs(NamedTuple):
    """Log-probabilities of one step: of the draft [C], of the likeliest tokens [C, n], and which these are
    [C, n].
    """

    draft: Tensor
    best: Tensor
    ids: Tensor


class LogitsProcessor:
    """The rules of one request at work."""

    def __init__(self, request: Request):
        self.request = request
        self.rules = request.rules
        self.answer: list[int] = []  # committed
        self.walk: Walk | None = None  # where the grammar stands behind the answer
        if request.grammar:
            self.walk = request.grammar.begin()
        self.step_log_probs: StepLogProbs | None = None  # of the last step
        self.failed: str | None = None  # why this answer can never be what its grammar asks

    def commit(self, tokens: list[int]) -> None:
        """A canvas stood, and these tokens of it joined the answer."""
        self.answer += tokens
        if self.walk is not None:
            self.walk.take(tokens)

    def log_probs(self, count: int) -> tuple[LogProbs, ...]:
        """Of the first `count` tokens of the canvas that stands: from its last step."""
        if self.step_log_probs is None:
            return ()
        draft, best, ids = (part[:count].tolist() for part in self.step_log_probs)
        return tuple(LogProbs(*parts) for parts in zip(draft, ids, best, strict=True))

    def stats(self, model: DiffusionGemma, hidden: Tensor, state: CanvasState) -> CanvasStats:
        """The head's statistics of one row under its rules: hidden [1, C, D], the state of that row alone."""
        logits = soft_capped_logits(hidden, model.table, model.config.final_logit_softcapping)[0]
        plain = None
        if self.rules.logprobs:
            plain = logits.clone()
        self._penalise(logits, state.argmax[0])
        self._ban(logits)
        # over T, what is masked leaves the range: bring it back
        processed = (logits * inverse_temperature(state).to(logits.dtype)).clamp_min_(MASKED)
        self._restrict(processed)
        if self.walk is not None:
            self._project(self.walk, processed)
        stats = stats_of(processed[None], draws(state), hidden.dtype)
        if plain is not None and not state.done[0]:  # a row that stands may wait for others
            self._keep_log_probs(plain, hold(stats.argmax, state.pins)[0])
        if self.failed:  # nothing will come of it: it ends like one whose numbers are broken, alone
            stats = stats._replace(entropy=stats.entropy.fill_(torch.nan))
        return stats

    def _ban(self, logits: Tensor) -> None:
        """Biases, and tokens that may not stand: nowhere, in one cell, or so early in the answer."""
        for token, bias in self.rules.biases:
            logits[:, token] += bias
        if self.rules.banned_tokens:
            logits[:, list(self.rules.banned_tokens)] = MASKED
        if not self.answer:
            for cell, ids in self.request.only:
                allowed = logits[cell, list(ids)]
                logits[cell] = MASKED
                logits[cell, list(ids)] = allowed
        early = self.rules.min_tokens - len(self.answer)
        if early > 0 and self.request.ends:
            logits[:early, list(self.request.ends)] = MASKED

    def _project(self, walk: Walk, processed: Tensor) -> None:
        left = self.request.max_tokens - len(self.answer)
        try:
            project(walk, processed, left, self.request.ends, self.request.config.pad_token_id)
        except UsageError as error:
            self.failed = str(error)

    def _penalise(self, logits: Tensor, draft: Tensor) -> None:
        """Penalties for what stands before each position: in the last step's draft [C], in the answer and,
        for repetition, in the prompt.

        What stands behind a position does not count: two equal tokens would drive each other out and both
        come back. End tokens and padding neither count nor pay.
        """
        rules = self.rules
        if not (rules.presence_penalty or rules.frequency_penalty or rules.repetition_penalty != 1.0):
            return
        pad = self.request.config.pad_token_id or 0
        free = torch.tensor([*self.request.ends, pad, -1], device=draft.device)
        answer = torch.tensor(self.answer, dtype=torch.int64, device=draft.device)
        prompt = torch.tensor(self.request.prompt_ids, device=draft.device)
        tokens = torch.cat((prompt, answer, draft)).unique()
        tokens = tokens[~torch.isin(tokens, free)]
        here = (draft[:, None] == tokens).long()
        # their places among the tokens: a table of answer and tokens would be a gigabyte
        said = torch.searchsorted(tokens, answer[~torch.isin(answer, free)])
        counts = here.cumsum(0) - here + torch.bincount(said, minlength=len(tokens))
        chosen = logits[:, tokens]
        seen = (counts > 0) | torch.isin(tokens, prompt)
        factor = rules.repetition_penalty
        divided = torch.where(chosen > 0, chosen / factor, chosen * factor)
        chosen = torch.where(seen, divided, chosen)
        chosen -= counts * rules.frequency_penalty + (counts > 0) * rules.presence_penalty
        logits[:, tokens] = chosen

    def _restrict(self, processed: Tensor) -> None:
        """Leave each position its top_k, of these what makes up top_p, of these what min_p lets through."""
        rules = self.rules
        if 0 < rules.top_k < processed.shape[-1]:
            least = processed.topk(rules.top_k, dim=-1).values[:, -1:]
            processed.masked_fill_(processed < least, MASKED)
        if rules.top_p < 1.0:
            ordered = processed.sort(dim=-1, descending=True).values
            mass = ordered.softmax(-1)
            # the likeliest is always inside: below, too, for a top_p that is 0 in float32
            inside = mass.cumsum(-1) - mass < rules.top_p
            least = ordered.gather(-1, inside.sum(-1, keepdim=True).clamp_min(1) - 1)
            processed.masked_fill_(processed < least, MASKED)
        if rules.min_p > 0.0:
            least = processed.amax(-1, keepdim=True) + math.log(rules.min_p)
            processed.masked_fill_(processed < least, MASKED)

    def _keep_log_probs(self, plain: Tensor, draft: Tensor) -> None:
        known = plain.log_softmax(-1)
        best = known.topk(self.rules.top_logprobs, dim=-1)
        self.step_log_probs = StepLogProbs(known.gather(-1, draft[:, None])[:, 0], best.values, best.indices)


def logits_processor_of(request: Request) -> LogitsProcessor | None:
    if request.needs_logits:
        return LogitsProcessor(request)
    return None
