"""Joining two kinds of evidence over a folder: brought to the same spread, added, and put on one scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over a folder, to bring other values to the same scale.

    Attributes:
        mean: of any shape that broadcasts.
        deviation: the same; 0 where there is no spread.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, values: Tensor, dims: tuple[int, ...]) -> Spread:
        """Over some dimensions, which are kept with length 1.

        Example:
            >>> Spread.of(torch.tensor([1.0, 3.0]), (0,)).standardised(torch.tensor([4.0, 2.0]))
            tensor([2., 0.])
        """
        deviation, mean = torch.std_mean(values, dim=dims, keepdim=True, correction=0)
        return cls(mean, deviation)

    def standardised(self, values: Tensor) -> Tensor:
        """Distance from the mean in standard deviations; 0 where there is no spread."""
        return torch.where(self.deviation > 0, (values - self.mean) / self.deviation.clamp(min=1e-12), 0.0)


@dataclass(frozen=True)
class Levels:
    """What is common and what is rare in a folder, to put logits on a scale that shows the difference.

    Attributes:
        common: median of the logits, of any shape that broadcasts.
        rare: a high quantile of theirs.
        common_logit: where the median goes.
        rare_logit: where the high quantile goes.
    """

    common: Tensor
    rare: Tensor
    common_logit: float
    rare_logit: float

    @classmethod
    def of(
        cls, logits: Tensor, dims: tuple[int, ...], quantile: float, common_logit: float, rare_logit: float
    ) -> Levels:
        """Over some dimensions, which are kept with length 1.

        Args:
            logits: of any shape.
            dims: the last ones, in order.
            quantile: in (0.5, 1), which is taken for rare.
            common_logit: where the median goes.
            rare_logit: where the quantile goes, above `common_logit`.
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
        """Shifted and stretched so that `common` and `rare` come to their places; the order stays.

        Args:
            logits: of a shape that broadcasts.
            amount: from 0 (as they are) to 1 (in full).

        Example:
            >>> levels = Levels(torch.tensor(10.0), torch.tensor(12.0), -4.0, 0.0)
            >>> levels.rescaled(torch.tensor([10.0, 11.0, 12.0])), levels.rescaled(torch.tensor([10.0]), 0.0)
            (tensor([-4., -2.,  0.]), tensor([10.]))
        """
        there = self.rare > self.common
        slope = (self.rare_logit - self.common_logit) / (self.rare - self.common).clamp(min=1e-6)
        moved = torch.where(there, self.common_logit + slope * (logits - self.common), logits)
        return amount * moved + (1 - amount) * logits
