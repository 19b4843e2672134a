"""Text out of a stream of ids, piece by piece: whole characters only, and stop strings.

Refuses to know channels and canvases: it is fed ids or text in any portions. What has been given out is never
taken back, and the pieces put together are exactly the whole.

Trap: a stop string may begin in one piece and end in the next, so up to its length less one is held back;
call `flush` at the end, or the tail of the answer is lost.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from ..errors import UsageError
from .lines import line_end, plain, with_line_end
from .tokenizer import Tokenizer


class StreamDecoder:
    """Decodes ids as they come. All pieces of `feed`, then `flush`, are `tokenizer.decode` of all the ids."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True):
        self._tokenizer = tokenizer
        self._hidden = tokenizer.control_ids if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._leading = tokenizer.leading_spaces  # still to be taken off the start of the text

    def feed(self, ids: Iterable[int]) -> str:
        """The text that is certain after these ids; a character cut in two waits for its other half."""
        data = b"".join(self._tokenizer.token_bytes(i) for i in ids if i not in self._hidden)
        return self._start(self._utf8.decode(data))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that never became whole.

        The decoder starts anew.
        """
        text = self._start(self._utf8.decode(b"", final=True))
        self._utf8.reset()
        self._leading = self._tokenizer.leading_spaces
        return text

    def _start(self, text: str) -> str:
        while self._leading and text:
            if text[0] != " ":
                self._leading = 0
                break
            self._leading -= 1
            text = text[1:]
        return text


class StopFinder:
    """Ends a text before the first stop string that becomes complete. `hit` is that one, once there is one.

    Of several stops the one that ends first counts, then the longest: the only rule that gives the same text
    however it is cut into pieces. An empty stop string stops nothing. Raises UsageError for one that is not a
    string.
    """

    def __init__(self, stops: Sequence[str] | str | None):
        if isinstance(stops, str):
            given = [stops]
        else:
            given = list(stops or [])
        for stop in given:
            if not isinstance(stop, str):
                raise UsageError(f"a stop string must be a text, not {type(stop).__name__}")
        self._stops = [stop for stop in given if stop]
        self._longest = max(map(len, self._stops), default=1)
        self._held = ""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """The text that is certain not to belong to a stop string. After a hit there is none."""
        if self.hit is not None:
            return ""
        text = self._held + text
        matches: list[tuple[int, int, str]] = []  # (end, start, stop)
        for stop in self._stops:
            start = text.find(stop)
            if start >= 0:
                matches.append((start + len(stop), start, stop))
        if matches:
            _, start, self.hit = min(matches)
            self._held = ""
            return text[:start]
        certain = len(text) - self._suffix(text)
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """What was held back and turned out to be no stop string."""
        held = self._held
        self._held = ""
        return held

    def _suffix(self, text: str) -> int:
        """Length of the longest end of the text that could be the beginning of a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


def cut_at_stop(text: str, stops: Sequence[str] | str | None) -> tuple[str, str]:
    """A whole text up to its first stop string, and which one that was ("": none). Empty ones stop nothing.

    Line ends are compared as if all were "\\n": a stop of one holds in a text of "\\r\\n" too.
    """
    given: Sequence[str] = stops or []
    if isinstance(stops, str):
        given = [stops]
    finder = StopFinder([plain(stop) for stop in given if stop])
    before = finder.feed(plain(text)) + finder.flush()
    end = line_end(text)
    if end != "\n":
        before = with_line_end(before, end)
    return before, finder.hit or ""
