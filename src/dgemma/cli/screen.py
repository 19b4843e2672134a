"""What a verb shows: the canvas settling on stderr, the committed text on stdout, one summary line at the
end.

Knows events and text, no model. A terminal gets each committed line at once; a pipe or a file gets the whole
answer at the end or nothing at all, so that an error in the third canvas leaves nothing half-written. Trap:
stdout and the live region usually share one terminal. The region is cleared before anything else is written,
and the unfinished last line of the committed text stays inside it, because a region can only begin at the
left edge.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..errors import ResourceError, UsageError
from ..tasks.events import Draft, Generation
from .picture import STYLES, mean_entropy, paint, plain, status, window

# of several candidates another one is shown once its entropy is below this share of the shown one's
SWITCH = 0.8
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
# how much of a prompt is shown above its continuation
ECHO_LINES = 6
ECHO_CHARACTERS = 400


def can_animate() -> bool:
    """stderr is a terminal that can move its cursor."""
    return _is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"


def stdout_is_terminal() -> bool:
    return _is_terminal(sys.stdout)


def stderr_is_terminal() -> bool:
    return _is_terminal(sys.stderr)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def terminal(stream: Any = None) -> Console:
    """A console on a terminal (default stderr) that takes text as it is; colours unless NO_COLOR says
    otherwise.
    """
    return Console(file=stream or sys.stderr, force_terminal=True, markup=False, highlight=False, emoji=False)


def write_out(data: str | bytes) -> None:
    """Bytes to stdout (text as UTF-8).

    Raises UsageError when stdout is closed, ResourceError when its disk is full.
    """
    if sys.stdout is None:
        raise UsageError("stdout is closed; the answer has nowhere to go")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data.encode("utf-8", "replace") if isinstance(data, str) else data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ResourceError(f"stdout: {error.strerror}; the answer could not be written") from None


def json_line(value: dict[str, Any]) -> bytes:
    """One JSON object and a newline.

    What some readers take for the end of a line, and half characters, which UTF-8 does not know, are written
    as escapes.
    """
    text = json.dumps(value, ensure_ascii=False).translate(_LINE_ENDS)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def write_json(value: dict[str, Any]) -> None:
    """One JSON object and a newline on stdout."""
    write_out(json_line(value))


def can_ask() -> bool:
    """Whether somebody sits there to answer a question on stderr."""
    return _is_terminal(sys.stdin) and _is_terminal(sys.stderr)


def agreed(question: str) -> bool:
    """The answer to a yes or no; typer's own question echoes a blank to stdout, which is the text's."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def note(text: str) -> None:
    """One line on stderr that is no error."""
    print(plain(text), file=sys.stderr, flush=True)


