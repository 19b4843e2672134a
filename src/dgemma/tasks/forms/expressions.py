"""Regular expressions in Rust's notation, as llguidance reads them, made languages.

Reads what has one meaning: classes, groups, alternatives, counts, flags, Unicode categories, and the anchors
`^` and `$` where a text begins and ends. Refuses the rest with Unread: a form with such an expression is kept
all the same, but its end is not known from here. Beyond ASCII every character may be of any category: tables
of Unicode differ, and the library has the last word.
"""

from __future__ import annotations

from collections.abc import Callable

from .characters import (
    BEYOND_ASCII,
    DIGITS,
    LAST,
    SPACE,
    UNICODE_SPACE,
    WORD,
    Ranges,
    common,
    either_case,
    encoded,
    inverse,
    property_of,
    quoted,
    union,
)
from .language import Expression, Language

MOST_NESTED = 50
POSIX: dict[str, Ranges] = {
    "alnum": [(48, 57), (65, 90), (97, 122)],
    "alpha": [(65, 90), (97, 122)],
    "ascii": [(0, 127)],
    "blank": [(9, 9), (32, 32)],
    "cntrl": [(0, 31), (127, 127)],
    "digit": DIGITS,
    "graph": [(33, 126)],
    "lower": [(97, 122)],
    "print": [(32, 126)],
    "punct": [(33, 47), (58, 64), (91, 96), (123, 126)],
    "space": SPACE,
    "upper": [(65, 90)],
    "word": WORD,
    "xdigit": [(48, 57), (65, 70), (97, 102)],
}
NAMED = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "a": 7, "0": 0}
CATEGORIES = {
    "Letter": "L",
    "Uppercase_Letter": "Lu",
    "Lowercase_Letter": "Ll",
    "Uppercase": "Lu",
    "Lowercase": "Ll",
    "Number": "N",
    "Decimal_Number": "Nd",
    "Mark": "M",
    "Punctuation": "P",
    "Symbol": "S",
    "Separator": "Z",
    "Alphabetic": "L",
}


class Unread(Exception):
    """An expression or a schema has something in it that is not read here."""


def expression(
    language: Language, pattern: str, *, in_json: bool = False, search: bool = False, ascii_only: bool = False
) -> Expression:
    """The language of a pattern.

    in_json: as its texts are written inside a JSON string; search: anywhere in the text, not only all of it;
    ascii_only: `\\d` and `\\w` mean ASCII, as in JSON schemas. Raises Unread.
    """
    encode = encoded
    if in_json:
        encode = quoted
    reader = _Reader(language, pattern, lambda ranges: encode(language, ranges), ascii_only)
    try:
        branches = reader.read()
    except RecursionError:
        raise Unread("nested too deeply") from None
    anything = language.repeat(encode(language, [(0, LAST)]))
    parts = []
    for starts, body, ends in branches:
        before = anything
        if starts or not search:
            before = language.empty
        behind = anything
        if ends or not search:
            behind = language.empty
        parts.append(language.sequence(before, body, behind))
    return language.choice(*parts)


Branch = tuple[bool, Expression, bool]  # anchored in front, what it matches, anchored behind
Open = tuple[bool, list[Expression], bool]  # the same while its parts are read


