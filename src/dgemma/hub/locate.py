"""From a name to a checkpoint on this machine: a folder or GGUF file, a hub name in the local cache, or the
shipped model.

Never touches the network (see pull.py) and never loads torch. Trap: a hub name and a relative folder look
alike (`org/name`); a folder that exists wins, and only what cannot be a hub name is reported as a missing
folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config import ModelConfig, read_json
from ..config.reader import shown
from ..config.sizes import disk_size
from ..errors import CheckpointError, ConfigError, DgemmaError, HubError, UsageError
from ..weights.gguf import GGUF, architecture, read_gguf
from ..weights.gguf_config import ARCHITECTURE, model_config
from ..weights.gguf_names import read_layout as read_gguf_layout
from ..weights.layout import INDEX, SHARD, Layout, read_layout
from .cache import Snapshot, cache_root, delete, delete_file, matching, snapshots, storage
from .names import EXAMPLE, HubName, choice_of, choices, is_address, parse_hub_name

__all__ = ["cache_root", "disk_size", "storage"]

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
EMBEDDED_NAME = "(embedded)"
EMBEDDED_ABOUT = (
    "the shipped checkpoint knows a small synthetic world and exists to show and to test the machinery; "
    "asked about anything else, it is meant to say that it does not know"
)
PICTURES = "mmproj"  # llama.cpp keeps the part of a model that sees pictures in a file of its own, called so


@dataclass(frozen=True)
class CachedModel:
    """One DiffusionGemma checkpoint on this machine; `size` in bytes, `refs` the names of its revision."""

    name: str
    revision: str
    refs: tuple[str, ...]
    size: int
    dtype: str
    path: Path
    state: str  # "ok", or the first problem


def locate(
    name_or_path: str | Path | None, revision: str | None = None, cache_dir: Path | None = None
) -> Path:
    """The folder or .gguf file for a path, a hub name or address (names.py), or None (the shipped one).

    Raises CheckpointError for a path that does not exist or cannot be entered, HubError for a hub model that
    is not (wholly) in the cache, UsageError for what can be neither.
    """
    if name_or_path is None or name_or_path == EMBEDDED_NAME:
        if not (EMBEDDED / "config.json").is_file():
            raise CheckpointError(
                f"{EMBEDDED}: this installation ships no checkpoint; name one, such as {EXAMPLE}"
            )
        if revision is not None:
            raise UsageError(
                f"the shipped model has no revisions; leave '{revision}' out, or name a hub model"
            )
        return EMBEDDED
    text = str(name_or_path)
    if isinstance(name_or_path, str) and is_address(text):
        return _cached(parse_hub_name(text, revision), cache_dir)
    if not text:  # Path("") is the folder one stands in
        raise UsageError(f"the model's name is empty; give a folder or a hub name such as {EXAMPLE}")
    try:
        path = Path(text).expanduser()
        is_folder = path.is_dir()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # too long, a folder that may not be entered, ~nobody
        raise CheckpointError(
            f"{shown(text)}: no such folder ({getattr(error, 'strerror', error)})"
        ) from None
    if is_folder:
        if revision is not None:
            raise UsageError(f"{text}: a folder has no revisions; leave '{revision}' out")
        return _gguf_in(path) or path
    is_gguf = path.suffix.lower() == GGUF
    if exists:
        if not is_gguf:
            raise UsageError(
                f"{text}: a file; name a {GGUF} file, "
                "or the folder that holds config.json and model*.safetensors"
            )
        if revision is not None:
            raise UsageError(f"{text}: a file has no revisions; leave '{revision}' out")
        return path
    looks_like_path = isinstance(name_or_path, Path) or text.startswith(("/", ".", "~"))
    if is_gguf and (looks_like_path or ":" not in text):
        raise CheckpointError(f"{text}: no such file")
    if looks_like_path or text.partition("@")[0].partition(":")[0].count("/") > 1:
        raise CheckpointError(f"{text}: no such folder")
    return _cached(parse_hub_name(text, revision), cache_dir)


def is_embedded(place: Path) -> bool:
    """Whether a checkpoint is the one that ships with dgemma."""
    return place == EMBEDDED


def model_name(place: Path) -> str:
    """What a checkpoint at a place that `locate` returned is called: EMBEDDED_NAME, a hub name, or the last
    part of its path.
    """
    if is_embedded(place):
        return EMBEDDED_NAME
    snapshots = next((folder for folder in place.parents if folder.name == "snapshots"), None)
    if snapshots is not None and snapshots.parent.name.startswith("models--"):
        return snapshots.parent.name.removeprefix("models--").replace("--", "/")
    return place.resolve().name


def _gguf_in(folder: Path) -> Path | None:
    """The one GGUF model in a folder without safetensors files. Raises UsageError where there are several."""
    try:
        files = gguf_files(folder)
        if not files or any(folder.glob("model*.safetensors")):
            return None
    except OSError:  # a folder that may not be entered: whoever reads it says so
        return None
    if len(files) > 1:
        raise UsageError(f"{folder}: holds {len(files)} {GGUF} files; name one of them, such as {files[0]}")
    return files[0]


def gguf_files(folder: Path) -> list[Path]:
    """The GGUF files of a folder that may be models, whatever the letter case of their endings."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == GGUF and not path.name.startswith(PICTURES)
    )


