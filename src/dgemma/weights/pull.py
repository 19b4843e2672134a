"""Fetching a checkpoint from the hub into the Hugging Face cache: resumed, checked by hash, pinned to a commit.

Takes safetensors and JSON only. Large files are fetched here, because the hub client throws a partial file away
when its process ends; client calls then put them into the cache's own layout, so that other programs find them.
Trap: a branch's ref is written last, after every hash was right; until then the name does not lead to the
half-fetched snapshot, and nothing but this module knows that it is there.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..config import ModelConfig
from ..errors import HubError, ResourceError
from .hub import hub_errors, quiet
from .locate import cache_root, disk_size, split_name, storage
from .quantization import BESIDE, read_quantization

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, what is being done
# no slash: subfolders hold other formats; the template is never run, but it tells a chat model from another
_WANTED = re.compile(r"model[\w.-]*\.safetensors|[\w.-]+\.json|chat_template\.jinja")
_COMMIT = re.compile(r"[0-9a-f]{40}")
PARTIAL = ".dgemma-partial"
_SLACK = 64 * 2**20  # small files, directory entries, refs
_CHUNK = 8 * 2**20


@dataclass(frozen=True)
class File:
    name: str
    size: int
    digest: str  # sha256 of the content for a large file, git's object id (sha1) for a small one; also its blob name
    large: bool


def pull(
    name: str, revision: str | None = None, token: str | None = None, progress: Progress | None = None, *,
    cache_dir: Path | None = None, endpoint: str | None = None,
) -> Path:  # fmt: skip
    """Fetch "org/name[@revision]" and return its folder; only what is missing or damaged is fetched.

    token: default HF_TOKEN or the one `hf auth login` stored. Raises HubError (no such model, no access, no network,
    wrong hash: names the file), ResourceError (disk), ConfigError (a model this build cannot run, before its
    weights are fetched).
    """
    name, revision = split_name(name, revision)
    with hub_errors(name, revision), quiet():
        commit, files = listing(name, revision, token, endpoint)
        home = storage(name, cache_dir)
        _check_disk(name, files, home)
        hub = _Hub(name, commit, token, endpoint, home, cache_root(cache_dir))
        meter = _Meter(progress, sum(file.size for file in files))
        for file in files:  # config.json first: a model that cannot run is refused before its weights are fetched
            hub.fetch(file, meter)
            if file.name == "config.json":
                ModelConfig.from_file(hub.folder / "config.json")
            if file.name in ("config.json", BESIDE):
                read_quantization(hub.folder)
        if revision is None or not _COMMIT.fullmatch(revision):
            ref = home / "refs" / (revision or "main")
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit)
    return hub.folder


def listing(name: str, revision: str | None, token: str | None, endpoint: str | None) -> tuple[str, list[File]]:
    """The commit a revision stands for and the files wanted of it, config.json first and weights last."""
    from huggingface_hub import HfApi

    try:
        info = HfApi(endpoint=endpoint, token=token).model_info(name, revision=revision, files_metadata=True)
    except (AttributeError, KeyError, TypeError):  # the client takes the shape of the answer for granted
        raise HubError(f"'{name}': the answer is none of a hub's; is HF_ENDPOINT right?") from None
    files = []
    for found in info.siblings or []:
        if not _WANTED.fullmatch(found.rfilename):
            continue
        digest = found.lfs.sha256 if found.lfs else found.blob_id
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{40,64}", digest):
            raise HubError(f"'{name}': the hub gives no usable hash for {found.rfilename}")
        size = found.lfs.size if found.lfs else found.size or 0
        files.append(File(found.rfilename, size, digest, found.lfs is not None))
    files.sort(key=lambda file: (file.name != "config.json", file.large, file.name))
    if not info.sha or not files or files[0].name != "config.json":
        raise HubError(f"'{name}' holds no config.json, so it is no checkpoint this build can read")
    if not any(file.name.endswith(".safetensors") for file in files):
        raise HubError(f"'{name}' holds no model*.safetensors; other formats (GGUF, pickles) are not read")
    return info.sha, files


def _check_disk(name: str, files: list[File], home: Path) -> None:
    need = 0
    for file in files:
        blob = home / "blobs" / file.digest
        partial = blob.with_name(blob.name + PARTIAL)
        if not blob.exists():
            need += file.size - min(file.size, partial.stat().st_size if partial.exists() else 0)
    place = home
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if need and need + _SLACK > free:
        wanted = disk_size(need + _SLACK)
        raise ResourceError(f"{place}: '{name}' needs {wanted} more on this disk, {disk_size(free)} are free")


class _Hub:
    """One commit of one model: fetches its files into the cache's blobs and links them into the snapshot."""

    def __init__(self, name: str, commit: str, token: str | None, endpoint: str | None, home: Path, cache: Path):
        self.name, self.commit, self.token, self.endpoint = name, commit, token, endpoint
        self.home, self.cache, self.folder = home, cache, home / "snapshots" / commit

    def fetch(self, file: File, meter: _Meter) -> None:
        """Bring one file into the snapshot, its hash checked (also when it was there before)."""
        from huggingface_hub import hf_hub_download

        blob, start = self.home / "blobs" / file.digest, meter.done
        if blob.exists() and not self._sound(blob, file, meter):
            self._drop(blob, file)
        if file.large and not blob.exists():
            meter.done = start
            self._download(file, blob, meter)
        path = hf_hub_download(
            self.name, file.name, revision=self.commit, cache_dir=self.cache, token=self.token, endpoint=self.endpoint
        )
        # a large file was checked as a blob; where the client put something else, that is checked too
        if (not file.large or Path(path).resolve() != blob.resolve()) and not self._sound(Path(path), file, None):
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
        with WeakFileLock(locks / f"{file.digest}.lock"):  # two pulls at once: the second waits, then finds the blob
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
            meter.at(start + file.size, f"checking {file.name}")
            if not self._sound(partial, file, None):
                partial.unlink()
                raise HubError(f"'{self.name}': {file.name} arrived damaged (sha256) and was removed; pull again")
            partial.rename(blob)

    def _sound(self, path: Path, file: File, meter: _Meter | None) -> bool:
        """Whether the content has the hash the hub names."""
        if path.stat().st_size != file.size and file.large:
            return False
        digest = hashlib.sha256() if file.large else hashlib.sha1(usedforsecurity=False)
        if not file.large:
            digest.update(b"blob %d\0" % path.stat().st_size)  # how git names a blob
        with path.open("rb") as content:
            while piece := content.read(_CHUNK):
                digest.update(piece)
                if meter is not None:
                    meter.add(len(piece), f"checking {file.name}")
        return digest.hexdigest() == file.digest

    def _drop(self, blob: Path, file: File) -> None:
        """Remove a damaged file and the link to it; a dangling link would make the whole cache entry unreadable."""
        (self.folder / file.name).unlink(missing_ok=True)
        blob.unlink(missing_ok=True)


class _Meter:
    """Adds up bytes for the progress callback."""

    def __init__(self, report: Progress | None, total: int):
        self.report, self.total, self.done = report, total, 0

    def at(self, done: int, what: str) -> None:
        self.done = done
        if self.report is not None:
            self.report(min(done, self.total), self.total, what)

    def add(self, count: int, what: str) -> None:
        self.at(self.done + count, what)


class _Counted:
    """A file whose writes are counted; everything else (seek, tell, truncate) is the file's own."""

    def __init__(self, file: BinaryIO, meter: _Meter, what: str):
        self._file, self._meter, self._what = file, meter, what

    def write(self, data: bytes) -> int:
        self._meter.add(len(data), self._what)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
