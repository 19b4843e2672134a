"""All routes: every dialect's and the page's.

A new dialect is one module of schema/ with ROUTES, a tuple of routes.Task and routes.Page, and a line
below. ABSENT are routes that its clients know and that are refused with a reason. Trap: where two patterns
match a path, the first one here answers.
"""

from __future__ import annotations

from . import page
from .routes import Absent, Page, Task
from .schema import (
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
    *openai.ROUTES,
    *models.ROUTES,
    *responses.ROUTES,
    *anthropic.ROUTES,
    *ollama.ROUTES,
    *ollama_models.ROUTES,
    *gaps.ROUTES,
    *nextedit.ROUTES,
    *decisions.ROUTES,
    *canvas.ROUTES,
    *own.ROUTES,
    *page.ROUTES,
)
ABSENT: tuple[Absent, ...] = (*models.ABSENT, *ollama_models.ABSENT)
