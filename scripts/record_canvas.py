"""Makes the README's picture: a canvas settling, as an animated GIF and a still PNG, in the colours of the terminal.

    python scripts/record_canvas.py --fill examples/gap.py --out docs/canvas
    python scripts/record_canvas.py --prompt 'import os' --max-tokens 64 --out docs/canvas

Needs Pillow (`pip install pillow`), which dgemma itself does not, and DejaVu Sans Mono (the package
fonts-dejavu-core, matplotlib's copy, or --font). Refuses to invent anything: every frame is one denoising step of a
run with the given model and seed. Trap: README pictures are fetched by every visitor; a palette of ten colours and
frames that store only what changed keep the file under 400 kB, and the script says its size.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from rich.text import Text

import dgemma
from dgemma.cli.fill import MARKER, cut, seen
from dgemma.cli.picture import STYLES, mean_entropy, paint, status, window
from dgemma.errors import DgemmaError
from dgemma.tasks.events import Committed, Draft, Filling, Generation

PAPER, INK = (24, 26, 31), (220, 223, 228)
COLOURS = {
    "noise": (92, 99, 112), "draft": (229, 192, 123), "accepted": (152, 195, 121), "pinned": (97, 175, 239),
    "committed": INK, "status": (130, 137, 151),
}  # fmt: skip
MARGIN, LEADING = 14, 1.25
STEP_MS, FIRST_MS, LAST_MS = 110, 700, 2500
LARGEST = 400_000  # bytes
FONTS = (
    "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf", "/usr/share/fonts/TTF/DejaVuSansMono.ttf",
    "/usr/share/fonts/dejavu-sans-mono-fonts/DejaVuSansMono.ttf",
)  # fmt: skip


def main() -> int:
    asked = arguments()
    try:
        frames = settle(asked)
    except DgemmaError as error:
        print(f"record_canvas: {error}", file=sys.stderr)
        return error.exit_code
    images = draw(frames, asked)
    durations = [FIRST_MS, *[STEP_MS] * (len(images) - 2), LAST_MS][: len(images)]
    still, moving = asked.out.with_suffix(".png"), asked.out.with_suffix(".gif")
    images[0].save(
        moving, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True, disposal=1
    )
    images[len(images) // 2].save(still, optimize=True)
    size = moving.stat().st_size
    print(f"{moving}: {len(images)} frames, {size} bytes; {still}: {still.stat().st_size} bytes")
    if size > LARGEST:
        print(
            f"record_canvas: {moving} is over {LARGEST} bytes; take a narrower picture or fewer steps",
            file=sys.stderr,
        )
        return 1
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--fill", type=Path, help=f"a file with a {MARKER} marker")
    what.add_argument("--prompt", help="a text to continue")
    parser.add_argument("--model", default=None, help="default: the checkpoint that ships")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("docs/canvas"), help="path without its suffix")
    parser.add_argument("--columns", type=int, default=72)
    parser.add_argument(
        "--rows", type=int, default=20, help="most lines of a frame, the status line included"
    )
    parser.add_argument("--size", type=int, default=14, help="font size in pixels")
    parser.add_argument("--font", type=Path, default=None, help="a monospaced TrueType font")
    return parser.parse_args()


def settle(asked: argparse.Namespace) -> list[list[Text]]:
    """The lines of every frame: one per denoising step, and the finished text."""
    model = dgemma.load(asked.model)
    if asked.fill is not None:
        return _settle_gap(model, asked)
    prompt = seen(asked.prompt.encode("utf-8", "surrogateescape"))
    events = list(model.stream(prompt, asked.max_tokens, seed=asked.seed))
    before, frames = Text().append(prompt, STYLES["noise"]), []
    spent, tokens, steps, passes = 0.0, 0, [], 0
    end = next(event for event in events if isinstance(event, Generation))
    for event in events:
        if isinstance(event, Draft):
            passes += 1
            spent = end.seconds * passes / max(1, sum(end.steps))
            line = status(event, model.denoise.max_denoising_steps, passes, spent, tokens, steps)
            frames.append(frame(before, paint(event, model.tokenizer.control_ids), line, asked))
        elif isinstance(event, Committed):
            before = before + Text(event.text)
            tokens, steps = tokens + len(event.token_ids), [*steps, event.steps]
    line = Text(
        f"{tokens} tokens in {passes} steps, {end.tokens_per_forward:.2f} tokens per forward",
        STYLES["status"],
    )
    return [*frames, frame(before, Text(), line, asked)]


def _settle_gap(model: Any, asked: argparse.Namespace) -> list[list[Text]]:
    data = asked.fill.read_bytes()
    prefix, suffix = cut(data, MARKER.encode(), f"'{asked.fill}'")
    events = list(model.stream_fill(seen(prefix), seen(suffix), seed=asked.seed))
    filling = next(event for event in events if isinstance(event, Filling))
    best, control = _winner(events, filling, model), model.tokenizer.control_ids
    frames = []
    for draft in (event for event in events if isinstance(event, Draft) and event.row == best):
        seconds = filling.generation.seconds * draft.step / max(1, sum(filling.generation.steps))
        line = status(
            draft, model.denoise.max_denoising_steps, draft.step, seconds, 0, (), f"gap {filling.width}"
        )
        frames.append(frame(Text(), paint(draft, control), line, asked))
    whole = Text(seen(prefix), STYLES["pinned"]).append(filling.text, STYLES["accepted"])
    whole.append(seen(suffix), STYLES["pinned"])
    line = Text(
        f"{len(filling.generation.token_ids)} tokens in {sum(filling.generation.steps)} steps",
        STYLES["status"],
    )
    return [*frames, frame(Text(), whole, line, asked)]


def _winner(events: list[Any], filling: Filling, model: Any) -> int:
    """The candidate whose last draft holds the text that was chosen (the surest one, where several do)."""
    last = {event.row: event for event in events if isinstance(event, Draft)}
    wanted = filling.generation.token_ids

    def holds(draft: Draft) -> bool:
        free = [token for token, pinned in zip(draft.token_ids, draft.pinned, strict=True) if not pinned]
        return free[: len(wanted)] == wanted

    return min(last.values(), key=lambda draft: (not holds(draft), mean_entropy(draft))).row


def frame(before: Text, canvas: Text, line: Text, asked: argparse.Namespace) -> list[Text]:
    """Lines of one frame, the status line last."""
    return [*window(before, canvas, asked.columns, asked.rows - 2), Text(), line]


def draw(frames: list[list[Text]], asked: argparse.Namespace) -> list[Any]:
    """The frames as palette images of one size, status line at the bottom."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(find_font(asked.font)), asked.size)
    across, down = font.getlength("M"), round(asked.size * LEADING)
    tall = max(len(lines) for lines in frames)
    size = (round(2 * MARGIN + asked.columns * across), 2 * MARGIN + tall * down)
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for colour in _palette() for channel in colour])
    images = []
    for lines in frames:
        image = Image.new("RGB", size, PAPER)
        pen = ImageDraw.Draw(image)
        for row, line in enumerate(lines):
            place = tall - 1 if row == len(lines) - 1 else row
            _write(pen, line, font, (MARGIN, MARGIN + place * down), across)
        images.append(image.quantize(palette=palette, dither=Image.Dither.NONE))
    return images


