"""dgemma: run DiffusionGemma on your own machine. `__all__` is the public API; names load lazily."""

__version__ = "0.1.0"
_API = ("load", "Model", "ModelInfo")
_EVENTS = (
    "Change", "Committed", "Decision", "Decisions", "Draft", "Edit", "Filling", "Generation", "Reply", "TokenLogProbs", "ToolCall",
)  # fmt: skip
__all__ = [*_API, *_EVENTS, "errors", "__version__"]


def __getattr__(name: str):
    # Late imports: `import dgemma` and `dgemma --help` must not pay for torch (0.8-2 s).
    if name in _API:
        from . import api

        return getattr(api, name)
    if name in _EVENTS:
        from .tasks import events

        return getattr(events, name)
    if name == "errors":
        import importlib

        return importlib.import_module("dgemma.errors")
    raise AttributeError(f"module 'dgemma' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
