"""The fields of a request's body are the parameters of GenerationParams, told in OpenAPI as the page tells them."""

from __future__ import annotations

import msgspec
import pytest

from dgemma.config.params import PARAMS
from dgemma.server.schema.canvas import CanvasRequest
from dgemma.server.schema.openai import ChatRequest, CompletionRequest

FIELDS = {name for name, param in PARAMS.items() if param.field}


@pytest.mark.parametrize("struct", [ChatRequest, CompletionRequest, CanvasRequest])
def test_a_body_has_a_field_for_every_parameter(struct: type[msgspec.Struct]) -> None:
    assert set(struct.__struct_fields__) >= FIELDS
    assert {name for name in struct.__struct_fields__ if name in PARAMS} - FIELDS <= {
        "logprobs",
        "top_logprobs",
    }


def test_openapi_tells_what_a_parameter_does() -> None:
    _, components = msgspec.json.schema_components([ChatRequest])
    properties = components["ChatRequest"]["properties"]
    for name in ("top_p", "max_denoising_steps", "bad_words", "regex"):
        assert properties[name]["description"] == PARAMS[name].help
    assert not components["ChatRequest"]["additionalProperties"]


def test_what_is_no_field_is_refused_by_name() -> None:
    with pytest.raises(msgspec.ValidationError, match="nonesuch"):
        msgspec.json.decode(b'{"messages": [], "nonesuch": 1}', type=ChatRequest)
