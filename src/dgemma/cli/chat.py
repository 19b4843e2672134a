"""`dgemma chat`: a conversation on a terminal, or one message per line from a pipe.

Holds the messages and nothing else; every turn is rendered anew. Trap: `input` writes its prompt to stdout
unless both ends are terminals, and a prompt is no answer; elsewhere lines are read as bytes, and bad text is
named by its offset.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import MAX_PROMPT_CHARACTERS
from ..config.reader import shown
from ..errors import INTERRUPTED, DgemmaError, UsageError
from .flags import (
    BOM,
    WRITTEN,
    CommandOptions,
    argument,
    as_flags,
    check,
    from_stdin,
    read_text,
    with_options,
)
from .run import Stopped, converse, give_out, open_model, print_notes
from .screen import note, stdout_is_terminal, write_json

if TYPE_CHECKING:
    from ..api import Model

HELP = """/clear      forget the conversation
/max [N]    show how many tokens an answer may have, or set it
/seed [N]   show the seed, or set it for the next turns
/help       show this
/exit       leave (so does Ctrl-D)
A line that ends in a backslash goes on in the next. Ctrl-C stops an answer, whose text so far is kept."""
PROMPT = "> "
MORE = "… "  # the prompt of a message's further lines
_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)


@with_options(groups=WRITTEN)
def command(
    system: Annotated[
        str | None, typer.Option(help="Instructions that come before the conversation.")
    ] = None,
    thinking: Annotated[
        bool, typer.Option("--thinking", help="Let the model think before it answers.")
    ] = False,
    *,
    options: CommandOptions,
) -> None:
    """Talk with a model. Type /help for what else can be typed; Ctrl-D leaves."""
    if system is None:
        first = []
    else:
        first = [{"role": "system", "content": argument(system, "--system")}]
    steps = check(options).max_denoising_steps
    typed = sys.stdin is not None and sys.stdin.isatty()
    model = open_model(options)
    print_notes(model.notes)
    if not model.chat_tuned:
        note("note: this model is not chat-tuned; it may not answer as one would")
    if typed:
        note("/help shows what can be typed")
    Conversation(model, options, steps, first, thinking, typed).run()


class Conversation:
    """One chat: its messages, what is asked of answers, and what was typed so far."""

    def __init__(
        self,
        model: Model,
        options: CommandOptions,
        steps: int,
        first: list[dict[str, Any]],
        thinking: bool,
        typed: bool,
    ):
        self._model = model
        self._options = options
        self._steps = steps
        self._first = first
        self._thinking = thinking
        self._typed = typed
        self.messages = list(first)

    def run(self) -> None:
        """Until Ctrl-D, /exit or the end of what is piped in.

        At a terminal an error ends its turn, not the chat.
        """
        if self._typed:
            _history()
        while (text := self._next()) is not None:
            if not text.strip():
                continue
            try:
                goes_on = self._take(text)
            except DgemmaError as error:
                if not self._typed:
                    raise
                note(f"dgemma: {as_flags(str(error))}")
                continue
            if not goes_on:
                return

    def _take(self, text: str) -> bool:
        """A message or a slash command. -> whether the conversation goes on."""
        command = _COMMAND.fullmatch(text.strip())
        if command and "/" not in text.strip()[1:]:
            return self.obey(command[1], command[2] or "")
        self.turn(text)
        return True

    def obey(self, name: str, rest: str) -> bool:
        """One slash command. -> whether the conversation goes on. Raises UsageError for an unknown one."""
        if name == "exit":
            return False
        if name == "clear":
            self.messages = list(self._first)
            note("the conversation is forgotten")
        elif name == "seed":
            if rest:
                self._change(seed=_whole("/seed", rest, 0))
            note(f"seed {self._options.params.seed}")
        elif name == "max":
            if rest:
                self._change(max_tokens=_whole("/max", rest, 1))
            note(self._limit())
        elif name == "help":
            print(HELP, file=sys.stderr)
        else:
            raise UsageError(f"there is no command '/{name}'; /help lists them")
        return True

    def _limit(self) -> str:
        """How long answers may be."""
        most = self._options.params.max_tokens
        if most:
            return f"answers of at most {most:,} tokens"
        default = self._model.denoise.max_new_tokens
        return f"answers of at most {default:,} tokens, fewer where there is no room"

    def _change(self, **settings: Any) -> None:
        """Ask something else of the answers from now on."""
        self._options = dataclasses.replace(self._options, params=self._options.params.replace(**settings))

    def turn(self, text: str) -> None:
        """One message and its answer, as far as it came. A turn without text is forgotten."""
        messages = [*self.messages, {"role": "user", "content": text}]
        options = self._options
        try:
            answer = converse(self._model, messages, options, self._steps, thinking=self._thinking)
        except Stopped as stopped:
            self._stop(stopped, messages)
            return
        self.messages = [*messages, {"role": "assistant", "content": answer.content}]
        if options.as_json:
            write_json(answer.to_dict())
        else:
            give_out(answer.content, options)

    def _stop(self, stopped: Stopped, messages: list[dict[str, Any]]) -> None:
        """Ctrl-C in an answer: what had settled is the answer.

        At a terminal the chat goes on, elsewhere it ends.
        """
        if stopped.content:
            self.messages = [*messages, {"role": "assistant", "content": stopped.content}]
            give_out(stopped.content, self._options)
        line = stopped.summary(self._options)
        if self._typed and not stopped.content:
            line += "; this turn is forgotten"
        note(line)
        if not self._typed:
            raise typer.Exit(INTERRUPTED)

    def _next(self) -> str | None:
        """The next message, None at the end.

        A trailing backslash joins lines; Ctrl-C drops what was typed.
        """
        lines: list[str] = []
        while True:
            try:
                line = self._line(MORE if lines else PROMPT)
            except KeyboardInterrupt:
                if not self._typed:
                    raise
                note("\n/exit or Ctrl-D leaves")
                lines = []
                continue
            if line is None:
                if self._typed:
                    note("")
                if lines:
                    return "\n".join(lines)
                return None
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def _line(self, prompt: str) -> str | None:
        if self._typed and stdout_is_terminal():
            try:
                return input(prompt)
            except EOFError:
                return None
            except UnicodeDecodeError as error:
                raise UsageError(f"the line typed is not UTF-8 text: byte {error.start}") from None
        if self._typed:
            print(prompt, end="", file=sys.stderr, flush=True)
        # one byte more than a line may have is enough to refuse it
        data = from_stdin(4 * MAX_PROMPT_CHARACTERS + 1, line=True)
        if not data:
            return None
        line = data.removeprefix(BOM.encode()).rstrip(b"\r\n")
        if line:
            return read_text(line, "a line on stdin")
        return ""


def _whole(command: str, text: str, least: int) -> int:
    """The number behind a command. Raises UsageError."""
    if text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) < 2**63:
        return int(text)
    raise UsageError(f"{command} is {shown(text)}; it must be a whole number from {least} to 2^63 - 1")


def _history() -> None:
    """Arrow keys and history where the readline module is there; kept for this process only."""
    try:
        import readline  # noqa: F401  (its import is its effect)
    except ImportError:
        pass
