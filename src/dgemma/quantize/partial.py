"""Work on a folder that may be cut off: what is whole is vouched for by a manifest, and the same call goes
on behind it.

`.NAME.partial` beside the target holds a lock, the manifest and, in a folder of its own, what will become
the target by one rename. Knows no tensors. Trap: a manifest speaks of bytes on the disk, so a file and its
name are synced before the manifest is, and what the manifest does not name, or names with another checksum,
is made anew.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config.sizes import disk_size
from ..errors import ResourceError, UsageError
from ..weights.disk import FULL, check_target, disk_errors, free_bytes, sync_folder, write_json
from ..weights.layout import Layout
from ..weights.sums import digest

try:
    import fcntl
except ImportError:  # no such locks on Windows: two runs at once are then the user's own business
    fcntl = None  # type: ignore[assignment]  # a module else

MANIFEST = "manifest.json"
FOLDER = "folder"


class Partial:
    """The work so far: `whole` holds the shards that are done, by name."""

    def __init__(self, place: Path, identity: dict[str, Any]):
        self.place = place
        self.folder = place / FOLDER
        self.identity = identity
        self.whole: dict[str, dict[str, Any]] = {}

    def add(self, name: str, errors: dict[str, list[float]]) -> None:
        """Note that a shard is whole and on the disk."""
        path = self.folder / name
        sync_folder(self.folder)
        self.whole[name] = {"bytes": path.stat().st_size, "sha256": digest(path), "errors": errors}
        new = self.place / (MANIFEST + ".part")
        write_json(new, self.identity | {"shards": self.whole})
        new.replace(self.place / MANIFEST)
        sync_folder(self.place)

    def go_on(self) -> None:
        """Keep what the manifest vouches for. Raises UsageError where it is another run's."""
        manifest = self._manifest()
        for key, other in (
            ("source", "the source has changed since"),
            ("options", f"other options: {manifest.get('options')}"),
        ):
            if manifest and manifest.get(key) != self.identity[key]:
                raise UsageError(
                    f"{self.place}: holds the work of another run ({other}); "
                    "give the same again, or remove that folder"
                )
        shards = manifest.get("shards", {})
        whole = {name: entry for name, entry in shards.items() if _is_whole(self.folder / name, entry)}
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            if path.name not in whole:
                path.unlink()
        self.whole = whole

    def _manifest(self) -> dict[str, Any]:
        """What was written last; nothing where there is none yet, or a damaged one: then nothing is vouched
        for.
        """
        try:
            manifest = json.loads((self.place / MANIFEST).read_text(encoding="utf-8"))
            known = all(entry["errors"] is not None for entry in manifest["shards"].values())
            return manifest if known else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def check_room(self, sizes: Mapping[str, int]) -> None:
        """Raise ResourceError where the disk has no room for the shards (bytes by name) that are not there
        yet.
        """
        need = sum(size for name, size in sizes.items() if name not in self.whole)
        free = shutil.disk_usage(self.place).free
        if need > free:
            raise ResourceError(
                f"{self.place.parent}: {disk_size(need)} are still to be written "
                f"and {disk_size(free)} are free"
            )


def _is_whole(path: Path, entry: dict[str, Any]) -> bool:
    return (
        path.is_file() and path.stat().st_size == entry.get("bytes") and digest(path) == entry.get("sha256")
    )


@contextlib.contextmanager
def partial_folder(target: Path, layout: Layout, options: dict[str, Any]) -> Iterator[Partial]:
    """The work so far on a target, locked against a second run; removed where it is done, and where it fails
    before its first whole shard; kept where it is cut off behind one.

    options: JSON; with the files of `layout` what a run must share to go on. Raises UsageError where it does
    not, ResourceError where the disk fills up.
    """
    partial = Partial(
        target.parent / f".{target.name}.partial", {"source": _identity(layout), "options": options}
    )
    try:
        partial.place.mkdir(parents=True, exist_ok=True)
        lock = (partial.place / "lock").open("w")
    except OSError as error:
        if error.errno in FULL:
            raise ResourceError(
                f"{partial.place}: {error.strerror}, {disk_size(free_bytes(target))} are free; make room"
            ) from None
        raise UsageError(
            f"{partial.place}: cannot be written ({error.strerror}); name a folder where there may be files"
        ) from None
    with lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(f"{target}: is being written by another process; wait for it") from None
        check_target(target)  # another run may just have finished
        partial.go_on()
        try:
            with disk_errors(target.parent, "and give the same command again"):
                yield partial
        except BaseException:
            if not partial.whole:  # nothing to go on from: a failed run should not keep a full disk full
                shutil.rmtree(partial.place, ignore_errors=True)
            raise
        shutil.rmtree(partial.place)


def _identity(layout: Layout) -> list[list[Any]]:
    """What tells this source from another: sizes, times and headers of its files."""
    fingerprint = []
    for path in (layout.folder / "config.json", *layout.files):
        status = path.stat()
        with path.open("rb") as file:
            fingerprint.append(
                [path.name, status.st_size, status.st_mtime_ns, zlib.crc32(file.read(1 << 20))]
            )
    return fingerprint
