"""Whether an expression that splits text can be slow: it is taken apart, not run.

The library that runs expressions goes back and tries again, so some take a time that doubles with every
character. What is taken here costs at most the square of a run of like characters: a repeat holds one
character or class, or a fixed number of them; an alternative has few choices, and at most one repeat that has
to give characters back. The expressions of GPT-2, cl100k, o200k, Llama 3, Qwen and DeepSeek are such. Trap:
this reads Oniguruma's dialect as far as it must, and refuses what it cannot read.
"""

from __future__ import annotations

from dataclasses import dataclass

LONGEST = 4096  # characters of an expression
MOST_CHOICES = 8  # bits: in how many ways the short repeats and options of an alternative can be taken
MOST_COUNT = 100  # of a count such as {3}; what may be repeated more often counts as without an end
LONGEST_FIXED = 1000  # characters that a counted group stands for
_OPTIONAL = "optional"
_UNBOUNDED = "unbounded"


class _Refused(Exception):
    """Half a sentence: why an expression is not taken."""


@dataclass
class _Item:
    """One element of an alternative.

    can_fail: it may not match where it stands. fixed: it always takes as many characters.
    """

    can_fail: bool
    fixed: bool
    choices: int = 0  # bits of what it may take more or less of
    retries: int = 0  # repeats in it that have to give back
    unbounded: bool = False
    size: int = 1  # characters that it stands for, counted groups written out


def why_slow(expression: str) -> str | None:
    """Half a sentence on why an expression may take too long or is not understood; None where it is taken."""
    if len(expression) > LONGEST:
        return f"it is longer than {LONGEST} characters"
    try:
        parser = _Parser(expression)
        parser.alternatives(0)
        if parser.at < len(expression):
            return f"the bracket at {parser.at} closes nothing"
    except _Refused as refused:
        return str(refused)
    return None


