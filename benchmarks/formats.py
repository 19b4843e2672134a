"""What each number format costs the shipped checkpoint: bytes, bits/byte of both kinds, filled gaps and steps, beside bf16.

    python benchmarks/formats.py [--formats nvfp4 int4-32 ...] [--parts text gaps] [--samples 2] [--gaps 200] [--characters N]

Every format is made by `dgemma quantize`, loaded by the ordinary loader and asked the same: all held-out files with the
same noise, the same gaps with the same seeds. So differences to bf16 are paired, and their standard errors are those of the
differences: over files (for bits/byte, weighted by bytes) and over gaps. On a CPU the loader computes in float32, in bf16's row
too, so that only the weights differ. A file or gap is asked of every format before the next one, and what was found is kept in
--folder, line by line: a run that was cut off goes on, and a row counts what its format and bf16 both have, which it says. Trap:
--samples and --characters belong to what is kept; other numbers need another folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import dgemma
from about import append, commit, machine
from dgemma.cli.eval import scores
from dgemma.train.corpus import load
from dgemma.train.evaluate import Score
from quality import averages, cases, fill_one

RESULTS = Path(__file__).parent / "results" / "formats.csv"
COLUMNS = (
    "date", "machine", "commit", "format", "bytes", "files", "text_bytes", "next_token", "next_token_change", "next_token_error",
    "bound", "bound_change", "bound_error", "samples", "gaps", "exact", "parses", "steps_per_canvas", "steps_change", "steps_error",
)  # fmt: skip
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


def make(name: str, folder: Path) -> Path | None:
    """The model of a row: its folder, made where it is not there yet; None: the shipped one."""
    asked, target = FORMATS[name], folder / name
    if asked and not target.exists():
        call = [sys.executable, "-m", "dgemma.cli.main", "quantize", "(embedded)", name, *asked, "--no-compare"]
        subprocess.run(call, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return target if asked else None


def found(path: Path) -> dict[str, dict[str, float]]:
    """What a file of kept lines has, by key."""
    return dict(map(json.loads, path.read_text().splitlines())) if path.exists() else {}


def measure(
    folder: Path, part: str, keys: Sequence[str], models: dict[str, dgemma.Model], ask: Callable[[dgemma.Model, str], dict[str, float]]
) -> None:
    """Ask every model for every key that its file lacks, and keep each answer as it comes."""
    missing = {name: set(keys) - found(folder / f"{name}.{part}").keys() for name in models}
    for key in keys:
        for name, model in models.items():
            if key in missing[name]:
                answer = ask(model, key)
                with (folder / f"{name}.{part}").open("a") as file:
                    file.write(json.dumps([key, answer]) + "\n")


def changed(before: Sequence[float], after: Sequence[float], sizes: Sequence[float] | None = None) -> tuple[float, float]:
    """(relative change of the sums, its standard error) from pairs. sizes: of what each pair is about, by which sums are divided."""
    sizes = sizes or [1.0] * len(before)
    differences = [new - old for old, new in zip(before, after, strict=True)]
    mean = sum(differences) / sum(sizes)
    squares = sum((difference - mean * size) ** 2 for difference, size in zip(differences, sizes, strict=True))
    count = len(differences)
    return sum(differences) / sum(before), math.sqrt(squares * count / max(1, count - 1)) / sum(before)


def row(folder: Path, name: str, samples: int) -> dict[str, object]:
    """The row of a format, over what it and the base both have; without the part of which they have nothing."""
    place = make(name, folder) or dgemma.load(device="meta").folder
    result: dict[str, object] = {
        "date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit(), "format": name,
        "bytes": sum(file.stat().st_size for file in place.glob("*.safetensors")), "samples": samples,
    }  # fmt: skip
    before, after = pairs(folder, name, "text")
    if after:
        old, new = ([Score(**value) for value in side] for side in (before, after))
        total, sizes = sum(new[1:], new[0]), [score.text_bytes for score in old]
        result |= {"files": len(new), "text_bytes": total.text_bytes}
        for kind in ("next_token", "bound"):
            change, error = changed(*([getattr(one, f"{kind}_nats") for one in side] for side in (old, new)), sizes)
            result |= {kind: round(getattr(total, kind), 4), f"{kind}_change": round(change, 5), f"{kind}_error": round(error, 5)}
    before, after = pairs(folder, name, "gaps")
    if after:
        table = averages(after)
        change, error = changed(*([one["steps_per_canvas"] for one in side] for side in (before, after)))
        result |= {key: round(table[key], 4) for key in ("gaps", "exact", "parses", "steps_per_canvas")}
        result |= {"steps_change": round(change, 4), "steps_error": round(error, 4)}
    return result


def pairs(folder: Path, name: str, part: str) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """What the base and a format were both asked, in one order."""
    before, after = (found(folder / f"{one}.{part}") for one in (BASE, name))
    both = sorted(before.keys() & after.keys())
    return [before[key] for key in both], [after[key] for key in both]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--parts", nargs="*", choices=("text", "gaps"), default=("text", "gaps"), help="none: only the table")
    parser.add_argument("--samples", type=int, default=2, help="noise levels per canvas of the bound")
    parser.add_argument("--gaps", type=int, default=200)
    parser.add_argument("--characters", type=int, help="of each file, from its beginning; default: all")
    parser.add_argument("--folder", type=Path, default=Path("runs/formats"))
    parser.add_argument("--save", action="store_true", help=f"append the rows to {RESULTS.name}")
    options = parser.parse_args()
    folder, corpus = options.folder, load()
    folder.mkdir(parents=True, exist_ok=True)
    calibration = folder / CALIBRATED[1]
    if not calibration.exists():
        calibration.write_text("".join(corpus.train[path] for path in sorted(corpus.train))[:CALIBRATION])
    models = {
        name: dgemma.load(make(name, folder), activations="rounded" if name.endswith("rounded") else None)
        for name in (options.formats if options.parts else ())
    }
    places = {path: place for place, path in enumerate(sorted(corpus.held_out))}
    order = random.Random(0).sample(sorted(places), len(places))  # a part of the files should be like all of them
    gaps = {f"{number:04}": case for number, case in enumerate(cases(corpus.held_out, options.gaps, 0))}

    def text(model: dgemma.Model, path: str) -> dict[str, float]:
        start = {path: corpus.held_out[path][: options.characters]}
        return dataclasses.asdict(next(scores(model, start, options.samples, places[path]))[1])

    if "text" in options.parts:
        measure(folder, "text", order, models, text)
    if "gaps" in options.parts:
        measure(folder, "gaps", list(gaps), models, lambda model, key: fill_one(model, gaps[key]))
    rows = [row(folder, name, options.samples) for name in options.formats]
    for one in rows:
        print("  ".join(f"{name} {one[name]}" for name in COLUMNS[3:] if name in one))
    if options.save:
        append(RESULTS, rows, COLUMNS)


if __name__ == "__main__":
    main()
