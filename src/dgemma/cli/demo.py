"""`dgemma demo`: what this kind of model is good at, shown with one that fits on any machine, in under twenty
seconds.

A question answered with code that is then run, a gap filled, an edit by instruction, a decision, and the same
answers token by token. On a terminal each canvas is shown as it settles, held for a moment at every step; in
a pipe everything is plain text. Trap: what a model wrote is run, so it runs where the checks of the small
world run theirs: in a process that may import nothing.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..hub.locate import is_embedded
from ..tasks.events import Draft
from ..text.lines import unified_diff
from .flags import MEMORY, check_device, text_model
from .picture import paint_diff, plain
from .progress import loading
from .screen import Screen, can_animate, count, stdout_is_terminal, terminal, write_out

if TYPE_CHECKING:
    from rich.text import Text

    from ..api import Model
    from ..bench.race import Race

HOLD = 0.15  # seconds that a step stays on the screen; it takes a tenth of that
BAR = 40  # cells of the longest bar
QUESTION = "Write a function that returns the sum of the even numbers in a list."
NUMBERS = [1, 2, 3, 4, 10]
BEFORE = 'def even_numbers(numbers):\n    """Return the even numbers in numbers."""\n'
AFTER = "\n\n\nprint(even_numbers([1, 2, 3, 4]))\n"
DOCUMENT = "Mia likes the brown kite in the shop.\n"
INSTRUCTION = "Replace brown with pink."
STATE = "I enjoyed this cheese."
MOOD = {"mood": {"type": "choice", "instructions": "Which mood?", "criteria": ["positive", "negative"]}}
RACE = (
    QUESTION,
    "Write a function that returns the squares of the numbers in a list.",
    "Write a function that returns the words that start with 'h' in a list.",
    "Write a function that returns the number of even numbers in a list.",
)


def command(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Folder or pulled name; default: shipped.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    memory: MEMORY = None,
) -> None:
    """Show what the model does: a chat, a gap, an edit, a decision, and the race against writing token by
    token.
    """
    check_device(device, memory)
    text_model(model)
    with loading(can_animate()) as progress:
        from .. import api

        opened = api.load(model, device, memory=memory, progress=progress)
    stage = Stage(opened)
    stage.introduce()
    answer = stage.ask()
    execute(answer)
    stage.fill()
    stage.edit()
    stage.decide()
    stage.race()


class Stage:
    """Shows a model's answers one after another."""

    def __init__(self, model: Model):
        self.model = model
        self.part = 0

    def introduce(self) -> None:
        size = sum(parameter.numel() for parameter in self.model.net.parameters())
        write("A diffusion model writes a whole canvas of text at once and refines it until it settles.\n")
        if is_embedded(self.model.folder):
            write(f"This one is tiny ({size / 1e6:.1f} M parameters) and knows a small made-up world.\n")

    def head(self, title: str, text: str = "") -> None:
        """The title of a part, and what the model is given."""
        self.part += 1
        write(f"\n{self.part}. {title}\n", "bold")
        if text:
            write("".join(f"   {line}\n" for line in text.rstrip("\n").split("\n")), "dim")

    def watch(self, events: Iterable[Any]) -> Any:
        """The last of the events; its drafts are shown as they come, slowed down where somebody sees them."""
        last: Any = None
        shown: tuple[int, int] | None = None  # canvas and step
        steps = self.model.denoise.max_denoising_steps
        control = self.model.tokenizer.control_ids
        with Screen(live=can_animate(), flows=False, max_steps=steps, control=control) as screen:
            for event in events:
                if isinstance(event, Draft):
                    screen.draft(event)
                    if can_animate() and (event.canvas, event.step) != shown:  # once for all candidates
                        time.sleep(HOLD)
                    shown = event.canvas, event.step
                last = event
        return last

    def ask(self) -> str:
        """A question; its answer."""
        self.head("Ask", QUESTION)
        result = self.watch(self.model.stream_chat([{"role": "user", "content": QUESTION}]))
        write(result.text.rstrip("\n") + "\n")
        self.settled(len(result.token_ids), sum(result.steps))
        return str(result.text)

    def fill(self) -> None:
        """A gap between two pieces of code."""
        self.head("Fill a gap")
        filling = self.watch(self.model.stream_fill(BEFORE, AFTER))
        write(BEFORE, "dim")
        write(filling.text, "green")
        write(AFTER, "dim")
        self.settled(len(filling.generation.token_ids), sum(filling.generation.steps))

    def edit(self) -> None:
        """A document changed by an instruction."""
        self.head("Edit", INSTRUCTION)
        edit = self.watch(self.model.stream_edit(DOCUMENT, INSTRUCTION))
        diff = unified_diff(DOCUMENT, edit.text, "letter.txt")
        write_text(paint_diff(diff or "nothing changed"))
        self.settled(len(edit.generation.token_ids), sum(edit.generation.steps))

    def decide(self) -> None:
        """A question whose labels are weighed in one pass."""
        self.head("Decide", f"{STATE} Which mood?")
        decisions = self.model.decide(STATE, MOOD)
        for label, share in decisions.answers["mood"].probabilities.items():
            write(f"{label:10} {share:6.1%}  ")
            write("█" * round(BAR * share) + "\n", "green")
        write(f"{count(decisions.steps, 'step')}, {1000 * decisions.seconds:.0f} ms\n", "dim")

    def race(self) -> None:
        """The same questions answered both ways."""
        self.head(
            "Race",
            f"{len(RACE)} such questions, with the same weights, one token at a time and a canvas at a time",
        )
        result = _race(self.model)
        sides = {"token by token": result.autoregressive, "by canvas": result.canvas}
        most = max(side.tokens_per_second for side in sides.values())
        for name, side in sides.items():
            write(f"{name:15} {side.tokens_per_second:7,.0f} tokens/s  ")
            write("█" * max(1, round(BAR * side.tokens_per_second / most)) + "\n", "green")
        passes = f"{result.canvas.passes} passes through the model for {result.canvas.tokens} tokens"
        write(f"{result.ratio:.1f} times as fast: {passes}\n", "dim")

    def settled(self, tokens: int, steps: int) -> None:
        write(f"{count(tokens, 'token')} settled in {count(steps, 'step')}\n", "dim")


