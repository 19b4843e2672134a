"""Family of files with a gap: program text in which one part is to be filled in place. What stands around it determines it."""

from __future__ import annotations

from . import functions, names
from .checks import Exact, SameResults
from .draw import COMPOSITIONS, WORDS, Draw
from .example import Example, fill
from .families import family
from .functions import LOOPED, Spec


def _functions(draw: Draw) -> list[tuple[Spec, str, str, bool]]:
    """The functions of a file: spec, name, argument, loop. Names differ."""
    made: dict[str, tuple[Spec, str, str, bool]] = {}
    for _ in range(draw.pick((1, 1, 2, 2, 3))):
        spec = functions.spec(draw)
        name = names.identifier(draw) if draw.held == WORDS or draw.chance(0.25) else spec.name
        made[name] = spec, name, names.argument(draw, spec.kind), spec.fold in LOOPED and draw.chance(0.3)
    return list(made.values())


@family("gap", weight=6, holdouts=(WORDS, COMPOSITIONS))
def gap(draw: Draw) -> Example:
    """A body, a part of a line, a docstring, or the end of a file."""
    made = _functions(draw)
    texts = [spec.code(name, argument, loop, doc=True) for spec, name, argument, loop in made]
    place = draw.number(0, len(made) - 1)
    spec, name, argument, loop = made[place]
    before = "".join(f"{text}\n\n\n" for text in texts[:place])
    after = "\n" + "".join(f"\n\n{text}\n" for text in texts[place + 1 :])
    lines = texts[place].split("\n")
    how = draw.pick(("body", "body", "body", "line", "doc", "part", "part", "end"))
    if how == "end":
        after = ""
    if how == "doc":
        doc = lines[1].strip().strip('"')
        return fill(before + lines[0] + '\n    """', doc, '"""\n' + "\n".join(lines[2:]) + after, Exact(doc))
    first, last = 2, len(lines)
    if how == "line":
        first = draw.number(2, len(lines) - 1)
        last = first + 1
    start, end = "\n".join(lines[:first]) + "\n", "\n".join(["", *lines[last:]])
    answer = "\n".join(lines[first:last])
    if how == "part":
        start, answer = _part(draw, start, answer)
    check = SameResults(spec.code(name, argument), name, spec.inputs(), before + start, (end if last < len(lines) else "") + after)
    return fill(before + start, answer, (end if last < len(lines) else "") + after, check)


def _part(draw: Draw, start: str, answer: str) -> tuple[str, str]:
    """Begin the gap inside the first line of the answer, behind one of its words."""
    first = answer.split("\n")[0]
    ends = [place for place, sign in enumerate(first) if sign in " (" and place > 4 and first[:place].strip()]
    cut = draw.pick(ends) + 1 if ends else 0
    return start + answer[:cut], answer[cut:]
