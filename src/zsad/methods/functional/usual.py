"""What values usually are on normal images: their mean, and how far the largest ones lie above it.

Values of two kinds (distances, logits) that are both measured in this way can be added: 1 is as much as
normal images reach themselves, for a kind that varies much among them as for one that hardly varies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsad.methods.functional.maps import mean_of_largest

LARGEST_SHARE = 1 / 128
SMALLEST_EXCESS = 1e-5  # below it, all normal values are the same but for rounding


@dataclass(frozen=True)
class Usual:
    """The usual values of one kind.

    Attributes:
        mean: mean over normal images, of any shape that broadcasts.
        excess: how far the mean of their largest 1/128 lies above it, of the same shape, at least 0.
    """

    mean: Tensor
    excess: Tensor

    @classmethod
    def of(cls, values: Tensor, smallest: float = 0.0) -> Usual:
        """Mean and excess of all values of a tensor.

        Args:
            values: values on normal images, of any shape.
            smallest: lower bound of the excess.

        Returns:
            Two scalars.

        Example:
            >>> Usual.of(torch.tensor([1.0, 1.0, 4.0])).above(torch.tensor([2.0, 4.0]))
            tensor([0., 1.])
        """
        mean = values.mean()
        return cls(mean, (largest_mean(values.flatten()[None])[0] - mean).clamp(min=smallest))

    @classmethod
    def stacked(cls, parts: Sequence[Usual]) -> Usual:
        """Scalars of several kinds of values as (number, 1), for values with a row for each kind."""
        return cls(
            *(torch.stack([getattr(one, name) for one in parts])[:, None] for name in ("mean", "excess"))
        )

    def above(self, values: Tensor) -> Tensor:
        """Distance of values from the mean, in units of the excess; 0 if all normal values are the same."""
        varies = self.excess > SMALLEST_EXCESS
        return torch.where(varies, (values - self.mean) / self.excess.clamp(min=SMALLEST_EXCESS), 0.0)


def largest_mean(values: Tensor) -> Tensor:
    """Mean of the largest 1/128 of each row, at least of one value: (B, N) to (B,).

    Example:
        >>> largest_mean(torch.tensor([[1.0, 3.0, 2.0]]))
        tensor([3.])
    """
    return mean_of_largest(values, max(1, round(values.shape[1] * LARGEST_SHARE)))
