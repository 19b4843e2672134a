"""The pages are true where a program can tell: what is generated is current, links and file names lead somewhere, versions agree."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import pytest

import dgemma
from tests.test_house import LAYERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
HISTORY = {"CHANGELOG.md", "log.md", "old-tables.md"}  # they name what is gone
CURRENT = [page for page in PAGES if page.name not in HISTORY]
IMAGE_OR_LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]*))?\)")
# a file of ours in backticks: it has a folder that is ours, or an ending that only ours have
NAMED = re.compile(r"`((?:src|tests|scripts|benchmarks|docs|examples)/[\w./*-]+)`")
WRITE_DOCS = runpy.run_path(str(ROOT / "scripts" / "write_docs.py"))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs both make them."""
    without_code = re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", without_code, re.M)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("name", WRITE_DOCS["PAGES"])
def test_a_generated_page_is_current(name: str) -> None:
    written = text_of(ROOT / "docs" / name)
    assert written == WRITE_DOCS["PAGES"][name](), "run python scripts/write_docs.py"


def test_every_flag_is_in_the_tables() -> None:
    page = text_of(ROOT / "docs" / "cli.md")
    for verb in WRITE_DOCS["VERBS"]:
        assert f"<!-- generated: flags of {verb} -->" in page, verb


def flags_of(verb: str) -> set[str]:
    command = importlib.import_module(f"dgemma.cli.{verb}").command
    described = inspect.signature(command, eval_str=True).parameters
    return {flag for name, one in described.items() for flag in WRITE_DOCS["declared"](name, one.annotation)}


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_command_lines_have_verbs_and_flags_that_exist(page: Path) -> None:
    text = text_of(page)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    lines = re.findall(r"^dgemma (.+)$", "".join(blocks), re.M)
    lines += re.findall(r"`dgemma ([a-z]+[^`\n]*)`", text.replace("dgemma needs Python", ""))
    for line in lines:
        verb, *words = re.split(r"\s--\s|\s#", line)[0].split()
        if not re.fullmatch(r"[a-z]+", verb):
            continue
        assert verb in WRITE_DOCS["VERBS"], f"{page.name}: dgemma {line}"
        given = {word.partition("=")[0] for word in words if re.match(r"--\w", word)}
        assert given <= flags_of(verb) | {"--help"}, f"{page.name}: dgemma {line}"


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_pages_name_only_targets_of_make(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.M))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text_of(page), re.M)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in IMAGE_OR_LINK.findall(text_of(page)):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_no_page_names_a_file_that_is_gone(page: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    for name in NAMED.findall(text_of(page)):
        is_there = any(ROOT.glob(name.rstrip("/"))) or any(one.startswith(name) for one in tracked)
        assert is_there, f"{page.name} names {name}"


def test_every_page_of_docs_is_in_the_sites_navigation() -> None:
    navigation = text_of(ROOT / "mkdocs.yml").partition("\nnav:")[2]
    named = set(re.findall(r"[\w-]+\.md", navigation.partition("\n")[2]))
    assert {page.name for page in PAGES if page.parent == ROOT / "docs"} == named - {
        "index.md",
        "contributing.md",
        "changelog.md",
        "security.md",
    }


def test_the_table_of_layers_is_the_one_that_is_held() -> None:
    page = text_of(ROOT / "docs" / "architecture.md")
    rows = re.findall(r"^\| ?(\d*) \| (`[^|]*`) \|", page, re.M)
    written = {int(layer or -1): set(re.findall(r"`(\w+)`", packages)) for layer, packages in rows}
    there = {path.stem for path in (ROOT / "src" / "dgemma").iterdir()}
    held = {layer: packages & there for layer, packages in LAYERS.items() if layer <= 10}
    assert written == held


def test_the_version_stands_once_and_is_the_changelogs_newest() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/dgemma/__init__.py"
    newest = re.findall(r"^## (\S+)", text_of(ROOT / "CHANGELOG.md"), re.M)[0]
    assert newest == dgemma.__version__


def test_sources_name_pages_that_are_there() -> None:
    folders = ("src", "scripts", "benchmarks", "tests", ".github", ".ci")
    files = [
        file
        for folder in folders
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".sh", ".yml", "")
    ]
    named = {
        (file.name, name)
        for file in [*files, ROOT / "Makefile"]
        if file.is_file()
        for name in re.findall(r"\bdocs/[\w-]+\.(?:md|svg|gif|png)", text_of(file))
    }
    assert named and not [(file, name) for file, name in named if not (ROOT / name).exists()]


def test_links_on_the_site_lead_where_it_has_pages() -> None:
    relink = runpy.run_path(str(ROOT / "scripts" / "site_pages.py"))["relink"]
    page = "![a](canvas.gif) [b](../SECURITY.md#reporting) [c](../src/dgemma/api/model.py) [d](https://example.org/x)"
    without = "![a](canvas.gif) [b](security.md#reporting) c [d](https://example.org/x)"
    assert relink(page, "docs", None) == without
    assert "[c](https://example.org/r/blob/main/src/dgemma/api/model.py)" in relink(
        page, "docs", "https://example.org/r"
    )
    assert (
        relink("[x](docs/cli.md#exit-codes) [y](CHANGELOG.md)", "", None)
        == "[x](cli.md#exit-codes) [y](changelog.md)"
    )
