"""A canvas as coloured text: pure functions from a Draft to rich Text, for the terminal and for the README's
picture.

Knows no terminal and no clock. Trap: everything here may hold what a stranger wrote. It is laid out as Text,
never as markup, and control characters are made visible first, so that no model can move the cursor or paint
the screen.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from rich.cells import get_character_cell_size
from rich.text import Text

from ..tasks.events import Draft

# Colours by name: the terminal's own palette, so that they suit dark and light backgrounds.
STYLES = {
    "noise": "bright_black",  # the model has no clear idea yet
    "draft": "yellow",  # a clear guess, not accepted in this step
    "accepted": "bold green",
    "pinned": "blue",
    "committed": "",
    "filler": "bright_black",
    "thought": "dim italic",
    "status": "dim",
}
DIFF = {"+++": "bold", "---": "bold", "@@": "cyan", "+": "green", "-": "red"}  # by what a line begins with
NOISE_NATS = 1.0  # entropy above which a guess is shown as noise: about three equally likely tokens
FILLER = "·"  # stands for a control token: padding, an end of text or of a turn

_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_VISIBLE |= dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)


def plain(text: str) -> str:
    """The text with control and direction-changing characters made visible; newlines and tabs stay."""
    return text.translate(_VISIBLE)


def kinds(draft: Draft, control: Collection[int] = ()) -> list[str]:
    """What each position is, as a key of STYLES."""
    classes = []
    cells = zip(draft.token_ids, draft.accepted, draft.pinned, draft.entropy, strict=True)
    for token, accepted, pinned, entropy in cells:
        if token in control:
            classes.append("filler")
        elif pinned:
            classes.append("pinned")
        elif accepted:
            classes.append("accepted")
        else:
            classes.append("draft" if entropy <= NOISE_NATS else "noise")
    return classes


def paint(draft: Draft, control: Collection[int] = ()) -> Text:
    """The draft canvas, each position in its colour; given filler at its end is left out.

    Newlines are newlines.
    """
    text = Text()
    classes = kinds(draft, control)
    end = len(classes)
    while end and classes[end - 1] == "filler" and draft.pinned[end - 1]:
        end -= 1
    # neighbours of one colour become one span: a third of the bytes that a terminal has to read at every step
    for kind, places in itertools.groupby(range(end), key=classes.__getitem__):
        if kind == "filler":
            pieces = [FILLER for _ in places]
        else:
            pieces = [plain(draft.pieces[place]) for place in places]
        text.append("".join(pieces), STYLES[kind])
    return text


def paint_diff(diff: str) -> Text:
    """A unified difference, each line in its colour, without a newline at its end."""
    lines = diff.rstrip("\n").split("\n")
    return Text("\n").join(Text(plain(line), _style_of(line)) for line in lines)


def _style_of(line: str) -> str:
    for start, style in DIFF.items():
        if line.startswith(start):
            return style
    return ""


def mean_entropy(draft: Draft) -> float:
    """Nats per position that is not pinned; 0.0 where all are."""
    free = [entropy for entropy, pinned in zip(draft.entropy, draft.pinned, strict=True) if not pinned]
    return sum(free) / max(1, len(free))


def fold(text: Text, width: int) -> list[Text]:
    """Lines of at most `width` cells, cut between characters: words that change length move nothing else."""
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        line.expand_tabs(8)
        cuts = []
        used = 0
        for place, character in enumerate(line.plain):
            size = get_character_cell_size(character)
            if used + size > width:
                cuts.append(place)
                used = 0
            used += size
        lines += line.divide(cuts)
    return lines


def window(before: Text, canvas: Text, width: int, height: int) -> list[Text]:
    """The lines to show: the canvas from its first line on, and as much of the text before it as still
    fits.
    """
    lines = fold(before + canvas, width)
    if len(lines) <= height:
        return lines
    first = len(fold(before, width)) - 1  # the canvas goes on where the text before it ends
    start = min(first, len(lines) - height)
    return lines[start : start + height]


def status(
    draft: Draft,
    max_steps: int,
    passes: int,
    seconds: float,
    tokens: int,
    steps: Sequence[int],
    label: str = "",
) -> Text:
    """One line about a draft, of about 80 cells.

    `tokens` and `steps` (per canvas) count what is committed so far, `passes` the denoising passes and
    `seconds` the time since the request. `label` names a candidate.
    """
    free = len(draft.pinned) - sum(draft.pinned)
    parts = [
        label or f"canvas {draft.canvas + 1}",
        f"step {draft.step}/{max_steps}",
        f"accepted {sum(draft.accepted)}/{free}",
        f"{mean_entropy(draft):.2f} nats",
    ]
    if steps:
        speed = 0.0
        if seconds:
            speed = tokens / seconds
        parts.append(f"{speed:.0f} tokens/s")
        parts.append(f"{sum(steps) / len(steps):.1f} steps/canvas")
    else:
        parts.append(f"{1000 * seconds / max(1, passes):.0f} ms/step")
    return Text(", ".join(parts), STYLES["status"], no_wrap=True, overflow="ellipsis")
