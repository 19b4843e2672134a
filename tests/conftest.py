"""Hypothesis without its 200 ms deadline: a busy machine must not decide whether a test passes. Triton in its interpreter.

DGEMMA_TEST_DEVICE=cuda runs the tests of Triton's forms (kernels/triton) on a card instead, compiled: their tensors are
made there, and their generators with `torch.Generator(DEVICE)`, which torch's default device does not reach. Trap: with
DGEMMA_KERNELS=triton around them the references would be the kernels themselves, so it is taken away; tests that want it set it.
"""

import os
from collections.abc import Iterator

import pytest

from tests.helpers import DEVICE

os.environ.pop("DGEMMA_KERNELS", None)
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports it

from hypothesis import settings  # noqa: E402

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True, scope="module")
def on_the_device(request: pytest.FixtureRequest) -> Iterator[None]:
    name = request.module.__name__
    if DEVICE == "cpu" or not name.startswith("tests.kernels.triton."):
        yield
        return
    import torch

    with torch.device(DEVICE):
        yield
