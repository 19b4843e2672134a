"""scripts/style.py counts what it says: each figure by a source that has it and one that has not."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

STYLE = runpy.run_path(str(Path(__file__).resolve().parents[1] / "scripts" / "style.py"))


def measures(text: str) -> dict[str, float]:
    return STYLE["figures_of"](text).measures()


def test_comments_and_docstrings_are_no_code() -> None:
    figures = STYLE["figures_of"](
        '"""Words\n\nand words."""\n\n\ndef f(x):\n    """More."""\n    return x  # words\n'
    )
    assert (figures.tokens, figures.lines) == (8, 2)
    assert STYLE["figures_of"]("x = 'a text'\n").tokens == 3


def test_each_figure_counts_its_fault() -> None:
    calm = measures("x = 1\n")
    assert (calm["conditionals"], calm["assignments"], calm["long"], calm["private"]) == (0, 0, 0, 0)
    assert measures("x = 1 if y else 2\n")["conditionals"] == 1000
    assert measures("x, y = 1, 2\n")["assignments"] == 1000
    assert measures("x, y = pair\n")["assignments"] == 0
    assert measures(f"x = {'1' * 111}\n")["long"] == 1


def test_private_words_count_where_they_are_bound() -> None:
    source = "def told(asked, *, x):\n    found = x.found\n    self._own = found\n    for room in x: pass\nclass Deck: pass\n"
    names = sorted(name for name, _ in STYLE["private_names"](ast.parse(source)))
    assert names == ["Deck", "asked", "found", "own", "room", "told"]
    assert not [*STYLE["private_names"](ast.parse("x.found(asked=1)\nfounder = told.x\n"))]
