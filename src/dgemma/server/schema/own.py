"""What belongs to no dialect: health, metrics, tokens, what the service is, and the document of all routes."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from ... import __version__
from ...config.settings import PRESETS
from ..app import Page, Service, Task
from .openai import shape


class TokenizeRequest(msgspec.Struct, forbid_unknown_fields=True):
    content: str
    add_special: bool = False


class Tokens(msgspec.Struct):
    tokens: list[int]


class Content(msgspec.Struct):
    content: str


def health(service: Service, request: Any) -> Any:
    draining = service.admission.draining
    return Response('{"status":"draining"}' if draining else '{"status":"ok"}', 503 if draining else 200, media_type="application/json")


def metrics(service: Service, request: Any) -> Response:
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def tokenize(service: Service, body: TokenizeRequest) -> Tokens:
    tokenizer = service.model.tokenizer
    start = [tokenizer.special.need("bos")] if body.add_special else []
    return Tokens([*start, *tokenizer.encode(body.content)])


def detokenize(service: Service, body: Tokens) -> Content:
    return Content(service.model.tokenizer.decode(body.tokens, skip_special=False))


def props(service: Service, request: Any) -> dict[str, Any]:
    model, config = service.model, service.config
    return {
        "model": config.name, "version": __version__, "chat_tuned": model.chat_tuned, "notes": model.notes,
        "n_ctx": model.config.max_position_embeddings, "canvas_length": model.config.canvas_length,
        "total_slots": model.engine.config.max_slots, "max_queue": config.max_queue,
        "default_generation_settings": model.denoise.to_dict(), "presets": [*PRESETS],
    }  # fmt: skip


def document(service: Service, request: Any) -> dict[str, Any]:
    """OpenAPI 3.1 of all routes, from their structs."""
    kinds = [kind for route in service.routes for kind in (route.body, route.reply) if kind is not None]
    _, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    key = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0", "info": {"title": "dgemma", "version": __version__},
        "paths": {route.path.replace(":path", ""): _operation(route, bool(service.config.keys)) for route in service.routes},
        "components": {"schemas": components, "securitySchemes": key},
    }  # fmt: skip


def _operation(route: Task | Page, keys: bool) -> dict[str, Any]:
    def content(kind: type[Any]) -> dict[str, Any]:
        return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}}

    answered = {"description": "the answer"} | (content(route.reply) if route.reply else {})
    errors = {status: {"description": text} for status, text in ERRORS.items()}
    operation: dict[str, Any] = {"responses": {"200": answered} | errors}
    if route.body is not None:
        operation["requestBody"] = {"required": True} | content(route.body)
    if keys and route.access == "key":
        operation["security"] = [{"key": []}]
    names = [part[1:].removesuffix("}").split(":")[0] for part in route.path.split("/") if part.startswith("{")]
    operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    return {"get" if route.body is None else "post": operation}


ERRORS = {
    "400": "a request that cannot be served as asked; the message names the field", "401": "no good key",
    "403": "a web page of another origin", "408": "a body that did not arrive", "413": "a body that is too long",
    "421": "a name that is not this service's", "429": "too many requests are open; see Retry-After",
    "500": "the model's numbers are not finite, or a bug", "503": "shutting down, out of memory, or out of time; see Retry-After",
}  # fmt: skip

ROUTES = (
    Page("/health", health, shape, access="open"),
    Page("/metrics", metrics, shape),
    Page("/tokenize", tokenize, shape, TokenizeRequest, Tokens),
    Page("/detokenize", detokenize, shape, Tokens, Content),
    Page("/props", props, shape),
    Page("/openapi.json", document, shape),
)
