"""Typed decisions over HTTP: the very answers of the Python call, under both names, and errors that name the question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

import dgemma

Client = Callable[..., TestClient]
QUESTIONS = {
    "kind": {"type": "choice", "instructions": "Which?", "criteria": {"bug": "it breaks", "wish": None}},
    "haste": {"type": "score", "criteria": ["none", "some", "much"]},
    "spam": {"type": "noul"},
}


@pytest.mark.parametrize("path", ["/v1/systemone", "/v1/decisions"])
def test_answers_are_pythons(client: Client, model: dgemma.Model, path: str) -> None:
    want = model.decide({"text": "it hangs"}, QUESTIONS, "Be fair.", 2, 3).to_dict()
    body = {
        "model": "any",
        "state": {"text": "it hangs"},
        "questions": QUESTIONS,
        "instructions": "Be fair.",
        "steps": 2,
        "seed": 3,
    }
    reply = client().post(path, json=body).json()
    assert reply["answers"] == want["answers"] and reply["usage"] == want["usage"]
    assert (
        reply["answers"]["haste"]["legend"] == {"0": "none", "1": "some", "2": "much"}
        and reply["usage"]["steps"] == 2
    )
    assert sum(reply["answers"]["kind"]["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"questions": QUESTIONS}, "state"), ({"state": "x"}, "questions"), ({"state": "x", "questions": {}}, "questions"),
        ({"state": "x", "questions": {"q": {"type": "essay"}}}, "'q'"), ({"state": "x", "questions": QUESTIONS, "stream": True}, "stream"),
        ({"state": "x", "questions": QUESTIONS, "steps": 0}, "steps"), ({"state": "", "questions": QUESTIONS}, "state"),
    ],
)  # fmt: skip
def test_what_cannot_be_decided_is_named(client: Client, body: dict[str, Any], name: str) -> None:
    reply = client().post("/v1/systemone", json=body)
    assert reply.status_code == 400 and name in reply.json()["error"]["message"]
