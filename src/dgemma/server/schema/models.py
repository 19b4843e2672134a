"""The list of models in OpenAI's shape, and in llama-server's: there is one."""

from __future__ import annotations

from typing import Any

from ... import __version__
from ..jobs import RequestError
from ..routes import Absent, Page
from ..service import Service
from .openai_answers import shape


def model_card(service: Service) -> dict[str, Any]:
    model = service.model
    return {
        "id": service.config.name,
        "object": "model",
        "created": service.created,
        "owned_by": "dgemma",
        "max_model_len": model.config.max_position_embeddings,
        "canvas_length": model.config.canvas_length,
        "chat_tuned": model.chat_tuned,
        "version": __version__,
    }


def models(service: Service, request: Any) -> dict[str, Any]:
    """Both names of the list, because clients read either."""
    cards = [model_card(service)]
    return {"object": "list", "data": cards, "models": cards}


def one_model(service: Service, request: Any) -> dict[str, Any]:
    if request.path_params["name"] != service.config.name:
        raise RequestError(404, "there is no model of that name here", "not_found_error", parameter="model")
    return model_card(service)


ROUTES = (
    Page("/v1/models", models, shape),
    Page("/v1/models/{name:path}", one_model, shape),
)
ABSENT = (
    Absent(
        "/v1/embeddings",
        "this model makes no embeddings; a service that serves an embedding model does",
        shape,
    ),
)
