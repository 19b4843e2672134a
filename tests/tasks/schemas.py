"""Random JSON schemas that can be satisfied, by construction: every part of one can be, on its own."""

from __future__ import annotations

from hypothesis import strategies as st

PATTERNS = ("^[a-z]+$", "^[A-Z][a-z]{1,6}$", "^[0-9]{4}-[0-9]{2}$", "^(red|green|blue)$", "^#[0-9a-f]{6}$", "^x*y$")
NAMES = st.text("abcdefgh_", min_size=1, max_size=6)
PLAIN = st.none() | st.booleans() | st.integers(-999, 999) | st.text("abc xyz-é", max_size=8)


@st.composite
def strings(draw: st.DrawFn) -> dict:
    if draw(st.booleans()):
        return {"type": "string", "pattern": draw(st.sampled_from(PATTERNS))}
    least = draw(st.integers(0, 5))
    return {"type": "string", "minLength": least, "maxLength": least + draw(st.integers(0, 10))}


@st.composite
def numbers(draw: st.DrawFn) -> dict:
    least = draw(st.integers(-1000, 1000))
    kind = draw(st.sampled_from(("integer", "number")))
    bounds = {"minimum": least, "maximum": least + draw(st.integers(1, 500))}
    return {"type": kind} | (bounds if draw(st.booleans()) else {})


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[dict]) -> dict:
    properties = draw(st.dictionaries(NAMES, inner, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[dict]) -> dict:
    least = draw(st.integers(0, 3))
    return {"type": "array", "items": draw(inner), "minItems": least, "maxItems": least + draw(st.integers(0, 3))}


def schemas() -> st.SearchStrategy[dict]:
    """Objects, arrays, strings, numbers, enumerations, constants, alternatives, nested."""
    leaves = (
        strings() | numbers() | st.just({"type": "boolean"}) | st.just({"type": "null"})
        | st.lists(PLAIN, min_size=1, max_size=4).map(lambda values: {"enum": values}) | PLAIN.map(lambda value: {"const": value})
    )  # fmt: skip
    return st.recursive(
        leaves,
        lambda inner: objects(inner) | arrays(inner) | st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some}),
        max_leaves=8,
    )
