"""Arithmetic operations a second of a network, against the processor's own product of two matrices."""

from dataclasses import dataclass

import torch
from torch import nn

from tests.benchmarks.measuring import alternate

MATRIX_SIDES = (1024, 2048)
ROUNDS = 8


@dataclass
class MultiplyAdds:
    """Multiplications, each with an addition, of the convolutions in one pass forward and in one backward."""

    forward: int = 0
    backward: int = 0

    @property
    def operations(self) -> int:
        return 2 * (self.forward + self.backward)


def multiply_adds(model: nn.Module, images: torch.Tensor) -> MultiplyAdds:
    """Count those of every Conv2d of a network in training mode on ``images``.

    An output pixel of a convolution takes as many as a filter has weights, those of its own group alone. The gradient
    of the weights takes as many again, and so does the gradient of the input where one is needed: the first layer's is
    not. Counted by hand, since torch's FlopCounterMode (2.15) takes groups into account forward but not backward.
    """
    counted = MultiplyAdds()

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        number = output.numel() * layer.weight[0].numel()  # of a filter: input channels of its group x height x width
        counted.forward += number
        counted.backward += number * (2 if inputs[0].requires_grad else 1)

    hooks = [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return counted


def compare_with_matrices(model: nn.Module, images: torch.Tensor, rounds: int = ROUNDS) -> dict:
    """Arithmetic operations a second of a pass forward and backward, and of float32 matrix products, in turns.

    Returns:
        ``operations`` and ``seconds`` of a step, its operations a second (``network``), the most that a product of
        square matrices reaches (``matrix``), the side of these (``side``), and torch's ``threads``.
    """
    model.train()
    operations = multiply_adds(model, images).operations

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(images).mean().backward()

    def product(matrix: torch.Tensor, out: torch.Tensor):
        return lambda: torch.mm(matrix, matrix, out=out)

    squares = [torch.rand(side, side) for side in MATRIX_SIDES]
    products = [product(square, torch.empty_like(square)) for square in squares]
    step_s, *products_s = alternate(rounds, step, *products)
    rates = [2 * side**3 * rounds / seconds for side, seconds in zip(MATRIX_SIDES, products_s, strict=True)]
    return {
        "operations": operations,
        "seconds": step_s / rounds,
        "network": operations * rounds / step_s,
        "matrix": max(rates),
        "side": MATRIX_SIDES[rates.index(max(rates))],
        "threads": torch.get_num_threads(),
    }