class Screen:
    """Shows the events of one request: `with Screen(...) as screen`, then draft() and committed() as they
    come.

    live: draw drafts. flows: committed text goes to stdout line by line (else the caller writes it in the
    end). rows: a label per candidate. control: ids shown as filler. echo: a prompt to show dimmed before its
    continuation. console: the terminal for drafts, thoughts and echo (default: stderr, where that is one).
    """

    def __init__(
        self,
        *,
        live: bool,
        flows: bool,
        max_steps: int,
        rows: Sequence[str] = ("",),
        control: Collection[int] = (),
        echo: str = "",
        console: Console | None = None,
    ):
        self._console = console or (terminal() if _is_terminal(sys.stderr) else None)
        self._animated = live and self._console is not None
        self._flows = flows
        self._max_steps = max_steps
        self._rows = list(rows)
        self._control = control
        self._live: Live | None = None
        self._start = time.perf_counter()
        self._last: tuple[int, int] | None = None  # canvas and step of the newest draft
        self._drafts: dict[int, Draft] = {}  # the newest of each candidate
        self._fresh: set[int] = set()  # candidates whose draft of the running step is here
        self._expected = len(self._rows)  # drafts of the running step
        self._shown = 0  # the candidate on the screen
        self._height = 0  # lines of the region so far
        self._tail = ""  # text of the present channel that is not written yet
        self._channel = "content"
        self._lead = ""  # the prompt's last line, until something is written behind it
        self._open = False  # the last line written has no end yet
        self._steps: list[int] = []
        self._tokens = 0
        self.passes = 0  # denoising passes: candidates of one batch share them
        if echo and self._animated:
            self._echo(echo)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        """Clear the canvas and give out the rest of the text, also on the way out of an error."""
        self._clear()
        self._end_line()

    def draft(self, draft: Draft) -> None:
        """One step of one candidate. A step is drawn once, when the drafts of all its candidates are here."""
        step = (draft.canvas, draft.step)
        if step != self._last:
            if self._fresh:  # fewer came than before: some candidates are done
                self._expected = len(self._fresh)
                self._draw()
            if self._last and draft.canvas != self._last[0]:  # another canvas, of all candidates
                self._drafts.clear()
                self._expected = len(self._rows)
            self._last = step
            self.passes += 1
        self._drafts[draft.row] = draft
        self._fresh.add(draft.row)
        if len(self._fresh) >= self._expected:
            self._draw()

    def committed(self, tokens: int, steps: int, parts: Sequence[tuple[str, str]]) -> None:
        """A canvas became text: its tokens, the steps it took, and its (channel, text) parts."""
        self._drafts.clear()
        self._fresh.clear()
        self._tokens += tokens
        self._steps.append(steps)
        for channel, text in parts:
            self.say(text, channel)

    def say(self, text: str, channel: str = "content") -> None:
        """Text that will not change any more: content, or a thought (shown on a terminal only, dimmed)."""
        if channel != self._channel:
            self._end_line()
        self._channel = channel
        self._tail += text
        # without a canvas below it, a line needs no end before it is written
        if self._animated:
            cut = self._tail.rfind("\n") + 1
        else:
            cut = len(self._tail)
        if cut and self._writes():
            self._put(self._tail[:cut])
            self._tail = self._tail[cut:]

    def _writes(self) -> bool:
        """Whether text of the present channel is written as it comes."""
        return self._flows and (self._channel == "content" or self._console is not None)

    def _end_line(self) -> None:
        """Give out what is held back of the present channel, and a newline where its last line has none."""
        if self._writes():
            if self._tail:
                self._put(self._tail)
            if self._open:
                self._put("\n")
        self._tail = ""

    def _put(self, text: str) -> None:
        self._clear()
        self._open = not text.endswith("\n")
        if self._lead and self._console:
            self._console.print(Text(self._lead, STYLES["noise"]), end="", soft_wrap=True)
            self._lead = ""
        if self._channel == "content":
            write_out(plain(text))  # stdout is a terminal here: no model may control it
        elif self._console:
            self._console.print(Text(plain(text), STYLES["thought"]), end="", soft_wrap=True)

    def _echo(self, prompt: str) -> None:
        *above, last = plain(prompt[-ECHO_CHARACTERS * ECHO_LINES :]).split("\n")
        self._lead = last[-ECHO_CHARACTERS:]
        if self._flows and self._console:
            for line in above[-ECHO_LINES:]:
                self._console.print(Text(line[-ECHO_CHARACTERS:], STYLES["noise"]), soft_wrap=True)

    def _draw(self) -> None:
        self._fresh.clear()
        if not self._animated:
            return
        best = min(self._drafts.values(), key=mean_entropy)
        shown = self._drafts.get(self._shown)
        if shown is None or mean_entropy(best) < SWITCH * mean_entropy(shown):
            self._shown = best.row
            shown = best
        region = self._region(shown)
        if self._live is None:
            self._live = Live(
                region,
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start(refresh=True)
        else:
            self._live.update(region, refresh=True)

    def _region(self, draft: Draft) -> Text:
        """Everything below the written text.

        It never shrinks, or the status line would jump with each newline.
        """
        assert self._console is not None
        width = self._console.width
        height = max(1, self._console.height - 2)
        lines = window(self._unwritten(width * height), paint(draft, self._control), width, height)
        self._height = max(self._height, len(lines))
        lines += [Text()] * (min(self._height, height) - len(lines))
        region = Text("\n").join([*lines, self._status(draft, width)])
        region.no_wrap = True
        region.overflow = "ignore"
        return region

    def _unwritten(self, most: int) -> Text:
        """The text before the canvas, no more of it than could be seen: folding costs time at every step."""
        text = Text().append(self._lead, STYLES["noise"])  # a span: a base style would colour all of it
        style = "committed"
        if self._channel == "thought":
            style = "thought"
        return text.append(plain(self._tail[-most:]), STYLES[style])

    def _status(self, draft: Draft, width: int) -> Text:
        label = ""
        if draft.row < len(self._rows):
            label = self._rows[draft.row]
        seconds = time.perf_counter() - self._start
        line = status(draft, self._max_steps, self.passes, seconds, self._tokens, self._steps, label)
        line.truncate(width, overflow="ellipsis")
        return line

    def _clear(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._height = 0


def count(number: int, one: str, many: str | None = None) -> str:
    """ "1 token", "3 tokens"."""
    word = one
    if number != 1:
        word = many or f"{one}s"
    return f"{number:,} {word}"


def summary(result: Generation, passes: int, ended: str = "") -> str:
    """One line: what it took and why it ended. Times are end to end, the reading of the prompt included."""
    tokens = count(len(result.token_ids), "token")
    speed = f"{result.tokens_per_second:.1f} tokens/s"
    ended = ended or _ending(result)
    if result.autoregressive:
        per_token = 1000 * result.seconds / max(1, len(result.steps))
        return f"{tokens}, one by one, {per_token:.0f} ms per token, {speed}, {ended}"
    steps = f"{count(sum(result.steps), 'step')} ({result.steps_per_canvas:.1f} per canvas)"
    per_step = 1000 * result.seconds / max(1, passes)
    return ", ".join(
        [
            f"{tokens} in {count(result.canvases, 'canvas', 'canvases')}",
            steps,
            f"{per_step:.0f} ms per step",
            speed,
            f"{result.tokens_per_forward:.2f} tokens per forward",
            ended,
        ]
    )


def _ending(result: Generation) -> str:
    if result.finish_reason == "length":
        return "ended by --max-tokens"
    if result.stop is None:
        return "ended by an end token"
    return "ended by a stop string"
