"""How often a request gets the same tokens alone and beside others, in each number format.

    python benchmarks/agreement.py [--model FOLDER] [--requests 16] [--batch 4] [--dtypes float64 float32 bfloat16]

In float64 they are the same, which the tests demand. In float32 and bfloat16 other row counts let matrix products round
differently, a near-tie can flip a choice, and from there the canvases part: this prints how often, and where. Without
--model a random model of about 4 M parameters answers, whose near-ties are more frequent than a trained one's.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch

from dgemma.config import DenoiseConfig, ModelConfig
from dgemma.engine.denoise import generate
from dgemma.engine.requests import Request, Result
from dgemma.model.build import build, build_random
from dgemma.model.dgemma import DiffusionGemma
from dgemma.weights.layout import inspect
from dgemma.weights.reader import load_into

RAW = {
    "model_type": "diffusion_gemma", "canvas_length": 64,
    "text_config": {
        "vocab_size": 4096, "hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "global_head_dim": 64,
        "num_global_key_value_heads": 1, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 96,
        "sliding_window": 64, "max_position_embeddings": 4096,
    },
}  # fmt: skip


def model_of(folder: Path | None, dtype: torch.dtype) -> tuple[DiffusionGemma, DenoiseConfig]:
    if folder is None:
        model = build_random(ModelConfig.from_dict(RAW), seed=1)
        model.norm.weight.mul_(5.0)  # logits of deviation 5: an opinion, as a trained model has
        return model.to(dtype), DenoiseConfig(max_denoising_steps=8, eos_token_id=None)
    config = ModelConfig.from_file(folder / "config.json")
    model = build(config)
    load_into(model, inspect(folder, config), "cpu", dtype)
    return model, DenoiseConfig.from_file(folder / "generation_config.json")


def requests_of(config: ModelConfig, settings: DenoiseConfig, count: int) -> list[Request]:
    """Prompts of 8 to 200 random tokens, two canvases each."""
    draw = random.Random(5)
    return [
        Request(
            tuple(draw.randrange(config.vocab_size) for _ in range(draw.randint(8, 200))), 2 * config.canvas_length,
            seed=number, config=settings,
        )
        for number in range(count)
    ]  # fmt: skip


def compare(model: DiffusionGemma, requests: list[Request], batch: int) -> dict[str, float]:
    """Shares: requests with equal tokens, equal tokens among all, equal step counts."""
    alone = [generate(model, [request])[0] for request in requests]
    beside: list[Result] = []
    for start in range(0, len(requests), batch):
        beside += generate(model, requests[start : start + batch])
    pairs = [pair for a, b in zip(alone, beside, strict=True) for pair in zip(a.token_ids, b.token_ids, strict=False)]
    count = len(requests)
    return {
        "equal requests": sum(a.token_ids == b.token_ids for a, b in zip(alone, beside, strict=True)) / count,
        "equal first canvas": sum(a.canvases[0] == b.canvases[0] for a, b in zip(alone, beside, strict=True)) / count,
        "equal tokens": sum(a == b for a, b in pairs) / len(pairs),
        "equal steps": sum(a.steps == b.steps for a, b in zip(alone, beside, strict=True)) / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32", "bfloat16"])
    options = parser.parse_args()
    print(f"{options.requests} requests alone, and in batches of {options.batch}")
    for name in options.dtypes:
        model, settings = model_of(options.model, getattr(torch, name))
        shares = compare(model, requests_of(model.config, settings, options.requests), options.batch)
        print(f"{name:9} " + "   ".join(f"{what} {share:6.1%}" for what, share in shares.items()), flush=True)


if __name__ == "__main__":
    main()
