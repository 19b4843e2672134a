"""Fetching a checkpoint from the hub into the Hugging Face cache: resumed, checked by hash, pinned to a
commit.

Takes safetensors and JSON, or one GGUF file. Large files are fetched here, because the hub client throws a
partial file away when its process ends; client calls then put them into the cache's own layout, so that
other programs find them. Trap: a branch's ref is written last, after every hash was right and everything is
on the disk; until then the name leads to what it led to before.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..config import ModelConfig
from ..config.reader import is_whole
from ..config.sizes import Progress, disk_size
from ..errors import HubError, ResourceError, UsageError
from ..weights.disk import free_bytes, replace_text, sync, sync_folder
from ..weights.gguf import GGUF, read_gguf
from ..weights.gguf_config import ARCHITECTURE, check_kind
from ..weights.quantization import BESIDE, read_quantization
from ..weights.sums import SUMS, digest, read_sums, write_sums
from .cache import COMMIT, MAIN, cache_root, storage
from .client import hub_errors, quiet
from .locate import PICTURES
from .names import HubName, choice_of, choices, parse_hub_name

# no slash: subfolders hold other formats; the template is never run, but it tells a chat model from another
_WANTED = re.compile(r"model[\w.-]*\.safetensors|[\w.-]+\.json|chat_template\.jinja")
_GGUF = re.compile(r"[\w][\w.+-]*\.gguf", re.IGNORECASE)
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf", re.IGNORECASE)
_LARGEST = 2**50  # bytes of a file that are believed
PARTIAL = ".dgemma-partial"
_SLACK = 64 * 2**20  # small files, directory entries, refs
_CHUNK = 8 * 2**20


@dataclass(frozen=True)
class File:
    name: str
    size: int
    digest: str  # sha256 of a large file, git's object id (sha1) of a small one; also its blob's name
    large: bool


def pull(
    name: str,
    revision: str | None = None,
    token: str | None = None,
    progress: Progress | None = None,
    *,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
) -> Path:
    """Fetch "org/name[@revision][:choice]" and return its folder, or its GGUF file; only what is missing or
    damaged is fetched.

    token: default HF_TOKEN or the one `hf auth login` stored. Raises HubError (no such model, no access, no
    network, wrong hash: names the file), UsageError (several GGUF files and no choice: lists them; a cache
    that may not be written), ResourceError (disk), ConfigError (a model this build cannot run, before its
    weights are fetched).
    """
    wanted = parse_hub_name(name, revision)
    home = storage(wanted.repo, cache_dir)
    with hub_errors(wanted.repo, wanted.revision, place=home), quiet():
        commit, files = listing(wanted, token, endpoint)
        _check_disk(wanted.repo, files, home)
        hub = _Hub(wanted.repo, commit, token, endpoint, home, cache_root(cache_dir))
        meter = _Meter(progress, sum(file.size for file in files))
        for (
            file
        ) in files:  # config.json first: a model that cannot run is refused before its weights are fetched
            hub.fetch(file, meter)
            if file.name == "config.json":
                ModelConfig.from_file(hub.folder / "config.json")
            if file.name in ("config.json", BESIDE):
                read_quantization(hub.folder)
        hub.keep_hashes(files)
        if wanted.revision is None or not COMMIT.fullmatch(wanted.revision):
            _write_ref(home / "refs" / (wanted.revision or MAIN), commit)
    chosen = next((file.name for file in files if file.name.lower().endswith(GGUF)), None)
    if chosen is None:
        return hub.folder
    check_kind(read_gguf(hub.folder / chosen))
    return hub.folder / chosen


def _write_ref(ref: Path, commit: str) -> None:
    """Let a branch's name lead to a commit; on the disk when this returns."""
    ref.parent.mkdir(parents=True, exist_ok=True)
    replace_text(ref, commit)
    sync_folder(ref.parents[1])


