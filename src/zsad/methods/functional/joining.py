"""Combines two anomaly scores over a folder: standardises both, adds them, and rescales the sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over a folder, which bring other values to the same scale.

    Attributes:
        mean: mean, of any shape that broadcasts.
        deviation: standard deviation, of the same shape; 0 without spread.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, values: Tensor, dims: tuple[int, ...]) -> Spread:
        """Mean and standard deviation over some dimensions, which are kept with length 1.

        Example:
            >>> Spread.of(torch.tensor([1.0, 3.0]), (0,)).standardised(torch.tensor([4.0, 2.0]))
            tensor([2., 0.])
        """
        deviation, mean = torch.std_mean(values, dim=dims, keepdim=True, correction=0)
        return cls(mean, deviation)

    @classmethod
    def stacked(cls, spreads: Sequence[Spread]) -> Spread:
        """Several spreads of shape (1, ...) as one, of shape (number, ...)."""
        return cls(*(torch.cat([getattr(one, name) for one in spreads]) for name in ("mean", "deviation")))

    def standardised(self, values: Tensor) -> Tensor:
        """Distance from the mean in standard deviations; 0 without spread."""
        return torch.where(self.deviation > 0, (values - self.mean) / self.deviation.clamp(min=1e-12), 0.0)


@dataclass(frozen=True)
class Levels:
    """Common and rare logits of a folder, which put logits on a scale that shows the difference.

    Attributes:
        common: median of the logits, of any shape that broadcasts.
        rare: high quantile of the logits, of the same shape.
        common_logit: logit that the median becomes.
        rare_logit: logit that the high quantile becomes.
    """

    common: Tensor
    rare: Tensor
    common_logit: float
    rare_logit: float

    @classmethod
    def of(
        cls, logits: Tensor, dims: tuple[int, ...], quantile: float, common_logit: float, rare_logit: float
    ) -> Levels:
        """Common and rare logits over some dimensions, which are kept with length 1.

        Args:
            logits: logits of any shape.
            dims: the dimensions, in ascending order.
            quantile: quantile in (0.5, 1) that counts as rare.
            common_logit: logit that the median becomes.
            rare_logit: logit that the quantile becomes, above `common_logit`.
        """
        flat = logits.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims))
        common, rare = (
            torch.quantile(flat, share, dim=-1).reshape(
                [1 if dim in dims else length for dim, length in enumerate(logits.shape)]
            )
            for share in (0.5, quantile)
        )
        return cls(common, rare, common_logit, rare_logit)

    def rescaled(self, logits: Tensor, amount: Tensor | float = 1.0) -> Tensor:
        """Shifts and stretches logits so that `common` and `rare` become their targets; the order stays.

        Args:
            logits: logits of a shape that broadcasts.
            amount: from 0 (unchanged) to 1 (in full).

        Example:
            >>> levels = Levels(torch.tensor(10.0), torch.tensor(12.0), -4.0, 0.0)
            >>> levels.rescaled(torch.tensor([10.0, 11.0, 12.0])), levels.rescaled(torch.tensor([10.0]), 0.0)
            (tensor([-4., -2.,  0.]), tensor([10.]))
        """
        there = self.rare > self.common
        slope = (self.rare_logit - self.common_logit) / (self.rare - self.common).clamp(min=1e-6)
        moved = torch.where(there, self.common_logit + slope * (logits - self.common), logits)
        return amount * moved + (1 - amount) * logits
