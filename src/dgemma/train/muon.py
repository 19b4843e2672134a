"""Muon for the matrices, Adam for everything else, as one optimiser with a plain state.

Muon (Jordan et al., 2024) orthogonalises the momentum of a matrix, so that every direction of the update
gets the same size; experts [E, out, in] are a batch of matrices. Its products are paid once per step, so
they weigh more on small batches. Trap: fewer iterations are not a saving. Three steps of a tuned sequence
(Polar Express, arXiv:2505.16932) left singular values between 0.2 and 1.9.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315  # Muon's quintic: singular values from 0.01 up end between 0.69 and 1.12
_ITERATIONS = 4


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values near 1; [..., out, in], any leading batch."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix
    if tall:
        x = matrix.mT
    size: Tensor = x.norm(dim=(-2, -1), keepdim=True)
    x = x / (size + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    if tall:
        return x.mT
    return x


class Optimizer:
    """Steps a model's parameters in place. `state` maps a parameter's name to its moments."""

    def __init__(
        self, model: nn.Module, matrix_lr: float = 0.02, other_lr: float = 0.003, weight_decay: float = 0.01
    ):
        self.matrix_lr = matrix_lr
        self.other_lr = other_lr
        self.weight_decay = weight_decay
        self.parameters = dict(model.named_parameters())
        self.state: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            self.state[f"{name}.first"] = torch.zeros_like(parameter)
            if not self._is_matrix(name, parameter):
                self.state[f"{name}.second"] = torch.zeros_like(parameter)

    @staticmethod
    def _is_matrix(name: str, parameter: Tensor) -> bool:
        return parameter.dim() >= 2 and not name.startswith("embed.") and "router" not in name

    @torch.no_grad()
    def step(self, number: int, factor: float) -> None:
        """One update with all learning rates times `factor`; `number` counts from 0.

        Gradients are dropped.
        """
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            if gradient is None:  # the self-conditioning MLP, in steps without a first pass
                continue
            if self._is_matrix(name, parameter):
                self._muon(name, parameter, gradient, factor)
            else:
                self._adam(name, parameter, gradient, number, factor)
            parameter.grad = None

    def _muon(self, name: str, parameter: Tensor, gradient: Tensor, factor: float) -> None:
        momentum = self.state[f"{name}.first"].lerp_(gradient, 0.05)
        update = orthogonalise(gradient.lerp(momentum, 0.95))
        # a matrix of shape [out, in] maps unit vectors to unit vectors at any shape with this factor
        scale = max(1.0, parameter.shape[-2] / parameter.shape[-1]) ** 0.5
        parameter.mul_(1 - factor * self.matrix_lr * self.weight_decay)
        parameter.add_(update, alpha=-factor * self.matrix_lr * scale)

    def _adam(self, name: str, parameter: Tensor, gradient: Tensor, number: int, factor: float) -> None:
        first = self.state[f"{name}.first"].lerp_(gradient, 0.1)
        second = self.state[f"{name}.second"].lerp_(gradient.square(), 0.02)
        unbiased = second / (1 - 0.98 ** (number + 1))
        parameter.addcdiv_(
            first / (1 - 0.9 ** (number + 1)), unbiased.sqrt() + 1e-10, value=-factor * self.other_lr
        )
