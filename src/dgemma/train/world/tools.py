"""Families with tools: which one to call with which arguments, and what to say about its result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import names
from .checks import Exact
from .draw import PARAPHRASES, WORDS, Draw
from .example import Example, ask_call, assistant, call_message, result_message, user
from .families import FAMILIES, family
from .words import JOBS, NOUNS

Schema = Mapping[str, str]  # parameter -> type


def declare(name: str, parameters: Schema, description: str) -> dict[str, Any]:
    """A tool's declaration in the OpenAI shape."""
    schema = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in parameters.items()},
        "required": list(parameters),
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


@dataclass(frozen=True)
class Use:
    """One use of a tool.

    The question, the arguments that it asks for, the result and what is said about it.
    """

    tool: dict[str, Any]
    question: str
    arguments: dict[str, Any]
    result: Any
    answer: str

    @property
    def name(self) -> str:
        return str(self.tool["function"]["name"])


def _weather(draw: Draw) -> Use:
    city = names.city(draw)
    degrees = draw.number(-9, 35)
    sky = draw.pick(("sunny", "cloudy", "rainy", "windy"))
    said = draw.way(
        "What is the weather in {c}? | How is the weather in {c}? | Weather in {c}? | "
        "What's the weather like in {c}? | Is it cold in {c}? | Tell me the weather in {c}. | "
        "How warm is it in {c}? | Is it raining in {c} today?"
    )
    result = {"temperature": degrees, "sky": sky}
    tool = declare(
        "get_weather",
        {"city": "string"},
        draw.pick(("The weather in a city.", "Get the weather for a city.", "")),
    )
    return Use(
        tool,
        said.replace("{c}", city),
        {"city": city},
        result,
        f"It is {sky} and {degrees} degrees in {city}.",
    )


def _find(draw: Draw) -> Use:
    who = names.person(draw)
    city = names.city(draw)
    said = draw.way(
        "Where does {p} live? | Find {p}. | Find {p} for me. | In which city does {p} live? | "
        "Where is {p} from? | Look up {p}. | Can you find {p}?"
    )
    tool = declare(
        "find_person", {"name": "string"}, draw.pick(("Where a person lives.", "Find a person by name.", ""))
    )
    if draw.chance(0.5):
        result = {"name": who, "city": city}
    else:
        result = {"city": city}
    return Use(tool, said.replace("{p}", who), {"name": who}, result, f"{who} lives in {city}.")


def _timer(draw: Draw) -> Use:
    minutes = draw.number(2, 90)
    said = draw.way(
        "Set a timer for {n} minutes. | Wake me in {n} minutes. | Timer: {n} minutes | "
        "Start a timer of {n} minutes. | Set a {n} minute timer. | I need a timer for {n} minutes. | "
        "Count down {n} minutes."
    )
    tool = declare(
        "set_timer", {"minutes": "integer"}, draw.pick(("Start a timer.", "Set a timer in minutes.", ""))
    )
    return Use(
        tool,
        said.replace("{n}", str(minutes)),
        {"minutes": minutes},
        {"ok": True},
        f"The timer is set for {minutes} minutes.",
    )


def _mail(draw: Draw) -> Use:
    who = names.person(draw)
    word = draw.pick(("hello", "yes", "no", "thanks", "sorry", "welcome"))
    said = draw.way(
        "Send {p} the message '{t}'. | Send '{t}' to {p}. | Tell {p} '{t}'. | Write '{t}' to {p}. | "
        "Message {p}: '{t}'"
    )
    tool = declare(
        "send_message",
        {"name": "string", "text": "string"},
        draw.pick(("Send a message to a person.", "Send a message.", "")),
    )
    question = said.replace("{p}", who).replace("{t}", word)
    return Use(tool, question, {"name": who, "text": word}, {"ok": True}, f"I sent the message to {who}.")


def _add(draw: Draw) -> Use:
    a = draw.number(100, 999)
    b = draw.number(100, 999)
    name, sign, value = draw.pick((("add", "+", a + b), ("multiply", "*", a * b)))
    said = draw.way(
        "What is {a} {s} {b}? | {a} {s} {b} = | Compute {a} {s} {b}. | Calculate {a} {s} {b}. | "
        "How much is {a} {s} {b}?"
    )
    question = said.replace("{a}", str(a)).replace("{b}", str(b)).replace("{s}", sign)
    tool = declare(
        name, {"a": "integer", "b": "integer"}, draw.pick((f"{name.capitalize()} two numbers.", ""))
    )
    return Use(tool, question, {"a": a, "b": b}, {"value": value}, f"{a} {sign} {b} is {value}.")


