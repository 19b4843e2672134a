"""Muon's step against its formula: how far a matrix moves whatever its shape, which parameters are Adam's, and what decays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dgemma.train.muon import Optimizer, orthogonalise

MATRIX_LR, OTHER_LR, DECAY = 0.02, 0.003, 0.25


class Model(nn.Module):
    """Parameters by name, dots and all."""

    def __init__(self, **shapes: tuple[int, ...]):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.values = {
            name.replace("__", "."): nn.Parameter(torch.randn(shape, generator=draw))
            for name, shape in shapes.items()
        }

    def named_parameters(self, *_: object, **__: object):
        return iter(self.values.items())


def stepped(model: Model, steps: int = 1, factor: float = 1.0, decay: float = 0.0) -> dict[str, Tensor]:
    """How far each parameter moved, with the gradients of `gradient`."""
    before = {name: value.detach().clone() for name, value in model.values.items()}
    optimizer = Optimizer(model, MATRIX_LR, OTHER_LR, decay)
    for number in range(steps):
        for name, value in model.values.items():
            value.grad = gradient(name, value.shape, number)
        optimizer.step(number, factor)
        assert all(value.grad is None for value in model.values.values())
    return {name: value.detach() - before[name] for name, value in model.values.items()}


def gradient(name: str, shape: torch.Size, number: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(number + len(name)))


@pytest.mark.parametrize(
    ("shape", "scale"),
    [((8, 8), 1.0), ((6, 24), 1.0), ((24, 6), 2.0), ((27, 3), 3.0), ((5, 4, 16), 1.0), ((5, 16, 4), 2.0)],
)
def test_a_matrix_moves_by_the_root_of_its_shape(shape: tuple[int, ...], scale: float) -> None:
    """By sqrt(out / in) where it has more outputs than inputs: then the size of what it puts out moves by as much at any shape."""
    model = Model(w=shape)
    moved = stepped(model, factor=0.5)["w"]
    first = gradient("w", model.values["w"].shape, 0)
    update = orthogonalise(first.lerp(0.05 * first, 0.95))  # looks ahead by the momentum, which is 0.05 of it
    torch.testing.assert_close(moved, -0.5 * MATRIX_LR * scale * update)
    sizes = torch.linalg.svdvals(moved) / (0.5 * MATRIX_LR)
    assert bool((sizes > 0.6 * scale).all()) and bool((sizes < 1.3 * scale).all())


def test_momentum_is_a_mean_of_twenty_steps() -> None:
    model = Model(w=(6, 6))
    moved = stepped(model, steps=3)["w"]
    momentum, want = torch.zeros(6, 6), torch.zeros(6, 6)
    for number in range(3):
        given = gradient("w", model.values["w"].shape, number)
        momentum = 0.95 * momentum + 0.05 * given
        want -= MATRIX_LR * orthogonalise(0.05 * given + 0.95 * momentum)
    torch.testing.assert_close(moved, want, rtol=1e-4, atol=1e-6)


def test_matrices_decay_with_their_rate_and_nothing_else_does() -> None:
    shapes = {"w": (4, 4), "norm": (4,)}
    before = Model(**shapes).values["w"].detach()
    plain, decayed = (stepped(Model(**shapes), factor=0.5, decay=decay) for decay in (0.0, DECAY))
    torch.testing.assert_close(decayed["w"], plain["w"] - 0.5 * MATRIX_LR * DECAY * before)
    assert torch.equal(decayed["norm"], plain["norm"])


def test_vectors_the_embedding_and_the_router_are_adams() -> None:
    """Its first step moves every number by the rate, whatever its gradient; Muon's moves none by just that."""
    others = {"norm": (7,), "embed__weight": (9, 4), "layers__0__router__proj__weight": (3, 4)}
    matrices = {"layers__0__w": (4, 4), "embedding__w": (4, 4), "layers__0__experts__down_proj": (3, 4, 4)}
    for name, moved in stepped(Model(**others, **matrices)).items():
        is_adams = bool(((moved.abs() / OTHER_LR - 1).abs() < 1e-3).all())
        assert is_adams == (name.replace(".", "__") in others), name


def test_adams_means_are_without_bias() -> None:
    model = Model(norm=(50,))
    moved = stepped(model, steps=4)["norm"]
    first, second, want = torch.zeros(50), torch.zeros(50), torch.zeros(50)
    for number in range(4):
        given = gradient("norm", model.values["norm"].shape, number)
        first, second = 0.9 * first + 0.1 * given, 0.98 * second + 0.02 * given**2
        root = (second / (1 - 0.98 ** (number + 1))).sqrt()
        want -= OTHER_LR * first / (1 - 0.9 ** (number + 1)) / root
    torch.testing.assert_close(moved, want, rtol=1e-4, atol=1e-7)


def test_what_had_no_gradient_stays_as_it_is() -> None:
    model = Model(w=(4, 4), norm=(4,))
    before = {name: value.detach().clone() for name, value in model.values.items()}
    Optimizer(model, weight_decay=DECAY).step(0, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in model.values.items())
