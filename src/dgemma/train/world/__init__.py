"""A small world by program: unlimited conversations, code, edits, tables, tools and decisions with exact
answers.

    world = World(seed=0)
    example = world.sample()
    judge([example.check], [example.answer])    # [True]

Each module holds one idea: `families` registers what there is, `draw` keeps the hold-outs, `checks` judges
answers. No text of others is in here: word lists are plain vocabulary, code and sentences are written by
rules.
"""

from __future__ import annotations

from . import (  # noqa: F401  (each registers its families)
    classics,
    code_edit,
    code_write,
    conversations,
    decide,
    documents,
    english,
    facts,
    files,
    german,
    lists,
    records,
    refuse,
    stories,
    tables,
    tools,
)
from .checks import judge, written_call
from .draw import HOLDOUTS
from .example import Example
from .families import FAMILIES, Family
from .world import World

__all__ = ["FAMILIES", "HOLDOUTS", "Example", "Family", "World", "judge", "written_call"]
