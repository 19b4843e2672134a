"""dgemma.load(): the one place that puts text, weights, model and engine together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import MAX_PROMPT_CHARACTERS, DenoiseConfig, EngineConfig, ModelConfig
from .engine.denoise import generate, read_prompts
from .engine.requests import Request, Result
from .errors import ResourceError, UsageError
from .kernels.vocab import soft_capped_logits, weigh
from .model.build import build
from .model.dgemma import DiffusionGemma
from .tasks import chat as chat_task
from .tasks import generate as generate_task
from .tasks import infill as infill_task
from .tasks.events import Committed, Draft, Filling, Generation, Reply
from .text.tokenizer import Tokenizer
from .weights.locate import locate
from .weights.plan import fit, machine
from .weights.reader import DTYPES, inspect, load_into

Progress = Callable[[int, int, str], None]


def load(
    path_or_name: str | Path | None = None, device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None, *, revision: str | None = None, progress: Progress | None = None,
) -> Model:  # fmt: skip
    """Load a checkpoint: a folder, a pulled hub name, or None for the one that ships with dgemma.

    device: default the first CUDA card, else the CPU; "meta" builds without reading weights. dtype: "bfloat16",
    "float16", "float32" or "float64" (or the torch dtype); default what the checkpoint holds on CUDA, float32 on a
    CPU where that fits. Raises CheckpointError, HubError or ResourceError with one line that names the fix.
    """
    folder = locate(path_or_name, revision)
    config = ModelConfig.from_file(folder / "config.json")
    layout = inspect(folder, config)
    target = _device(device)
    kind = _dtype(dtype, target, config, layout.dtypes)
    net = build(config, "meta", kind)
    notes = load_into(net, layout, target, kind, progress)
    settings = folder / "generation_config.json"
    denoise = DenoiseConfig.from_file(settings) if settings.exists() else DenoiseConfig(eos_token_id=config.eos_token_ids)
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json") if (folder / "tokenizer.json").exists() else None
    return Model(net, denoise, tokenizer, folder, chat_tuned=(folder / "chat_template.jinja").exists(), notes=notes)


class Model:
    """A loaded checkpoint. Text methods need its tokenizer; the `_ids` and `_logits` methods do not.

    Sampler settings may be given to every method by name: max_denoising_steps, t_min, t_max, entropy_bound,
    stability_threshold, confidence_threshold, eos_token_id (None: no end token), canvas_width. What is not given comes
    from the checkpoint's generation_config.json. The same request gives the same tokens; `seed` (default 0) is part of it.
    """

    def __init__(
        self, net: DiffusionGemma, denoise: DenoiseConfig, tokenizer: Tokenizer | None, folder: Path,
        chat_tuned: bool = False, notes: Sequence[str] = (), engine: EngineConfig = EngineConfig(),
    ):  # fmt: skip
        self.net, self.denoise, self.folder, self.engine = net, denoise, folder, engine
        self.chat_tuned, self.notes = chat_tuned, list(notes)
        self._tokenizer = tokenizer

    @property
    def config(self) -> ModelConfig:
        return self.net.config

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise UsageError(f"{self.folder} has no tokenizer.json, so it cannot read text; use generate_ids")
        return self._tokenizer

    def generate(self, text: str, max_tokens: int | None = None, seed: int = 0, **sampler: Any) -> Generation:
        """Continue a text. -> its continuation with steps, timings and the reason it ended."""
        return _last(self.stream(text, max_tokens, seed, **sampler))

    def stream(
        self, text: str, max_tokens: int | None = None, seed: int = 0, **sampler: Any
    ) -> Iterator[Draft | Committed | Generation]:
        """generate(), watched: a Draft per step, a Committed per canvas, the Generation last."""
        _check_text("the prompt", text)
        ids = (self.tokenizer.special.need("bos"), *self.tokenizer.encode(text))
        return self._stream(ids, max_tokens, seed, sampler)

    def chat(
        self, messages: Sequence[dict[str, Any]], max_tokens: int | None = None, seed: int = 0, *,
        tools: Sequence[dict[str, Any]] | None = None, thinking: bool = False, **sampler: Any,
    ) -> Reply:  # fmt: skip
        """Answer a conversation in OpenAI's message shape; thought, content and tool calls apart."""
        events = self.stream_chat(messages, max_tokens, seed, tools=tools, thinking=thinking, **sampler)
        return chat_task.reply(self.tokenizer, _last(events))

    def stream_chat(
        self, messages: Sequence[dict[str, Any]], max_tokens: int | None = None, seed: int = 0, *,
        tools: Sequence[dict[str, Any]] | None = None, thinking: bool = False, **sampler: Any,
    ) -> Iterator[Draft | Committed | Generation]:  # fmt: skip
        """chat(), watched. The Generation's text still holds thoughts; `chat.reply` splits its ids."""
        ids = chat_task.prompt_ids(self.tokenizer, messages, tools, thinking)
        if "eos_token_id" not in sampler:
            sampler["eos_token_id"] = tuple({*(self.denoise.eos_token_id or ()), *chat_task.end_ids(self.tokenizer)})
        return self._stream(tuple(ids), max_tokens, seed, sampler)

    def fill(
        self, prefix: str, suffix: str, seed: int = 0, *, widths: Sequence[int] | None = None,
        context: int | None = None, **sampler: Any,
    ) -> Filling:  # fmt: skip
        """The text that belongs between prefix and suffix. `widths`: gap sizes to try, in tokens, in one batch."""
        return _last(self.stream_fill(prefix, suffix, seed, widths=widths, context=context, **sampler))

    def stream_fill(
        self, prefix: str, suffix: str, seed: int = 0, *, widths: Sequence[int] | None = None,
        context: int | None = None, **sampler: Any,
    ) -> Iterator[Draft | Filling]:  # fmt: skip
        """fill(), watched: Drafts of every width's row, the Filling last."""
        if not prefix and not suffix:
            raise UsageError("there is nothing around the gap: give a prefix or a suffix")
        gap = infill_task.prepare(
            self.net, self.tokenizer, prefix, suffix, config=self.denoise.replace(**sampler), seed=seed, widths=widths,
            context=context,
        )  # fmt: skip
        return infill_task.stream(self.net, self.tokenizer, gap, self.engine)

    def generate_ids(
        self, prompt_ids: Sequence[int], max_tokens: int | None = None, seed: int = 0,
        canvas_ids: Sequence[int] | Sequence[Sequence[int]] | Tensor | None = None, **sampler: Any,
    ) -> Result:  # fmt: skip
        """Continue a prompt of ids. canvas_ids: starting tokens of one canvas [C] or of several in a row [n, C].

        -> Result with .token_ids, .steps (one number per canvas), .finish_reason.
        """
        ids = tuple(torch.as_tensor(prompt_ids).tolist()) if isinstance(prompt_ids, Tensor) else tuple(prompt_ids)
        request = self._request(ids, max_tokens, seed, sampler, _canvases(canvas_ids))
        return generate(self.net, [request], self.engine)[0]

    @torch.inference_mode()
    def denoise_logits(
        self, prompt_ids: Sequence[Sequence[int]], canvas_ids: Tensor | Sequence[Sequence[int]],
        self_conditioning: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The soft-capped logits of one denoising pass, [B, C, V], float32 (float64 for a float64 model).

        prompt_ids: B lists of ids, of any lengths; canvas_ids [B, C]; self_conditioning: the previous step's
        processed (temperature-divided) logits [B, C, V], or None for a first step.
        """
        canvas = torch.as_tensor(canvas_ids, device=self.net.device)
        if canvas.dim() != 2 or canvas.shape[0] != len(prompt_ids):
            raise UsageError(f"canvas_ids has shape {list(canvas.shape)}; [{len(prompt_ids)}, canvas] was expected")
        for row in (*(list(prompt) for prompt in prompt_ids), canvas.flatten().tolist()):
            if row and not 0 <= min(row) <= max(row) < self.config.vocab_size:
                raise UsageError(f"token ids must be from 0 to {self.config.vocab_size - 1}")
        kv = read_prompts(self.net, [list(prompt) for prompt in prompt_ids], self.engine.prefill_chunk)
        previous = None
        if self_conditioning is not None:
            logits = torch.as_tensor(self_conditioning, device=self.net.device)
            wide = torch.float64 if self.net.dtype == torch.float64 else torch.float32
            logits = logits.to(self.net.dtype).to(wide)  # rounded to the weight dtype, as the reference does
            previous = weigh(logits - logits.amax(-1, keepdim=True), self.net.dtype)
        hidden = self.net.denoise(canvas, kv, previous)
        return soft_capped_logits(hidden, self.net.embed.weight, self.config.final_logit_softcapping)

    def _stream(
        self, ids: tuple[int, ...], max_tokens: int | None, seed: int, sampler: dict[str, Any]
    ) -> Iterator[Draft | Committed | Generation]:
        request = self._request(ids, max_tokens, seed, sampler)
        request.check(self.config, self.engine.max_prompt_tokens)  # now, not at the first event
        return generate_task.stream(self.net, self.tokenizer, request, self.engine, max_tokens is None)

    def _request(
        self, ids: tuple[int, ...], max_tokens: int | None, seed: int, sampler: dict[str, Any],
        canvas_ids: tuple[tuple[int, ...], ...] = (),
    ) -> Request:  # fmt: skip
        config = self.denoise.replace(**sampler)
        length = config.max_new_tokens if max_tokens is None else max_tokens
        return Request(ids, length, seed, config, canvas_ids)


def _last(events: Iterator[Any]) -> Any:
    last = None
    for last in events:
        pass
    return last


def _check_text(name: str, text: str) -> None:
    if not text:
        raise UsageError(f"{name} is empty; give at least one character")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise UsageError(f"{name} has {len(text)} characters; max_prompt_characters is {MAX_PROMPT_CHARACTERS}")


def _canvases(canvas_ids: Any) -> tuple[tuple[int, ...], ...]:
    if canvas_ids is None:
        return ()
    rows = canvas_ids.tolist() if hasattr(canvas_ids, "tolist") else list(canvas_ids)
    if not rows:
        raise UsageError("canvas_ids is empty; give one canvas [C] or several [n, C], or None")
    if isinstance(rows[0], int):
        rows = [rows]
    return tuple(tuple(row) for row in rows)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UsageError(f"device '{device}' is not known; use cpu, cuda, cuda:1 ...") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for, but this torch sees no CUDA card; use cpu")
    return chosen


def _dtype(
    dtype: str | torch.dtype | None, device: torch.device, config: ModelConfig, stored: dict[str, int]
) -> torch.dtype:
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
    if isinstance(dtype, torch.dtype) and dtype in known.values():
        return dtype
    if dtype is not None:
        if str(dtype) not in known:
            raise UsageError(f"dtype '{dtype}' is not known; use {', '.join(known)}")
        return known[str(dtype)]
    most = DTYPES[max(stored, key=stored.__getitem__)] if stored else torch.bfloat16
    if device.type != "cpu":
        return most
    # 16-bit products are 5-10x slower than float32 on CPUs without bf16 units, so memory alone decides
    memory = machine()[0].free
    for candidate in (torch.float32, most):
        if fit(config, candidate, 4096, device="cpu").fits(memory):
            return candidate
    need = fit(config, most, 4096, device="cpu").total
    raise ResourceError(f"the model needs {need / 2**30:.1f} GiB and this machine has {memory / 2**30:.1f} GiB free")