class _Parser:
    """Walks once over an expression; each method leaves `at` behind what it read."""

    def __init__(self, text: str):
        self.text = text
        self.at = 0

    def alternatives(self, depth: int) -> _Item:
        """What stands between `|`, up to a closing bracket or the end."""
        if depth > 20:
            raise _Refused("its groups stand too deep in each other")
        items = [self.sequence(depth)]
        while self.peek() == "|":
            self.at += 1
            items.append(self.sequence(depth))
        several = len(items) > 1
        return _Item(
            can_fail=all(item.can_fail for item in items),
            fixed=not several and items[0].fixed,
            choices=max(item.choices for item in items) + (len(items) - 1).bit_length(),
            retries=max(item.retries for item in items),
            unbounded=any(item.unbounded for item in items),
            size=sum(item.size for item in items),
        )

    def sequence(self, depth: int) -> _Item:
        items: list[_Item] = []
        while (char := self.peek()) and char not in "|)":
            items.append(self.quantified(depth))
        whole = _Item(
            any(item.can_fail for item in items),
            all(item.fixed for item in items),
            size=sum(item.size for item in items),
        )
        for number, item in enumerate(items):
            whole.choices += item.choices
            whole.unbounded |= item.unbounded
            followed = any(later.can_fail for later in items[number + 1 :])
            whole.retries += item.retries + (item.unbounded and followed and not item.retries)
        if whole.choices > MOST_CHOICES:
            raise _Refused("an alternative can be taken in too many ways")
        if whole.retries > 1:
            raise _Refused("an alternative has several repeats that have to give characters back")
        return whole

    def quantified(self, depth: int) -> _Item:
        item = self.atom(depth)
        kind = self.quantifier()
        if kind is None:
            return item
        if isinstance(kind, str):  # _OPTIONAL
            return _Item(False, False, item.choices + 1, item.retries, item.unbounded, item.size)
        least, most = kind
        if not item.fixed:
            raise _Refused("a repeat holds something that may be longer or shorter")
        size = item.size * max(1, least if most is None else most)
        if size > LONGEST_FIXED:
            raise _Refused(f"a counted group stands for more than {LONGEST_FIXED} characters")
        if least == most:
            return _Item(item.can_fail, True, item.choices, item.retries, size=size)
        can_fail = least > 0 and item.can_fail
        if most is None or most > MOST_COUNT:
            return _Item(can_fail, False, item.choices, item.retries, unbounded=True, size=size)
        return _Item(can_fail, False, item.choices + (most - least).bit_length(), item.retries, size=size)

    def quantifier(self) -> str | tuple[int, int | None] | None:
        """What follows an atom: optional, (least, most), or nothing."""
        char = self.peek()
        if char == "?":
            self.at += 1
            quantifier: str | tuple[int, int | None] = _OPTIONAL
        elif char in ("*", "+"):
            self.at += 1
            quantifier = (int(char == "+"), None)
        elif char == "{" and (counts := self.counts()) is not None:
            quantifier = counts
        else:
            return None
        if char != "{" and self.peek() in ("?", "+"):  # lazy or possessive: tries no more than the greedy one
            self.at += 1
        if self.peek() in ("*", "+", "?"):
            raise _Refused("a repeat is repeated")
        return quantifier

    def counts(self) -> tuple[int, int | None] | None:
        """{3}, {1,3}, {,3}, {1,}; anything else in braces is text."""
        end = self.text.find("}", self.at)
        if end < 0:
            return None
        low, comma, high = self.text[self.at + 1 : end].partition(",")
        if not (low + high).isascii() or not (low + high).isdigit() or len(low) > 6 or len(high) > 6:
            return None
        least = int(low or 0)
        most: int | None = least
        if comma:
            most = None
            if high:
                most = int(high)
        self.at = end + 1
        return least, most

    def atom(self, depth: int) -> _Item:
        char = self.text[self.at]
        one = _Item(can_fail=True, fixed=True)
        if char == "(":
            return self.group(depth)
        if char == "[":
            self.char_class(0)
            return one
        if char == "\\":
            return self.escape()
        if char in "*+?":
            raise _Refused("a repeat stands behind nothing")
        self.at += 1
        return one

    def escape(self) -> _Item:
        char = self.text[self.at + 1 : self.at + 2]
        if not char:
            raise _Refused("it ends in a backslash")
        if char in "123456789kgKR":
            raise _Refused(f"\\{char} is not read")
        self.at += 2
        if char in "pPx" and self.peek() == "{":
            end = self.text.find("}", self.at)
            if end < 0:
                raise _Refused("a brace is not closed")
            self.at = end + 1
        if char == "X":  # a grapheme cluster: as long as it likes
            return _Item(can_fail=True, fixed=False)
        return _Item(can_fail=True, fixed=True)

    def char_class(self, depth: int) -> None:
        """[...], classes within classes as Oniguruma has them."""
        if depth > 5:
            raise _Refused("its classes stand too deep in each other")
        self.at += 1
        if self.peek() == "^":
            self.at += 1
        if self.peek() == "]":
            self.at += 1
        while (char := self.peek()) != "]":
            if not char:
                raise _Refused("a class is not closed")
            if (
                char == "["
                and self.text.startswith("[:", self.at)
                and (end := self.text.find(":]", self.at)) > 0
            ):
                self.at = end + 2
            elif char == "[":
                self.char_class(depth + 1)
            else:
                self.at += 2 if char == "\\" else 1
        self.at += 1

    def group(self, depth: int) -> _Item:
        self.at += 1
        looks = False
        if self.peek() == "?":
            looks = self.head()
        item = self.alternatives(depth + 1)
        if self.peek() != ")":
            raise _Refused("a bracket is not closed")
        self.at += 1
        if looks:  # takes no character, and what it tried is forgotten
            return _Item(True, True, item.choices, item.retries or int(item.unbounded), size=item.size)
        return item

    def head(self) -> bool:
        """What stands behind `(?`. -> whether the group looks at text without taking it."""
        for start in ("?:", "?>", "?=", "?!", "?<=", "?<!"):
            if self.text.startswith(start, self.at):
                self.at += len(start)
                return start not in ("?:", "?>")
        end = self.at + 1
        while self.text[end : end + 1] in ("i", "m", "x", "s", "-") and end < len(self.text):
            end += 1
        if "x" in self.text[self.at : end] or self.text[end : end + 1] not in (":", ")"):
            raise _Refused("a group of a kind that is not read")
        self.at = end + (self.text[end] == ":")
        return False

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]
