"""The closed word lists: plain vocabulary, each word frequent enough to become one token.

A word that the model must write belongs here. A word that it only reads (topics to refuse, for instance) does
not, and may be rare. Trap: adding a word costs a place among some 1,700; every list below is used by several
families for that reason.
"""

from __future__ import annotations

COLORS = tuple("red blue green yellow black white brown gray pink purple".split())
THINGS = tuple("ball book cup hat key lamp box map coin bag ring kite drum spoon letter clock".split())
ANIMALS = tuple("cat dog horse bird fox mouse rabbit duck bear cow sheep fish".split())
FRUITS = tuple("apple pear plum grape lemon melon peach cherry banana orange".split())
PLACES = tuple("park school kitchen garden market library station forest house shop".split())
JOBS = tuple(
    """
    nurse teacher baker pilot farmer doctor painter driver cook singer writer lawyer
    """.split()
)

# for identifiers: what programs name
NOUNS = tuple(
    """
    value item number name score price weight height count total size rate level point user file line page
    data result
    """.split()
)
ARGUMENTS = {
    "numbers": tuple("numbers values items data scores prices nums xs lst points sizes".split()),
    "words": tuple("words names items lines texts strings tags".split()),
}

# (present, past): he carries, he carried
VERBS = (
    ("carries", "carried"),
    ("finds", "found"),
    ("loses", "lost"),
    ("wants", "wanted"),
    ("paints", "painted"),
    ("buys", "bought"),
    ("sells", "sold"),
    ("likes", "liked"),
    ("sees", "saw"),
    ("takes", "took"),
)

PLURALS = {
    "mouse": "mice",
    "fish": "fish",
    "sheep": "sheep",
    "box": "boxes",
    "fox": "foxes",
    "peach": "peaches",
    "cherry": "cherries",
}


def plural(noun: str) -> str:
    return PLURALS.get(noun, f"{noun}s")


def with_article(noun: str) -> str:
    if noun[0] in "aeiou":
        return f"an {noun}"
    return f"a {noun}"


_BASES = {
    "multiplies": "multiply",
    "does": "do",
    "reverses": "reverse",
    "merges": "merge",
    "squares": "square",
    "doubles": "double",
    "removes": "remove",
    "capitalizes": "capitalize",
}


def imperative(does: str) -> str:
    """ "returns the sum" -> "Return the sum"."""
    verb, _, rest = does.partition(" ")
    base = _BASES.get(verb) or (verb[:-2] if verb.endswith(("shes", "ches")) else verb[:-1])
    return f"{base.capitalize()} {rest}".rstrip()
