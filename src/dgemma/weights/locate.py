"""From a name to a checkpoint on this machine: a folder or GGUF file, a hub name in the local cache, or the shipped model.

Never touches the network (see pull.py) and never loads torch. Trap: a hub name and a relative folder look alike
(`org/name`); a folder that exists wins, and only what cannot be a hub name is reported as a missing folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..config import ModelConfig, read_json
from ..config.reader import shown
from ..errors import CheckpointError, ConfigError, DgemmaError, HubError, UsageError
from .layout import read_layout

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
EMBEDDED_NAME = "(embedded)"
GGUF, PICTURES = ".gguf", "mmproj"  # llama.cpp keeps the part of a model that sees pictures in a file of its own, called so
EXAMPLE = "google/diffusiongemma-26B-A4B-it"
_HUB_NAME = re.compile(r"[A-Za-z0-9]([\w.-]*\w)?/[A-Za-z0-9]([\w.-]*\w)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)


@dataclass(frozen=True)
class CachedModel:
    """One DiffusionGemma checkpoint on this machine; `size` in bytes, `refs` the names its revision goes by."""

    name: str
    revision: str
    refs: tuple[str, ...]
    size: int
    dtype: str
    path: Path
    state: str  # "ok", or the first problem


def locate(name_or_path: str | Path | None, revision: str | None = None, cache_dir: Path | None = None) -> Path:
    """The checkpoint folder or .gguf file for a path, a hub name ("org/name", "org/name@revision") or None (the shipped one).

    Raises CheckpointError for a path that does not exist or cannot be entered, HubError for a hub model that is not
    (wholly) in the cache, UsageError for what can be neither.
    """
    if name_or_path is None:
        if not (EMBEDDED / "config.json").is_file():
            raise CheckpointError(f"{EMBEDDED}: this installation ships no checkpoint; name one, such as {EXAMPLE}")
        if revision is not None:
            raise UsageError(f"the shipped model has no revisions; leave '{revision}' out, or name a hub model")
        return EMBEDDED
    text = str(name_or_path)
    if not text:  # Path("") is the folder one stands in
        raise UsageError(f"the model's name is empty; give a folder or a hub name such as {EXAMPLE}")
    try:
        path = Path(text).expanduser()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as error:  # too long, a folder that may not be entered, ~nobody
        raise CheckpointError(f"{shown(text)}: no such folder ({getattr(error, 'strerror', error)})") from None
    if is_folder:
        if revision is not None:
            raise UsageError(f"{text}: a folder has no revisions; leave '{revision}' out")
        return _gguf_in(path) or path
    is_gguf = path.suffix == GGUF
    if exists:
        if not is_gguf:
            raise UsageError(f"{text}: a file; name a {GGUF} file, or the folder that holds config.json and model*.safetensors")
        if revision is not None:
            raise UsageError(f"{text}: a file has no revisions; leave '{revision}' out")
        return path
    if is_gguf:
        raise CheckpointError(f"{text}: no such file")
    if isinstance(name_or_path, Path) or text.startswith(("/", ".", "~")) or text.partition("@")[0].count("/") > 1:
        raise CheckpointError(f"{text}: no such folder")
    repo, revision = split_name(text, revision)
    try:
        return _cached(repo, revision, cache_dir)
    except (OSError, ValueError) as error:  # a folder that may not be entered, a ref that is no text
        raise HubError(f"'{repo}': its place in the cache cannot be read ({error}); see `dgemma ls`") from None


def _gguf_in(folder: Path) -> Path | None:
    """The one GGUF model in a folder without safetensors files. Raises UsageError where there are several."""
    try:
        files = sorted(path for path in folder.glob("*" + GGUF) if not path.name.startswith(PICTURES))
        if not files or any(folder.glob("model*.safetensors")):
            return None
    except OSError:  # a folder that may not be entered: whoever reads it says so
        return None
    if len(files) > 1:
        raise UsageError(f"{folder}: holds {len(files)} {GGUF} files; name one of them, such as {files[0]}")
    return files[0]


def is_chat_tuned(folder: Path) -> bool:
    """Whether the checkpoint brings a chat template, in either of the usual places. It is never run."""
    settings = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").exists() or (settings.exists() and "chat_template" in read_json(settings))


def split_name(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """("org/name", revision or None) from "org/name[@revision]". Raises UsageError."""
    repo, _, given = name.partition("@")
    if given and revision and given != revision:
        raise UsageError(f"'{name}' and the revision '{revision}' disagree; name one revision")
    revision = revision or given or None
    if not _HUB_NAME.fullmatch(repo) or ".." in repo or "--" in repo or repo.endswith(".git") or len(repo) > 96:
        raise UsageError(f"'{name}' is neither a folder nor a hub name such as {EXAMPLE}")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision or revision.endswith("/")):
        raise UsageError(f"'{revision}' is no revision; give a branch, a tag or a commit hash")
    return repo, revision


def storage(name: str, cache_dir: Path | None = None) -> Path:
    """The folder of one hub model inside the cache, whether it exists or not."""
    return cache_root(cache_dir) / ("models--" + name.replace("/", "--"))


def disk_size(size: int) -> str:
    """Bytes in words, in the decimal units that disks and download pages use."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def list_models(cache_dir: Path | None = None) -> list[CachedModel]:
    """The shipped checkpoint and every DiffusionGemma checkpoint in the hub cache, damaged ones included."""
    models = []
    if (EMBEDDED / "config.json").is_file():
        size = sum(path.stat().st_size for path in EMBEDDED.iterdir() if path.is_file())
        models.append(_describe(EMBEDDED_NAME, "-", (), size, EMBEDDED))
    for repo in sorted(_scan(cache_dir), key=lambda repo: repo.repo_id):
        for found in sorted(repo.revisions, key=lambda found: found.commit_hash):
            if repo.repo_type == "model" and _is_ours(found.snapshot_path):
                refs = tuple(sorted(found.refs))
                models.append(_describe(repo.repo_id, found.commit_hash, refs, found.size_on_disk, found.snapshot_path))
    return models


