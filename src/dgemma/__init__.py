"""dgemma: run DiffusionGemma on your own machine. `__all__` is the public API; names load lazily."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
_API = ("load", "Model", "ModelInfo")
_PARAMS = ("GenerationParams",)
_EVENTS = (
    "Change",
    "Committed",
    "Decision",
    "Decisions",
    "Draft",
    "Edit",
    "Filling",
    "Generation",
    "Reply",
    "TokenLogProbs",
    "ToolCall",
)
__all__ = [*_API, *_PARAMS, *_EVENTS, "errors", "__version__"]

if TYPE_CHECKING:  # the same names, for editors and type checkers
    from . import errors as errors
    from .api import Model as Model
    from .api import load as load
    from .config import GenerationParams as GenerationParams
    from .model.info import ModelInfo as ModelInfo
    from .tasks.events import Change as Change
    from .tasks.events import Committed as Committed
    from .tasks.events import Decision as Decision
    from .tasks.events import Decisions as Decisions
    from .tasks.events import Draft as Draft
    from .tasks.events import Edit as Edit
    from .tasks.events import Filling as Filling
    from .tasks.events import Generation as Generation
    from .tasks.events import Reply as Reply
    from .tasks.events import TokenLogProbs as TokenLogProbs
    from .text.calls import ToolCall as ToolCall


def __getattr__(name: str) -> object:
    # Late imports: `import dgemma` and `dgemma --help` must not pay for torch (0.8-2 s).
    if name == "ModelInfo":
        from .model.info import ModelInfo

        return ModelInfo
    if name in _API:
        from . import api

        return getattr(api, name)
    if name in _PARAMS:
        from . import config

        return getattr(config, name)
    if name in _EVENTS:
        from .tasks import events

        return getattr(events, name)
    if name == "errors":
        import importlib

        return importlib.import_module("dgemma.errors")
    raise AttributeError(f"module 'dgemma' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
