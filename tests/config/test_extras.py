"""What an error says to install: a command that works where this copy came from, and never a name that nobody has registered."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dgemma.config import extras

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
METADATA = "Metadata-Version: 2.4\nName: dgemma\nVersion: 9\nRequires-Dist: torch\nRequires-Dist: starlette>=1.1; extra == 'serve'\n"


@pytest.fixture(autouse=True)
def has_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an environment of `python -m venv`; one that uv made, where these tests may run, has no pip."""
    monkeypatch.setattr(extras, "_is_importable", lambda name: True)


def installed_from(origin: dict[str, Any] | None, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed `dgemma` whose installer wrote down `origin`, before every other on the path."""
    folder = place / "site" / "dgemma-9.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(METADATA + "Requires-Dist: msgspec; extra == 'serve'\n")
    if origin is not None:
        (folder / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(folder.parent)


def words(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command's words behind the installer, as a shell in `place` parts them."""
    monkeypatch.chdir(place)
    command = shlex.split(extras.install_command())
    return command[command.index("install") + 1 :]


def test_a_clone_is_installed_from_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "dgemma"
    clone.mkdir()
    installed_from({"url": clone.as_uri(), "dir_info": {"editable": True}}, tmp_path, monkeypatch)
    assert words(clone, monkeypatch) == ["-e", ".[serve]"]
    assert words(tmp_path, monkeypatch) == [
        "-e",
        "./dgemma[serve]",
    ]  # `dgemma[serve]` alone would be a registered package
    assert words(Path("/"), monkeypatch)[0] == "-e" and words(Path("/"), monkeypatch)[1].endswith(
        "/dgemma[serve]"
    )


def test_a_clone_that_is_copied_is_copied_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_from({"url": tmp_path.as_uri(), "dir_info": {}}, tmp_path, monkeypatch)
    assert words(tmp_path, monkeypatch) == [".[serve]"]


@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_git_url_is_installed_from_that_url(
    revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vcs = {"vcs": "git", "commit_id": "abc"} | ({"requested_revision": revision} if revision else {})
    installed_from({"url": "https://example.org/d.git", "vcs_info": vcs}, tmp_path, monkeypatch)
    assert words(tmp_path, monkeypatch) == [
        f"dgemma[serve] @ git+https://example.org/d.git@{revision or 'abc'}"
    ]


def test_a_wheel_is_installed_from_its_url_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "dgemma-9-py3-none-any.whl"
    wheel.touch()
    installed_from({"url": wheel.as_uri(), "archive_info": {}}, tmp_path, monkeypatch)
    assert words(tmp_path, monkeypatch) == [f"./{wheel.name}[serve]"]
    record = tmp_path / "site" / "dgemma-9.dist-info" / "direct_url.json"
    record.write_text(json.dumps({"url": "https://example.org/dgemma-9.whl", "archive_info": {}}))
    assert words(tmp_path, monkeypatch) == ["dgemma[serve] @ https://example.org/dgemma-9.whl"]


def test_where_its_source_is_gone_the_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_from(
        {"url": (tmp_path / "gone").as_uri(), "dir_info": {"editable": True}}, tmp_path, monkeypatch
    )
    assert words(tmp_path, monkeypatch) == ["starlette>=1.1", "msgspec"]


def test_an_environment_without_pip_is_installed_into_by_uv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "_is_importable", lambda name: name != "pip")
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    assert shlex.split(extras.install_command())[:5] == [
        "uv",
        "pip",
        "install",
        "--python",
        ".venv/bin/python",
    ]


def test_on_windows_words_stand_in_double_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_from({"url": tmp_path.as_uri(), "dir_info": {"editable": True}}, tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extras, "_is_windows", lambda: True)
    assert extras.install_command().endswith('-m pip install -e ".[serve]"')


def test_the_modules_that_serve_looks_for_are_those_of_its_extra() -> None:
    named = [
        re.split("[><=]", line)[0].replace("-", "_") for line in PROJECT["optional-dependencies"]["serve"]
    ]
    assert sorted(named) == sorted(extras.SERVE_MODULES)


@pytest.mark.parametrize("package", extras.SERVE_MODULES)
def test_serve_names_what_is_missing_before_it_loads_a_model(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from dgemma.cli.main import main; sys.exit(main(['serve', '--port', '0']))"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert f"serve needs the package '{package}'" in ended.stderr and "[serve]" in ended.stderr


def test_no_text_installs_a_name_that_nobody_registered() -> None:
    """`pip install dgemma` and `dgemma[...]` would ask a package index for a name that anybody could take."""
    files = [ROOT / "README.md", ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("*.md")]
    for folder, pattern in (
        ("docs", "*.md"),
        ("src", "*.py"),
        ("src", "*.js"),
        ("src", "*.html"),
        ("scripts", "*"),
        ("benchmarks", "*"),
    ):
        files += [
            path
            for path in (ROOT / folder).rglob(pattern)
            if path.is_file() and path.suffix in (".md", ".py", ".js", ".html", ".sh", "")
        ]
    barred = re.compile(
        r"""(?:pip|uv|pipx|uvx|tool)\s+(?:install|run|add)\s[^\n`]*?(?<![/.\w-])dgemma(?:\[\w+\])?(?=['"`\s;]|$)(?!['"]?\s*@)"""
    )
    assert barred.search("pip install 'dgemma[serve]'") and barred.search("uv pip install dgemma")
    assert not barred.search("pip install 'dgemma[serve] @ git+https://example.org/d'") and not barred.search(
        "pip install -e '/x/dgemma[serve]'"
    )
    assert not [str(path) for path in files if barred.search(path.read_text(encoding="utf-8"))]
    assert os.path.exists(ROOT / "docs" / "install.md")