def listing(name: HubName, token: str | None, endpoint: str | None) -> tuple[str, list[File]]:
    """The commit a revision stands for and the files wanted of it, config.json first and weights last.

    Raises HubError for an answer that is none of a hub's: it is another machine's, and names the paths that
    are written.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi(endpoint=endpoint, token=token).model_info(
            name.repo, revision=name.revision, files_metadata=True
        )
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
        kind = (getattr(info, "gguf", None) or {}).get("architecture")
    except (
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        OverflowError,
        RecursionError,
    ):  # the client believes the answer's shape
        raise HubError(f"'{name.repo}': the answer is none of a hub's; is HF_ENDPOINT right?") from None
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise HubError(f"'{name.repo}': the hub names no commit; is HF_ENDPOINT right?")
    names = [file for file in siblings if isinstance(file, str)]
    weights = [file for file in names if _WANTED.fullmatch(file) and file.endswith(".safetensors")]
    if name.gguf is not None or not weights:
        chosen = _choose(name, names, siblings)
        if isinstance(kind, str) and kind != ARCHITECTURE:
            raise HubError(
                f"'{name.repo}' holds a model of the architecture {kind[:40]!r}; "
                f"this build runs '{ARCHITECTURE}'"
            )
    elif "config.json" in names:
        chosen = [file for file in names if _WANTED.fullmatch(file)]
    else:
        raise HubError(f"'{name.repo}' holds no config.json, so it is no checkpoint this build can read")
    files = [_file(name.repo, file, siblings[file]) for file in chosen]
    return info.sha, sorted(
        files, key=lambda file: (file.name != "config.json", _is_weights(file.name), file.large, file.name)
    )


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors") or name.lower().endswith(GGUF)


def _choose(name: HubName, names: list[str], siblings: dict[str, Any]) -> list[str]:
    """The one GGUF file that is named, and a tokenizer beside it.

    Raises UsageError that lists them where several are meant.
    """
    files = sorted(file for file in names if _GGUF.fullmatch(file) and not file.startswith(PICTURES))
    if not files:
        hint = ""
        if any(file.lower().endswith(GGUF) for file in names):
            hint = " in its top folder"
        wanted = (
            f"{GGUF} file{hint}" if name.gguf is not None else f"model*.safetensors and no {GGUF} file{hint}"
        )
        raise HubError(f"'{name.repo}' holds no {wanted}; other formats (pickles) are not read")
    candidates = files
    if name.gguf is not None:
        candidates = choices(files, name.gguf)
    shown = (
        f"{name.repo}:{choice_of(file, files)} ({disk_size(_file(name.repo, file, siblings[file]).size)})"
        for file in candidates or files
    )
    if len(candidates) != 1:
        many = (
            f"'{name}' stands for {len(candidates)} files"
            if candidates
            else f"'{name.repo}' holds no file '{name.gguf}'"
        )
        raise UsageError(f"{many}; name one of: {', '.join(shown)}")
    if _PART.search(candidates[0]):
        raise UsageError(
            f"'{name.repo}': {candidates[0]} is one part of several; "
            "fetch them all and join them with `llama-gguf-split --merge`"
        )
    return [*candidates, *(file for file in ("tokenizer.json",) if file in names)]


def _file(repo: str, name: str, sibling: Any) -> File:
    """One file as the hub describes it, every field checked."""
    large = bool(sibling.lfs)
    if large:
        digest = getattr(sibling.lfs, "sha256", None)
    else:
        digest = sibling.blob_id
    size = getattr(sibling.lfs, "size", None) if large else (0 if sibling.size is None else sibling.size)
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}" if large else r"[0-9a-f]{40}", digest):
        raise HubError(f"'{repo}': the hub gives no usable hash for {name}")
    if not is_whole(size, below=_LARGEST):
        raise HubError(f"'{repo}': the hub gives no usable size for {name}")
    return File(name, size, digest, large)


def _check_disk(name: str, files: list[File], home: Path) -> None:
    need = 0
    for file in files:
        blob = home / "blobs" / file.digest
        partial = blob.with_name(blob.name + PARTIAL)
        if not blob.exists():
            need += file.size - min(file.size, partial.stat().st_size if partial.exists() else 0)
    free = free_bytes(home)
    if need and need + _SLACK > free:
        wanted = disk_size(need + _SLACK)
        raise ResourceError(f"{home}: '{name}' needs {wanted} more on this disk, {disk_size(free)} are free")


class _Hub:
    """One commit of one model: fetches its files into the cache's blobs and links them into the snapshot."""

    def __init__(
        self, name: str, commit: str, token: str | None, endpoint: str | None, home: Path, cache: Path
    ):
        self.name = name
        self.commit = commit
        self.token = token
        self.endpoint = endpoint
        self.home = home
        self.cache = cache
        self.folder = home / "snapshots" / commit

    def fetch(self, file: File, meter: _Meter) -> None:
        """Bring one file into the snapshot, its hash checked (also when it was there before)."""
        from huggingface_hub import hf_hub_download

        blob = self.home / "blobs" / file.digest
        start = meter.done
        if blob.exists() and not self._sound(blob, file, meter):
            self._drop(blob, file)
        if file.large and not blob.exists():
            meter.done = start
            self._download(file, blob, meter)
        path = hf_hub_download(
            self.name,
            file.name,
            revision=self.commit,
            cache_dir=self.cache,
            token=self.token,
            endpoint=self.endpoint,
        )
        # a large file was checked as a blob; where the client put something else, that is checked too
        if (not file.large or Path(path).resolve() != blob.resolve()) and not self._sound(
            Path(path), file, None
        ):
            self._drop(Path(path).resolve(), file)
            raise HubError(f"'{self.name}': {file.name} arrived damaged and was removed; pull again")
        meter.at(start + file.size, file.name)

    def _download(self, file: File, blob: Path, meter: _Meter) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import WeakFileLock, build_hf_headers

        blob.parent.mkdir(parents=True, exist_ok=True)
        locks = self.cache / ".locks" / self.home.name
        locks.mkdir(parents=True, exist_ok=True)
        partial = blob.with_name(blob.name + PARTIAL)
        url = hf_hub_url(self.name, file.name, revision=self.commit, endpoint=self.endpoint)
        with WeakFileLock(
            locks / f"{file.digest}.lock"
        ):  # two pulls at once: the second waits, then finds the blob
            if blob.exists():
                return
            if partial.exists() and partial.stat().st_size > file.size:
                partial.unlink()
            start = meter.done
            with partial.open("ab") as out:
                have = out.tell()
                meter.at(start + have, f"fetching {file.name}")
                counted: Any = _Counted(out, meter, f"fetching {file.name}")
                headers = build_hf_headers(token=self.token)
                http_get(url, counted, resume_size=have, headers=headers, expected_size=file.size)
                out.flush()
                os.fsync(out.fileno())
            meter.at(start + file.size, f"checking {file.name}")
            if not self._sound(partial, file, None):
                partial.unlink()
                raise HubError(
                    f"'{self.name}': {file.name} arrived damaged (sha256) and was removed; pull again"
                )
            partial.replace(blob)
            sync_folder(blob.parent)

    def _sound(self, path: Path, file: File, meter: _Meter | None) -> bool:
        """Whether the content has the hash the hub names."""
        if path.stat().st_size != file.size and file.large:
            return False
        if file.large:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(usedforsecurity=False)
        if not file.large:
            digest.update(b"blob %d\0" % path.stat().st_size)  # how git names a blob
        with path.open("rb") as content:
            while piece := content.read(_CHUNK):
                digest.update(piece)
                if meter is not None:
                    meter.add(len(piece), f"checking {file.name}")
        return digest.hexdigest() == file.digest

    def keep_hashes(self, files: list[File]) -> None:
        """Keep the hashes in the snapshot, for later checks, and put all that was fetched on the disk."""
        if (self.folder / SUMS).exists():
            sums = read_sums(self.folder)
        else:
            sums = {}
        for file in files:
            if not file.large:  # fetched and placed by the client
                sync((self.folder / file.name).resolve())
            sums[file.name] = file.digest if file.large else digest(self.folder / file.name)
        write_sums(self.folder, sums)
        for folder in (self.home / "blobs", self.folder.parent, self.home, self.home.parent):
            if folder.is_dir():
                sync_folder(folder)

    def _drop(self, blob: Path, file: File) -> None:
        """Remove a damaged file and the link to it: other programs cannot read a cache with dangling
        links.
        """
        (self.folder / file.name).unlink(missing_ok=True)
        blob.unlink(missing_ok=True)


class _Meter:
    """Adds up bytes for the progress callback."""

    def __init__(self, report: Progress | None, total: int):
        self.report = report
        self.total = total
        self.done = 0

    def at(self, done: int, what: str) -> None:
        self.done = done
        if self.report is not None:
            self.report(min(done, self.total), self.total, what)

    def add(self, count: int, what: str) -> None:
        self.at(self.done + count, what)


class _Counted:
    """A file whose writes are counted; everything else (seek, tell, truncate) is the file's own."""

    def __init__(self, file: BinaryIO, meter: _Meter, what: str):
        self._file = file
        self._meter = meter
        self._what = what

    def write(self, data: bytes) -> int:
        self._meter.add(len(data), self._what)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
