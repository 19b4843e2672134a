"""pydantic-ai, over OpenAI's and Anthropic's dialects: answers of a type by a tool and by a schema, a tool that is run, a stream."""

from __future__ import annotations

import asyncio
from typing import Literal

from plain import URL
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Function(BaseModel):
    name: str = Field(max_length=12)
    kind: Literal["pure", "effect"]


async def ask(model: Model, outputs: list[object], **settings: object) -> None:
    asked = {"max_tokens": 128, **settings}
    for output in outputs:
        found = await Agent(model, output_type=output, model_settings=asked, retries=0).run(
            "def area(r): return 3 * r * r"
        )
        assert isinstance(found.output, Function) and found.usage.output_tokens > 0, found
    agent = Agent(model, model_settings=asked, instructions="Write Python.")
    whole = (await agent.run("Write def area(r)")).output
    async with agent.run_stream("Write def area(r)") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    assert whole and "".join(pieces), (whole, pieces)
    assert "seed" not in settings or "".join(pieces) == whole, (whole, pieces)


async def main() -> None:
    openai = OpenAIChatModel("dgemma", provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none"))
    await ask(openai, [ToolOutput(Function), NativeOutput(Function)], seed=3)
    anthropic = AnthropicModel("dgemma", provider=AnthropicProvider(base_url=URL, api_key="none"))
    await ask(anthropic, [ToolOutput(Function)])  # messages have no seed


asyncio.run(main())