def execute(source: str) -> None:
    """Run a function that the model wrote, and show what it returns."""
    from ..train.world import sandbox

    name = source.partition("def ")[2].partition("(")[0].strip()
    results = None
    if name:
        results = sandbox.results(source, name, [(NUMBERS,)])
    write(f">>> {name}({NUMBERS})\n", "dim")
    write(f"{results[0] if results else 'it does not run'}\n")


def _race(model: Model) -> Race:
    """The questions of RACE both ways, one at a time, nothing kept from one for the next."""
    from ..bench.race import race
    from ..bench.workloads import workloads
    from ..engine.engine import Engine
    from ..text.turns import render

    prompts = [render([{"role": "user", "content": text}], model.tokenizer) for text in RACE]
    width = model.config.canvas_length
    chosen = workloads("race", model.config, model.denoise, tokens=width, prompts=prompts)
    engine = Engine(model.net, dataclasses.replace(model.engine.config, prefix_cache=0))
    return race(engine, [request for workload in chosen for request in workload.requests])


def write(text: str, style: str = "") -> None:
    """Text on stdout, in a colour where that is a terminal."""
    from rich.text import Text

    write_text(Text(plain(text), style), end="")


def write_text(text: Text, end: str = "\n") -> None:
    """A painted text on stdout; plain where that is no terminal."""
    if stdout_is_terminal():
        terminal(sys.stdout).print(text, end=end, soft_wrap=True)
    else:
        write_out(text.plain + end)
