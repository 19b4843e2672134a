"""Random JSON schemas that can be satisfied, by construction: every part of one can be, on its own."""

from __future__ import annotations

from hypothesis import strategies as st

PATTERNS = (
    "^[a-z]+$",
    "^[A-Z][a-z]{1,6}$",
    "^[0-9]{4}-[0-9]{2}$",
    "^(red|green|blue)$",
    "^#[0-9a-f]{6}$",
    "^x*y$",
)
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
    return {
        "type": "array",
        "items": draw(inner),
        "minItems": least,
        "maxItems": least + draw(st.integers(0, 3)),
    }


def schemas() -> st.SearchStrategy[dict]:
    """Objects, arrays, strings, numbers, enumerations, constants, alternatives, nested."""
    leaves = (
        strings() | numbers() | st.just({"type": "boolean"}) | st.just({"type": "null"})
        | st.lists(PLAIN, min_size=1, max_size=4).map(lambda values: {"enum": values}) | PLAIN.map(lambda value: {"const": value})
    )  # fmt: skip
    return st.recursive(
        leaves,
        lambda inner: (
            objects(inner)
            | arrays(inner)
            | st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some})
        ),
        max_leaves=8,
    )


SEARCHED = (
    "foo",
    "end$",
    "\\.py$",
    "^\\S+@\\S+$",
    "^[a-z]{2,}x?",
    "a.b",
    "(cat|dog)s",
    "^\\w+( \\w+)*$",
    "[0-9]$",
)
KEPT = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")


@st.composite
def wide_strings(draw: st.DrawFn) -> dict:
    """With a pattern that is looked for anywhere, a format, a length, or a pattern and a length that leaves room for it."""
    kind = draw(st.sampled_from(("pattern", "format", "length", "both")))
    if kind == "format":
        return {"type": "string", "format": draw(st.sampled_from(KEPT))}
    least = draw(st.integers(0, 12))
    length = {"minLength": least, "maxLength": least + draw(st.integers(6, 20))} if kind != "pattern" else {}
    return (
        {"type": "string"}
        | length
        | ({"pattern": draw(st.sampled_from(SEARCHED))} if kind != "length" else {})
    )


@st.composite
def wide_numbers(draw: st.DrawFn) -> dict:
    """With bounds on one side or both, open or closed, and multiples that the range has room for."""
    made: dict = {"type": draw(st.sampled_from(("integer", "number")))}
    low = draw(st.integers(-500, 500))
    if draw(st.booleans()):
        made[draw(st.sampled_from(("minimum", "exclusiveMinimum")))] = low
    if draw(st.booleans()):
        made[draw(st.sampled_from(("maximum", "exclusiveMaximum")))] = low + draw(st.integers(60, 900))
    if draw(st.booleans()):
        made["multipleOf"] = draw(st.sampled_from((2, 3, 7, 10, 25)))
    return made


@st.composite
def maps(draw: st.DrawFn, inner: st.SearchStrategy[dict]) -> dict:
    least = draw(st.integers(0, 3))
    return {
        "type": "object",
        "additionalProperties": draw(inner),
        "minProperties": least,
        "maxProperties": least + draw(st.integers(0, 3)),
    }


@st.composite
def tuples(draw: st.DrawFn, inner: st.SearchStrategy[dict]) -> dict:
    first = draw(st.lists(inner, min_size=1, max_size=3))
    rest = draw(st.just(False) | inner)
    least = draw(st.integers(0, len(first) if rest is False else 5))
    return {"type": "array", "prefixItems": first, "items": rest, "minItems": least}


@st.composite
def wide_schemas(draw: st.DrawFn) -> dict:
    """Every keyword that a form may have, nested, with references to a definition."""
    leaves = (
        wide_strings()
        | wide_numbers()
        | strings()
        | numbers()
        | st.just({"type": "boolean"})
        | st.just({})
        | st.just({"$ref": "#/$defs/d"})
    )
    leaves |= st.lists(PLAIN, min_size=1, max_size=4).map(lambda values: {"enum": values}) | PLAIN.map(
        lambda value: {"const": value}
    )
    nested = st.recursive(
        leaves,
        lambda inner: objects(inner) | arrays(inner) | maps(inner) | tuples(inner)
        | st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some}),
        max_leaves=8,
    )  # fmt: skip
    return draw(nested) | {"$defs": {"d": draw(wide_strings() | wide_numbers() | st.just({"type": "null"}))}}


def regexes() -> st.SearchStrategy[str]:
    """Expressions over a few letters, which Python's `re` reads as well and which some text matches."""
    leaves = st.sampled_from(("a", "b", "c", "[ab]", "[^a]", ".", "\\.", "abc"))
    return st.recursive(
        leaves,
        lambda inner: st.tuples(inner, inner).map("".join) | st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})")
        | st.tuples(inner, st.sampled_from(("*", "+", "?", "{2}", "{1,3}", "{2,}"))).map(lambda two: f"(?:{two[0]}){two[1]}"),
        max_leaves=6,
    )  # fmt: skip
