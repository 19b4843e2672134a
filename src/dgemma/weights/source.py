"""A checkpoint on this machine, whatever it is kept in: the same questions to a folder and to a GGUF file.

`source` looks at a place that `locate` found; nothing is read before it is asked for. Never loads torch.
Trap: in a folder each answer stands in a file of its own; a GGUF file holds them all in one header, which
is read once per Source.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config import DenoiseConfig, ModelConfig, read_json
from ..config.remarks import remarks
from ..errors import CheckpointError, ConfigError
from ..text.gguf import is_readable, tokenizer_json
from ..text.vocabulary import LARGEST
from .gguf import GGUF, Gguf, read_gguf
from .gguf_config import denoise_config, model_config
from .gguf_names import read_layout as read_gguf_layout
from .layout import Layout, faultless, read_layout

VOCABULARY = "tokenizer.json"


def source(place: Path) -> Source:
    """The checkpoint at a place that `locate` returned."""
    if place.suffix.lower() == GGUF:
        return GgufSource(place)
    return Source(place)


class Source:
    """A checkpoint folder. Methods raise ConfigError or CheckpointError that name file and fault."""

    def __init__(self, place: Path):
        self.place = place

    def config(self) -> ModelConfig:
        return ModelConfig.from_file(self.place / "config.json")

    def layout(self, config: ModelConfig | None) -> Layout:
        """All that the files hold, with their faults; raises nothing."""
        return read_layout(self.place, config)

    def inspect(self, config: ModelConfig) -> Layout:
        """`layout` of a faultless checkpoint. Raises CheckpointError with the first problem."""
        return faultless(self.layout(config))

    def denoise(self, config: ModelConfig | None) -> DenoiseConfig:
        """Sampler settings; where they name no end tokens, the config's hold."""
        return DenoiseConfig.from_folder(self.place, config.eos_token_ids if config else ())

    def has_settings(self) -> bool:
        """Whether the checkpoint brings sampler settings of its own."""
        path = self.place / "generation_config.json"
        return (
            path.exists() or path.is_symlink()
        )  # a link to nothing is a fault, not a folder without settings

    def remarks(self) -> list[str]:
        """What its settings say and this build does not use, one line for each file; nothing where they
        cannot be read.
        """
        notes = []
        for name in ("config.json", "generation_config.json"):
            with suppress(ConfigError):
                if keys := remarks(read_json(self.place / name)):
                    notes.append(f"{name}: not used, and without effect on the model: {', '.join(keys)}")
        return notes

    def vocabulary(self) -> Path:
        """The file that `tokenizer_json` reads."""
        return self.place / VOCABULARY

    def why_no_text(self) -> str | None:
        """Why this checkpoint can only be used with ids, or None where it has a vocabulary."""
        if self.vocabulary().exists():
            return None
        return f"{self.vocabulary()}: no such file"

    def tokenizer_json(self) -> dict[str, Any]:
        return read_json(self.vocabulary(), LARGEST)

    def is_chat_tuned(self) -> bool:
        """Whether the checkpoint brings a chat template. It is never run."""
        return is_chat_tuned(self.place)


def is_chat_tuned(folder: Path) -> bool:
    """Whether the checkpoint brings a chat template, in either of the usual places. It is never run."""
    settings = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").exists() or (
        settings.exists() and "chat_template" in read_json(settings)
    )


class GgufSource(Source):
    """One GGUF file. A tokenizer.json beside it goes before the vocabulary in it."""

    @cached_property
    def file(self) -> Gguf:
        return read_gguf(self.place)

    def config(self) -> ModelConfig:
        return model_config(self.file)

    def layout(self, config: ModelConfig | None) -> Layout:
        try:
            return read_gguf_layout(self.file, config)
        except CheckpointError as error:  # not even a header
            return Layout(self.place, config, (self.place,), {}, {}, (), (str(error),))

    def denoise(self, config: ModelConfig | None) -> DenoiseConfig:
        return denoise_config(self.file, config)

    def has_settings(self) -> bool:
        return any(key.startswith("diffusion.eb_") for key in self.file.metadata)

    def remarks(self) -> list[str]:
        return []

    def vocabulary(self) -> Path:
        beside = self.place.with_name(VOCABULARY)
        if beside.exists():
            return beside
        return self.place

    def why_no_text(self) -> str | None:
        if self.vocabulary() != self.place or is_readable(self.file.metadata):
            return None
        kind = str(self.file.metadata.get("tokenizer.ggml.model", "none"))
        return (
            f"{self.place}: a vocabulary of the kind {kind[:40]!r} is not read, "
            f"and no {VOCABULARY} stands beside it"
        )

    def tokenizer_json(self) -> dict[str, Any]:
        path = self.vocabulary()
        if path != self.place:
            return read_json(path, LARGEST)
        return tokenizer_json(self.file.metadata, str(path))

    def is_chat_tuned(self) -> bool:
        return isinstance(self.file.metadata.get("tokenizer.chat_template"), str)
