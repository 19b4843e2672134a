"""Values of a request's fields that change nothing: null everywhere, and of each known setting its neutral
values.

Other servers have many settings that this model's sampler lacks, and their clients send all of them, mostly
at values that do nothing. Such a field is let through; any other value would change the answer and is refused
by whoever reads the request. The tables are data, and the same for every dialect of the service, for batches
and for Python. Trap: in Python 0 equals False and 1 equals True, but `logprobs: 0` and `logprobs: false` ask
for different things.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# Settings whose values change nothing, whoever reads them, also where the field is served.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    # lengths and seeds: "no limit" and "draw one" are what holds without the field
    "max_tokens": (-1,),
    "max_completion_tokens": (-1,),
    "max_output_tokens": (-1,),
    "max_new_tokens": (-1,),
    "n_predict": (-1, -2),
    "num_predict": (-1, -2),
    "seed": (-1,),
    "random_seed": (-1,),
    "min_tokens": (0,),
    # what the sampler may take
    "temperature": (1,),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "top_a": (0,),
    "top_n_sigma": (0, -1),
    "typical": (1,),
    "typical_p": (1,),
    "tfs": (1,),
    "tfs_z": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "xtc_probability": (0,),
    "dynatemp_range": (0,),
    "smoothing_factor": (0,),
    "adaptive_target": (-1,),
    "guidance_scale": (1,),
    "do_sample": (True,),
    # penalties
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "repeat_last_n": (-1,),
    "penalty_range": (-1,),
    "repetition_penalty_range": (-1,),
    "dry_multiplier": (0,),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "penalize_newline": (True,),
    "penalize_nl": (True,),
    # which tokens, and what ends an answer
    "logit_bias": ({}, []),
    "bad_words": ([],),
    "stop": ("", []),
    "stop_sequences": ("", []),
    "ignore_eos": (False,),
    "ban_eos_token": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "grammar": ("",),
    # searches over several answers
    "use_beam_search": (False,),
    "num_beams": (0, 1),
    "length_penalty": (1,),
    "early_stopping": (False,),
    # how a conversation is laid out, and what is told of an answer
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "parallel_tool_calls": (True,),
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "verbosity": ("medium",),
}

# Fields that are neutral at these values where they are not served. Where they are, the same value may ask
# for something.
NEUTRAL_UNSERVED: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "n_probs": (0,),
    "post_sampling_probs": (False,),
    "background": (False,),
    "truncation": ("disabled",),
    "thinking": (False,),
    "think": (False,),
    "enable_thinking": (False,),
    "include_reasoning": (True,),
    "reasoning_format": ("auto", "deepseek"),
    "reasoning_budget": (-1,),
    "reasoning_effort": ("none",),
    "thinking_forced_open": (False,),
    "tool_choice": ("auto", "none"),
    "function_call": ("auto", "none"),
    "parse_tool_calls": (True,),
    "add_special_tokens": (True,),
    "add_bos_token": (True,),
    "return_token_ids": (False,),
    "return_tokens": (False,),
    "return_tokens_as_token_ids": (False,),
    "return_progress": (False,),
    "raw": (False,),
    "min_keep": (0, 1),
    "vocab_only": (False,),
}

# Fields that change no answer, whatever they hold: who asks, how it is accounted for and cached, and on what
# machine.
WITHOUT_EFFECT = frozenset(
    (
        "user metadata client_metadata store service_tier safety_identifier request_id priority "
        "prompt_cache_key prompt_cache_retention prompt_cache_options prediction cache_prompt id_slot "
        "slot_id n_keep n_discard n_cache_reuse num_keep num_ctx num_batch num_gpu main_gpu num_thread "
        "num_gqa use_mmap use_mlock low_vram f16_kv logits_all numa keep_alive timings_per_token "
        "spaces_between_special_tokens guided_decoding_backend backend_sampling preserved_tokens"
    ).split()
)

TEXTS = ("stop", "stop_sequences", "bad_words")  # lists of texts, in which an empty one says nothing

PENALTIES = ("repeat_penalty", "repetition_penalty", "presence_penalty", "frequency_penalty")

# Settings of a setting: without any of those named they change nothing.
DEPENDENT: dict[str, tuple[str, ...]] = {
    "repeat_last_n": PENALTIES,
    "penalty_range": PENALTIES,
    "repetition_penalty_range": PENALTIES,
    "penalize_newline": PENALTIES,
    "penalize_nl": PENALTIES,
    "mirostat_tau": ("mirostat", "mirostat_mode"),
    "mirostat_eta": ("mirostat", "mirostat_mode"),
    "xtc_threshold": ("xtc_probability",),
    "dynatemp_exponent": ("dynatemp_range",),
    "smoothing_curve": ("smoothing_factor",),
    "adaptive_decay": ("adaptive_target",),
    "dry_base": ("dry_multiplier",),
    "dry_allowed_length": ("dry_multiplier",),
    "dry_penalty_last_n": ("dry_multiplier",),
    "dry_sequence_breakers": ("dry_multiplier",),
    "grammar_lazy": ("grammar",),
    "grammar_triggers": ("grammar",),
    "guidance_rescale": ("guidance_scale",),
}


def effective(fields: Mapping[str, Any], served: Collection[str]) -> dict[str, Any]:
    """The fields that may change an answer: without those that are null or neutral.

    served: the names that the reader of these fields knows. Of others, an empty text, list or object is
    nothing as well.
    """
    cleaned = {name: _without_neutral_parts(name, value) for name, value in fields.items()}
    kept = {name: value for name, value in cleaned.items() if not _is_neutral(name, value, name in served)}
    for name, needed in DEPENDENT.items():
        if name in kept and name not in served and not any(setting in kept for setting in needed):
            del kept[name]
    return kept


def whole_number(value: Any) -> Any:
    """A float without a fraction as an integer (clients whose numbers are all floats send 8.0).

    Anything else as it is.
    """
    is_whole = isinstance(value, float) and abs(value) <= 2**53 and value.is_integer()
    if is_whole:
        return int(value)
    return value


def _without_neutral_parts(name: str, value: Any) -> Any:
    """A list or a mapping without the parts that change nothing: empty texts and null, and biases of 0."""
    if name in TEXTS and isinstance(value, list):
        return [text for text in value if text not in ("", None)]
    if name == "logit_bias" and isinstance(value, dict):
        return {token: bias for token, bias in value.items() if not (bias is None or _equal(bias, 0))}
    return value


def _is_neutral(name: str, value: Any, is_served: bool) -> bool:
    if value is None or any(_equal(value, neutral) for neutral in NEUTRAL.get(name, ())):
        return True
    if is_served:
        return False
    if name in WITHOUT_EFFECT or value in ("", [], {}):
        return True
    return any(_equal(value, neutral) for neutral in NEUTRAL_UNSERVED.get(name, ()))


def _equal(value: Any, other: Any) -> bool:
    return isinstance(value, bool) == isinstance(other, bool) and value == other
