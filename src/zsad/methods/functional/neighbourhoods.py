"""Token sets of an image: patches of several layers, each averaged over neighbourhoods of several sizes.

Source: AF-CLIP (ACM MM 2025), multi-scale neighbour aggregation, as in the authors' code.

Shapes: B images, T layers, N = G*G patches in row-major order, D encoder width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from zsad.methods.functional.maps import grid_side

NEIGHBOUR_SIGMA = 4.0  # in patches: nearly the same weight for all neighbours


def token_sets(tokens: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    """The tokens of each layer, averaged over each size of neighbourhood.

    Args:
        tokens: (B, T, 1 + N, D), class token first.
        sizes: odd numbers of patches along one side of a neighbourhood; 1 changes nothing.

    Yields:
        (B, 1 + N, D), all sizes of the first layer, then those of the next; class tokens are as they came.
    """
    for layer in tokens.unbind(dim=1):
        for size in sizes:
            yield torch.cat([layer[:, :1], aggregated(layer[:, 1:], size)], dim=1)


def aggregated(patches: Tensor, size: int) -> Tensor:
    """Weighted mean of each patch and its neighbours; places outside the image count as 0.

    Args:
        patches: (B, N, D).
        size: odd number of patches along one side of the neighbourhood.

    Returns:
        (B, N, D).

    Example:
        >>> aggregated(torch.ones(1, 9, 1), 3).reshape(3, 3).round(decimals=2)
        tensor([[0.4500, 0.6700, 0.4500],
                [0.6700, 1.0000, 0.6700],
                [0.4500, 0.6700, 0.4500]])
    """
    if size == 1:
        return patches
    side = grid_side(patches.shape[1])
    places = torch.arange(side, device=patches.device)
    distance = (places[:, None] - places).abs()
    offsets = torch.arange(-(size // 2), size // 2 + 1, device=patches.device)
    total = _weight(offsets).sum()
    matrix = (torch.where(distance <= size // 2, _weight(distance), 0.0) / total).to(patches.dtype)
    grid = patches.reshape(patches.shape[0], side, side, -1)
    rows = torch.einsum("ij,bjkd->bikd", matrix, grid)
    return torch.einsum("ij,bkjd->bkid", matrix, rows).flatten(1, 2)


def _weight(distance: Tensor) -> Tensor:
    """Weight of a neighbour along one axis."""
    return torch.exp(-(distance.float() ** 2) / (2 * NEIGHBOUR_SIGMA**2))
