"""Malformed requests, some hundred of scripts/fuzz_service.py's, and schemathesis over the document: no 5xx, no hang, no slot kept."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import checks

import dgemma
from dgemma.engine.engine import Engine
from tests.server.test_http import Live, eventually

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fuzz_service.py"
CHECKS = (
    checks.not_a_server_error, checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance,
    checks.allow_header_conformance,
)  # fmt: skip


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz_service", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules["fuzz_service"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def at(model: dgemma.Model) -> Iterator[Live]:
    engine, model.engine = model.engine, Engine(model.net, model.engine.config)
    live = Live(model)
    yield live
    live.stop()
    model.engine = engine


def test_malformed_requests_break_nothing(script: Any, at: Live, caplog: pytest.LogCaptureFixture) -> None:
    outcome = asyncio.run(script.Fuzz(at.address, seed=1).run(500))
    assert not outcome.faults and sum(outcome.counts.values()) == 500
    assert {kind for kind, _ in outcome.counts} == {*script.KINDS} and {"200", "400", "404", "413"} <= {
        status for _, status in outcome.counts
    }
    assert not caplog.records


def test_the_fuzzer_sees_what_is_wrong(script: Any, at: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: some answers of 500, and a place that is not given back."""
    admission, asked, kept = at.app.state.service.admission, [], []
    check = admission.check
    monkeypatch.setattr(script, "PATIENCE", 20)

    def breaks(client: str) -> None:
        asked.append(client)
        if len(asked) == 30:
            kept.append(admission.enter("somebody", 1))
        if 10 < len(asked) < 20:
            raise KeyError
        check(client)

    monkeypatch.setattr(admission, "check", breaks)
    faults = asyncio.run(script.Fuzz(at.address, seed=1).run(60)).faults
    kept[0]()
    assert 0 < sum("500" in what for what, _, _ in faults) < 10 and "afterwards" in faults[-1][0]


def test_the_document_holds_for_what_schemathesis_makes_of_it(at: Live) -> None:
    document = schemathesis.openapi.from_url(f"{at.url}/openapi.json")
    asked = []
    for found in document.get_all_operations():
        operation = found.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=4,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=[*hypothesis.HealthCheck],
        )
        def holds(case: Any) -> None:
            asked.append(case)
            case.call_and_validate(checks=CHECKS, timeout=60)

        holds()
    assert len(asked) > 80
    eventually(lambda: at.open == 0)
