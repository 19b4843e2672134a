"""langchain's chat models of three dialects: text and its stream, a tool that must be called, its result, an answer of a type."""

from __future__ import annotations

from typing import Literal

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from plain import ASKED, URL
from pydantic import BaseModel, Field

QUESTION = HumanMessage(ASKED[0]["content"])


class Function(BaseModel):
    """A function."""

    name: str = Field(max_length=12)
    kind: Literal["pure", "effect"]


@tool
def lookup(name: Literal["textwrap.dedent", "os.path.join"]) -> str:
    """The summary of a function of the standard library."""
    return f"{name}: remove common leading whitespace."


def ask(model: BaseChatModel, methods: list[str], can_force: bool = True, has_seed: bool = True) -> None:
    whole = model.invoke([QUESTION])
    assert whole.content and whole.usage_metadata["output_tokens"] > 0, whole
    pieces = [piece.text for piece in model.stream([QUESTION])]
    assert "".join(pieces) == whole.text or not has_seed, (pieces, whole)
    for method in methods:
        found = model.with_structured_output(Function, method=method).invoke([QUESTION])
        assert isinstance(found, Function), found
    if not can_force:
        return
    turn = model.bind_tools([lookup], tool_choice="lookup").invoke([QUESTION])
    [call] = turn.tool_calls
    result = lookup.invoke(call)
    assert isinstance(result, ToolMessage) and "whitespace" in result.content, result
    after = model.bind_tools([lookup]).invoke([QUESTION, turn, result])
    assert after.usage_metadata["input_tokens"] > whole.usage_metadata["input_tokens"], after


OPENAI = {"model": "dgemma", "base_url": f"{URL}/v1", "api_key": "none", "max_retries": 0, "max_tokens": 96}
ask(ChatOpenAI(seed=3, **OPENAI), ["json_schema", "function_calling"])
ask(ChatOpenAI(use_responses_api=True, extra_body={"seed": 3}, **OPENAI), ["json_schema", "function_calling"])
ask(
    ChatAnthropic(model="dgemma", base_url=URL, api_key="none", max_retries=0, max_tokens=96),
    ["function_calling"],
    has_seed=False,
)
ask(ChatOllama(model="dgemma", base_url=URL, num_predict=96, seed=3), ["json_schema"], can_force=False)
