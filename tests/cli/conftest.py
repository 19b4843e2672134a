"""Fixtures of this room: a checkpoint folder of JSON alone, and a way to put a fake model behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .fakes import FakeModel, checkpoint_json


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(checkpoint_json(tmp_path / "model"))


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, folder: str) -> Callable[..., FakeModel]:
    """serve(model): what `dgemma.api.load` gives from now on. Its arguments are kept in `model.loaded`."""

    def put(model: FakeModel) -> FakeModel:
        def load(*arguments: Any, progress: Any = None, **named: Any) -> FakeModel:
            model.loaded = (arguments, named)  # type: ignore[attr-defined]
            return model

        monkeypatch.setattr("dgemma.api.load", load)
        return model

    return put
