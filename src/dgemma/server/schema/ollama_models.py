"""What Ollama's clients ask of models before they use one: tags, show, ps, version; and the routes of its
that are refused.

There is one model, whatever name it is asked by. Trap: clients take a model for what `capabilities` say, so
they say what the loaded checkpoint can do, not what the service could.
"""

from __future__ import annotations

import asyncio
import datetime
import math
from typing import Any

import msgspec

from ... import __version__
from ...weights.gguf_config import ARCHITECTURE
from ...weights.identity import Identity, identify
from ..routes import Absent, Page
from ..service import Service
from .ollama import shape

# The release of Ollama whose routes these are: clients refuse older ones. From 0.13.4 on they expect
# /v1/responses, from 0.14 on
# /v1/messages, which are served here.
VERSION = "0.14.0"
FAMILY = "diffusion_gemma"
NEVER = "2226-01-01T00:00:00Z"  # when the model leaves memory; a date that every client's clock can hold


class ShowRequest(msgspec.Struct, kw_only=True):
    """Unknown fields change nothing: they would change a model that is made, not this one."""

    model: str | None = None
    name: str | None = None  # as older clients call it
    verbose: bool | None = None


def capabilities(service: Service) -> list[str]:
    """A turn, its tools and thoughts need a model that was trained for them; a gap any model can fill."""
    if service.model.chat_tuned:
        chat = ["tools", "thinking"]
    else:
        chat = []
    return ["completion", "insert", *chat]


def human_number(count: int) -> str:
    """A number of parameters as Ollama writes it: 25.2B, 751.63M, 12K."""
    for size, letter, places in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= size:
            return f"{count / size:.{places}f}{letter}"
    return str(count)


async def _identity(service: Service) -> Identity:
    """Read once, on a thread: a checkpoint's files may lie on a slow disk."""
    if service.identity is None:
        service.identity = await asyncio.to_thread(identify, service.model.folder)
    return service.identity


def _details(identity: Identity) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": identity.kind,
        "family": FAMILY,
        "families": [FAMILY],
        "parameter_size": human_number(identity.parameters),
        "quantization_level": identity.quantization,
    }


def _model_info(service: Service, identity: Identity) -> dict[str, Any]:
    """By llama.cpp's keys of this architecture, which clients look up by the architecture's name."""
    config = service.model.config
    full = next((layer for layer in config.layers if not layer.is_sliding), config.layers[0])
    of_architecture = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": len(config.layers),
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": full.num_key_value_heads,
        "attention.key_length": full.head_dim,
        "attention.sliding_window": config.sliding_window,
        "expert_count": config.num_experts,
        "expert_used_count": config.top_k_experts,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "vocab_size": config.vocab_size,
    }
    general = {
        "general.architecture": ARCHITECTURE,
        "general.basename": service.config.name,
        "general.parameter_count": identity.parameters,
        "diffusion.canvas_length": config.canvas_length,
    }
    return general | {f"{ARCHITECTURE}.{name}": value for name, value in of_architecture.items()}


def _parameters(service: Service) -> str:
    """Settings that hold where a request names none, one a line, as a Modelfile has them."""
    settings = {
        "num_ctx": service.model.config.max_position_embeddings,
        "num_predict": service.model.denoise.max_new_tokens,
    }
    return "\n".join(f"{name:<30} {value}" for name, value in settings.items())


def _time(seconds: float) -> str:
    whole = math.floor(seconds)
    return datetime.datetime.fromtimestamp(whole, datetime.UTC).isoformat().replace("+00:00", "Z")


def _card(service: Service, identity: Identity) -> dict[str, Any]:
    name = service.config.name
    return {"name": name, "model": name, "digest": identity.digest, "details": _details(identity)}


async def tags(service: Service, request: Any) -> dict[str, Any]:
    identity = await _identity(service)
    more = {
        "modified_at": _time(identity.modified),
        "size": identity.size,
        "capabilities": capabilities(service),
    }
    return {"models": [_card(service, identity) | more]}


async def running(service: Service, request: Any) -> dict[str, Any]:
    """`ps`: the model is loaded as long as the service runs. Sizes are those of its weights in memory."""
    identity = await _identity(service)
    net = service.model.net
    parts = [*net.parameters(), *net.buffers()]
    more = {
        "size": sum(part.nbytes for part in parts),
        "size_vram": sum(part.nbytes for part in parts if part.device.type == "cuda"),
        "context_length": service.model.config.max_position_embeddings,
        "expires_at": NEVER,
    }
    return {"models": [_card(service, identity) | more]}


async def show(service: Service, body: ShowRequest) -> dict[str, Any]:
    """What a checkpoint is.

    The layout of a turn is the program's (text/turns.py) and no template; `template` names what it takes.
    """
    identity = await _identity(service)
    template = "{{ .Prompt }}{{ .Suffix }}"
    if service.model.chat_tuned:
        template = "{{ .System }}{{ .Tools }}" + template
    return {
        "modelfile": f"FROM {service.config.name}\n",
        "parameters": _parameters(service),
        "template": template,
        "details": _details(identity),
        "model_info": _model_info(service, identity),
        "capabilities": capabilities(service),
        "modified_at": _time(identity.modified),
    }


def version(service: Service, request: Any) -> dict[str, str]:
    return {"version": VERSION, "dgemma": __version__}


PULL = (
    "this service serves one model and fetches none; "
    "`dgemma pull NAME` does, and `dgemma serve -m NAME` serves it"
)
MAKE = "this service makes and changes no models; `dgemma quantize` and `dgemma train` do"
EMBED = "this model makes no embeddings; a service that serves an embedding model does"
ROUTES = (
    Page("/api/tags", tags, shape),
    Page("/api/ps", running, shape),
    Page("/api/show", show, shape, ShowRequest, example={"model": "dgemma"}),
    Page("/api/version", version, shape),
)
ABSENT = (
    Absent("/api/pull", PULL, shape),
    Absent("/api/push", PULL, shape),
    Absent("/api/create", MAKE, shape),
    Absent("/api/copy", MAKE, shape),
    Absent("/api/delete", "this service removes no models; `dgemma rm NAME` does", shape),
    Absent("/api/blobs/{digest}", MAKE, shape),
    Absent("/api/embed", EMBED, shape),
    Absent("/api/embeddings", EMBED, shape),
)