def _palette() -> list[tuple[int, ...]]:
    """Each ink in four strengths over the paper: enough for smooth letters, few enough for a small file."""
    inks = list(dict.fromkeys(COLOURS.values()))
    mixes = [
        tuple(round(p + (i - p) * part / 4) for p, i in zip(PAPER, ink, strict=True))
        for ink in inks
        for part in range(1, 5)
    ]
    return [PAPER, *mixes]


def _write(pen: Any, line: Text, font: Any, at: tuple[int, int], across: float) -> None:
    colours = {style: COLOURS[kind] for kind, style in STYLES.items() if kind in COLOURS}
    shades = [INK] * len(line.plain)
    if line.style:
        shades = [colours.get(str(line.style), INK)] * len(line.plain)
    for span in line.spans:
        for place in range(span.start, min(span.end, len(shades))):
            shades[place] = colours.get(str(span.style), INK)
    for place, (character, shade) in enumerate(zip(line.plain, shades, strict=True)):
        if not character.isspace():
            pen.text((at[0] + place * across, at[1]), character, font=font, fill=shade)


def find_font(given: Path | None) -> Path:
    """DejaVu Sans Mono on this machine. Exits with what to install where there is none."""
    places = [given] if given else [Path(path) for path in FONTS]
    if not given and (spec := importlib.util.find_spec("matplotlib")) and spec.origin:
        places.append(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSansMono.ttf")
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        sys.exit(f"record_canvas: no font at {places[0]}; install fonts-dejavu-core, or name one with --font")
    return found


if __name__ == "__main__":
    sys.exit(main())
