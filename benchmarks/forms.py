"""Forms under test: are they called impossible, how long does a step take with them, what does a request
beside them wait?

    python benchmarks/forms.py [--count 1000] [--seed 0] [--csv FILE]

Makes random schemas and regular expressions that some text fits, by construction, with every keyword that is
kept. Each is asked for as a request asks; then three canvases of random logits are decided under it, which is
worse than any model, and what that takes is measured in milliseconds of the processor a step. The last
section runs requests on the checkpoint that comes with the package, one of them beside a form, through the
service's device thread. Needs llguidance. Numbers go into docs/log.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import dgemma
from dgemma.engine import rules
from dgemma.engine.grammar import project
from dgemma.errors import UsageError
from dgemma.server.engine_proxy import EngineProxy
from dgemma.server.worker import Worker
from dgemma.tasks.structured import OutputConstraint, output_constraint

CANVAS, STEPS, CANVASES = 64, 4, 3
FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
PATTERNS = (
    "foo",
    "end$",
    "^ab",
    r"\.py$",
    r"^\S+@\S+$",
    "^.*foo.*$",
    "^[a-z]{2,}x?",
    "a.b",
    "(cat|dog)s",
    r"^\w+( \w+)*$",
    "[0-9]$",
    "^(red|green)$",
    r"^\d{4}-\d{2}$",
    "^[A-Z][a-z]{1,6}$",
    "x{3,5}",
    "^(a|b)*c",
    "[^a-z]",
    r"^#[0-9a-f]{6}$",
    "q.*q",
    "^$|^z+$",
)
SLOW = (
    {
        "json_schema": {
            "type": "object",
            "properties": {"a": {"type": "string", "format": "email"}},
            "required": ["a"],
            "additionalProperties": False,
        }
    },
    {
        "json_schema": {
            "type": "object",
            "properties": {"a": {"type": "string", "pattern": "^.*foo.*$"}},
            "required": ["a"],
        }
    },
    {"json_schema": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2}},
    {"regex": "Thought: [^\\n]*\\nAction: (a|b)\\n"},
)


class Forms:
    """Random forms of one seed."""

    def __init__(self, seed: int):
        self.draw = random.Random(seed)

    def one(self) -> dict[str, Any]:
        if self.draw.random() < 0.3:
            return {"regex": self.regex(3)}
        schema = self.schema(3) | {"$defs": {"d": self.leaf()}}
        return {"json_schema": schema}

    def schema(self, depth: int) -> dict[str, Any]:
        kinds = (
            [self.leaf]
            if depth == 0
            else [self.leaf, self.object, self.map, self.array, self.tuple, self.any_of, self.all_of]
        )
        made = self.draw.choice(kinds)
        return made() if made == self.leaf else made(depth - 1)

    def leaf(self) -> dict[str, Any]:
        kinds = [
            self.string,
            self.string,
            self.string,
            self.number,
            self.number,
            self.value,
            lambda: {"type": "boolean"},
            lambda: {},
        ]
        return self.draw.choice(kinds)()

    def string(self) -> dict[str, Any]:
        kind = self.draw.choice(("pattern", "format", "length", "both", "plain"))
        if kind == "format":
            return {"type": "string", "format": self.draw.choice(FORMATS)}
        made: dict[str, Any] = {"type": "string"}
        if kind in ("pattern", "both"):
            made["pattern"] = self.draw.choice(
                PATTERNS[:5] + PATTERNS[6:11] + PATTERNS[14:17] if kind == "both" else PATTERNS
            )
        if kind in ("length", "both"):
            made["minLength"] = self.draw.randrange(12)
            made["maxLength"] = made["minLength"] + self.draw.randrange(8, 40)
        return made

    def number(self) -> dict[str, Any]:
        made: dict[str, Any] = {"type": self.draw.choice(("integer", "number"))}
        low = self.draw.randrange(-500, 500)
        if self.draw.random() < 0.5:
            made[self.draw.choice(("minimum", "exclusiveMinimum"))] = low
        if self.draw.random() < 0.5:
            made[self.draw.choice(("maximum", "exclusiveMaximum"))] = low + self.draw.randrange(60, 900)
        if self.draw.random() < 0.3:
            made["multipleOf"] = self.draw.choice((2, 3, 7, 10, 25))
        return made

    def value(self) -> dict[str, Any]:
        values = ["red", "green", "a b", "é", 1, -7, 2.5, True, None, {"k": [1]}, ["x"]]
        if self.draw.random() < 0.5:
            return {"const": self.draw.choice(values)}
        return {"enum": self.draw.sample(values, self.draw.randrange(1, 5))}

    def object(self, depth: int) -> dict[str, Any]:
        names = self.draw.sample(
            ["name", "age", "tags", "id", "x_1", "kind", "size"], self.draw.randrange(1, 5)
        )
        properties = {name: self.part(depth) for name in names}
        required = [name for name in names if self.draw.random() < 0.6]
        made = {"type": "object", "properties": properties, "required": required}
        if self.draw.random() < 0.7:
            made["additionalProperties"] = self.draw.choice((False, {"type": "integer"}))
        return made

    def map(self, depth: int) -> dict[str, Any]:
        least = self.draw.randrange(4)
        made = {"type": "object", "additionalProperties": self.part(depth), "minProperties": least}
        if self.draw.random() < 0.5:
            made["maxProperties"] = least + self.draw.randrange(4)
        if self.draw.random() < 0.3:
            made["patternProperties"] = {"^x_": self.part(depth)}
        return made

    def array(self, depth: int) -> dict[str, Any]:
        least = self.draw.choice((0, 1, 2, 3, 20 if depth == 0 else 4))
        made = {"type": "array", "items": self.part(min(depth, 1)), "minItems": least}
        if self.draw.random() < 0.5:
            made["maxItems"] = least + self.draw.randrange(5)
        return made

    def tuple(self, depth: int) -> dict[str, Any]:
        first = [self.part(depth) for _ in range(self.draw.randrange(1, 4))]
        rest = self.draw.choice((False, self.part(0)))
        least = self.draw.randrange(len(first) + 1 if rest is False else 6)
        return {"type": "array", "prefixItems": first, "items": rest, "minItems": least}

    def any_of(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self.part(depth) for _ in range(self.draw.randrange(1, 4))]}

    def all_of(self, depth: int) -> dict[str, Any]:
        one = {"type": "object", "properties": {"a": self.part(depth)}, "required": ["a"]}
        other = {"type": "object", "properties": {"b": self.part(depth)}, "required": ["b"]}
        return {"allOf": [one, other]}

    def part(self, depth: int) -> dict[str, Any]:
        return {"$ref": "#/$defs/d"} if self.draw.random() < 0.1 else self.schema(depth)

    def regex(self, depth: int) -> str:
        if depth == 0:
            return self.draw.choice(
                (
                    "a",
                    "[a-z]+",
                    r"\d{2}",
                    "[^x]",
                    ".",
                    r"\w+",
                    "<b>",
                    "foo",
                    r"\s?",
                    "é",
                    r"[^\n]*\n",
                    r"\p{Lu}",
                )
            )
        a, b = self.regex(depth - 1), self.regex(depth - 1)
        kind = self.draw.choice(("both", "either", "count", "star", "around"))
        if kind == "both":
            return a + b
        if kind == "either":
            return f"({a}|{b})"
        if kind == "count":
            return f"({a}){{{self.draw.randrange(1, 4)},{self.draw.randrange(4, 9)}}}"
        return f"({a})*{b}" if kind == "star" else f"<answer>.*{a}</answer>"


def property_run(
    model: dgemma.Model, count: int, seed: int
) -> tuple[Counter[str], list[float], list[float], list[tuple[str, str]]]:
    """Verdicts, milliseconds to begin a form, milliseconds a step, and the forms that were not kept."""
    verdicts: Counter[str] = Counter()
    begun, steps, lost = [], [], []
    forms, ends = Forms(seed), tuple(model.denoise.eos_token_id or (1,))
    for number in range(count):
        asked = forms.one()
        name, value = next(iter(asked.items()))
        start = time.process_time()
        try:
            made = output_constraint(name, value, model.tokenizer, ends)
        except UsageError as error:
            text = str(error)
            verdict = (
                "not found within N"
                if "was found" in text
                else "refused by the library"
                if "cannot be kept" in text
                else "impossible"
            )
            verdicts[verdict] += 1
            lost.append((verdict, json.dumps(asked)))
            continue
        begun.append(1000 * (time.process_time() - start))
        verdicts["found"] += 1
        try:
            steps += decide(made, model, ends, number)
        except UsageError as error:
            verdicts["lost on the way"] += 1
            lost.append((str(error), json.dumps(asked)))
    return verdicts, begun, steps, lost


def decide(made: Any, model: dgemma.Model, ends: tuple[int, ...], seed: int) -> list[float]:
    """Canvases of random logits under a form, the last one to its end. -> milliseconds of each step."""
    noise = torch.Generator().manual_seed(seed)
    walk, spent = made.begin(), []
    left = max(CANVAS * CANVASES, len(walk.closing()))
    while left > 0 and not walk.ended:
        width = min(CANVAS, left)
        logits = torch.randn(width, model.config.vocab_size, generator=noise)
        for _ in range(STEPS):
            rows = logits + 0.3 * torch.randn(logits.shape, generator=noise)
            start = time.process_time()
            project(walk, rows, left, ends, 0)
            spent.append(1000 * (time.process_time() - start))
        ids = rows.argmax(-1).tolist()
        taken = walk.take(ids)
        assert walk.ended or taken == width, "a canvas left its form"
        left -= width
    assert walk.ended, "an answer was not closed"
    return spent


class Held:
    """Processor time of the device's thread that a form takes: turns of its search, its part of a step."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.thread_time()
            try:
                return fn(*arguments)
            finally:
                self.seconds += time.thread_time() - start

        return call


