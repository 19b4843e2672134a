"""Keys: read from a file and the environment, judged, and compared. Knows no web framework.

    operator  9tq...            # a line of a key file: a name and a key, or a key alone
    alice     Zc0...

Trap: whoever may read the file may ask in its owner's name, so a file that every user of the machine can read
is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from ..errors import UsageError

KEY_VARIABLE = "DGEMMA_API_KEY"
OPERATOR = "operator"  # the name of a key that may read /metrics, which tell of all keys together
SHORTEST = 16  # characters of a key that other machines may try to guess
FEWEST = 8  # different ones among them
NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)
MAKE = "make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


class Key(str):
    """A key, which is its text, and the name that it goes by in a key file."""

    name: str

    def __new__(cls, secret: str, name: str = "") -> Key:
        key = super().__new__(cls, secret)
        key.name = name
        return key


class KeyRing:
    """The keys that hold now. They may be replaced while requests run."""

    def __init__(self, keys: Iterable[str]):
        self._names: dict[bytes, str] = {}
        self.replace(keys)

    def replace(self, keys: Iterable[str]) -> None:
        self._names = {_digest(key): getattr(key, "name", "") for key in keys}

    def tenant(self, given: str) -> str | None:
        """Whose key this is, as a salt of its own; "" where no key is asked for, None for no good one."""
        if not self._names:
            return ""
        digest = _digest(given)
        tenant = None
        for key in self._names:  # all of them, so that the time gives nothing away
            if hmac.compare_digest(key, digest):
                tenant = tenant_of(key)
        return tenant

    def is_operator(self, tenant: str | None) -> bool:
        """Whether a key may see figures of all keys: the only one there is, or one that is named so."""
        if tenant is None:
            return False
        operators = {tenant_of(key) for key, name in self._names.items() if name == OPERATOR}
        return len(self._names) < 2 or tenant in operators


def tenant_of(digest: bytes) -> str:
    """The name of whoever a key belongs to, by the key's digest."""
    return digest.hex()[:16]


def check_strength(keys: Iterable[str]) -> None:
    """Raises UsageError for a key that could be guessed from another machine."""
    for number, key in enumerate(keys, 1):
        name = ""
        if isinstance(key, Key):
            name = key.name
        if name:
            which = f"the key '{name}'"
        else:
            which = f"key {number}"
        if len(key) < SHORTEST:
            raise UsageError(
                f"{which} is too short for a service that other machines reach: "
                f"{len(key)} of {SHORTEST} characters; {MAKE}"
            )
        if len(set(key)) < FEWEST:
            raise UsageError(
                f"{which} can be guessed: it has {len(set(key))} different characters of {FEWEST}; {MAKE}"
            )


def read_keys(path: Path | None) -> tuple[Key, ...]:
    """The keys of a file, one a line (# begins a remark), and those of DGEMMA_API_KEY, parted by commas.

    Raises UsageError.
    """
    keys = [_key(part, KEY_VARIABLE) for part in os.environ.get(KEY_VARIABLE, "").split(",") if part.strip()]
    if path is not None:
        keys += _in_file(path)
    return tuple(dict.fromkeys(keys))


def _in_file(path: Path) -> list[Key]:
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"the key file '{path}' cannot be read: {reason}") from None
    if os.name == "posix" and mode & 0o007:
        raise UsageError(
            f"every user of this machine may open the key file '{path}'; chmod 600 {shlex.quote(str(path))}"
        )
    lines = [line.strip() for line in text.splitlines() if not line.lstrip().startswith("#")]
    keys = [_key(line, f"the key file '{path}'") for line in lines if line]
    if not keys:
        raise UsageError(f"the key file '{path}' holds no key")
    return keys


def _key(line: str, source: str) -> Key:
    """A key, or a name and a key. Raises UsageError that tells neither."""
    *names, secret = line.split()
    if not secret.isascii() or not secret.isprintable():
        raise UsageError(f"{source}: a key is printable ASCII; another kind cannot stand in a header")
    if len(names) > 1 or not all(NAME.fullmatch(name) for name in names):
        raise UsageError(
            f"{source}: a line is a key, or a name and a key; a key is printable ASCII without spaces"
        )
    return Key(secret, *names)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
