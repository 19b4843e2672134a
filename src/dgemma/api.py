"""dgemma.load(): the one place that puts text, weights, model and engine together."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from .config import DenoiseConfig, EngineConfig, ModelConfig, Rules
from .config.sizes import parse_bytes
from .engine import autoregressive
from .engine.denoise import read_prompts
from .engine.engine import Engine
from .engine.requests import Request, Result, results, whole
from .engine.runner import Runner
from .errors import NumericsError, UsageError
from .kernels.vocab import soft_capped_logits, weigh
from .model.dgemma import DiffusionGemma
from .model.info import ModelInfo, model_info
from .model.load import load as load_model
from .model.target import choose_device, choose_dtype, plan_memory, rounded_formats
from .tasks import chat as chat_task
from .tasks import decide as decide_task
from .tasks import edit as edit_task
from .tasks import generate as generate_task
from .tasks import infill as infill_task
from .tasks.events import Change, Committed, Decisions, Draft, Edit, Filling, Generation, Reply
from .tasks.limits import canvas_rows, characters, check_length, check_text, rows, token_ids
from .tasks.terms import Terms
from .text.tokenizer import Tokenizer
from .weights.locate import locate
from .weights.source import source

T = TypeVar("T")
Progress = Callable[[int, int, str], None]
MEANT_NONE = (
    "eos_token_id",
    "canvas_width",
)  # settings of which None says something: no end, the checkpoint's width
NARROWEST = 16  # tokens: short answers get canvases of so many, or of a multiple


def load(
    path_or_name: str | Path | None = None, device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None, *, revision: str | None = None, progress: Progress | None = None,
    trainable: bool = False, warmup: int = 0, activations: str | None = None, memory: str | int | None = None,
) -> Model:  # fmt: skip
    """Load a checkpoint: a folder, a .gguf file, a pulled hub name, or None or "(embedded)" for the one that ships with dgemma.

    device: default the first CUDA card, else the CPU; "meta" builds without reading weights. dtype: "bfloat16",
    "float16", "float32" or "float64" (or the torch dtype); default what the checkpoint holds on CUDA, float32 on a
    CPU where that fits; weights in few bits stay in their format and are computed with in it. trainable: keep the weights as
    plain parameters; without it a CPU holds them in the layout that it multiplies fastest with, and `net` cannot be trained or
    saved. warmup: prepare steps of up to so many requests at once before the first one. activations, where the checkpoint
    declares that they are rounded to the weights' format (FP8, NVFP4): "rounded", "16bit", or None: only on a card that
    multiplies in it. memory: bytes, or a size such as "8GB", of the device for everything; default on a card: what is free there. Where
    the weights alone need more, whole layers stream through it (model/streaming.py), and the notes say how many.
    Raises CheckpointError, HubError or ResourceError with one line that names the fix.
    """
    if not isinstance(path_or_name, str | Path | None):
        raise UsageError(f"a model is named by a folder, file or hub name, not by {path_or_name!r}")
    found = source(locate(path_or_name, revision))
    config = found.config()
    layout = found.inspect(config)
    target = choose_device(device)
    budget = parse_bytes(memory) if isinstance(memory, str) else memory
    kind = choose_dtype(dtype, target, layout, budget)
    rounds = rounded_formats(activations, target)
    if trainable and (
        name := next((name for name, stored in layout.text.items() if stored.format is not None), None)
    ):
        raise UsageError(
            f"{found.place}: '{name}' is in few bits, which cannot be trained; load a checkpoint of 16 or 32 bits"
        )
    place, engine = plan_memory(
        layout, target, kind, budget, may_stream=not trainable
    )  # before any weight is read
    reason = (
        found.why_no_text()
    )  # text before weights: a fault is told at once, and what reading it leaves in the heap is used again
    tokenizer = None if reason else Tokenizer.from_json(found.tokenizer_json(), str(found.vocabulary()))
    net, notes = load_model(
        layout, target, kind, place, progress=progress, rounds=rounds, trainable=trainable
    )
    model = Model(
        net,
        found.denoise(config),
        tokenizer,
        found.place,
        found.is_chat_tuned(),
        notes,
        engine,
        why_no_text=reason,
    )
    if target.type != "meta":
        model.engine.warm(warmup)
    return model


class Model:
    """A loaded checkpoint. Text methods need its tokenizer; the `_ids` and `_logits` methods do not.

    Sampler settings may be given to every method by name: max_denoising_steps, t_min, t_max, entropy_bound,
    stability_threshold, confidence_threshold, eos_token_id (None: no end token), canvas_width, ignore_after_end, temperature;
    preset names several at once ("early", "cool", "bold": fewer steps for less quality). What is not given comes from the
    checkpoint's generation_config.json. The same request gives the same tokens; `seed` (default 0) is part of it.
    So may be the terms of an answer and its form (docs/sampling.md), stop, top_p, json_schema ...; to generate_ids those that know no text.
    """

    def __init__(
        self, net: DiffusionGemma, denoise: DenoiseConfig, tokenizer: Tokenizer | None, folder: Path,
        chat_tuned: bool = False, notes: Sequence[str] = (), engine: EngineConfig = EngineConfig(),
        why_no_text: str | None = None,
    ):  # fmt: skip
        self.net, self.denoise, self.folder = net, denoise, folder
        self.engine = Engine(net, engine)
        self._stand_in: Runner | None = None
        self.chat_tuned, self.notes = chat_tuned, list(notes)
        self._tokenizer, self._why_no_text = (
            tokenizer,
            why_no_text or f"{folder} came without a tokenizer.json",
        )

    def __repr__(self) -> str:
        return f"<dgemma.Model {self.info.line}{', chat-tuned' if self.chat_tuned else ''}>"

    @property
    def _runner(self) -> Runner:
        """What runs this model's requests."""
        return self.engine if self._stand_in is None else self._stand_in

    def run_by(self, runner: Runner) -> Model:
        """This model, its requests run by a stand-in for its engine; all else is shared."""
        served = copy.copy(self)
        served._stand_in = runner
        return served

    @property
    def config(self) -> ModelConfig:
        return self.net.config

    @property
    def info(self) -> ModelInfo:
        """What this model is, and how it runs here."""
        return model_info(self.net, self.folder)

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise UsageError(f"{self._why_no_text}; without it text cannot be read: use generate_ids")
        return self._tokenizer

    def generate(self, text: str, max_tokens: int | None = None, seed: int = 0, **sampler: Any) -> Generation:
        """Continue a text. -> its continuation with steps, timings and the reason it ended.

        `autoregressive=True`, here and in all that answer, lets the causal pass write token by token: the same weights
        without canvases, to compare with.
        """
        return _last(self.stream(text, max_tokens, seed, **sampler), Generation)

    def stream(
        self, text: str, max_tokens: int | None = None, seed: int = 0, **sampler: Any
    ) -> Iterator[Draft | Committed | Generation]:
        """generate(), watched: a Draft per step, a Committed per canvas, the Generation last."""
        check_text("the prompt", text)
        if not text:
            raise UsageError("the prompt is empty; give at least one character")
        ids = (self.tokenizer.special.need("bos"), *self.tokenizer.encode(text))
        return self._stream(ids, max_tokens, seed, sampler)

    def stream_ids(
        self, prompt_ids: Sequence[int], max_tokens: int | None = None, seed: int = 0, **sampler: Any
    ) -> Iterator[Draft | Committed | Generation]:
        """stream() of a prompt that is given as ids."""
        return self._stream(token_ids("prompt_ids", prompt_ids), max_tokens, seed, sampler)

    def chat(
        self, messages: Sequence[dict[str, Any]], max_tokens: int | None = None, seed: int = 0, *,
        tools: Sequence[dict[str, Any]] | None = None, thinking: bool = False, continue_final_message: bool = False, **sampler: Any,
    ) -> Reply:  # fmt: skip
        """Answer a conversation in OpenAI's message shape, as its tools and `tool_choice` are; thought, content and tool calls apart.

        With `parallel_tool_calls=False` the answer ends behind its first call. With `continue_final_message` it goes on from the text of
        the last message, which is the assistant's, and holds only what is new. Parts that are no text are read as a short text that says
        what stood there, and tools that are no functions are left out; the notes say so.
        """
        events = self.stream_chat(
            messages,
            max_tokens,
            seed,
            tools=tools,
            thinking=thinking,
            continue_final_message=continue_final_message,
            **sampler,
        )
        return chat_task.reply(self.tokenizer, _last(events, Generation))

    def stream_chat(
        self, messages: Sequence[dict[str, Any]], max_tokens: int | None = None, seed: int = 0, *,
        tools: Sequence[dict[str, Any]] | None = None, thinking: bool = False, continue_final_message: bool = False, **sampler: Any,
    ) -> Iterator[Draft | Committed | Generation]:  # fmt: skip
        """chat(), watched. The Generation's text still holds thoughts; `chat.reply` splits its ids."""
        choice = sampler.pop("tool_choice", None)
        prompt = chat_task.prepare(self.tokenizer, messages, tools, choice, thinking, continue_final_message)
        sampler["tool_choice"] = prompt.choice
        if "eos_token_id" not in sampler:
            sampler["eos_token_id"] = tuple(
                {*(self.denoise.eos_token_id or ()), *chat_task.end_ids(self.tokenizer)}
            )
        marks = chat_task.turn_starts(self.tokenizer, prompt.ids)
        return self._stream(
            tuple(prompt.ids), max_tokens, seed, sampler, marks, prompt=prompt, thinking=thinking
        )

    def fill(
        self, prefix: str, suffix: str, seed: int = 0, *, widths: Sequence[int] | None = None, context: int | None = None,
        extra: Sequence[tuple[str, str]] = (), **sampler: Any,
    ) -> Filling:  # fmt: skip
        """The text that belongs between prefix and suffix. `widths`: gap sizes to try, in tokens, in one batch; one wider than a
        canvas is settled by successive canvases. Its lines end as most of those around it.

        A gap is closed by its filler, so eos_token_id, ignore_after_end, min_tokens are no settings here; `context`: tokens read before the canvas,
        of which `extra`, other files as (name, text), take what the prefix leaves and up to half in any case.
        """
        events = self.stream_fill(
            prefix, suffix, seed, widths=widths, context=context, extra=extra, **sampler
        )
        return _last(events, Filling)

    def stream_fill(
        self, prefix: str, suffix: str, seed: int = 0, *, widths: Sequence[int] | None = None, context: int | None = None,
        extra: Sequence[tuple[str, str]] = (), **sampler: Any,
    ) -> Iterator[Draft | Filling]:  # fmt: skip
        """fill(), watched: Drafts of every width's row, the Filling last."""
        check_text("the prefix", prefix)
        check_text("the suffix", suffix)
        if not prefix and not suffix:
            raise UsageError("there is nothing around the gap: give a prefix or a suffix")
        check_length("the context files", characters(extra))
        gap = infill_task.prepare(
            self.net, self.tokenizer, prefix, suffix, rules=Rules.take(sampler), seed=seed, widths=widths, context=context, extra=extra,
            config=self._settings(sampler, "eos_token_id", "ignore_after_end"),
        )  # fmt: skip
        for request in gap.first():  # now, not at the first event
            self._runner.check(request)
        return infill_task.stream(self._runner, self.tokenizer, gap)

    def edit(
        self, document: str, instruction: str | None = None, seed: int = 0, *, spans: Sequence[tuple[int, int]] | None = None,
        context: int | None = None, **sampler: Any,
    ) -> Edit:  # fmt: skip
        """Change a document in place: `spans`, (start, end) in characters, are free, all else comes back as it was.

        Without spans the lines that the model finds least likely behind the instruction are opened. A model that is not chat-tuned
        reads the instruction as a comment above the document, and does not follow it. eos_token_id and ignore_after_end are no settings here.
        """
        events = self.stream_edit(document, instruction, seed, spans=spans, context=context, **sampler)
        return _last(events, Edit)

    def stream_edit(
        self, document: str, instruction: str | None = None, seed: int = 0, *, spans: Sequence[tuple[int, int]] | None = None,
        context: int | None = None, **sampler: Any,
    ) -> Iterator[Draft | Change | Edit]:  # fmt: skip
        """edit(), watched: Drafts of every row, a Change as soon as a span has settled, the Edit last."""
        check_text("the document", document)
        if instruction is not None:
            check_text("the instruction", instruction)
        plan = edit_task.prepare(
            self._runner, self.tokenizer, document, instruction, spans, chat=self.chat_tuned, seed=seed, context=context,
            config=self._settings(sampler, "eos_token_id", "ignore_after_end"),
        )  # fmt: skip
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

        questions: by id, {"type": "choice" | "score" | "noul", "instructions": ..., "criteria": ...} (tasks/questions.py); state and
        instructions are text or JSON. One step is one pass over all canvases; more let a canvas settle further.
        """
        self._check_ready()
        check_length(
            "the state, its questions and instructions", characters([state, questions, instructions])
        )
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
        self, prompt_ids: Sequence[int], max_tokens: int | None = None, seed: int = 0,
        canvas_ids: Sequence[int] | Sequence[Sequence[int]] | Tensor | None = None, **sampler: Any,
    ) -> Result:  # fmt: skip
        """Continue a prompt of ids. canvas_ids: starting tokens of one canvas [C] or of several in a row [n, C].

        Without max_tokens the answer may be as long as the canvases given, or else the checkpoint's default.
        -> Result with .token_ids, .steps (one number per canvas), .finish_reason. Raises NumericsError where the
        logits are not finite.
        """
        canvases = canvas_rows(canvas_ids)
        if max_tokens is None and canvases:
            max_tokens = max(self.denoise.max_new_tokens, sum(map(len, canvases)))
        request = self._request(
            token_ids("prompt_ids", prompt_ids),
            max_tokens,
            seed,
            sampler,
            Terms(Rules.take(sampler)),
            canvases,
        )
        result = results(self._runner.run([request]), 1)[0]
        if result.finish_reason == "error":
            raise NumericsError("the model's logits are not finite; no text was made from them")
        return result

    @torch.no_grad()
    def denoise_logits(
        self, prompt_ids: Sequence[Sequence[int]], canvas_ids: Tensor | Sequence[Sequence[int]],
        self_conditioning: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The soft-capped logits of one denoising pass, [B, C, V], float32 (float64 for a float64 model).

        prompt_ids: B lists of ids, of any lengths; canvas_ids [B, C]; self_conditioning: the previous step's
        processed (temperature-divided) logits [B, C, V], or None for a first step.
        """
        prompts = [token_ids("prompt_ids", row) for row in rows("prompt_ids", prompt_ids)]
        canvases = [token_ids("canvas_ids", row) for row in rows("canvas_ids", canvas_ids)]
        self._check_pass(prompts, canvases)
        canvas = torch.tensor(canvases, device=self.net.device)
        previous = self._beliefs(self_conditioning, canvas) if self_conditioning is not None else None
        kv = read_prompts(self.net, prompts, self.engine.config.prefill_chunk, room=canvas.shape[1])
        hidden = self.net.denoise(canvas, kv, previous)
        return soft_capped_logits(hidden, self.net.table, self.config.final_logit_softcapping)

    def _check_pass(self, prompts: list[tuple[int, ...]], canvas: list[tuple[int, ...]]) -> None:
        self._check_ready()
        widths = {len(row) for row in canvas}
        if (
            len(canvas) != len(prompts)
            or not canvas
            or len(widths) != 1
            or not 1 <= max(widths) <= self.config.canvas_length
        ):
            raise UsageError(
                f"canvas_ids has {len(canvas)} rows of {sorted(widths)} tokens; {len(prompts)} equal rows (one per "
                f"prompt) of 1 to {self.config.canvas_length} were expected"
            )
        longest, limit = max(map(len, prompts)), self.config.max_position_embeddings - max(widths)
        if longest > limit:
            raise UsageError(f"a prompt has {longest} tokens; this canvas leaves {limit} positions")
        for token in (token for row in (*prompts, *canvas) for token in row):
            if not 0 <= token < self.config.vocab_size:
                raise UsageError(f"{token} is no token id; they are from 0 to {self.config.vocab_size - 1}")

    def _beliefs(self, processed: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """The last step's (p, row_sum) of its processed logits, rounded to the weight dtype as the reference does."""
        logits = torch.as_tensor(processed, device=self.net.device)
        want = (*canvas.shape, self.config.vocab_size)
        if tuple(logits.shape) != want or not logits.is_floating_point():
            raise UsageError(
                f"self_conditioning is {logits.dtype} {list(logits.shape)}; floats {list(want)} were expected"
            )
        if logits.isnan().any():
            raise UsageError("self_conditioning holds NaN")
        logits = logits.to(self.net.dtype).to(
            torch.float64 if self.net.dtype == torch.float64 else torch.float32
        )
        return weigh(logits - logits.amax(-1, keepdim=True), self.net.dtype)

    def _check_ready(self) -> None:
        if self.net.device.type == "meta":
            raise UsageError(
                "this model was loaded on the meta device, without its weights; load it on cpu or cuda"
            )

    def _settings(self, sampler: dict[str, Any], *refused: str) -> DenoiseConfig:
        """The request's settings. What would change nothing is refused, not ignored."""
        self._check_ready()
        for name in ("pad_token_id", "max_new_tokens", *refused):
            if name in sampler:
                hint = (
                    "max_tokens says how long an answer may be"
                    if name == "max_new_tokens"
                    else "leave it out"
                )
                raise UsageError(f"{name} changes nothing in this request; {hint}")
        config = self.denoise.replace(
            **{name: value for name, value in sampler.items() if value is not None or name in MEANT_NONE}
        )
        if sampler.get("eos_token_id") is not None:
            for token in config.eos_token_id or ():
                if token >= self.config.vocab_size:
                    raise UsageError(
                        f"eos_token_id {token} is no token of this model; its ids end at {self.config.vocab_size - 1}"
                    )
        return config

    def _stream(
        self, ids: tuple[int, ...], max_tokens: int | None, seed: int, sampler: dict[str, Any], marks: tuple[int, ...] = (), *,
        prompt: chat_task.Prompt | None = None, thinking: bool = False,
    ) -> Iterator[Draft | Committed | Generation]:  # fmt: skip
        """prompt: the chat that the ids are of, whose answer has channels."""
        token_by_token = bool(sampler.pop("autoregressive", False))
        tools, goes_on = (prompt.tools, prompt.goes_on) if prompt else (None, False)
        terms = Terms.take(sampler, self.tokenizer, self.denoise, thinking, tools, self._runner)
        if goes_on and terms.form:
            raise UsageError(
                "a form or a call is asked of a whole answer, and this one goes on from a message; leave one of the two out"
            )
        request = self._request(ids, max_tokens, seed, sampler, terms, narrow=True, marks=marks)
        self._runner.check(request)  # now, not at the first event
        if token_by_token:
            autoregressive.check(request)
        notes = prompt.notes if prompt else ()
        return generate_task.stream(
            self._runner,
            self.tokenizer,
            request,
            max_tokens is None,
            terms,
            prompt is not None,
            goes_on,
            notes,
            token_by_token,
        )

    def _request(
        self, ids: tuple[int, ...], max_tokens: int | None, seed: int, sampler: dict[str, Any], terms: Terms,
        canvas_ids: tuple[tuple[int, ...], ...] = (), narrow: bool = False, marks: tuple[int, ...] = (),
    ) -> Request:  # fmt: skip
        """narrow: an answer that is shorter than a canvas gets one of its own width, where none was asked for."""
        config = self._settings(sampler)
        length = config.max_new_tokens if max_tokens is None else max_tokens
        if (
            narrow
            and config.canvas_width is None
            and whole(length)
            and 0 < length <= self.config.canvas_length // 2
        ):
            config = config.replace(
                canvas_width=min(self.config.canvas_length, -(-length // NARROWEST) * NARROWEST)
            )
        return Request(
            ids, length, seed, config, canvas_ids, marks=marks, rules=terms.rules, grammar=terms.grammar
        )


def _last(events: Iterator[Any], kind: type[T]) -> T:
    """What a stream ends with, which is of that kind."""
    last = deque(events, maxlen=1).pop()
    if not isinstance(last, kind):
        raise RuntimeError(f"a stream ended with {type(last).__name__}, not with {kind.__name__}")
    return last
