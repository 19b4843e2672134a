"""Model: a loaded checkpoint and everything that can be asked of it, each method one task of `tasks/`.

A method reads what it was asked, makes it a request or a plan, and gives it to the engine. Trap: a method
that streams must refuse what cannot be served when it is called, not at its first event.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor

from ..config import DenoiseConfig, EngineConfig, GenerationParams, GenerationSettings, ModelConfig
from ..engine import autoregressive
from ..engine.engine import Engine
from ..engine.requests import Request, Result, results
from ..engine.runner import Runner
from ..errors import NumericsError, UsageError
from ..model.dgemma import DiffusionGemma
from ..model.info import ModelInfo, model_info
from ..tasks import chat as chat_task
from ..tasks import decide as decide_task
from ..tasks import edit as edit_task
from ..tasks import generate as generate_task
from ..tasks import infill as infill_task
from ..tasks.events import Change, Committed, Decisions, Draft, Edit, Filling, Generation, Reply
from ..tasks.limits import canvas_rows, characters, check_length, check_text, token_ids
from ..tasks.resolve import NO_TOOLS, ResolvedParams, Tools, resolve_params
from ..text.tokenizer import Tokenizer
from . import study
from .arguments import call_params, last_event, task_params

NARROWEST = 16  # tokens: short answers get canvases of so many, or of a multiple


class Model:
    """A loaded checkpoint. Text methods need its tokenizer; the `_ids` and `_logits` methods do not.

    Every method that writes takes a GenerationParams, its fields by name, or both: names go before the
    object. Where a method writes an answer, a number in the object's place is `max_tokens`. What is not given
    comes from the checkpoint's generation_config.json. The same request gives the same tokens; `seed`
    (default 0) is part of it.
    """

    def __init__(
        self,
        net: DiffusionGemma,
        denoise: DenoiseConfig,
        tokenizer: Tokenizer | None,
        folder: Path,
        chat_tuned: bool = False,
        notes: Sequence[str] = (),
        engine: EngineConfig = EngineConfig(),
        why_no_text: str | None = None,
    ):
        self.net = net
        self.denoise = denoise
        self.folder = folder
        self.engine = Engine(net, engine)
        self.chat_tuned = chat_tuned
        self.notes = list(notes)
        self._stand_in: Runner | None = None
        self._tokenizer = tokenizer
        self._why_no_text = why_no_text or f"{folder} came without a tokenizer.json"

    def __repr__(self) -> str:
        return f"<dgemma.Model {self.info.line}{', chat-tuned' if self.chat_tuned else ''}>"

    @property
    def _runner(self) -> Runner:
        """What runs this model's requests."""
        if self._stand_in is None:
            return self.engine
        return self._stand_in

    def run_by(self, runner: Runner) -> Model:
        """This model, its requests run by a stand-in for its engine; all else is shared."""
        served = copy.copy(self)
        served._stand_in = runner
        return served

    @property
    def config(self) -> ModelConfig:
        """The checkpoint's shape."""
        return self.net.config

    @property
    def info(self) -> ModelInfo:
        """What this model is, and how it runs here."""
        return model_info(self.net, self.folder)

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's vocabulary. Raises UsageError where it has none that can be read."""
        if self._tokenizer is None:
            raise UsageError(f"{self._why_no_text}; without it text cannot be read: use generate_ids")
        return self._tokenizer

    def generate(
        self, text: str, params: GenerationParams | int | None = None, **settings: Unpack[GenerationSettings]
    ) -> Generation:
        """Continue a text. -> its continuation with steps, timings and the reason it ended.

        `autoregressive=True`, here and in `chat`, lets the causal pass write token by token: the same weights
        without canvases, to compare with.
        """
        return last_event(self.stream(text, params, **settings), Generation)

    def stream(
        self, text: str, params: GenerationParams | int | None = None, **settings: Unpack[GenerationSettings]
    ) -> Iterator[Draft | Committed | Generation]:
        """generate(), watched: a Draft per step, a Committed per canvas, the Generation last."""
        check_text("the prompt", text)
        if not text:
            raise UsageError("the prompt is empty; give at least one character")
        ids = (self.tokenizer.special.need("bos"), *self.tokenizer.encode(text))
        return self._stream(ids, call_params(params, settings))

    def stream_ids(
        self,
        prompt_ids: Sequence[int],
        params: GenerationParams | int | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Iterator[Draft | Committed | Generation]:
        """stream() of a prompt that is given as ids."""
        return self._stream(token_ids("prompt_ids", prompt_ids), call_params(params, settings))

    def chat(
        self,
        messages: Sequence[dict[str, Any]],
        params: GenerationParams | int | None = None,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        tool_choice: Any = None,
        parallel_tool_calls: bool | None = None,
        thinking: bool = False,
        continue_final_message: bool = False,
        **settings: Unpack[GenerationSettings],
    ) -> Reply:
        """Answer a conversation in OpenAI's message shape, as its tools and `tool_choice` are.

        -> thought, content and calls apart.

        With `parallel_tool_calls=False` the answer ends behind its first call. With `continue_final_message`
        it goes on from the text of the last message, which is the assistant's, and holds only what is new.
        Parts that are no text are read as a short text that says what stood there, and tools that are no
        functions are left out; the notes say so.
        """
        events = self.stream_chat(
            messages,
            params,
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            thinking=thinking,
            continue_final_message=continue_final_message,
            **settings,
        )
        return chat_task.reply(self.tokenizer, last_event(events, Generation))

    def stream_chat(
        self,
        messages: Sequence[dict[str, Any]],
        params: GenerationParams | int | None = None,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        tool_choice: Any = None,
        parallel_tool_calls: bool | None = None,
        thinking: bool = False,
        continue_final_message: bool = False,
        **settings: Unpack[GenerationSettings],
    ) -> Iterator[Draft | Committed | Generation]:
        """chat(), watched. The Generation's text still holds thoughts; `chat.reply` splits its ids."""
        request_params = call_params(params, settings)
        prompt = chat_task.prepare(
            self.tokenizer, messages, tools, tool_choice, thinking, continue_final_message
        )
        if request_params.eos_token_id == "default":
            ends = {*(self.denoise.eos_token_id or ()), *chat_task.end_ids(self.tokenizer)}
            request_params = request_params.replace(eos_token_id=tuple(ends))
        offered = Tools(prompt.tools, prompt.choice, parallel_tool_calls)
        return self._stream(tuple(prompt.ids), request_params, prompt, offered, thinking)

    def fill(
        self,
        prefix: str,
        suffix: str,
        params: GenerationParams | None = None,
        *,
        widths: Sequence[int] | None = None,
        context: int | None = None,
        extra: Sequence[tuple[str, str]] = (),
        **settings: Unpack[GenerationSettings],
    ) -> Filling:
        """The text that belongs between prefix and suffix. Its lines end as most of those around it.

        widths: gap sizes to try, in tokens, in one batch; one wider than a canvas is settled by successive
        canvases. context: tokens read before the canvas, of which `extra`, other files as (name, text), take
        what the prefix leaves and up to half in any case. A gap is closed by its filler, so parameters of an
        answer's end and length have no meaning here.
        """
        events = self.stream_fill(
            prefix, suffix, params, widths=widths, context=context, extra=extra, **settings
        )
        return last_event(events, Filling)

    def stream_fill(
        self,
        prefix: str,
        suffix: str,
        params: GenerationParams | None = None,
        *,
        widths: Sequence[int] | None = None,
        context: int | None = None,
        extra: Sequence[tuple[str, str]] = (),
        **settings: Unpack[GenerationSettings],
    ) -> Iterator[Draft | Filling]:
        """fill(), watched: Drafts of every width's row, the Filling last."""
        check_text("the prefix", prefix)
        check_text("the suffix", suffix)
        if not prefix and not suffix:
            raise UsageError("there is nothing around the gap: give a prefix or a suffix")
        check_length("the context files", characters(extra))
        request_params = task_params("fill", params, settings)
        gap = infill_task.prepare(
            self.net,
            self.tokenizer,
            prefix,
            suffix,
            config=self._schedule(request_params),
            rules=request_params.token_rules,
            seed=request_params.seed,
            widths=widths,
            context=context,
            extra=extra,
        )
        for request in gap.first():
            self._runner.check(request)
        return infill_task.stream(self._runner, self.tokenizer, gap)

    def edit(
        self,
        document: str,
        instruction: str | None = None,
        params: GenerationParams | None = None,
        *,
        spans: Sequence[tuple[int, int]] | None = None,
        context: int | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Edit:
        """Change a document in place: `spans`, (start, end) in characters, are free, all else comes back as
        it was.

        Without spans the lines that the model finds least likely behind the instruction are opened. A model
        that is not chat-tuned reads the instruction as a comment above the document, and does not follow it.
        Of the parameters an edit takes the seed and the schedule's.
        """
        events = self.stream_edit(document, instruction, params, spans=spans, context=context, **settings)
        return last_event(events, Edit)

    def stream_edit(
        self,
        document: str,
        instruction: str | None = None,
        params: GenerationParams | None = None,
        *,
        spans: Sequence[tuple[int, int]] | None = None,
        context: int | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Iterator[Draft | Change | Edit]:
        """edit(), watched: Drafts of every row, a Change as soon as a span has settled, the Edit last."""
        check_text("the document", document)
        if instruction is not None:
            check_text("the instruction", instruction)
        request_params = task_params("edit", params, settings)
        plan = edit_task.prepare(
            self._runner,
            self.tokenizer,
            document,
            instruction,
            spans,
            chat=self.chat_tuned,
            seed=request_params.seed,
            context=context,
            config=self._schedule(request_params),
        )
        return edit_task.stream(self._runner, self.tokenizer, plan)

    def decide(
        self,
        state: Any,
        questions: Mapping[str, Mapping[str, Any]],
        instructions: Any = None,
        steps: int = 1,
        seed: int = 0,
    ) -> Decisions:
        """Answer typed questions about a state with the probabilities of their labels; no text is generated.

        questions: by id, {"type": "choice" | "score" | "noul", "instructions": ..., "criteria": ...}
        (tasks/questions.py); state and instructions are text or JSON. One step is one pass over all canvases;
        more let a canvas settle further.
        """
        self._check_ready()
        size = characters([state, questions, instructions])
        check_length("the state, its questions and instructions", size)
        sheet = decide_task.prepare(
            self._runner,
            self.tokenizer,
            state,
            questions,
            instructions,
            chat=self.chat_tuned,
            steps=steps,
            seed=seed,
        )
        return decide_task.decide(self._runner, sheet, steps, seed)

    def generate_ids(
        self,
        prompt_ids: Sequence[int],
        params: GenerationParams | int | None = None,
        *,
        canvas_ids: Sequence[int] | Sequence[Sequence[int]] | Tensor | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Result:
        """Continue a prompt of ids.

        canvas_ids: starting tokens of one canvas [C] or of several in a row [n, C].

        Without max_tokens the answer may be as long as the canvases given, or else the checkpoint's default.
        Parameters that speak of text (stop, bad_words, forms) have no meaning here.
        -> Result with .token_ids, .steps (one number per canvas), .finish_reason. Raises NumericsError where
        the logits are not finite.
        """
        request_params = task_params("ids", params, settings)
        canvases = canvas_rows(canvas_ids)
        if request_params.max_tokens is None and canvases:
            request_params = request_params.replace(
                max_tokens=max(self.denoise.max_new_tokens, sum(map(len, canvases)))
            )
        request = Request(
            token_ids("prompt_ids", prompt_ids),
            self._length(request_params),
            request_params.seed,
            self._schedule(request_params),
            canvases,
            rules=request_params.token_rules,
        )
        result = results(self._runner.run([request]), 1)[0]
        if result.finish_reason == "error":
            raise NumericsError("the model's logits are not finite; no text was made from them")
        return result

    def denoise_logits(
        self,
        prompt_ids: Sequence[Sequence[int]],
        canvas_ids: Tensor | Sequence[Sequence[int]],
        self_conditioning: Tensor | None = None,
    ) -> Tensor:
        """The soft-capped logits of one denoising pass, [B, C, V], float32 (float64 for a float64 model).

        prompt_ids: B lists of ids, of any lengths; canvas_ids [B, C]; self_conditioning: the previous step's
        processed (temperature-divided) logits [B, C, V], or None for a first step.
        """
        self._check_ready()
        chunk = self.engine.config.prefill_chunk
        return study.denoise_logits(self.net, prompt_ids, canvas_ids, self_conditioning, chunk)

    def _check_ready(self) -> None:
        if self.net.device.type == "meta":
            raise UsageError(
                "this model was loaded on the meta device, without its weights; load it on cpu or cuda"
            )

    def _schedule(self, params: GenerationParams) -> DenoiseConfig:
        """How the canvases of a request are decided.

        Raises UsageError for ids that this model does not have.
        """
        self._check_ready()
        config = params.schedule(self.denoise)
        if params.eos_token_id != "default":
            for token in config.eos_token_id or ():
                if token >= self.config.vocab_size:
                    raise UsageError(
                        f"eos_token_id {token} is no token of this model; its ids end at "
                        f"{self.config.vocab_size - 1}"
                    )
        return config

    def _length(self, params: GenerationParams) -> int:
        if params.max_tokens is None:
            return self.denoise.max_new_tokens
        return params.max_tokens

    def _stream(
        self,
        ids: tuple[int, ...],
        params: GenerationParams,
        prompt: chat_task.Prompt | None = None,
        tools: Tools = NO_TOOLS,
        thinking: bool = False,
    ) -> Iterator[Draft | Committed | Generation]:
        """prompt: the chat that the ids are of, whose answer has channels."""
        resolved = resolve_params(
            params, self.tokenizer, self.denoise, thinking=thinking, tools=tools, engine=self._runner
        )
        goes_on = prompt is not None and prompt.goes_on
        if goes_on and resolved.is_constrained:
            raise UsageError(
                "a form or a call is asked of a whole answer, and this one goes on from a message; leave one "
                "of the two out"
            )
        request = self._request(ids, params, resolved, prompt)
        self._runner.check(request)
        if params.autoregressive:
            autoregressive.check(request)
        return generate_task.stream(
            self._runner,
            self.tokenizer,
            request,
            default_length=params.max_tokens is None,
            resolved=resolved,
            channels=prompt is not None,
            goes_on=goes_on,
            notes=prompt.notes if prompt else (),
            token_by_token=params.autoregressive,
        )

    def _request(
        self,
        ids: tuple[int, ...],
        params: GenerationParams,
        resolved: ResolvedParams,
        prompt: chat_task.Prompt | None,
    ) -> Request:
        """An answer that is shorter than half a canvas gets one of its own width, where no width is given."""
        config = self._schedule(params)
        length = self._length(params)
        if config.canvas_width is None and length <= self.config.canvas_length // 2:
            narrow = -(-length // NARROWEST) * NARROWEST
            config = dataclasses.replace(config, canvas_width=min(self.config.canvas_length, narrow))
        if prompt:
            resume_points = chat_task.turn_starts(self.tokenizer, ids)
        else:
            resume_points = ()
        return Request(
            ids,
            length,
            params.seed,
            config,
            resume_points=resume_points,
            rules=resolved.rules,
            grammar=resolved.grammar,
        )
