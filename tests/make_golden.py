"""Write tests/data/golden_*.npz: logits and tokens of two small models, made by the oracle. Run it from the root:

    python -m tests.make_golden

The files hold what the suite compares with where the oracle is not installed. Weights are not in them: they come from
a seed and numpy's frozen RandomState stream. Make them anew only when the drawn weights change, never to mend a test.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from dgemma.config import DenoiseConfig, ModelConfig
from tests import oracle
from tests.helpers import lively_model, tiny_raw

DATA = Path(__file__).parent / "data"
TEMPERATURE = 0.7
PROMPTS = ([7], [3, 41, 5, 9, 2], [11, 30, 4, 4, 19, 27, 40, 1, 33, 8, 16, 22])
SETTLED = DenoiseConfig(
    max_denoising_steps=8, t_min=1e-7, t_max=2e-7, entropy_bound=1e9, stability_threshold=1, confidence_threshold=1e9,
    eos_token_id=None,
)  # fmt: skip


def raws() -> dict[str, dict]:
    """Both spellings of a config, both layer kinds first, and a rope and a soft cap that are not the defaults."""
    per_layer = tiny_raw(
        "FSF", canvas_length=4, sliding_window=4, num_attention_heads=6, num_key_value_heads=3
    )
    text = per_layer["text_config"]
    del text["global_head_dim"], text["num_global_key_value_heads"]
    text["per_layer_config"] = {key: {"head_dim": 24, "num_key_value_heads": 2} for key in ("00", "02")}
    text["final_logit_softcapping"] = 12.0
    text["rope_parameters"] = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        "full_attention": {"rope_type": "proportional", "rope_theta": 2e4, "partial_rotary_factor": 0.5},
    }
    return {"global": tiny_raw("SSF", canvas_length=4), "per_layer": per_layer}


def case_of(raw: dict, seed: int) -> dict[str, np.ndarray]:
    config = ModelConfig.from_dict(raw)
    model = oracle.model_of(lively_model(config, seed), raw)
    canvases = np.random.RandomState(seed).randint(
        config.vocab_size, size=(2, len(PROMPTS), config.canvas_length)
    )
    logits, tokens = [], []
    for row, prompt in enumerate(PROMPTS):
        cache, answers = oracle.encode(model, prompt, oracle.new_cache(model)), []
        for canvas in torch.from_numpy(canvases[:, row]):
            first = oracle.logits(model, cache, canvas)
            answers += [first, oracle.logits(model, cache, canvas, first / TEMPERATURE)]
            oracle.encode(model, canvas.tolist(), cache)
        logits.append(torch.stack(answers).numpy())
        ids = list(prompt)
        for canvas in canvases[:, row]:
            ids += oracle.canvas_of(model, ids, canvas.tolist(), SETTLED)[-1]
        tokens.append(ids[len(prompt) :])
    return {
        "config": np.array(json.dumps(raw)), "seed": np.array(seed), "canvases": canvases.astype(np.int16),
        "logits": np.stack(logits, axis=1), "tokens": np.array(tokens, dtype=np.int16),
    }  # fmt: skip


if __name__ == "__main__":
    for number, (name, raw) in enumerate(raws().items()):
        np.savez_compressed(DATA / f"golden_{name}.npz", **case_of(raw, seed=21 + number))
        print(DATA / f"golden_{name}.npz")
