"""What belongs to no dialect: health, metrics, tokens, what the service is, and the document of all
routes.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.responses import Response

from ... import __version__
from ...config.settings import PRESETS
from ...hub.locate import is_embedded
from ...tasks.limits import check_text
from ..jobs import RequestError
from ..routes import Page, Task
from ..service import Service
from .openai_answers import shape


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
    if body.add_special:
        start = [tokenizer.special.need("bos")]
    else:
        start = []
    return Tokens([*start, *await asyncio.to_thread(tokenizer.encode, body.content)])


async def detokenize(service: Service, body: Tokens) -> Content:
    return Content(await asyncio.to_thread(service.model.tokenizer.decode, body.tokens, False))


def props(service: Service, request: Any) -> dict[str, Any]:
    model = service.model
    config = service.config
    return {
        "model": config.name,
        "version": __version__,
        "chat_tuned": model.chat_tuned,
        "notes": model.notes,
        "demo": is_embedded(model.folder),
        "n_ctx": model.config.max_position_embeddings,
        "canvas_length": model.config.canvas_length,
        "max_prompt_tokens": config.max_prompt_tokens,
        "total_slots": model.engine.config.max_slots,
        "max_queue": config.max_queue,
        "default_generation_settings": model.denoise.to_dict(),
        "presets": [*PRESETS],
    }


def document(service: Service, request: Any) -> dict[str, Any]:
    """OpenAPI 3.1 of all routes, from their structs."""
    routes = service.table.routes
    needs_keys = bool(service.config.keys)
    structs = [struct for route in routes for struct in (route.body, route.reply) if struct is not None]
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    schemes = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "dgemma", "version": __version__},
        "paths": {route.path.replace(":path", ""): _operations(route, needs_keys) for route in routes},
        "components": {"schemas": schemas, "securitySchemes": schemes},
    }


def _operations(route: Task | Page, needs_keys: bool) -> dict[str, Any]:
    """What a path is asked by."""
    operation = _operation(route, needs_keys and route.access == "key")
    if route.body is not None:
        return {"post": operation}
    responses = operation["responses"]
    without_content = {
        status: {"description": response["description"]} for status, response in responses.items()
    }
    return {"get": operation, "head": operation | {"responses": without_content}}


def _operation(route: Task | Page, needs_key: bool) -> dict[str, Any]:
    names = _path_parameters(route.path)
    responses = {"200": _answer(route)}
    for status in _statuses(route, bool(names), needs_key):
        responses[str(status)] = _error(route, status)
    operation: dict[str, Any] = {"responses": responses}
    if route.body is not None:
        operation["requestBody"] = _request_body(route)
    if needs_key:
        operation["security"] = [{"key": []}]
    operation["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    return operation


def _path_parameters(path: str) -> list[str]:
    """The names in braces of a route's path."""
    parts = [part for part in path.split("/") if part.startswith("{")]
    return [part[1:].removesuffix("}").split(":")[0] for part in parts]


def _answer(route: Task | Page) -> dict[str, Any]:
    content = {media: {"schema": _schema(struct)} for media, struct in _answers(route).items()}
    return {"description": "the answer", "content": content}


def _answers(route: Task | Page) -> dict[str, type[Any] | None]:
    """The media types of what a route answers with, and their structs."""
    if isinstance(route, Page):
        return {route.media: route.reply}
    answers: dict[str, type[Any] | None] = {}
    if route.whole:
        answers["application/json"] = route.reply
    if route.stream:
        answers[route.stream] = None
    return answers


def _request_body(route: Task | Page) -> dict[str, Any]:
    body: dict[str, Any] = {"schema": _schema(route.body)}
    if route.example is not None:
        body["example"] = route.example
    return {"required": True, "content": {"application/json": body}}


def _schema(struct: type[Any] | None) -> dict[str, Any]:
    if struct is None:
        return {}
    return {"$ref": f"#/components/schemas/{struct.__name__}"}


def _statuses(route: Task | Page, has_parameters: bool, needs_key: bool) -> list[int]:
    """The errors that a route may answer with."""
    statuses = {400, 403, 408, 414, 421, 431, 500, 503, 505}
    if needs_key:
        statuses.add(401)
    if has_parameters:
        statuses.add(404)
    if route.body is not None:
        statuses |= {413, 415}
    if isinstance(route, Task):
        statuses.add(429)
    return sorted(statuses)


def _error(route: Task | Page, status: int) -> dict[str, Any]:
    example = route.shape(RequestError(status, ERRORS[status]))
    return {
        "description": ERRORS[status],
        "content": {"application/json": {"schema": {"type": "object"}, "example": example}},
    }


ERRORS = {
    400: "a request that cannot be served as asked; the message names the field",
    401: "no good key",
    403: "a web page of another origin",
    404: "nothing of that name",
    408: "a request that did not arrive",
    413: "a body that is too long",
    414: "a path that is too long",
    415: "a compressed body",
    421: "a name that is not this service's",
    429: "too many requests are open; see Retry-After",
    431: "too many or too long headers",
    500: "the model's numbers are not finite, or a bug",
    503: "shutting down, out of memory or of time, or too many connections or large bodies; see Retry-After",
    505: "another version of HTTP",
}

ROUTES = (
    Page("/health", health, shape, access="open"),
    Page("/health/live", alive, shape, access="open"),
    Page("/metrics", metrics, shape, media="text/plain", for_operator=True),
    Page("/tokenize", tokenize, shape, TokenizeRequest, Tokens, {"content": "def area(r):"}),
    Page("/detokenize", detokenize, shape, Tokens, Content, {"tokens": [300, 301]}),
    Page("/props", props, shape),
    Page("/openapi.json", document, shape),
)
