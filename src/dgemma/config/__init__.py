"""Settings as frozen dataclasses: ModelConfig (a checkpoint), DenoiseConfig and Rules (a request), EngineConfig (a process).

A checkpoint's JSON is parsed against an allow-list: a key these files do not know is an error, because
it may change the mathematics without changing a single tensor shape. Nothing here imports torch.
"""

from __future__ import annotations

from .model import FULL, SLIDING, LayerConfig, ModelConfig
from .reader import read_json
from .rules import Rules
from .settings import MAX_PROMPT_CHARACTERS, DenoiseConfig, EngineConfig

__all__ = [
    "FULL", "MAX_PROMPT_CHARACTERS", "SLIDING", "DenoiseConfig", "EngineConfig", "LayerConfig", "ModelConfig",
    "Rules", "read_json",
]  # fmt: skip