def beside(model: dgemma.Model, asked: dict[str, Any]) -> tuple[float, float, float, int]:
    """A completion of 64 tokens beside a request with a form.

    -> processor seconds of the device's thread: of the search for the form's end, of the form's part of all
    steps, and of all else; and how many passes there were.
    """
    worker, searched, stepped = Worker(model.engine), Held(), Held()
    worker.start()
    search, step = OutputConstraint._search_on, rules.project
    OutputConstraint._search_on, rules.project = searched.timed(search), stepped.timed(step)
    one = threading.Thread(
        target=lambda: _served(model, worker).generate("Answer:", 96, seed=3, eos_token_id=(1,), **asked)
    )
    try:
        before, start = model.engine.passes, worker.call(time.thread_time)
        one.start()
        _served(model, worker).generate("def area(r):", 64, seed=1)
        one.join()
        seconds = worker.call(time.thread_time) - start
    finally:
        OutputConstraint._search_on, rules.project = search, step
        worker.stop()
    others = seconds - searched.seconds - stepped.seconds
    return searched.seconds, stepped.seconds, others, model.engine.passes - before


def _served(model: dgemma.Model, worker: Worker) -> dgemma.Model:
    import copy

    served = copy.copy(model)
    served.engine = EngineProxy(worker)
    return served


def quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--lost", action="store_true", help="print the forms that were not kept")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = dgemma.load()
    rows: list[tuple[str, str]] = []

    def tell(name: str, value: Any) -> None:
        rows.append((name, str(value)))
        print(f"{name:58} {value}", flush=True)

    verdicts, begun, steps, lost = property_run(model, asked.count, asked.seed)
    for name, count in sorted(verdicts.items()):
        tell(f"of {asked.count} random forms: {name}", count)
    for name, values in (("to begin a form", begun), ("a step on top", steps)):
        for part in (0.5, 0.95, 0.99, 1.0):
            tell(f"{name}, ms of the processor, p{100 * part:g}", f"{quantile(values, part):.1f}")
    for verdict, text in lost if asked.lost else ():
        print(verdict, text, file=sys.stderr)
    compare_beside(model, tell)
    if asked.csv:
        with asked.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("what", "value"), *rows])


def compare_beside(model: dgemma.Model, tell: Callable[[str, Any], None]) -> None:
    beside(model, {"regex": "[a-z]*"})  # warm
    for asked in SLOW:
        search, steps, others, passes = beside(model, asked)
        name = json.dumps(asked)[:40]
        tell(f"held up by the search for {name}", f"{search / (others / passes):.2f} passes")
        each = f"{1000 * steps / passes:.1f} ms of {1000 * (others + steps) / passes:.1f}"
        tell(f"a pass with {name}", each)


if __name__ == "__main__":
    main()