def _made(draw: Draw) -> Use:
    """A tool that nobody has seen: the name must be copied from its declaration."""
    verb = draw.pick(("get", "find", "load", "open", "show"))
    if draw.held == WORDS or draw.chance(0.6):
        noun = names.word(draw)
    else:
        noun = draw.pick(NOUNS)
    number = draw.number(1, 99)
    value = names.word(draw)
    said = draw.way(
        "{v} {k} {n}. | {v} the {k} {n}. | {v} {k} number {n}. | Please {l} {k} {n}. | I want to {l} {k} {n}."
    )
    question = (
        said.replace("{v}", verb.capitalize())
        .replace("{l}", verb)
        .replace("{k}", noun)
        .replace("{n}", str(number))
    )
    key = draw.pick(("id", "number"))
    tool = declare(
        f"{verb}_{noun}", {key: "integer"}, f"{verb.capitalize()} a {noun}." if draw.chance(0.5) else ""
    )
    return Use(tool, question, {key: number}, {"value": value}, f"The {noun} {number} is {value}.")


def _made_search(draw: Draw) -> Use:
    if draw.held == WORDS or draw.chance(0.5):
        noun = names.word(draw)
    else:
        noun = draw.pick(JOBS)
    city = names.city(draw)
    value = names.person(draw)
    said = draw.way(
        "Find a {k} in {c}. | Is there a {k} in {c}? | Search for a {k} in {c}. | I need a {k} in {c}. | "
        "Which {k} is in {c}?"
    )
    question = said.replace("{k}", noun).replace("{c}", city)
    tool = declare(
        "search", {"city": "string", "query": "string"}, "Search in a city." if draw.chance(0.5) else ""
    )
    return Use(tool, question, {"city": city, "query": noun}, {"name": value}, f"I found {value} in {city}.")


USES: tuple[Callable[[Draw], Use], ...] = (_weather, _find, _timer, _mail, _add, _made, _made, _made_search)


def a_use(draw: Draw) -> tuple[Use, list[dict[str, Any]]]:
    """A use, and the tools that are declared: its own, sometimes with one or two others."""
    use = draw.pick(USES)(draw)
    tools = [use.tool]
    shown = draw.shown
    for _ in range(draw.pick((0, 0, 1, 1, 2))):
        other = draw.pick(USES)(draw).tool
        if all(other["function"]["name"] != tool["function"]["name"] for tool in tools):
            tools.insert(draw.number(0, len(tools)), other)
    draw.shown = shown  # a hold-out must be in the question, not in a tool that nobody calls
    return use, tools


@family("tool_call", weight=3, holdouts=(WORDS, PARAPHRASES))
def tool_call(draw: Draw) -> Example:
    """A question that a tool can answer: the call."""
    use, tools = a_use(draw)
    return ask_call([user(draw.dress(use.question))], tools, use.name, use.arguments)


@family("tool_unused", weight=1, holdouts=(WORDS, PARAPHRASES))
def tool_unused(draw: Draw) -> Example:
    """A question that none of the tools is for, answered as if there were no tools."""
    tools = a_use(Draw(draw.rng))[1]
    other = FAMILIES[
        draw.pick(("talk", "classify", "reword") if draw.held == WORDS else ("talk", "facts", "classify"))
    ]
    return replace(other.make(draw), tools=tuple(tools))


@family("tool_answer", weight=2, holdouts=(WORDS, PARAPHRASES))
def tool_answer(draw: Draw) -> Example:
    """The whole exchange: the call, its result and the answer."""
    use, tools = a_use(draw)
    result = result_message(use.name, json.dumps(use.result, ensure_ascii=False))
    messages = (
        user(draw.dress(use.question)),
        call_message(use.name, use.arguments),
        result,
        assistant(use.answer),
    )
    return Example(use.answer, Exact(use.answer), messages, tuple(tools))
