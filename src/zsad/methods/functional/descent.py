"""AdamW for the few steps of test-time adaptation.

torch's own optimiser counts its steps in tensors and reads them on the host, for which a GPU has to wait, and
which an exporter cannot follow. The steps here are the same to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8
WEIGHT_DECAY = 0.01


class AdamW:
    """AdamW with torch's default settings.

    Source: Loshchilov and Hutter, 2019 (1711.05101), algorithm 2.

    Attributes:
        parameters: tensors that `take` changes in place.
        learning_rate: learning rate.
        steps: number of steps taken.
    """

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.steps = 0
        self._means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def take(self, gradients: Sequence[Tensor]) -> None:
        """Takes one step.

        Args:
            gradients: gradient of the loss for each parameter.
        """
        self.steps += 1
        first, second = BETAS
        rate = self.learning_rate / (1 - first**self.steps)
        scale = math.sqrt(1 - second**self.steps)
        for parameter, gradient, mean, square in zip(
            self.parameters, gradients, self._means, self._squares, strict=True
        ):
            parameter.mul_(1 - self.learning_rate * WEIGHT_DECAY)
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            parameter.addcdiv_(mean, (square.sqrt() / scale).add_(EPSILON), value=-rate)
