"""What each number format costs: bytes, bits/byte of both kinds, right answers and steps, beside bf16.

    python benchmarks/formats.py [--formats nvfp4 int4-32 ...] [--count 6] [--model FOLDER] [--save]

Every format is made by `dgemma quantize`, loaded by the ordinary loader and asked the same: held-out
texts of the small world with the same noise, held-out prompts (`--count` of each family) with the same
seeds. So differences to bf16 are paired, and their standard errors are those of the differences: over
texts (for bits/byte, weighted by bytes) and over prompts. `same` is the share of answers that are bf16's,
letter for letter. On a CPU the loader computes in float32, in bf16's row too, so that only the weights
differ. Models are kept in --folder and made once; trap: another --model needs another folder.
"""

from __future__ import annotations

import argparse
import itertools
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from about import append, what_and_where
from world_prompts import Answer, by_canvas, prompts, same, summary

import dgemma
from dgemma.cli.eval import scores
from dgemma.hub.locate import EMBEDDED_NAME
from dgemma.train.evaluate import Score, held_out_texts
from dgemma.train.world import World

RESULTS = Path(__file__).parent / "results" / "formats.csv"
BASE = "bf16"
CALIBRATED = ("--calibrate", "calibration.txt")
REST = ("--keep", "attention,dense,self_conditioning=fp8")
FORMATS: dict[str, tuple[str, ...]] = {  # what `dgemma quantize` is asked for
    BASE: (),
    "fp8": ("--format", "fp8"),
    "nvfp4": ("--format", "nvfp4"),
    "int4-32": ("--format", "int4"),
    "nvfp4-calibrated": ("--format", "nvfp4", *CALIBRATED),
    "int4-32-calibrated": ("--format", "int4", *CALIBRATED),
    "int4-128": ("--format", "int4", "--group-size", "128"),
    "int4-128-calibrated": ("--format", "int4", "--group-size", "128", *CALIBRATED),
    "nvfp4-rest-fp8": ("--format", "nvfp4", *REST),
    "int4-32-rest-fp8": ("--format", "int4", *REST),
    "fp8-table-fp8": ("--format", "fp8", "--keep", "embeddings=fp8"),
    "fp8-table-int8": ("--format", "fp8", "--keep", "embeddings=int8"),
    "fp8-rounded": ("--format", "fp8"),  # activations too, as a card with FP8 multiplies
}
CALIBRATION = 400_000  # characters of the training side


def make(name: str, folder: Path, source: str) -> str:
    """The model of a row: its folder, made where it is not there yet; of the base the source itself."""
    flags, target = FORMATS[name], folder / name
    if not flags:
        return source
    if not target.exists():
        call = [sys.executable, "-m", "dgemma", "quantize", source, name, *flags, "--no-compare"]
        subprocess.run(call, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return str(target)


def calibration_texts() -> Iterator[str]:
    """Texts and conversations of the training side, without end."""
    for example in World(0):
        yield example.text or "\n".join(message["content"] for message in example.messages)


def calibration_text() -> str:
    """What calibrated formats are calibrated with."""
    size, parts = 0, []
    for text in calibration_texts():
        parts.append(text)
        size += len(text) + 2
        if size >= CALIBRATION:
            break
    return "\n\n".join(parts)


@dataclass(frozen=True)
class Measured:
    """What a format was asked: a score for each text, an answer for each prompt."""

    texts: list[Score]
    answers: list[Answer]
    size: int  # bytes of its weights


def measure(name: str, options: argparse.Namespace) -> Measured:
    """Load a format and ask it everything."""
    place = make(name, options.folder, options.model)
    model = dgemma.load(place, activations="rounded" if name.endswith("rounded") else None)
    several = itertools.chain.from_iterable(held_out_texts(options.texts).values())
    texts = {str(number): [text] for number, text in enumerate(several)}
    cases = prompts(World(0, "test"), model.tokenizer, options.count, options.families)
    return Measured(
        [score for _, score in scores(model, texts, options.samples, 0)],
        by_canvas(model, cases),
        sum(file.stat().st_size for file in Path(model.folder).glob("*.safetensors")),
    )


def changed(
    before: Sequence[float], after: Sequence[float], sizes: Sequence[float] | None = None
) -> tuple[float, float]:
    """(relative change of the sums, its standard error) from pairs.

    sizes: of what each pair is about, by which sums are divided.
    """
    sizes = sizes or [1.0] * len(before)
    differences = [new - old for old, new in zip(before, after, strict=True)]
    mean = sum(differences) / sum(sizes)
    squares = sum(
        (difference - mean * size) ** 2 for difference, size in zip(differences, sizes, strict=True)
    )
    count = len(differences)
    return sum(differences) / sum(before), math.sqrt(squares * count / max(1, count - 1)) / sum(before)


def row_of(name: str, base: Measured, found: Measured, samples: int) -> dict[str, Any]:
    """The row of a format, beside the base."""
    total = sum(found.texts[1:], found.texts[0])
    row: dict[str, Any] = {**what_and_where(), "format": name, "bytes": found.size}
    row |= {"texts": len(found.texts), "text_bytes": total.text_bytes, "samples": samples}
    sizes = [score.text_bytes for score in base.texts]
    for kind in ("next_token", "bound"):
        nats = [[getattr(score, f"{kind}_nats") for score in side.texts] for side in (base, found)]
        change, error = changed(*nats, sizes)
        row |= {
            kind: round(getattr(total, kind), 4),
            f"{kind}_change": round(change, 5),
            f"{kind}_error": round(error, 5),
        }
    change, error = changed(
        *([float(sum(answer.steps)) for answer in side.answers] for side in (base, found))
    )
    row |= summary(found.answers) | {"same": round(same(found.answers, base.answers), 4)}
    return row | {"steps_change": round(change, 4), "steps_error": round(error, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--model", default=EMBEDDED_NAME, help="a folder; default: the shipped checkpoint")
    parser.add_argument("--count", type=int, default=6, help="prompts of each family")
    parser.add_argument("--families", nargs="+", help="default: all")
    parser.add_argument("--texts", type=int, default=100, help="of each family of texts")
    parser.add_argument("--samples", type=int, default=2, help="noise levels per canvas of the bound")
    parser.add_argument("--folder", type=Path, default=Path("runs/formats"))
    parser.add_argument("--save", action="store_true", help=f"append the rows to {RESULTS.name}")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.model != EMBEDDED_NAME:
        options.model = str(Path(options.model).resolve())
    calibration = options.folder / CALIBRATED[1]
    if not calibration.exists():
        calibration.write_text(calibration_text(), encoding="utf-8")
    base = measure(BASE, options)
    rows = []
    for name in options.formats:
        found = base if name == BASE else measure(name, options)
        rows.append(row_of(name, base, found, options.samples))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if options.save:
        append(RESULTS, rows)


if __name__ == "__main__":
    main()
