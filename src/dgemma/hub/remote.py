"""The headers of a hub model that is not on this machine: its settings and the first bytes of its weight
files, and nothing else.

What comes back is a folder that reads like the checkpoint: whole JSON files, and weight files of their full
size whose data is a hole, so that whoever judges folders (layout.py) judges this one too. It is temporary,
and outside the hub cache. Trap: a server that ignores the Range header answers with the whole file,
gigabytes of it; the status is looked at before the body is read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import HubError
from ..weights.gguf import GGUF
from ..weights.headers import HEADER_LIMIT
from ..weights.layout import INDEX
from ..weights.quantization import BESIDE
from .client import hub_errors, quiet
from .names import parse_hub_name
from .pull import listing

SETTINGS = ("config.json", "generation_config.json", BESIDE, INDEX)  # fetched whole
FIRST = (
    128 * 1024
    # bytes of a weight file: the published headers of 16 bits have 15 KB, those with a matrix per expert up
    # to
    # 7 MB
)
MOST = 256 * 2**20  # bytes of one model that are fetched in all
TIMEOUT = 20  # seconds without an answer


@dataclass(frozen=True)
class Headers:
    folder: Path  # gone when the context ends
    name: str  # "org/name@commit", to be shown in place of the folder
    fetched: int  # bytes


@contextmanager
def headers(
    name: str, revision: str | None = None, token: str | None = None, endpoint: str | None = None
) -> Iterator[Headers]:
    """The headers of "org/name[@revision]" as a folder.

    Raises HubError (no such model, no access, no network, no ranges).
    """
    wanted = parse_hub_name(name, revision)
    name = wanted.repo
    with tempfile.TemporaryDirectory(prefix="dgemma-headers-") as place:
        folder = Path(place)
        with hub_errors(name, wanted.revision, again="try again"), quiet():
            commit, files = listing(wanted, token, endpoint)
            if gguf := next((file.name for file in files if file.name.lower().endswith(GGUF)), None):
                raise HubError(
                    f"'{wanted}' is the file {gguf}, which is examined where it is; "
                    f"`dgemma pull {wanted}` fetches it"
                )
            hub = _Ranges(name, commit, token, endpoint)
            for file in files:
                if file.name in SETTINGS:
                    (folder / file.name).write_bytes(hub.read(file.name, 0, min(file.size, HEADER_LIMIT + 1)))
                elif file.name.endswith(".safetensors"):
                    _hollow(folder / file.name, hub.header(file.name, file.size), file.size)
        yield Headers(folder, f"{name}@{commit[:12]}", hub.fetched)


def _hollow(path: Path, start: bytes, size: int) -> None:
    """A file of `size` bytes that begins so; the rest takes no disk where the file system knows holes."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(max(size, len(start)))


class _Ranges:
    """Parts of the files of one commit."""

    def __init__(self, name: str, commit: str, token: str | None, endpoint: str | None):
        self.name = name
        self.commit = commit
        self.token = token
        self.endpoint = endpoint
        self.fetched = 0

    def header(self, file: str, size: int) -> bytes:
        """The header of a safetensors file, or as much of it as its first bytes claim and may be read."""
        start = self.read(file, 0, min(size, FIRST))
        end = min(size, 8 + int.from_bytes(start[:8], "little"))
        if len(start) < end <= 8 + HEADER_LIMIT:  # a larger claim is refused by whoever reads the header
            start += self.read(file, len(start), end)
        return start

    def read(self, file: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a file."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        if self.fetched + stop - start > MOST:
            raise HubError(
                f"'{self.name}': its headers have more than {MOST} bytes, "
                "which is no checkpoint this build can read"
            )
        if stop <= start:
            return b""
        headers = build_hf_headers(token=self.token) | {
            "Range": f"bytes={start}-{stop - 1}",
            "Accept-Encoding": "identity",
        }
        url = hf_hub_url(self.name, file, revision=self.commit, endpoint=self.endpoint)
        with get_session().stream(
            "GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True
        ) as answer:
            if answer.status_code >= 400:
                answer.read()  # a small text, and the client's errors look into it
            hf_raise_for_status(answer)
            length = int(answer.headers.get("Content-Length") or -1)
            if answer.status_code != 206 and not (start == 0 and 0 <= length <= stop):
                raise HubError(
                    f"'{self.name}': this hub gives no parts of files (HTTP ranges), "
                    f"so {file} cannot be examined from its header; "
                    f"`dgemma pull {self.name}` fetches all of it"
                )
            content = b""
            for piece in answer.iter_bytes():
                content += piece
                if len(content) > stop - start:
                    raise HubError(f"'{self.name}': the hub sent more of {file} than was asked for")
        self.fetched += len(content)
        if len(content) < stop - start:
            raise HubError(
                f"'{self.name}': the hub sent {len(content)} of {stop - start} bytes of {file}; try again"
            )
        return content
