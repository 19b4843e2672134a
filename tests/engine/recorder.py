"""A stand-in for a CUDA graph, on the CPU: what a function does to tensors, recorded as calls on fixed tensors and replayed.

Like the real one it keeps addresses and Python numbers as they were, and refuses to read a tensor's value on the host.
Triton's launches are recorded whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor


class HostRead(Exception):
    pass


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], None]] = []
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # what was written to, as it was

    def keep(self, tensors: list[torch.Tensor]) -> None:
        for leaf in tensors:
            if id(leaf) not in self.before:
                self.before[id(leaf)] = leaf, leaf.clone()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            raise HostRead("a captured step reads a number on the host")
        kwargs = kwargs or {}
        if function._schema.is_mutable:
            self.keep(_tensors((args, kwargs)))
        result = function(*args, **kwargs)
        given = {leaf.untyped_storage().data_ptr() for leaf in _tensors((args, kwargs))}
        made = [
            (place, leaf)
            for place, leaf in enumerate(_tensors(result))
            if leaf.untyped_storage().data_ptr() not in given
        ]
        if made or function._schema.is_mutable:

            def again() -> None:
                fresh = _tensors(function(*args, **kwargs))
                for place, leaf in made:
                    leaf.copy_(fresh[place])

            self.calls.append(again)
        return result


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def capture(body: Callable[[], None]) -> Callable[[], None]:
    """Record `body`, leave every tensor as it was, and return what does the same to the same tensors without its Python."""
    tape, launch = _Tape(), GridExecutor.__call__

    def recorded(self: GridExecutor, *args: Any, **kwargs: Any) -> None:
        tape.calls.append(lambda: launch(self, *args, **kwargs))
        with torch.utils._python_dispatch._disable_current_modes():
            tape.keep(_tensors((args, kwargs)))
            launch(self, *args, **kwargs)

    GridExecutor.__call__ = recorded
    try:
        with tape:
            body()
    finally:
        GridExecutor.__call__ = launch
    for tensor, old in reversed(tape.before.values()):
        tensor.copy_(old)

    def replay() -> None:
        for call in tape.calls:
            call()

    return replay
