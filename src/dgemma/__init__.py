"""dgemma: run DiffusionGemma on your own machine. `__all__` is the public API; names load lazily."""

__version__ = "0.1.0"
__all__ = ["load", "Model", "errors", "__version__"]


def __getattr__(name: str):
    # Late import: `import dgemma` and `dgemma --help` must not pay for torch (0.8-2 s).
    if name in ("load", "Model"):
        from . import api

        return getattr(api, name)
    if name == "errors":
        import importlib

        return importlib.import_module("dgemma.errors")
    raise AttributeError(f"module 'dgemma' has no attribute {name!r}")
