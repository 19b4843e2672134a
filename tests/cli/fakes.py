"""A model for the command line's tests: events made by hand, everything it was asked noted; no torch."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dgemma.config import DenoiseConfig
from dgemma.config.params import PARAMS
from dgemma.tasks.events import Change, Committed, Decision, Decisions, Draft, Edit, Filling, Generation
from dgemma.tasks.output_parser import OutputParser
from tests.helpers import byte_tokenizer, tiny_raw


def draft(text: str = "ab", canvas: int = 0, step: int = 1, row: int = 0, **changes: Any) -> Draft:
    """A Draft with one position per character: nothing accepted or pinned, half a nat each, ids from 100 on."""
    n = len(text)
    fields = {"pieces": list(text), "accepted": [False] * n, "pinned": [False] * n, "entropy": [0.5] * n,
              "token_ids": list(range(100, 100 + n))} | changes  # fmt: skip
    return Draft(canvas, step, row=row, **fields)


def generation(text: str, **changes: Any) -> Generation:
    fields = {"token_ids": list(range(len(text))), "steps": [2], "finish_reason": "stop", "prompt_tokens": 3, "seed": 0,
              "seconds": 2.0, "first_draft_seconds": 0.1} | changes  # fmt: skip
    return Generation(text, **fields)


def split(params: Any, more: dict[str, Any]) -> tuple[int | None, int, dict[str, Any]]:
    """What a call asks: max_tokens, the seed, and the rest by name."""
    given = {} if params is None else params.given if hasattr(params, "given") else {"max_tokens": params}
    asked = {name: value for name, value in (given | more).items() if value is not None or name not in PARAMS}
    return asked.pop("max_tokens", None), asked.pop("seed", 0), asked


class FakeModel:
    """Answers with given texts, one canvas each: two drafts, then the text. `asked` holds the calls."""

    def __init__(
        self, *texts: str, chat_tuned: bool = False, gap: str = "GAP", error: Exception | None = None
    ):
        self.texts, self.chat_tuned, self.gap, self.error = texts or ("answer",), chat_tuned, gap, error
        self.tokenizer, self.notes, self.denoise = (
            byte_tokenizer(),
            ["vision is not used yet"],
            DenoiseConfig(),
        )
        self.config = SimpleNamespace(canvas_length=64)
        self.info = SimpleNamespace(place="CPU, float32")
        self.asked: list[tuple[Any, ...]] = []

    def stream(self, text: str, params: Any = None, **more: Any):
        self.asked.append(("stream", text, *split(params, more)))
        return self._events()

    def stream_chat(self, messages: Any, params: Any = None, **more: Any):
        self.asked.append(("chat", [dict(message) for message in messages], *split(params, more)))
        return self._events()

    def stream_fill(self, prefix: str, suffix: str, params: Any = None, **more: Any):
        self.asked.append(("fill", prefix, suffix, *split(params, more)[1:]))
        for step in (1, 2):
            for row in range(len(more["widths"])):
                yield draft("pre..post", step=step, row=row)
        self._fail()
        yield Filling(self.gap, True, 8, -0.5, [2], generation(self.gap))

    def stream_edit(self, document: str, instruction: str | None = None, params: Any = None, **more: Any):
        self.asked.append(("edit", document, instruction, *split(params, more)[1:]))
        for canvas in (0, 1):
            yield draft("pre..post", canvas=canvas)
        self._fail()
        spans = more["spans"] or [(0, 1)]
        changes = [Change(start, end, document[start:end], self.gap, True) for start, end in spans]
        yield from changes
        for change in reversed(changes):
            text = document[: change.start] + change.after + document[change.end :]
        yield Edit(document, text, changes, generation(self.gap))

    def decide(self, state: str, questions: Any, instructions: Any = None, **more: Any) -> Decisions:
        self.asked.append(("decide", state, questions, instructions, more))
        answer = Decision("choice", {"a": 0.75, "b": 0.25}, 0.5, choice="a")
        return Decisions({"answer": answer}, 7, more["steps"], more["seed"], 0.01)

    def ids_of(self, text: str) -> list[int]:
        """Ids of a text in which control tokens are written out between bars: "|channel|thought"."""
        ids: list[int] = []
        for n, part in enumerate(text.split("|")):
            ids += [self.tokenizer.special.need(part)] if n % 2 else self.tokenizer.encode(part)
        return ids

    def _events(self):
        ids: list[int] = []
        parser = OutputParser(self.tokenizer)
        for number, text in enumerate(self.texts):
            yield draft("zz", canvas=number, step=1)
            yield draft("az", canvas=number, step=2)
            if number == len(self.texts) - 1:
                self._fail()
            new = self.ids_of(text)
            ids += new
            parts = parser.feed(new) + (parser.finish() if number == len(self.texts) - 1 else [])
            yield Committed(number, self.tokenizer.decode(new), new, 2, parts)
        whole = self.tokenizer.decode(ids)
        yield generation(whole, token_ids=ids, steps=[2] * len(self.texts), notes=["cut at 256 tokens"])

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class Terminal(io.TextIOWrapper):
    """Standard input or output that says it is a terminal."""

    def __init__(self, data: bytes = b""):
        super().__init__(io.BytesIO(data), encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined]


def pipe_in(monkeypatch: Any, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def checkpoint_json(folder: Path) -> Path:
    """A folder with the JSON that is checked before a model is loaded, and no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(tiny_raw(canvas_length=64)))
    (folder / "generation_config.json").write_text('{"max_denoising_steps": 12, "t_min": 0.9, "t_max": 1.5}')
    (folder / "tokenizer.json").write_text("{}")  # asked for, and read by nobody but the model
    return folder


_SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


def remains(written: str, newline_returns: bool = True) -> str:
    """What a terminal of endless height still shows after all that was written: lines, trailing blanks off.

    Knows the few sequences that a live display uses, and fails on any other.
    """
    lines, row, column = [""], 0, 0
    assert "".join(match[0] for match in _SEQUENCE.finditer(written)) == written, "unknown control sequence"
    for match in _SEQUENCE.finditer(written):
        argument, command, back, newline, text = match.groups()
        if text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        elif back:
            column = 0
        elif newline:
            row, column = row + 1, 0 if newline_returns else column
            lines += [""] * (row + 1 - len(lines))
        elif command == "A":
            row -= int(argument or 1)
            assert row >= 0, "the cursor left the screen at the top"
        elif command == "K":
            lines[row] = ""
        else:
            assert command in "mhl", f"unknown control sequence {match[0]!r}"
    return "\n".join(line.rstrip() for line in lines).rstrip("\n")
