"""Families of texts with a gap: program files and small texts in which one part is to be filled in place.

What stands around a gap determines it: the docstring a body, the body a docstring, the text its data.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from . import facts
from .checks import Check, Exact, SameResults
from .draw import COMPOSITIONS, PAIRS, WORDS, Draw
from .example import Example, fill
from .families import family
from .functions import a_function
from .german import sentence
from .known import CLASSICS
from .records import KINDS, say


@family("gap", weight=6, holdouts=(WORDS, COMPOSITIONS))
def gap(draw: Draw) -> Example:
    """A file of one to three functions.

    A body, a line, a part of a line, a docstring, or the end is missing.
    """
    functions = {
        function.name: function
        for function in (a_function(draw, doc=1) for _ in range(draw.pick((1, 1, 2, 2, 3))))
    }
    texts = [function.text for function in functions.values()]
    place = draw.number(0, len(texts) - 1)
    check: Callable[..., SameResults] = list(functions.values())[place].check
    if draw.held not in (WORDS, COMPOSITIONS) and draw.chance(0.25):
        classic = draw.pick(CLASSICS)
        texts[place] = classic.code(doc=True)
        check = classic.check
    before = "".join(f"{text}\n\n\n" for text in texts[:place])
    after = "\n" + "".join(f"\n\n{text}\n" for text in texts[place + 1 :])
    lines = texts[place].split("\n")
    how = draw.pick(("body", "body", "body", "line", "doc", "part", "part", "end"))
    if how == "end":
        after = ""
    if how == "doc":
        doc = lines[1].strip().strip('"')
        return fill(before + lines[0] + '\n    """', doc, '"""\n' + "\n".join(lines[2:]) + after, Exact(doc))
    first = 2
    last = len(lines)
    if how == "line":
        first = draw.number(2, len(lines) - 1)
        last = first + 1
    start = before + "\n".join(lines[:first]) + "\n"
    end = after
    if last < len(lines):
        end = "\n".join(["", *lines[last:]]) + after
    answer = "\n".join(lines[first:last])
    if how == "part":
        cut = _inside(draw, answer)
        start = start + answer[:cut]
        answer = answer[cut:]
    return fill(start, answer, end, check(before=start, after=end))


def _inside(draw: Draw, answer: str) -> int:
    """A place inside the first line of the answer, behind one of its words."""
    first = answer.split("\n")[0]
    ends = [
        place
        for place, sign in enumerate(first)
        if sign in " (" and first[:place].strip() and first[place + 1 : place + 2] not in (")", '"')
    ]
    if ends:
        return draw.pick(ends) + 1
    return 0


def _between(text: str, part: str, check: Check | None = None) -> Example:
    """A gap at the last place of a part in a text."""
    start = text.rindex(part)
    return fill(text[:start], part, text[start + len(part) :], check)


@family("text_gap", weight=2, holdouts=(WORDS, PAIRS))
def text_gap(draw: Draw) -> Example:
    """A text whose other half says what is missing.

    A record beside its JSON, a sentence beside its German, a fact.
    """
    how = draw.number(0, 2)
    if draw.held == PAIRS:
        how = draw.number(0, 1)
    if how == 0 or draw.held == WORDS:
        kind = KINDS["order" if draw.held == PAIRS else draw.pick(tuple(KINDS))]
        record = kind.make(draw)
        keys, said = draw.pick(kind.sentences)
        shown = json.dumps({key: record[key] for key in keys}, ensure_ascii=False)
        key = draw.pick([key for key in keys if draw.held != WORDS or key in ("name", "city")] or keys)
        answer = str(record[key])
        if isinstance(record[key], str):
            opening = f'"{key}": "'
        else:
            opening = f'"{key}": '
        text = f"{say(said, record)}\n{shown}\n"
        start = text.rindex(opening + answer) + len(opening)
        return fill(text[:start], answer, text[start + len(answer) :])
    if how == 1:
        pair = sentence(draw)
        return _between(f"English: {pair.english}\nGerman: {pair.german}\n", pair.german)
    lines = [facts.statement(draw) for _ in range(draw.number(1, 3))]
    line, part = draw.pick(lines)
    text = "".join(f"{said}\n" for said, _ in lines)
    start = text.index(line) + line.rindex(part)
    return fill(text[:start], part, text[start + len(part) :])
