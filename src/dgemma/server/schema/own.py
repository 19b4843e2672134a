"""What belongs to no dialect: health, metrics, tokens, what the service is, and the document of all routes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.responses import Response

from ... import __version__
from ...config.settings import PRESETS
from ...tasks.limits import check_text
from ...weights.locate import is_embedded
from ..app import Page, Service, Task
from ..jobs import Refusal
from .openai import shape


class TokenizeRequest(msgspec.Struct, forbid_unknown_fields=True):
    content: str
    add_special: bool = False


class Tokens(msgspec.Struct):
    tokens: list[int]


class Content(msgspec.Struct):
    content: str


def alive(service: Service, request: Any) -> Response:
    """Whether passes run: 503 means that the process must be started again."""
    return _status("ok" if service.fault is None else "failed")


def health(service: Service, request: Any) -> Response:
    """Whether requests are taken."""
    if service.fault is None and service.admission.draining:
        return _status("draining")
    return alive(service, request)


def _status(status: str) -> Response:
    body = msgspec.json.encode({"status": status})
    return Response(body, 200 if status == "ok" else 503, media_type="application/json")


def metrics(service: Service, request: Any) -> Response:
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


async def tokenize(service: Service, body: TokenizeRequest) -> Tokens:
    tokenizer = service.model.tokenizer
    check_text("content", body.content)
    start = [tokenizer.special.need("bos")] if body.add_special else []
    return Tokens([*start, *await asyncio.to_thread(tokenizer.encode, body.content)])


async def detokenize(service: Service, body: Tokens) -> Content:
    return Content(await asyncio.to_thread(service.model.tokenizer.decode, body.tokens, False))


def props(service: Service, request: Any) -> dict[str, Any]:
    model, config = service.model, service.config
    return {
        "model": config.name, "version": __version__, "chat_tuned": model.chat_tuned, "notes": model.notes,
        "demo": is_embedded(model.folder),
        "n_ctx": model.config.max_position_embeddings, "canvas_length": model.config.canvas_length,
        "max_prompt_tokens": config.max_prompt_tokens, "total_slots": model.engine.config.max_slots, "max_queue": config.max_queue,
        "default_generation_settings": model.denoise.to_dict(), "presets": [*PRESETS],
    }  # fmt: skip


def document(service: Service, request: Any) -> dict[str, Any]:
    """OpenAPI 3.1 of all routes, from their structs."""
    kinds = [kind for route in service.routes for kind in (route.body, route.reply) if kind is not None]
    _, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    key = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0", "info": {"title": "dgemma", "version": __version__},
        "paths": {route.path.replace(":path", ""): _operations(route, bool(service.config.keys)) for route in service.routes},
        "components": {"schemas": components, "securitySchemes": key},
    }  # fmt: skip


def _operations(route: Task | Page, keys: bool) -> dict[str, Any]:
    """What a path is asked by."""
    told = _operation(route, keys)
    if route.body is not None:
        return {"post": told}
    head = {status: {"description": reply["description"]} for status, reply in told["responses"].items()}
    return {"get": told, "head": told | {"responses": head}}


def _operation(route: Task | Page, keys: bool) -> dict[str, Any]:
    answers = _answers(route)
    answered = {
        "description": "the answer",
        "content": {media: {"schema": _schema(kind)} for media, kind in answers.items()},
    }
    names = [
        part[1:].removesuffix("}").split(":")[0] for part in route.path.split("/") if part.startswith("{")
    ]
    statuses = _statuses(route, bool(names), keys and route.access == "key")
    operation: dict[str, Any] = {
        "responses": {"200": answered} | {str(status): _error(route, status) for status in statuses}
    }
    if route.body is not None:
        body = {"schema": _schema(route.body)} | (
            {"example": route.example} if route.example is not None else {}
        )
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
    if keys and route.access == "key":
        operation["security"] = [{"key": []}]
    operation["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    return operation


def _answers(route: Task | Page) -> dict[str, type[Any] | None]:
    """The media types of what a route answers with, and their structs."""
    if isinstance(route, Page):
        return {route.media: route.reply}
    whole = {"application/json": route.reply} if route.whole else {}
    return whole | ({route.stream: None} if route.stream else {})


def _schema(kind: type[Any] | None) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"} if kind is not None else {}


def _statuses(route: Task | Page, named: bool, asks: bool) -> list[int]:
    """The errors that a route may answer with."""
    found = (
        {400, 403, 408, 414, 421, 431, 500, 503, 505}
        | ({401} if asks else set())
        | ({404} if named else set())
    )
    if route.body is not None:
        found |= {413, 415}
    if isinstance(route, Task):
        found.add(429)
    return sorted(found)


def _error(route: Task | Page, status: int) -> dict[str, Any]:
    example = route.shape(Refusal(status, ERRORS[status]))
    return {
        "description": ERRORS[status],
        "content": {"application/json": {"schema": {"type": "object"}, "example": example}},
    }


ERRORS = {
    400: "a request that cannot be served as asked; the message names the field", 401: "no good key",
    403: "a web page of another origin", 404: "nothing of that name",
    408: "a request that did not arrive", 413: "a body that is too long", 414: "a path that is too long",
    415: "a compressed body", 421: "a name that is not this service's", 429: "too many requests are open; see Retry-After",
    431: "too many or too long headers", 500: "the model's numbers are not finite, or a bug",
    505: "another version of HTTP",
    503: "shutting down, out of memory or of time, or too many connections or large bodies; see Retry-After",
}  # fmt: skip

ROUTES = (
    Page("/health", health, shape, access="open"),
    Page("/health/live", alive, shape, access="open"),
    Page("/metrics", metrics, shape, media="text/plain", for_operator=True),
    Page("/tokenize", tokenize, shape, TokenizeRequest, Tokens, {"content": "def area(r):"}),
    Page("/detokenize", detokenize, shape, Tokens, Content, {"tokens": [300, 301]}),
    Page("/props", props, shape),
    Page("/openapi.json", document, shape),
)
