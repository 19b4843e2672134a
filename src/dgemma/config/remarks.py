"""Which unknown keys of a checkpoint's JSON change nothing that this build computes, so that they are remarks
and no errors.

A rule wherever one is safe, a table for the rest. Knows no file and no setting that is read. Trap: a key is
harmless only where its name says so whatever its value is; a flag that is false, or a number that looks
neutral, may still switch something off.
"""

from __future__ import annotations

import re
from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TRAINING = _words(
    """
    decoder_sparse_step_loss gradient_accumulation_steps label_smoothing layerdrop max_seq_length
    output_router_logits router_aux_loss_coef router_jitter_noise router_z_loss_coef
    """
)
# Defaults of generate() in older files and of other models; this model's sampler has its own settings.
_GENERATION = _words(
    """
    assistant_confidence_threshold assistant_early_exit assistant_lookbehind bad_words_ids
    begin_suppress_tokens cache_config cache_implementation disable_compile diversity_penalty do_sample
    dola_layers early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff
    eta_cutoff exponential_decay_length_penalty force_words_ids forced_bos_token_id forced_eos_token_id
    guidance_scale is_assistant length_penalty low_memory max_length max_matching_ngram_size
    max_new_tokens max_time min_length min_new_tokens min_p no_repeat_ngram_size num_assistant_tokens
    num_assistant_tokens_schedule num_beam_groups num_beams num_return_sequences output_logits
    output_scores penalty_alpha prefill_chunk_size prompt_lookup_num_tokens remove_invalid_values
    renormalize_logits repetition_penalty return_dict_in_generate sequence_bias stop_strings
    suppress_tokens target_lookbehind temperature token_healing top_h top_k top_p typical_p use_cache
    watermarking_config custom_generate
    """
)
# Who saved the file, with what, for which library; code that the file names is never run.
_BOOKKEEPING = _words(
    """
    architectures attn_implementation auto_map chunk_size_feed_forward custom_pipelines dtype
    experts_implementation finetuning_task id2label is_decoder is_encoder_decoder label2id language
    license model_parallel name_or_path num_labels output_attentions output_hidden_states prefix
    problem_type return_dict task_specific_params tokenizer_class torch_dtype torchscript
    trust_remote_code use_bfloat16 use_flash_attn use_flash_attention_2
    """
)
# Images, sound and video, which this build does not read.
_MEDIA = _words("mm_tokens_per_image vision_soft_tokens_per_image audio_config video_config")
_TABLE = _TRAINING | _GENERATION | _BOOKKEEPING | _MEDIA
_TOOLS = (
    "unsloth_",
    "transformers_",
    "transformers.",
    "trl_",
    "peft_",
    "axolotl_",
    "llamafactory_",
    "mergekit_",
    "mlx_",
    "gradient_checkpointing",
)
_VERSION = re.compile(r"v?\d+(\.\w+)*([+-][\w.]+)?", re.ASCII)
_DROPOUT = re.compile(r"(.*_)?(dropout|pdrop|dropout_(rate|prob|p))")
# What stands for images and sounds, or marks texts of other models; not the mask, which some draft with.
_OTHER_TOKENS = re.compile(
    r"(image|video|audio|vision|bo[iav]|eo[iav]|begin_\w+|end_\w+|sep|cls|unk|decoder_start)_token_(id|index)"
)
# Written by every tool into every file: not worth a word.
_USUAL = _words(
    """
    architectures dtype torch_dtype transformers_version use_cache return_dict output_hidden_states
    output_attentions chunk_size_feed_forward is_encoder_decoder id2label label2id problem_type is_decoder
    name_or_path initializer_range attention_dropout _from_model_config return_dict_in_generate
    _name_or_path disable_compile _commit_hash _attn_implementation boi_token_id eoi_token_id max_length
    bos_token_id vision_soft_tokens_per_image
    """
)
# Read, although the rules below would let them pass.
_READ = _words("max_new_tokens pad_token_id eos_token_id image_token_id")


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, or an empty list, object or text."""
    return value is None or (isinstance(value, list | dict | str) and not value)


def has_no_effect(key: str, value: Any) -> bool:
    """Whether a key that no reader knows leaves what the model computes as it is."""
    if is_empty(value) or key in _TABLE or key.startswith(_TOOLS):
        return True
    if key.startswith("_") and "pattern" not in key:  # a library's own notes; a pattern of layers is none
        return True
    if key.startswith("initializer_") or "loss" in key.split("_"):
        return True
    if _OTHER_TOKENS.fullmatch(key):
        return isinstance(value, int | list)
    if key == "version" or key.endswith("_version"):
        return isinstance(value, str) and _VERSION.fullmatch(value) is not None
    return _DROPOUT.fullmatch(key) is not None  # no inference drops anything


def remarks(raw: Any) -> list[str]:
    """The keys of a config.json or generation_config.json, its text_config included, that are there and not
    used.
    """
    if not isinstance(raw, dict):
        return []
    unused = [
        key
        for key, value in raw.items()
        if key not in _USUAL | _READ and not is_empty(value) and has_no_effect(key, value)
    ]
    return [*unused, *(f"text_config.{key}" for key in remarks(raw.get("text_config")))]
