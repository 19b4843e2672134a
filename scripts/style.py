"""How calm the source is, by figures: dense lines, long lines, and words of our own where the field has better ones.

    python scripts/style.py             the figures of each package, and of all; exit 1 where a limit is passed
    python scripts/style.py --names     where each name is bound that docs/glossary.md says is not ours to invent
    python scripts/style.py --dense     the files with most code tokens a line

A code token is what Python's tokenizer calls one, without comments, docstrings and line ends; a code line is one that holds such a
token. Trap: a formatter spreads the same tokens over more lines. What makes a line calm is that it says one thing.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "dgemma"
COLUMNS = 110
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
# Whole identifiers that say nothing to a stranger; each has a standard word, which depends on what it stands for.
PRIVATE = frozenset(
    "told tell Told found asked own Deck decks Ruler ruler ruled look_by_rules Rules Terms Voices voices belief beliefs believing "
    "Previous spent look stands marks salt Slots fit recipe form Carried Mapped arrive Lane Remote Wrong Refusal house floor room".split()
)
# What must hold. They only ever go down.
LIMITS = {"tokens": 8.65, "conditionals": 10.5, "assignments": 0.6, "long": 0, "private": 1}


@dataclass
class Figures:
    """Counts of one file or of several."""

    tokens: int = 0
    lines: int = 0
    conditionals: int = 0  # conditional expressions
    assignments: int = 0  # several names bound to several values in one statement
    long: int = 0  # lines beyond COLUMNS
    private: Counter[str] = field(default_factory=Counter)  # names of PRIVATE that are bound

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.tokens + other.tokens,
            self.lines + other.lines,
            self.conditionals + other.conditionals,
            self.assignments + other.assignments,
            self.long + other.long,
            self.private + other.private,
        )

    def measures(self) -> dict[str, float]:
        """What is limited."""
        thousands = max(1, self.lines) / 1000
        return {
            "tokens": self.tokens / max(1, self.lines),
            "conditionals": self.conditionals / thousands,
            "assignments": self.assignments / thousands,
            "long": self.long,
            "private": self.private.total(),
        }


def figures_of(text: str) -> Figures:
    """The figures of one file's text."""
    tree = ast.parse(text)
    figures = Figures(long=sum(len(line) > COLUMNS for line in text.splitlines()))
    documented = {place for node in ast.walk(tree) if (place := docstring_line(node)) is not None}
    rows: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_docstring = token.type == tokenize.STRING and token.start[0] in documented
        if token.type in LAYOUT or is_docstring:
            continue
        figures.tokens += 1
        rows.update(range(token.start[0], token.end[0] + 1))
    figures.lines = len(rows)
    for node in ast.walk(tree):
        figures.conditionals += isinstance(node, ast.IfExp)
        figures.assignments += is_parallel(node)
    figures.private.update(name for name, _ in private_names(tree))
    return figures


def docstring_line(node: ast.AST) -> int | None:
    """The line on which a node's docstring begins."""
    if (
        not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        or not node.body
    ):
        return None
    first = node.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return first.lineno if is_text and isinstance(first.value.value, str) else None


def is_parallel(node: ast.AST) -> bool:
    """Whether it binds several names to several values at once."""
    is_tuple = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple)
    return is_tuple and isinstance(node.value, ast.Tuple)


def private_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name, line) of everything that a file defines under a name of PRIVATE: variables, parameters, attributes, functions, classes."""
    for node in ast.walk(tree):
        for name, line in bound_by(node):
            if name.lstrip("_") in PRIVATE:
                yield name.lstrip("_"), line


def bound_by(node: ast.AST) -> Iterator[tuple[str, int]]:
    """The names that one node of a tree binds, and their lines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, node.lineno
    elif isinstance(node, ast.arg):
        yield node.arg, node.lineno
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id, node.lineno
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.attr, node.lineno


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", action="store_true", help="where each private name is bound")
    parser.add_argument("--dense", action="store_true", help="the densest files")
    parser.add_argument("places", nargs="*", type=Path, help="files or folders; default: the package")
    options = parser.parse_args()
    files = [file for place in options.places or [SOURCE] for file in files_in(place)]
    if options.names:
        show_names(files)
        return 0
    figures = {file: figures_of(file.read_text(encoding="utf-8")) for file in files}
    if options.dense:
        for file, one in sorted(figures.items(), key=lambda pair: -pair[1].measures()["tokens"])[:40]:
            print(line(str(relative(file)), one))
        return 0
    return show_packages(figures)


def files_in(place: Path) -> list[Path]:
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


def relative(file: Path) -> Path:
    return file.relative_to(SOURCE) if file.is_relative_to(SOURCE) else file


def show_names(files: list[Path]) -> None:
    for file in files:
        for name, number in private_names(ast.parse(file.read_text(encoding="utf-8"))):
            print(f"{relative(file)}:{number} {name}")


def show_packages(figures: dict[Path, Figures]) -> int:
    """Print a table. -> 1 where a limit is passed."""
    print(f"{'':14} tokens/line  conditionals  assignments  lines > {COLUMNS}  private names  code lines")
    packages: dict[str, Figures] = {}
    for file, one in figures.items():
        package = relative(file).parts[0].removesuffix(".py")
        packages[package] = packages.get(package, Figures()) + one
    for package, one in sorted(packages.items()):
        print(line(package, one))
    whole = sum(packages.values(), Figures())
    print(line("all", whole))
    passed = [name for name, value in whole.measures().items() if value > LIMITS[name]]
    for name in passed:
        print(f"{name}: {whole.measures()[name]:g} is above the limit of {LIMITS[name]:g}", file=sys.stderr)
    return 1 if passed else 0


def line(title: str, figures: Figures) -> str:
    measures = figures.measures()
    cells = f"{measures['tokens']:11.2f} {measures['conditionals']:13.1f} {measures['assignments']:12.1f}"
    return f"{title:14} {cells} {figures.long:12} {figures.private.total():14} {figures.lines:11}"


if __name__ == "__main__":
    sys.exit(main())
