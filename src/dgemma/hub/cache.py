"""The Hugging Face cache on this machine: which snapshots it holds, by which names they are found, and
deleting them.

`snapshots` is the one list of it; every verb asks it. It reads folders and links and no file's content, so
one damaged entry hides no other. Never touches the network. Trap: a ref may lead nowhere (its snapshot was
deleted) and a link of a snapshot too (its blob is still being fetched): whoever finds a snapshot has not
found its files.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import HubError

COMMIT = re.compile(r"[0-9a-f]{40}")
SHORT = re.compile(r"[0-9a-f]{7,40}")
MAIN = "main"


@dataclass(frozen=True)
class Snapshot:
    """One revision of one model in the cache. refs: branches and tags that lead to it."""

    repo: str
    commit: str
    refs: tuple[str, ...]
    folder: Path

    @property
    def home(self) -> Path:
        """The model's folder in the cache."""
        return self.folder.parents[1]


def cache_root(cache_dir: Path | None = None) -> Path:
    """The Hugging Face cache folder (HF_HUB_CACHE, HF_HOME), or `cache_dir` where one is given."""
    if cache_dir is not None:
        return Path(cache_dir)
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def storage(repo: str, cache_dir: Path | None = None) -> Path:
    """The folder of one hub model inside the cache, whether it exists or not."""
    return cache_root(cache_dir) / ("models--" + repo.replace("/", "--"))


def snapshots(cache_dir: Path | None = None, repo: str | None = None) -> list[Snapshot]:
    """Every snapshot of every model in the cache, or of one model, by name and commit.

    Raises HubError where it may not be read.
    """
    cache = cache_root(cache_dir)
    try:
        if repo is None:
            homes = sorted(cache.glob("models--*--*"))
        else:
            homes = [storage(repo, cache_dir)]
        return [snapshot for home in homes for snapshot in _of_home(home)]
    except OSError as error:
        raise HubError(f"{cache}: the model cache cannot be read ({error.strerror or error})") from None


def _of_home(home: Path) -> list[Snapshot]:
    folders = sorted(path for path in home.glob("snapshots/*") if path.is_dir())
    if folders:
        refs = _refs(home)
    else:
        refs = {}
    repo = home.name.removeprefix("models--").replace("--", "/")
    return [Snapshot(repo, path.name, tuple(sorted(refs.get(path.name, ()))), path) for path in folders]


def _refs(home: Path) -> dict[str, list[str]]:
    """Commit -> the names that lead to it; a ref that cannot be read leads nowhere."""
    refs: dict[str, list[str]] = {}
    for path in (home / "refs").rglob("*"):
        try:
            commit = ""
            if path.is_file():
                commit = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            continue
        if commit and not path.name.startswith("."):  # one that is being written has a dot in front
            refs.setdefault(commit, []).append(path.relative_to(home / "refs").as_posix())
    return refs


def matching(candidates: list[Snapshot], revision: str | None) -> list[Snapshot]:
    """Of one model's snapshots those that a revision stands for: a branch, a tag, a commit or the beginning
    of one.

    None stands for main; where nothing goes by that name (a model that was fetched by its commit), for every
    snapshot.
    """
    wanted = revision or MAIN
    named = [one for one in candidates if wanted in one.refs or wanted == one.commit]
    if named:
        return named
    if revision is None:
        return candidates
    return [one for one in candidates if SHORT.fullmatch(revision) and one.commit.startswith(revision)]


def delete(chosen: list[Snapshot], cache_dir: Path | None = None) -> int:
    """Delete snapshots of one model, and what only they use; returns the bytes freed."""
    home = chosen[0].home
    others = [one for one in _of_home(home) if one not in chosen]
    kept = {blob for one in others for path in _files(one.folder) if (blob := _blob(path))}
    mine = {blob for one in chosen for path in _files(one.folder) if (blob := _blob(path))}
    refs = {home / "refs" / ref for one in chosen for ref in one.refs}
    folders = {one.folder for one in chosen}
    before = _disk_bytes(home)
    _delete(cache_dir, blobs=mine - kept, refs=refs, snapshots=folders) if others else _delete(
        cache_dir, repos={home}
    )
    # the client only logs what it could not delete
    if left := sorted(folder.name for folder in folders if folder.exists()):
        raise HubError(
            f"{home}: revision {left[0][:12]} could not be deleted; its folder may not be changed by you"
        )
    return before - _disk_bytes(home)


def delete_file(path: Path, cache_dir: Path | None = None) -> int:
    """Delete one file of a snapshot, and its blob where nothing else uses it; returns the bytes freed."""
    home = path.parents[2]
    kept = {_blob(other) for one in _of_home(home) for other in _files(one.folder) if other != path}
    before = _disk_bytes(home)
    blob = _blob(path)
    if blob is not None and blob not in kept:
        blobs = {blob}
    else:
        blobs = set()
    _delete(cache_dir, blobs=blobs, snapshots={path})
    if os.path.lexists(path):
        raise HubError(f"{path}: could not be deleted; its folder may not be changed by you")
    return before - _disk_bytes(home)


def _delete(cache_dir: Path | None, **what: set[Path]) -> None:
    """By the hub client, which also looks after blobs that several models share."""
    from huggingface_hub.utils import DeleteCacheStrategy

    known = {field.name for field in dataclasses.fields(DeleteCacheStrategy)}
    arguments: dict[str, Any] = {"expected_freed_size": 0}
    for name in ("blobs", "refs", "repos", "snapshots"):
        arguments[name] = frozenset(what.get(name, ()))
    newer = {"files": frozenset(), "cache_dir": cache_root(cache_dir)}  # of newer clients
    arguments |= {name: value for name, value in newer.items() if name in known}
    DeleteCacheStrategy(**arguments).execute()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]


def _blob(path: Path) -> Path | None:
    """The blob of this model that a link leads to, whether it is there or not."""
    if not path.is_symlink():
        return None
    target = Path(os.path.normpath(path.parent / os.readlink(path)))
    if target.parent.name == "blobs" and target.parents[1].name.startswith("models--"):
        return target
    return None


def _disk_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
