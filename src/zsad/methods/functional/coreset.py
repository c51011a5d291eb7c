"""Chooses few vectors that stand for many, so that a memory of patches stays bounded.

Source: Sener and Savarese, ICLR 2018, https://arxiv.org/abs/1708.00489 (k-center greedy); Roth et al.
(PatchCore), CVPR 2022, https://arxiv.org/abs/2106.08265, for memories of patches.

Shapes: P vectors of width D, K of them chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zsad.methods.functional.matching import chord


def most_spread(vectors: Tensor, most: int, first: Tensor) -> tuple[Tensor, float]:
    """K-center greedy: takes the vector that is farthest from all that are taken, again and again.

    For any vector, the distance to the nearest taken one exceeds the distance to the nearest of all by at
    most the radius, by the triangle inequality. The radius is at most twice the smallest that `most` vectors
    can reach.

    Args:
        vectors: (P, D) unit vectors.
        most: K, number of vectors to take, at least that of `first`.
        first: rows that are taken in any case, at least one.

    Returns:
        (min(K, P),) int64 rows in ascending order, and the radius: the largest distance of a vector to the
        nearest taken one, in [0, 2].

    Example:
        >>> directions = torch.tensor([0.0, 0.1, 1.5, 1.6]).unsqueeze(1)
        >>> vectors = torch.cat([directions.cos(), directions.sin()], dim=1)
        >>> rows, radius = most_spread(vectors, 2, torch.tensor([0]))
        >>> rows, round(radius, 3)
        (tensor([0, 3]), 0.1)
    """
    if len(vectors) <= most:
        return torch.arange(len(vectors), device=vectors.device), 0.0
    known = vectors.float()
    taken = torch.zeros(len(known), dtype=torch.bool, device=known.device)
    taken[first] = True
    nearest = torch.full((len(known),), -torch.inf, device=known.device)
    for row in first:
        nearest = torch.maximum(nearest, known @ known[row])
    for _ in range(most - int(taken.sum())):
        row = nearest.masked_fill(taken, torch.inf).argmin()
        taken[row] = True
        nearest = torch.maximum(nearest, known @ known[row])
    left = nearest[~taken]
    return taken.nonzero()[:, 0], float(chord(left.min())) if len(left) else 0.0