class _Reader:
    """Recursive descent over one pattern."""

    def __init__(
        self, language: Language, pattern: str, encode: Callable[[Ranges], Expression], ascii_only: bool
    ):
        self.language = language
        self.pattern = pattern
        self.encode = encode
        self.ascii_only = ascii_only
        self.place = 0
        self.nested = 0
        self.flags: frozenset[str] = frozenset()

    def read(self) -> list[Branch]:
        branches = self._alternatives()
        if self.place < len(self.pattern):
            raise Unread("a bracket too many")
        return branches

    def _peek(self) -> str:
        return self.pattern[self.place : self.place + 1]

    def _next(self) -> str:
        letter = self._peek()
        if not letter:
            raise Unread("ends too early")
        self.place += 1
        return letter

    def _skip(self, text: str) -> bool:
        if self.pattern.startswith(text, self.place):
            self.place += len(text)
            return True
        return False

    def _alternatives(self) -> list[Branch]:
        before = self.flags
        branches = self._branch()
        while self._skip("|"):
            branches += self._branch()
        self.flags = before
        alike: dict[tuple[bool, bool], list[Expression]] = {}
        for starts, body, ends in branches:
            alike.setdefault((starts, ends), []).append(body)
        return [(starts, self.language.choice(*bodies), ends) for (starts, ends), bodies in alike.items()]

    def _branch(self) -> list[Branch]:
        """What stands between two bars; several where a group is anchored in some of its alternatives."""
        branches: list[Open] = [(False, [], False)]
        while self._peek() not in ("", "|", ")"):
            item = self._item()
            longer: list[Open] = []
            for branch in branches:
                longer += self._append(branch, item)
            branches = longer
            if len(branches) > 64:
                raise Unread("too many alternatives with anchors")
        return [(starts, self.language.sequence(*parts), ends) for starts, parts, ends in branches]

    def _append(self, branch: Open, item: list[Branch]) -> list[Open]:
        starts, parts, ends = branch
        longer = []
        for item_starts, body, item_ends in item:
            if ends and body is not self.language.empty:
                raise Unread("text behind the end of the text")
            if item_starts and any(part is not self.language.empty for part in parts):
                raise Unread("text before the start of the text")
            grown = parts
            if len(item) != 1:
                grown = [*parts]
            grown.append(body)
            longer.append((starts or item_starts, grown, ends or item_ends))
        return longer

    def _item(self) -> list[Branch]:
        """A character, class, anchor or group, with its count."""
        letter = self._next()
        if letter == "^" or (letter == "\\" and self._peek() == "A"):
            self.place += letter == "\\"
            return [(True, self.language.empty, False)]
        if letter == "$" or (letter == "\\" and self._peek() == "z"):
            self.place += letter == "\\"
            return [(False, self.language.empty, True)]
        if letter == "(":
            branches = self._group()
        else:
            branches = [(False, self._character(letter), False)]
        return self._counted(branches)

    def _counted(self, branches: list[Branch]) -> list[Branch]:
        while self._peek() and (self._peek() in "*+?" or self._peek() == "{"):
            least, most = self._count()
            if any(starts or ends for starts, _, ends in branches):
                raise Unread("an anchor in a group with a count")
            body = self.language.choice(*(body for _, body, _ in branches))
            branches = [(False, self.language.repeat(body, least, most), False)]
        return branches

    def _count(self) -> tuple[int, int | None]:
        letter = self._next()
        if letter == "{":
            text = self.pattern[self.place : self.pattern.find("}", self.place)]
            self.place += len(text) + 1
            low, comma, high = text.partition(",")
            if not low.strip().isdecimal() or (high.strip() and not high.strip().isdecimal()):
                raise Unread("a count that is no number")
            least = int(low)
            most: int | None = least
            if comma:
                most = None
                if high.strip():
                    most = int(high)
        else:
            least = int(letter == "+")
            most = None
            if letter == "?":
                most = 1
        self._skip("?")  # lazy: the same texts
        return least, most

    def _group(self) -> list[Branch]:
        self.nested += 1
        if self.nested > MOST_NESTED:
            raise Unread("nested too deeply")
        before = self.flags
        if self._skip("?") and self._opened():
            return [(False, self.language.empty, False)]  # flags for what follows
        branches = self._alternatives()
        if self._next() != ")":
            raise Unread("a group that is not closed")
        self.flags = before
        self.nested -= 1
        return branches

    def _opened(self) -> bool:
        """Read what stands behind `(?`. -> whether it was all of the group."""
        if self._skip("P<") or (
            self._peek() == "<" and self.pattern[self.place + 1 : self.place + 2] not in ("=", "!")
        ):
            self.place = self.pattern.find(">", self.place) + 1
            if not self.place:
                raise Unread("a name that is not closed")
            return False
        flags = set(self.flags)
        on = True
        while (letter := self._next()) not in ":)":
            if letter == "-":
                on = False
            elif letter not in "imsuUx" or letter in "mx":
                raise Unread("a flag or an assertion that is not read")
            elif on:
                flags.add(letter)
            else:
                flags.discard(letter)
        self.flags = frozenset(flags)
        self.nested -= letter == ")"
        return letter == ")"

    def _character(self, letter: str) -> Expression:
        if letter == "." and "s" in self.flags:
            return self.encode([(0, LAST)])
        if letter == ".":
            return self.encode(inverse([(10, 10)]))
        if letter == "[":
            ranges = self._class()
        elif letter == "\\":
            ranges = self._escape()
        elif letter in "*+?{":
            raise Unread("a count of nothing")
        else:
            ranges = [(ord(letter), ord(letter))]
        if "i" in self.flags:
            ranges = either_case(ranges)
        return self.encode(ranges)

    def _escape(self) -> Ranges:
        letter = self._next()
        if letter.lower() in "dws":
            return self._perl(letter)
        if letter == "p":
            return self._category()
        if letter == "P":
            return union(inverse(self._category()), [BEYOND_ASCII])
        if letter in "xuU":
            return self._code({"x": 2, "u": 4, "U": 8}[letter])
        if letter in NAMED:
            return [(NAMED[letter], NAMED[letter])]
        if letter.isalnum():
            raise Unread("an escape that is not read")
        return [(ord(letter), ord(letter))]

    def _perl(self, letter: str) -> Ranges:
        ranges = {"d": DIGITS, "w": WORD, "s": UNICODE_SPACE}[letter.lower()]
        if letter.isupper():
            return inverse(ranges)
        if letter == "s" or self.ascii_only:
            return ranges
        return [*ranges, BEYOND_ASCII]

    def _category(self) -> Ranges:
        name = self._next()
        if name == "{":
            end = self.pattern.find("}", self.place)
            name = self.pattern[self.place : end]
            self.place = end + 1
        return property_of(CATEGORIES.get(name, name))

    def _code(self, digits: int) -> Ranges:
        if self._skip("{"):
            text = self.pattern[self.place : self.pattern.find("}", self.place)]
            self.place += len(text) + 1
        else:
            text = self.pattern[self.place : self.place + digits]
            self.place += digits
        try:
            code = int(text, 16)
        except ValueError:
            raise Unread("a code that is no number") from None
        return [(code, code)]

    def _class(self) -> Ranges:
        """A class, opened; `&&`: what both sides hold; `--`: the left without the right."""
        negative = self._skip("^")
        ranges: Ranges = []
        first = True
        while first or self._peek() != "]":
            if self._skip("&&"):
                ranges = common(ranges, self._rest_of_class())
                break
            if self._skip("--"):
                ranges = common(ranges, inverse(self._rest_of_class()))
                break
            ranges = union(ranges, self._member(first))
            first = False
        if self._next() != "]":
            raise Unread("a class that is not closed")
        if negative:
            return inverse(ranges)
        return ranges

    def _rest_of_class(self) -> Ranges:
        ranges: Ranges = []
        while self._peek() != "]":
            ranges = union(ranges, self._member(False))
        return ranges

    def _posix_class(self) -> Ranges:
        end = self.pattern.find(":]", self.place)
        name = self.pattern[self.place : end]
        self.place = end + 2
        ranges = POSIX.get(name.removeprefix("^"))
        if end < 0 or ranges is None:
            raise Unread("a class of characters that is not known")
        if name.startswith("^"):
            return inverse(ranges)
        return ranges

    def _of_letter(self, letter: str) -> Ranges:
        if letter == "\\":
            return self._escape()
        return [(ord(letter), ord(letter))]

    def _member(self, first: bool) -> Ranges:
        letter = self._next()
        if letter == "[" and self._skip(":"):
            return self._posix_class()
        if letter == "[":
            return self._class()
        ranges = self._of_letter(letter)
        if len(ranges) == 1 and ranges[0][0] == ranges[0][1] and self._range_follows():
            self.place += 1
            last = self._of_letter(self._next())
            if len(last) != 1 or last[0][0] < ranges[0][0]:
                raise Unread("a range that ends before it begins")
            ranges = [(ranges[0][0], last[0][0])]
        return ranges

    def _range_follows(self) -> bool:
        behind = self.pattern[self.place + 1 : self.place + 2]
        return self._peek() == "-" and behind not in ("", "]", "-")
