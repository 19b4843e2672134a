"""Hypothesis without its 200 ms deadline: a busy machine must not decide whether a test passes. Triton in its interpreter."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports it

from hypothesis import settings  # noqa: E402

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
