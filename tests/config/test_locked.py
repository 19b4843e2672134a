"""The files that pin versions agree with each other and with what the package asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKED = (ROOT / "requirements.txt").read_text(encoding="utf-8")


def pins(text: str) -> dict[str, list[str]]:
    """Versions by name; a lock for several systems and Pythons may hold two of one package."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.M):
        found.setdefault(name.lower().replace("_", "-"), []).append(version)
    return found


def asked(*extras: str) -> list[Requirement]:
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return [wanted for wanted in map(Requirement, lines) if wanted.name != "dgemma"]


@pytest.mark.parametrize("wanted", asked("serve"), ids=str)
def test_what_serve_needs_is_locked_within_its_bounds(wanted: Requirement) -> None:
    versions = pins(LOCKED)[wanted.name.replace("_", "-")]
    assert all(wanted.specifier.contains(version) for version in versions)


def test_every_locked_package_has_hashes() -> None:
    entries = re.split(r"^(?=[a-z])", LOCKED, flags=re.M)[1:]
    assert len(entries) > 50 and all(entry.count("--hash=sha256:") >= 1 for entry in entries)


def test_the_lock_holds_the_torch_and_triton_of_the_constraints() -> None:
    constraints = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert {name: pins(LOCKED)[name] for name in ("torch", "triton")} == {
        name: constraints[name] for name in ("torch", "triton")
    }


@pytest.mark.parametrize("file", ["constraints.txt", "tests/range/oldest.txt", "tests/range/newest.txt"])
def test_constraints_lie_within_the_bounds(file: str) -> None:
    constraints = pins((ROOT / file).read_text(encoding="utf-8"))
    for wanted in asked("serve", "test"):
        assert all(
            wanted.specifier.contains(version)
            for version in constraints.get(wanted.name.replace("_", "-"), [])
        )


def test_the_oldest_end_holds_every_floor() -> None:
    oldest = pins((ROOT / "tests" / "range" / "oldest.txt").read_text(encoding="utf-8"))
    for wanted in asked("serve"):
        floor = next(iter(wanted.specifier))
        [version] = oldest[wanted.name.replace("_", "-")]
        beyond = floor.operator == ">"  # the first release beyond what is named
        assert beyond or re.sub(r"(\.0)*$", "", version) == re.sub(r"(\.0)*$", "", floor.version), wanted