def list_models(cache_dir: Path | None = None) -> list[CachedModel]:
    """The shipped checkpoint and every DiffusionGemma checkpoint in the hub cache, damaged ones included."""
    models = []
    if (EMBEDDED / "config.json").is_file():
        models.append(_describe(EMBEDDED_NAME, "-", (), EMBEDDED))
    for snapshot in snapshots(cache_dir):
        models += [
            _describe(name, snapshot.commit, snapshot.refs, place) for name, place in _checkpoints(snapshot)
        ]
    return models


def remove(name: str, revision: str | None = None, cache_dir: Path | None = None) -> int:
    """Delete a hub model, one revision of it, or one GGUF file; returns the bytes freed.

    Raises HubError when it is not there, UsageError for anything that is no DiffusionGemma model of the
    cache.
    """
    if name == EMBEDDED_NAME:
        raise UsageError("the embedded checkpoint is part of the package and is not removed")
    wanted = parse_hub_name(name, revision)
    listed = [
        snapshot
        for snapshot in snapshots(cache_dir, wanted.repo)
        if any(True for _ in _checkpoints(snapshot))
    ]
    if not listed:
        raise HubError(f"'{wanted.repo}' is not in the cache; `dgemma ls` shows what is")
    chosen = listed
    if wanted.revision:
        chosen = matching(listed, wanted.revision)
    if not chosen:
        raise HubError(
            f"'{wanted.repo}' is not in the cache at revision '{wanted.revision}'; there: {_there(listed)}"
        )
    if wanted.revision and len(chosen) > 1:
        raise HubError(f"'{wanted}' is here in {len(chosen)} revisions; say which: {_there(chosen)}")
    if wanted.gguf is None:
        return delete(chosen, cache_dir)
    files = [path for snapshot in chosen for path in _chosen_files(snapshot, wanted.gguf)]
    if not files:
        raise HubError(f"'{wanted}' is not in the cache; `dgemma ls` shows what is")
    freed = 0
    for path in files:
        alone = sum(1 for _ in _checkpoints(_snapshot_of(path, chosen))) == 1
        freed += delete([_snapshot_of(path, chosen)], cache_dir) if alone else delete_file(path, cache_dir)
    return freed


def _snapshot_of(path: Path, candidates: list[Snapshot]) -> Snapshot:
    return next(snapshot for snapshot in candidates if snapshot.folder == path.parent)


def _cached(name: HubName, cache_dir: Path | None) -> Path:
    """The place of a hub model in the cache. Raises HubError where it is not, or not wholly, there."""
    try:
        return _snapshot_folder(name, cache_dir)
    except OSError as error:  # a folder that may not be entered
        raise HubError(
            f"'{name}': its place in the cache cannot be read ({error}); see `dgemma ls`"
        ) from None


def _snapshot_folder(name: HubName, cache_dir: Path | None) -> Path:
    listed = snapshots(cache_dir, name.repo)
    matches = matching(listed, name.revision)
    if not matches:
        hint = ""
        if listed:
            hint = f" (there: {_there(listed)})"
        raise HubError(f"'{name}' is not on this machine{hint}; fetch it with `dgemma pull {name}`")
    if len(matches) > 1:
        raise HubError(
            f"'{name}' is here in {len(matches)} revisions and no 'main' names one; "
            f"say which: {_there(matches)}"
        )
    folder = matches[0].folder
    if name.gguf is not None or (gguf_files(folder) and not (folder / "config.json").exists()):
        return _cached_gguf(name, matches[0])
    if not _is_whole(folder):
        raise HubError(f"'{name}' is only partly in the cache; `dgemma pull {name}` fetches the rest")
    return folder


