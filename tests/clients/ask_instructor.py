"""instructor, which makes answers objects: by a schema, and by a tool that must be called; whole and as they grow in a stream."""

from __future__ import annotations

from typing import Literal

import instructor
from openai import OpenAI
from plain import ASKED, URL
from pydantic import BaseModel, Field


class Function(BaseModel):
    name: str = Field(max_length=12)
    arguments: int = Field(ge=0, le=9)
    kind: Literal["pure", "effect"]


for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
    client = instructor.from_openai(OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0), mode=mode)
    asked = {
        "model": "dgemma",
        "messages": ASKED,
        "response_model": Function,
        "max_retries": 0,
        "max_tokens": 96,
        "seed": 3,
    }
    found = client.chat.completions.create(**asked)
    assert isinstance(found, Function) and 0 <= found.arguments <= 9, found
    grown = list(client.chat.completions.create_partial(**asked))
    Function.model_validate(
        grown[-1].model_dump()
    )  # another answer: what is to be filled in parts has another name in the prompt
