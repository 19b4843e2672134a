"""Reading JSON from outside: one object, no key twice, every key known, every value of its type.

Knows no setting by name, except those with one value that this build computes. Trap: Python's JSON is laxer
than a checkpoint may be. It takes NaN and Infinity, keeps the last of two equal keys, and refuses long
integers with a ValueError of its own.
"""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any, TypeGuard, overload

from ..errors import ConfigError
from .remarks import has_no_effect, is_empty

# Keys that do change the mathematics, and the only values this build computes.
_FIXED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "use_bidirectional_attention": ("vision", None),
    "tie_word_embeddings": (True,),
    "attention_k_eq_v": (True,),
    "enable_moe_block": (True,),
    "sliding_window_pattern": (6,),
    "_sliding_window_pattern": (6,),
    "num_kv_shared_layers": (0,),
    "hidden_size_per_layer_input": (0,),
    "use_double_wide_mlp": (False,),
    "add_cross_attention": (False,),
    "pretraining_tp": (1,),
}


LARGEST = 1 << 24  # bytes of a file that is read, unless the caller knows better


def read_json(path: Path, most: int = LARGEST) -> dict[str, Any]:
    """A JSON object from a file of at most so many bytes, duplicate keys refused, a byte-order mark skipped.

    Raises ConfigError that names the file.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in items:
            if key in seen:
                raise ConfigError(f"{path}: the key {key!r} stands there twice")
            seen[key] = value
        return seen

    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would never end, nor would /dev/zero
            raise ConfigError(f"{path}: not readable (not a regular file)")
        if status.st_size > most:
            raise ConfigError(f"{path}: has {status.st_size} bytes; at most {most} are read")
        raw = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=pairs)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; a checkpoint folder needs it") from None
    except OSError as error:
        raise ConfigError(f"{path}: not readable ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a JSON object was expected")
    return raw


def shown(value: Any) -> str:
    """A value for an error message: on one line, and short even where the file holds a million numbers."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number of thousands of digits"
    if len(text) <= 80:
        return text
    return text[:77] + "..."


def is_whole(value: object, least: float = 0, below: float = 2**63) -> TypeGuard[int]:
    """Whether it is a whole number of the range; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < below


class Reader:
    """Takes known keys out of one JSON object; what is left at the end is an error."""

    def __init__(self, raw: Any, source: str):
        if not isinstance(raw, dict):
            raise ConfigError(f"{source}: a JSON object was expected, not {shown(raw)}")
        self.raw = dict(raw)
        self.source = source

    def take(self, key: str, kind: type | tuple[type, ...], *default: Any) -> Any:
        """The value of `key`, which must be of `kind`.

        `default` where it is absent, or null and may be so.
        """
        if key not in self.raw:
            if default:
                return default[0]
            raise ConfigError(f"{self.source}: the key '{key}' is missing")
        value = self.raw.pop(key)
        if default and value is None and default[0] is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{self.source}: '{key}' is {shown(value)}, which is not of the expected type")
        return value

    @overload
    def size(self, key: str) -> int: ...

    @overload
    def size(self, key: str, default: int, /) -> int: ...

    @overload
    def size(self, key: str, default: int | None, /) -> int | None: ...

    def size(self, key: str, *default: int | None) -> int | None:
        """A whole number of at least 1."""
        value: int | None = self.take(key, int, *default)
        if value is not None and not 1 <= value < 2**63:
            raise ConfigError(
                f"{self.source}: '{key}' is {shown(value)}; it must be at least 1, and below 2^63"
            )
        return value

    @overload
    def number(self, key: str) -> float: ...

    @overload
    def number(self, key: str, default: float, /) -> float: ...

    @overload
    def number(self, key: str, default: float | None, /) -> float | None: ...

    def number(self, key: str, *default: float | None) -> float | None:
        """A finite number as a float."""
        value = self.take(key, (int, float), *default)
        if value is None:
            return None
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ConfigError(f"{self.source}: '{key}' is {shown(value)}, which is not a finite number")
        return number

    @overload
    def token(self, key: str, default: int) -> int: ...

    @overload
    def token(self, key: str, default: None) -> int | None: ...

    def token(self, key: str, default: int | None) -> int | None:
        """A token id; null means the default, as it does in the files of other tools."""
        value: int | None = self.take(key, int, None)
        if value is None:
            return default
        if not is_whole(value):
            raise ConfigError(f"{self.source}: '{key}' is {shown(value)}, which is no token id")
        return value

    def tokens(self, key: str) -> tuple[int, ...] | None:
        """One token id or a list of them as a tuple; None where absent, null or empty."""
        value = self.take(key, (int, list), None)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        for token in ids:
            if not is_whole(token):
                raise ConfigError(f"{self.source}: '{key}' holds {shown(token)}, which is no token id")
        return tuple(ids) or None

    def done(self, strict: bool = False) -> None:
        """Raise ConfigError for what nobody took.

        Null and empty values say nothing. Unless strict, a key may also stand there that has no effect
        (remarks.py), or that says what this build does anyway.
        """
        for key, value in self.raw.items():
            if key in _FIXED and value is not None and not strict:
                self._check_fixed(key, value)
            elif not (is_empty(value) if strict else has_no_effect(key, value)):
                raise ConfigError(
                    f"{self.source}: unknown key {shown(key)}; it may change the model, so it is not ignored"
                )

    def _check_fixed(self, key: str, value: Any) -> None:
        allowed = _FIXED[key]
        if not any(value == want and isinstance(value, bool) == isinstance(want, bool) for want in allowed):
            raise ConfigError(
                f"{self.source}: '{key}' is {shown(value)}; this build computes only {allowed[0]!r}"
            )
