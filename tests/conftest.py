"""Hypothesis without its 200 ms deadline: a busy machine must not decide whether a test passes."""

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
