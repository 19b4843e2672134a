"""The dialects: a module each, of msgspec structs and what makes them jobs and answers. Here they are put together.

A new dialect is one module with ROUTES, a tuple of app.Task and app.Page, and a line below. ABSENT are routes that its clients know
and that are refused with a reason.
"""

from __future__ import annotations

from ..app import Page, Task
from . import (
    anthropic,
    canvas,
    decisions,
    gaps,
    models,
    nextedit,
    ollama,
    ollama_models,
    openai,
    own,
    responses,
)

ROUTES: tuple[Task | Page, ...] = (
    *openai.ROUTES, *models.ROUTES, *responses.ROUTES, *anthropic.ROUTES, *ollama.ROUTES, *ollama_models.ROUTES,
    *gaps.ROUTES, *nextedit.ROUTES, *decisions.ROUTES, *canvas.ROUTES, *own.ROUTES,
)  # fmt: skip
ABSENT = (*models.ABSENT, *ollama_models.ABSENT)
