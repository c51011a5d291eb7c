"""k-means as scikit-learn runs it with a fixed seed, in tensor operations alone.

AdaCLIP's authors cluster with scikit-learn, for which a GPU has to wait and which no exporter can follow.
Here the random numbers of its seed are constants, and the number of rounds is fixed. The groups equal those
of scikit-learn (a test compares them on random points), except where two distances are equal to rounding.

Deviations: `ROUNDS` rounds instead of at most 300, since the hundred patches of an image settle in a few; a
cluster that loses all its points keeps its centre, where scikit-learn moves it to a far point.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SEED = 0
ROUNDS = 30
TOLERANCE = 1e-4  # of the mean variance of the features, scikit-learn's default


@torch.no_grad()
def k_means_labels(points: Tensor, clusters: int) -> Tensor:
    """Cluster numbers of points.

    Args:
        points: (B, n, F); the points of each image are clustered by themselves.
        clusters: k; at most n are used.

    Returns:
        (B, n) int64 in 0 to k - 1.

    Example:
        >>> points = torch.tensor([[[0.0], [0.1], [5.0], [5.1]]])
        >>> labels = k_means_labels(points, 2)[0]
        >>> bool(labels[0] == labels[1]), bool(labels[2] == labels[3]), bool(labels[0] == labels[2])
        (True, True, False)
    """
    count = points.shape[1]
    if clusters >= count:
        return torch.arange(count, device=points.device).expand(points.shape[:2])
    centred = points.detach().float()
    centred = centred - centred.mean(dim=1, keepdim=True)
    tolerance = TOLERANCE * centred.var(dim=1, correction=0).mean(dim=-1)  # (B,)
    centres = first_centres(centred, clusters)
    labels = nearest_centre(centred, centres)
    settled = torch.zeros_like(tolerance, dtype=torch.bool)
    for _ in range(ROUNDS):
        moved = centres_of(centred, labels, centres)
        shift = (moved - centres).square().sum(dim=(1, 2))
        centres = torch.where(settled[:, None, None], centres, moved)
        labels = torch.where(settled[:, None], labels, nearest_centre(centred, centres))
        settled = settled | (shift <= tolerance)
    return labels


def first_centres(points: Tensor, clusters: int) -> Tensor:
    """(B, k, F) points drawn far from each other.

    Source: Arthur and Vassilvitskii, "k-means++", 2007, greedy over a few draws for each centre.

    Args:
        points: (B, n, F).
        clusters: k, below n.
    """
    batch, count, _ = points.shape
    random = np.random.RandomState(SEED)
    first = int(random.choice(count, p=np.full(count, 1 / count)))
    trials = 2 + int(np.log(clusters))
    draws = random.uniform(size=(clusters - 1, trials)).tolist()
    squares = points.square().sum(dim=-1)
    rows = torch.arange(batch, device=points.device)
    chosen = [torch.full((batch,), first, device=points.device)]
    closest = _square_distances(points[:, first : first + 1], points, squares)[:, 0]  # (B, n)
    for draw in draws:
        reach = closest.sum(dim=1, keepdim=True)
        wanted = points.new_tensor(draw) * reach
        candidates = torch.searchsorted(closest.cumsum(dim=1), wanted).clamp(max=count - 1)  # (B, trials)
        drawn = points[rows[:, None], candidates]
        distances = torch.minimum(closest[:, None], _square_distances(drawn, points, squares))
        best = distances.sum(dim=-1).argmin(dim=1)
        closest = distances[rows, best]
        chosen.append(candidates[rows, best])
    return points[rows[:, None], torch.stack(chosen, dim=1)]


def nearest_centre(points: Tensor, centres: Tensor) -> Tensor:
    """(B, n) number of the nearest of the centres (B, k, F) for each of the points (B, n, F)."""
    products = points @ centres.transpose(1, 2)
    return (centres.square().sum(dim=-1)[:, None] - 2 * products).argmin(dim=-1)


def centres_of(points: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """(B, k, F) means of the points of each cluster; an empty cluster keeps its centre."""
    numbers = torch.arange(centres.shape[1], device=points.device)
    members = (labels[:, :, None] == numbers).to(points.dtype)  # (B, n, k)
    sizes = members.sum(dim=1)[:, :, None]
    means = members.transpose(1, 2) @ points / sizes.clamp(min=1)
    return torch.where(sizes > 0, means, centres)


def _square_distances(centres: Tensor, points: Tensor, squares: Tensor) -> Tensor:
    """(B, k, n) squared distances, none below 0; `squares` are the squared lengths of the points."""
    products = centres @ points.transpose(1, 2)
    lengths = centres.square().sum(dim=-1)[:, :, None]
    return (lengths - 2 * products + squares[:, None]).clamp(min=0)
