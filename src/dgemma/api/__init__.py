"""The Python API: load() and the Model that it returns.

The one place that puts text, weights, model and engine together.
"""

from __future__ import annotations

from ..config.sizes import Progress
from .loading import load
from .model import Model

__all__ = ["Model", "Progress", "load"]
