"""Choose the shipped checkpoint's generation_config.json: sampler settings against steps, exact fills and what was written.

    python benchmarks/tune_sampler.py --model FOLDER [--gaps 40] [--texts 6]

Runs on the **train** side, so that the held-out table of quality.py stays untouched by the choice. Per setting: steps per
canvas in fill, exact share, steps per canvas of free continuations and the bits per byte of what they wrote under the
causal pass (low alone is no virtue: repetition is cheap; read it beside the distinct-token share).
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys

import torch
import torch.nn.functional as F

import dgemma
from dgemma.kernels.vocab import soft_capped_logits
from dgemma.train.corpus import load

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from quality import cases, fill_table  # noqa: E402


def written(model: dgemma.Model, prompts: list[str], **sampler) -> dict[str, float]:
    """Free continuations of two canvases each: steps, bits per byte of the text, share of distinct tokens."""
    steps, nats, size, distinct = [], 0.0, 0, []
    for prompt in prompts:
        found = model.generate(prompt, max_tokens=2 * model.config.canvas_length, **sampler)
        steps += found.steps
        if not found.text:
            continue
        nats += causal_nats(model, prompt, found.text)
        size += len(found.text.encode())
        distinct.append(len(set(found.token_ids)) / len(found.token_ids))
    return {
        "free_steps": sum(steps) / len(steps), "written_bits_per_byte": nats / math.log(2) / max(1, size),
        "distinct": sum(distinct) / max(1, len(distinct)),
    }  # fmt: skip


@torch.inference_mode()
def causal_nats(model: dgemma.Model, prompt: str, text: str) -> float:
    """What the causal pass pays for `text` after `prompt`."""
    before = [model.tokenizer.special.need("bos"), *model.tokenizer.encode(prompt)]
    ids = torch.tensor([[*before, *model.tokenizer.encode(text)]])
    net = model.net
    hidden = net.encode(ids[:, :-1], [net.new_cache()])[0, len(before) - 1 :]
    logits = soft_capped_logits(hidden, net.embed.weight, net.config.final_logit_softcapping)
    return F.cross_entropy(logits, ids[0, len(before) :], reduction="sum").item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--gaps", type=int, default=40)
    parser.add_argument("--texts", type=int, default=6)
    parser.add_argument("--temperatures", default="0.8:0.4,0.5:0.2,0.3:0.1")
    parser.add_argument("--bounds", default="0.1,0.5")
    parser.add_argument("--confidences", default="0.005,0.1")
    parser.add_argument("--steps", type=int, default=48)
    options = parser.parse_args()
    model, train = dgemma.load(options.model), load().train
    gaps = cases(train, options.gaps, seed=1)
    prompts = [case.prefix[-600:] for case in cases(train, options.texts, seed=2) if case.prefix]
    for pair, bound, confidence in itertools.product(
        options.temperatures.split(","), options.bounds.split(","), options.confidences.split(",")
    ):
        high, low = (float(part) for part in pair.split(":"))
        sampler = {
            "t_max": high, "t_min": low, "entropy_bound": float(bound), "confidence_threshold": float(confidence),
            "max_denoising_steps": options.steps,
        }  # fmt: skip
        row = fill_table(model, gaps, **sampler) | (written(model, prompts, **sampler) if prompts else {})
        print(f"T {high}-{low} bound {bound} confidence {confidence}:", {k: round(v, 3) for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
