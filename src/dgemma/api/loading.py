"""load(): from a folder, file or name to a Model.

Everything that can be refused is refused before a weight is read.

Trap: the tokenizer is read before the weights. A fault in it is told at once, and what reading it leaves in
the heap is used again.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ..config.sizes import Progress, parse_bytes
from ..errors import UsageError
from ..hub.locate import locate
from ..model.load import load as load_model
from ..model.target import choose_device, choose_dtype, plan_memory, rounded_formats
from ..text.tokenizer import Tokenizer
from ..weights.layout import Layout
from ..weights.source import Source, source
from .model import Model


def load(
    path_or_name: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
    trainable: bool = False,
    warmup: int = 0,
    activations: str | None = None,
    memory: str | int | None = None,
) -> Model:
    """Load a checkpoint: a folder, a .gguf file, a pulled hub name, or None or "(embedded)" for the one that
    ships with dgemma.

    device: default the first CUDA card, else the CPU; "meta" builds without reading weights. dtype:
    "bfloat16", "float16", "float32" or "float64" (or the torch dtype); default what the checkpoint holds on
    CUDA, float32 on a CPU where that fits. Weights in few bits stay in their format and are computed with in
    it. trainable: keep the weights as plain parameters. Without it a CPU holds them in the layout that it
    multiplies fastest with, and `net` can be neither trained nor saved. warmup: prepare steps of up to so
    many requests at once before the first one. activations, where the checkpoint declares that they are
    rounded to the weights' format (FP8, NVFP4): "rounded", "16bit", or None: only on a card that multiplies
    in it. memory: bytes, or a size such as "8GB", of the device for everything; default on a card: what is
    free there. Where the weights alone need more, whole layers stream through it (model/streaming.py), and
    the notes say how many. Raises CheckpointError, HubError or ResourceError with one line that names the
    fix.
    """
    if not isinstance(path_or_name, str | Path | None):
        raise UsageError(f"a model is named by a folder, file or hub name, not by {path_or_name!r}")
    checkpoint = source(locate(path_or_name, revision))
    config = checkpoint.config()
    layout = checkpoint.inspect(config)
    target = choose_device(device)
    budget = parse_bytes(memory) if isinstance(memory, str) else memory
    kind = choose_dtype(dtype, target, layout, budget)
    rounds = rounded_formats(activations, target)
    if trainable:
        _refuse_few_bits(checkpoint, layout)
    placement, engine = plan_memory(layout, target, kind, budget, may_stream=not trainable)
    why_no_text = checkpoint.why_no_text()
    tokenizer = None
    if not why_no_text:
        tokenizer = _tokenizer(checkpoint)
    net, notes = load_model(
        layout, target, kind, placement, progress=progress, rounds=rounds, trainable=trainable
    )
    model = Model(
        net,
        checkpoint.denoise(config),
        tokenizer,
        checkpoint.place,
        checkpoint.is_chat_tuned(),
        notes,
        engine,
        why_no_text=why_no_text,
    )
    if target.type != "meta":
        model.engine.warm(warmup)
    return model


def _refuse_few_bits(checkpoint: Source, layout: Layout) -> None:
    """Raise UsageError for weights that have no gradient."""
    for name, stored in layout.text.items():
        if stored.format is not None:
            raise UsageError(
                f"{checkpoint.place}: '{name}' is in few bits, which cannot be trained; load a checkpoint of "
                f"16 or 32 bits"
            )


def _tokenizer(checkpoint: Source) -> Tokenizer:
    return Tokenizer.from_json(checkpoint.tokenizer_json(), str(checkpoint.vocabulary()))
