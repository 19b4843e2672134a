"""Settings as frozen dataclasses: ModelConfig (a checkpoint), DenoiseConfig and
GenerationParams (a request), EngineConfig (a process).

A checkpoint's JSON is parsed against an allow-list: a key these files do not know is an error, because
it may change the mathematics without changing a single tensor shape. Nothing here imports torch.
"""

from __future__ import annotations

from .model import FULL, SLIDING, LayerConfig, ModelConfig
from .params import NO_RULES, GenerationParams, GenerationSettings, TokenRules
from .reader import read_json
from .settings import MAX_PROMPT_CHARACTERS, DenoiseConfig, EngineConfig

__all__ = [
    "FULL",
    "MAX_PROMPT_CHARACTERS",
    "NO_RULES",
    "SLIDING",
    "DenoiseConfig",
    "EngineConfig",
    "GenerationParams",
    "GenerationSettings",
    "LayerConfig",
    "ModelConfig",
    "TokenRules",
    "read_json",
]