def _cached_gguf(name: HubName, snapshot: Snapshot) -> Path:
    names = [path.name for path in gguf_files(snapshot.folder)]
    candidates = names
    if name.gguf is not None:
        candidates = choices(names, name.gguf)
    there = ", ".join(f"{name.repo}:{choice_of(file, names)}" for file in candidates or names)
    if not candidates:
        hint = ""
        if there:
            hint = f" (there: {there})"
        raise HubError(f"'{name}' is not on this machine{hint}; fetch it with `dgemma pull {name}`")
    if len(candidates) > 1:
        raise UsageError(f"'{name}' stands for {len(candidates)} files; name one: {there}")
    if not (snapshot.folder / candidates[0]).is_file():
        raise HubError(f"'{name}' is only partly in the cache; `dgemma pull {name}` fetches the rest")
    return snapshot.folder / candidates[0]


def _chosen_files(snapshot: Snapshot, gguf: str) -> list[Path]:
    return [
        snapshot.folder / name for name in choices([path.name for path in gguf_files(snapshot.folder)], gguf)
    ]


def _there(candidates: list[Snapshot]) -> str:
    return ", ".join(f"{snapshot.repo}@{snapshot.commit[:12]}" for snapshot in candidates)


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot's config and all weight files that its names or its index speak of are there."""
    weights = sorted(folder.glob("model*.safetensors"))
    if not (folder / "config.json").is_file() or not weights or not all(path.is_file() for path in weights):
        return False
    names = {path.name for path in weights}
    needed: set[str] = set()
    if numbered := next((match for name in names if (match := SHARD.fullmatch(name))), None):
        needed = {
            f"model-{number:05}-of-{numbered[2]}.safetensors"
            for number in range(1, min(int(numbered[2]), 10_000) + 1)
        }
    if (folder / INDEX).is_file():
        try:
            weight_map = read_json(folder / INDEX).get("weight_map")
        except ConfigError:  # damaged: the layout says how
            return True
        if isinstance(weight_map, dict):
            needed = {str(file) for file in weight_map.values()}
        else:
            needed = set()
    return "model.safetensors" in names or needed <= names


def _checkpoints(snapshot: Snapshot) -> Iterator[tuple[str, Path]]:
    """(name, place) of what a snapshot holds and this build reads: its folder, and each GGUF file."""
    try:
        files = gguf_files(snapshot.folder)
        if _is_ours(snapshot.folder):
            yield snapshot.repo, snapshot.folder
    except OSError:  # it may not be entered
        return
    names = [path.name for path in files]
    for path in files:
        if architecture(path) == ARCHITECTURE:
            yield f"{snapshot.repo}:{choice_of(path.name, names)}", path


def _is_ours(folder: Path) -> bool:
    try:
        return read_json(folder / "config.json").get("model_type") == "diffusion_gemma"
    except ConfigError:
        return False


def _describe(name: str, revision: str, refs: tuple[str, ...], place: Path) -> CachedModel:
    problems, layout = _examine(place)
    if place.suffix.lower() == GGUF:
        files = [place]
    else:
        files = [path for path in place.iterdir() if path.is_file()]
    dtype = "?"
    if layout:
        dtype = next(iter(layout.dtypes), "?").lower()
    size = sum(path.stat().st_size for path in files if path.is_file())
    return CachedModel(name, revision, refs, size, dtype, place, problems[0] if problems else "ok")


def _examine(place: Path) -> tuple[list[str], Layout | None]:
    """What is wrong with a checkpoint, and its layout where its header can be read."""
    config = None
    problems = []
    if place.suffix.lower() == GGUF:
        try:
            file = read_gguf(place)
            layout = read_gguf_layout(file, model_config(file))
        except DgemmaError as error:
            return [str(error)], None
        return list(layout.problems), layout
    try:
        config = ModelConfig.from_file(place / "config.json")
    except DgemmaError as error:
        problems.append(str(error))
    layout = read_layout(place, config)
    return [*problems, *layout.problems], layout
