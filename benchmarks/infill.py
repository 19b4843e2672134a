"""Filling gaps of held-out files: a line, several lines, a span of characters, a word's end; one width against several (docs/numbers.md).

    python benchmarks/infill.py [--model FOLDER] [--gaps 200] [--kinds line lines span word] [--seed 0] [--work FILE] [--seconds N] [--timed]

The model is never told how long a gap was: `several` are the default widths in one batch (an eighth, a quarter and a half of
the canvas), `one` is the half alone, closed by its filler. A row does not depend on who shares its batch, so one run tells both;
`--timed` fills each gap once more with the one width and writes seconds, which mean something only where nothing else runs. A gap counts as exact when its text comes back to the letter (of a word's end: the word), as
parsing when the file still compiles; the baseline puts nothing there. Steps are means over every canvas; passes are
those of the batch, which runs until its slowest row stands.

Results of single gaps are kept in --work (default: benchmarks/results/infill.jsonl, which git ignores), one JSON object a line, and the same
command goes on where it was left (after --seconds, or a kill) as long as the commit is the same; when a kind is complete its rows go to
benchmarks/results/infill.csv.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import re
import time
from pathlib import Path

import dgemma
from about import append, commit, machine
from dgemma.tasks.infill import default_widths
from dgemma.train.corpus import load
from quality import Case, cases, parses

RESULTS = Path(__file__).parent / "results" / "infill.csv"
KINDS, WAYS = ("line", "lines", "span", "word"), ("several", "one")
MOST_LINES, SHORTEST, LONGEST = 5, 4, 160  # lines of a gap of several; characters of a random span
FACTS = ("exact", "parses", "parses_empty", "empty", "characters", "steps", "passes", "seconds")


def several_lines(files: dict[str, str], count: int, seed: int) -> list[Case]:
    """Gaps of 2 to 5 lines, from a line's text after its indentation to the end of another's."""
    rng, found = random.Random(seed), []
    for first in cases(files, 4 * count, seed):
        rest = first.suffix.split("\n")
        taken = rng.randint(1, MOST_LINES - 1)
        gap = "\n".join([first.line, *rest[1 : taken + 1]]).rstrip()
        whole = first.line + first.suffix
        if "\n" in gap and rest[0] == "" and whole.startswith(gap):
            found.append(Case(first.path, first.prefix, gap, whole[len(gap) :]))
    return found[:count]


def spans(files: dict[str, str], count: int, seed: int) -> list[Case]:
    """Random runs of characters, wherever they begin and end."""
    rng, found = random.Random(seed), []
    texts = [(path, text) for path, text in sorted(files.items()) if len(text) > 4 * LONGEST and parses(text)]
    for path, text in rng.choices(texts, weights=[len(text) for _, text in texts], k=count):
        start = rng.randrange(len(text) - LONGEST)
        end = start + rng.randint(SHORTEST, LONGEST)
        found.append(Case(path, text[:start], text[start:end], text[end:]))
    return found


def words(files: dict[str, str], count: int, seed: int) -> list[Case]:
    """What is left of a line behind a place inside a word of at least 4 letters: where an editor's cursor stands."""
    rng, found = random.Random(seed), []
    texts = [(path, text) for path, text in sorted(files.items()) if len(text) > 4 * LONGEST and parses(text)]
    for path, text in rng.choices(texts, weights=[len(text) for _, text in texts], k=count):
        word = rng.choice([*re.finditer(r"[A-Za-z_]{4,}", text)])
        at = rng.randrange(word.start() + 1, word.end())
        end = text.find("\n", at)
        found.append(Case(path, text[:at], text[at:end], text[end:]))
    return found


def right(kind: str, text: str, gap: str) -> bool:
    """Whether a gap counts as exact; of a word's end that is to say whether the word is, whatever the line goes on with."""
    return text == gap if kind != "word" else re.match("[A-Za-z_]*", text).group() == re.match("[A-Za-z_]*", gap).group()


def fill(model: dgemma.Model, kind: str, case: Case, timed: bool) -> dict[str, dict[str, float]]:
    """What became of one gap, by way."""
    widths = default_widths(model.config.canvas_length)
    filled = model.fill(case.prefix, case.suffix, widths=widths)
    alone = model.fill(case.prefix, case.suffix, widths=widths[-1:]) if timed else None
    empty = parses(case.prefix + case.suffix)

    def facts(text: str, steps: list[int], seconds: float) -> dict[str, float]:
        return {
            "exact": right(kind, text, case.line), "parses": parses(case.prefix + text + case.suffix), "parses_empty": empty,
            "empty": not text, "characters": len(case.line), "steps": sum(steps) / len(steps), "passes": max(steps),
            "seconds": seconds if timed else 0.0,
        }  # fmt: skip

    one = facts(filled.candidates[-1], filled.row_steps[-1:], alone.generation.seconds if alone else 0.0)
    return {"several": facts(filled.text, filled.row_steps, filled.generation.seconds), "one": one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--gaps", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=RESULTS.with_suffix(".jsonl"))
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--timed", action="store_true")
    options = parser.parse_args()
    done: dict[tuple, dict[str, dict[str, float]]] = {}
    if options.work.exists():
        for line in options.work.read_text().splitlines():
            fact = json.loads(line)
            done[tuple(fact.pop("key"))] = fact
    held_out, end = load().held_out, time.monotonic() + options.seconds
    model, makers = dgemma.load(options.model), {"line": cases, "lines": several_lines, "span": spans, "word": words}
    built = commit()
    for kind in options.kinds:
        gaps, fresh, found = makers[kind](held_out, options.gaps, options.seed), False, []
        for number, case in enumerate(gaps):
            key = (options.model or "shipped", built, kind, options.seed, len(gaps), number, options.timed)
            if key not in done:
                if time.monotonic() > end:
                    print(f"{kind}: {number} of {len(gaps)}; run the same command to go on")
                    return
                done[key], fresh = fill(model, kind, case, options.timed), True
                with options.work.open("a") as file:
                    file.write(json.dumps({"key": key, **done[key]}) + "\n")
            found.append(done[key])
        for way in WAYS if fresh else ():
            row = {"date": datetime.date.today().isoformat(), "machine": machine(), "commit": built, "model": key[0],
                   "gap": kind, "widths": way, "gaps": len(found)}  # fmt: skip
            row |= {name: round(sum(fact[way][name] for fact in found) / len(found), 4) for name in FACTS}
            row["seconds"] = row["seconds"] if options.timed else ""
            append(RESULTS, [row])
            print(", ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
