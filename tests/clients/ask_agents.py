"""openai-agents, over chat completions and over responses: a tool that must be called and is, an answer of a type, a stream."""

from __future__ import annotations

import asyncio
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from plain import URL
from pydantic import BaseModel, Field

set_tracing_disabled(True)
CLIENT = AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
SETTINGS = ModelSettings(max_tokens=96, extra_body={"seed": 3})
CALLED: list[str] = []


class Function(BaseModel):
    name: str = Field(max_length=12)
    kind: Literal["pure", "effect"]


@function_tool
def lookup(name: Literal["textwrap.dedent", "os.path.join"]) -> str:
    """The summary of a function of the standard library."""
    CALLED.append(name)
    return "Remove common leading whitespace."


async def ask(model: OpenAIChatCompletionsModel | OpenAIResponsesModel) -> None:
    forced = SETTINGS.resolve(ModelSettings(tool_choice="required", parallel_tool_calls=False))
    agent = Agent(
        name="helper",
        instructions="Use the tool.",
        model=model,
        tools=[lookup],
        model_settings=forced,
        tool_use_behavior="stop_on_first_tool",
    )
    CALLED.clear()
    result = await Runner.run(agent, "What does dedent do?")
    assert CALLED and result.final_output == "Remove common leading whitespace.", result

    typed = Agent(
        name="typed",
        instructions="Describe the function.",
        model=model,
        output_type=Function,
        model_settings=SETTINGS,
    )
    found = (await Runner.run(typed, "def area(r): return 3 * r * r")).final_output
    assert isinstance(found, Function) and found.kind in ("pure", "effect"), found

    plain = Agent(name="plain", instructions="Write Python.", model=model, model_settings=SETTINGS)
    whole = (await Runner.run(plain, "Write def area(r)")).final_output
    stream = Runner.run_streamed(plain, "Write def area(r)")
    kinds = [event.type async for event in stream.stream_events()]
    assert "raw_response_event" in kinds and stream.final_output == whole, (kinds, stream.final_output, whole)


for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
    asyncio.run(ask(kind("dgemma", CLIENT)))
    CLIENT = AsyncOpenAI(
        base_url=f"{URL}/v1", api_key="none", max_retries=0
    )  # its connections belong to the loop that ended
