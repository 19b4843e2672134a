"""litellm, the router that agents and proxies call: a chat, its stream, a gap, responses, tools, and the other dialects."""

from __future__ import annotations

import json

import litellm
from plain import ASKED, BOUNDS, LOOKUP, URL, told

litellm.suppress_debug_info = True
HERE = {"api_base": f"{URL}/v1", "api_key": "none"}

want = told()
whole = litellm.completion("openai/dgemma", ASKED, **BOUNDS, **HERE)
assert whole.choices[0].message.content == want and want, whole
pieces = list(
    litellm.completion(
        "openai/dgemma", ASKED, stream=True, stream_options={"include_usage": True}, **BOUNDS, **HERE
    )
)
assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == want, pieces
assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens, pieces[-1]
assert (
    litellm.completion("ollama_chat/dgemma", ASKED, api_base=URL, **BOUNDS).choices[0].message.content == want
)
message = litellm.completion("anthropic/dgemma", ASKED, api_base=URL, api_key="none", max_tokens=48)
assert message.usage.prompt_tokens == whole.usage.prompt_tokens, message
reply = litellm.responses(model="openai/dgemma", input=ASKED, max_output_tokens=48, **HERE)
assert reply.output[0].content[0].text and reply.usage.input_tokens == whole.usage.prompt_tokens, reply
gap = litellm.text_completion(
    model="text-completion-openai/dgemma", prompt="def area(r):\n", suffix="\n\n", **BOUNDS, **HERE
)
assert gap.choices[0].text, gap

asked = {"model": "openai/dgemma", "tools": [LOOKUP], **BOUNDS, **HERE}
turn = litellm.completion(
    messages=ASKED, tool_choice={"type": "function", "function": {"name": "lookup"}}, **asked
).choices[0]
call = turn.message.tool_calls[0]
assert turn.finish_reason == "tool_calls" and isinstance(json.loads(call.function.arguments)["name"], str), (
    turn
)
result = {"role": "tool", "tool_call_id": call.id, "content": "Remove common leading whitespace."}
after = litellm.completion(messages=[*ASKED, turn.message.model_dump(), result], **asked)
assert after.usage.prompt_tokens > whole.usage.prompt_tokens and after.choices[0].message, after
