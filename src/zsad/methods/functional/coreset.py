"""Chooses few vectors that stand for many, so that a memory of patches stays bounded.

Source: Sener and Savarese, ICLR 2018, https://arxiv.org/abs/1708.00489 (k-center greedy); Roth et al.
(PatchCore), CVPR 2022, https://arxiv.org/abs/2106.08265, for memories of patches.

Shapes: P vectors of width D, K of them chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zsad.methods.functional.matching import chord

CANDIDATES = 512  # one pass over the vectors finds so many of the farthest


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
    nearest = _nearest_taken(known, known[first], torch.full((len(known),), -torch.inf, device=known.device))
    nearest[first] = torch.inf
    missing = most - int(nearest.isposinf().sum())
    while missing > 0:
        rows = _next_taken(known, nearest, missing)
        nearest = _nearest_taken(known, known[rows], nearest)
        nearest[rows] = torch.inf
        missing -= len(rows)
    taken = nearest.isposinf()
    return taken.nonzero()[:, 0], float(chord(nearest.min())) if not taken.all() else 0.0


def _next_taken(known: Tensor, nearest: Tensor, most: int) -> Tensor:
    """The next rows of the greedy choice, as many as one pass over the vectors can decide.

    A vector only comes nearer to the taken ones. So the farthest `CANDIDATES` decide among themselves, and
    the choice is the greedy one as long as the farthest of them is farther than all others were.

    Args:
        known: (P, D) unit vectors.
        nearest: (P,) cosine to the nearest taken vector; infinite for those that are taken.
        most: largest number of rows.

    Returns:
        At least one row.
    """
    count = min(CANDIDATES + 1, len(known))
    cosines, rows = nearest.topk(count, largest=False)
    if count <= CANDIDATES:
        limit = torch.inf
    else:
        limit, cosines, rows = float(cosines[-1]), cosines[:-1], rows[:-1]
    between = known[rows] @ known[rows].T
    found: list[int] = []
    while len(found) < most:
        place = int(cosines.argmin())
        if found and not float(cosines[place]) <= limit:
            break
        found.append(place)
        cosines = torch.maximum(cosines, between[place])
        cosines[place] = torch.inf
        if bool(cosines.isposinf().all()):
            break
    return rows[torch.tensor(found, device=rows.device)]


def _nearest_taken(known: Tensor, rows: Tensor, nearest: Tensor) -> Tensor:
    """(P,) cosine of vectors (P, D) to the nearest of `rows` (K, D) and what `nearest` holds."""
    parts = [known @ part.T for part in torch.split(rows, CANDIDATES)]
    return torch.stack([nearest, *(part.amax(dim=1) for part in parts)]).amax(dim=0)
