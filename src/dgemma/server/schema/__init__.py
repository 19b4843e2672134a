"""The dialects: a module each, of msgspec structs and what makes them jobs and answers. Here they are put together.

A new dialect is one module with ROUTES, a tuple of app.Task and app.Page, and a line below.
"""

from __future__ import annotations

from . import anthropic, canvas, decisions, gaps, nextedit, openai, own

ROUTES = (*openai.ROUTES, *anthropic.ROUTES, *decisions.ROUTES, *gaps.ROUTES, *nextedit.ROUTES, *canvas.ROUTES, *own.ROUTES)