def remove(name: str, revision: str | None = None, cache_dir: Path | None = None) -> int:
    """Delete a hub model, or one revision of it (branch, tag or commit), from the cache; returns the bytes freed.

    Raises HubError when it is not there, UsageError for anything that is not a DiffusionGemma model of the cache.
    """
    if name == EMBEDDED_NAME:
        raise UsageError("the embedded checkpoint is part of the package and is not removed")
    name, revision = split_name(name, revision)
    listed = [model for model in list_models(cache_dir) if model.name == name]
    if not listed:
        raise HubError(f"'{name}' is not in the cache; `dgemma ls` shows what is")
    chosen = [model.revision for model in listed if _goes_by(model, revision)]
    if not chosen:
        there = ", ".join(model.revision[:12] for model in listed)
        raise HubError(f"'{name}' is not in the cache at revision '{revision}'; there: {there}")
    folder = storage(name, cache_dir)
    before = _disk_bytes(folder)
    _delete(chosen, cache_dir)
    # the client only logs what it could not delete
    if left := [commit for commit in chosen if (folder / "snapshots" / commit).exists()]:
        raise HubError(f"{folder}: revision {left[0][:12]} could not be deleted; its folder may not be changed by you")
    return before - _disk_bytes(folder)


def _cached(name: str, revision: str | None, cache_dir: Path | None) -> Path:
    home = storage(name, cache_dir)
    ref = home / "refs" / (revision or "main")
    commit = ref.read_text().strip() if ref.is_file() else revision
    folder = home / "snapshots" / commit if commit else None
    version = f"{name}@{revision}" if revision else name
    if folder is None or not folder.is_dir():
        there = sorted(path.name for path in home.glob("snapshots/*") if path.is_dir())
        hint = f" (there: {', '.join(f'{name}@{commit[:12]}' for commit in there)})" if there else ""
        raise HubError(f"'{version}' is not on this machine{hint}; fetch it with `dgemma pull {version}`")
    if not (folder / "config.json").is_file() or not any(folder.glob("model*.safetensors")):
        raise HubError(f"'{version}' is only partly in the cache; `dgemma pull {version}` fetches the rest")
    return folder


def cache_root(cache_dir: Path | None = None) -> Path:
    """The Hugging Face cache folder (HF_HUB_CACHE, HF_HOME), or `cache_dir` where one is given."""
    if cache_dir is not None:
        return Path(cache_dir)
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _scan(cache_dir: Path | None) -> list:
    from huggingface_hub import scan_cache_dir

    cache = cache_root(cache_dir)
    try:
        return list(scan_cache_dir(cache).repos) if cache.is_dir() else []
    except (OSError, ValueError) as error:  # a folder that may not be entered, a ref that is no text
        raise HubError(f"{cache}: the model cache cannot be read ({error})") from None


def _delete(commits: list[str], cache_dir: Path | None) -> None:
    from huggingface_hub import scan_cache_dir

    scan_cache_dir(cache_root(cache_dir)).delete_revisions(*commits).execute()


def _is_ours(folder: Path) -> bool:
    try:
        return read_json(folder / "config.json").get("model_type") == "diffusion_gemma"
    except ConfigError:
        return False


def _describe(name: str, revision: str, refs: tuple[str, ...], size: int, folder: Path) -> CachedModel:
    config, problems = None, []
    try:
        config = ModelConfig.from_file(folder / "config.json")
    except DgemmaError as error:
        problems.append(str(error))
    layout = read_layout(folder, config)
    problems += layout.problems
    dtype = next(iter(layout.dtypes), "?").lower()
    return CachedModel(name, revision, refs, size, dtype, folder, problems[0] if problems else "ok")


def _goes_by(model: CachedModel, revision: str | None) -> bool:
    if revision is None or revision in model.refs:
        return True
    return len(revision) >= 7 and model.revision.startswith(revision)


def _disk_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
