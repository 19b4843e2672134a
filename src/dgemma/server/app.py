"""The application: all routes behind the layers that name, count and guard each request.

`create_app(model, config)` makes the ASGI application; tests put in whatever model they like. What a route
does is endpoints.py's business, what handlers share service.py's. Trap: layers run in the order of the
list, and the path must be canonical before anybody judges it.
"""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .auth import Guard, Needs
from .dialects import ABSENT, ROUTES
from .endpoints import endpoint, error_response
from .jobs import RequestError
from .paths import CanonicalPath, RouteTable
from .request_log import LogRequests
from .routes import Page, Task
from .service import Service
from .settings import ServerConfig


def create_app(
    model: Any, config: ServerConfig = ServerConfig(), routes: tuple[Task | Page, ...] = ROUTES
) -> Starlette:
    """The ASGI application of a model. `routes`: all there are, unless a test brings others."""
    table = RouteTable(routes, ABSENT)
    service = Service(model, config, table)

    def route_of(scope: Scope) -> Task | Page | None:
        return table.find(scope["path"])

    def needs(scope: Scope) -> Needs:
        route = route_of(scope)
        if route is None:
            return "key"
        is_private = isinstance(route, Page) and route.for_operator
        if is_private:
            return "operator"
        return route.access

    async def denied(scope: Scope, receive: Receive, send: Send, error: RequestError) -> None:
        path = "none"
        shape = table.routes[0].shape
        route = route_of(scope)
        if route is not None:
            path = route.path
            shape = route.shape
        service.metrics.requests.labels(path, error.status).inc()
        await error_response(error, shape)(scope, receive, send)

    layers = [
        Middleware(CanonicalPath, table=table),
        Middleware(Guard, config=config, keys=service.keys, needs=needs, denied=denied),
    ]
    if service.log is not None:
        layers.insert(1, Middleware(LogRequests, log=service.log, route_of=route_of))

    async def unrouted(request: Request, error: Exception) -> Response:
        return _unrouted(table, request, error)

    endpoints = [Route(route.path, endpoint(service, route), methods=_methods(route)) for route in routes]
    app = Starlette(
        routes=endpoints,
        middleware=layers,
        lifespan=service.lifespan,
        exception_handlers={404: unrouted, 405: unrouted},
    )
    app.router.redirect_slashes = False  # a path is a route's or nobody's
    app.state.service = service
    return app


def _methods(route: Task | Page) -> list[str]:
    takes_body = isinstance(route, Task) or route.body is not None
    if takes_body:
        return ["POST"]
    return ["GET", "HEAD"]


def _unrouted(table: RouteTable, request: Request, error: Exception) -> Response:
    """404, 405, or 501 for what clients know from other servers, in the dialect that the path looks like."""
    path = request.url.path
    shape = table.nearest(path).shape
    if getattr(error, "status_code", 404) == 404:
        absent = table.find_absent(path)
        if absent is not None:
            return error_response(RequestError(501, absent.message, "not_supported_error"), absent.shape)
        return error_response(RequestError(404, "there is no such route", "not_found_error"), shape)
    response = error_response(RequestError(405, f"{request.method} is not answered here"), shape)
    response.headers["allow"] = (getattr(error, "headers", None) or {}).get("Allow", "")
    return response
