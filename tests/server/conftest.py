"""Fixtures of this room: a tiny random model behind the app, and clients of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.testclient import TestClient

import dgemma
from dgemma.engine.engine import Engine
from dgemma.server.app import create_app
from dgemma.server.dialects import ROUTES
from dgemma.server.settings import ServerConfig
from tests.helpers import tiny_checkpoint


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> dgemma.Model:
    # float64: a prompt that is read from the cache, or beside others, must not round another way
    return dgemma.load(tiny_checkpoint(tmp_path_factory.mktemp("served") / "model"), dtype="float64")


@pytest.fixture
def fresh(model: dgemma.Model) -> Iterator[dgemma.Model]:
    """The model with an engine of its own, which a test may break."""
    engine, model.engine = model.engine, Engine(model.net, model.engine.config)
    yield model
    model.engine = engine


@pytest.fixture
def client(model: dgemma.Model) -> Iterator[Callable[..., TestClient]]:
    """client(**settings): one that asks the app of the tiny model, by its loopback name."""
    with ExitStack() as stack:

        def make(headers: dict[str, str] | None = None, routes: Any = ROUTES, **settings: Any) -> TestClient:
            app = create_app(model, ServerConfig(**settings), routes)
            return stack.enter_context(TestClient(app, base_url="http://localhost", headers=headers))

        yield make
