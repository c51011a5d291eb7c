"""Compares each image with similar images of the same folder: a patch that none of them shows is suspicious.

Shapes: B images, M companions, K of them compared, L levels of description, N = G*G patches in row-major
order, D_l feature width of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.backbones.selection import largest
from zsad.methods.functional.maps import grid_side, in_parts
from zsad.methods.functional.matching import chord, nearest_similarity

OWN_NEIGHBOURS = 4  # patches of its own image that a patch is compared with
COPY_DISTANCE = 0.02  # two files of one image stay below it in half precision; two photographs never do


@dataclass(frozen=True)
class CompanionPatches:
    """Patches of the companions: unlabelled images, some of which may be anomalous themselves.

    Attributes:
        levels: L tensors (M, N, D_l) of unit vectors.
        descriptors: (M, sum of D_l), one unit vector for each image, to find the most alike ones.
    """

    levels: tuple[Tensor, ...]
    descriptors: Tensor

    @classmethod
    def of(cls, levels: Sequence[Tensor]) -> CompanionPatches:
        """Patches of companions, with the descriptors that find the most alike images.

        Args:
            levels: L tensors (M, N, D_l) of unit vectors.
        """
        return cls(tuple(levels), describe(levels))

    def __len__(self) -> int:
        return len(self.descriptors)


@dataclass(frozen=True)
class Comparison:
    """How badly images match their companions.

    Attributes:
        distances: (B, L, N) mean distance of each patch to its nearest patch in the best-matching companions,
            in [0, 2]; 0 without companions.
        companions: (B, K) numbers of the companions, the most alike first.
        counted: (B, K) bool, False for copies of the image itself.
        unlikeness: (B,) `distances` in units of the distance to the image's own other patches, medians over
            the patches, mean over the levels. Above 1 the image resembles itself more than its companions.
    """

    distances: Tensor
    companions: Tensor
    counted: Tensor
    unlikeness: Tensor


def describe(levels: Sequence[Tensor]) -> Tensor:
    """One vector for a whole image: the means of its patches, with the same weight for each level.

    Args:
        levels: L tensors (B, N, D_l).

    Returns:
        (B, sum of D_l) unit vectors.
    """
    means = [F.normalize(level.float().mean(dim=1), dim=-1) for level in levels]
    return F.normalize(torch.cat(means, dim=-1), dim=-1)


def compare(
    levels: Sequence[Tensor], companions: CompanionPatches, count: int, best_share: float
) -> Comparison:
    """Matches each patch of some images with the patches of their most alike companions.

    d_i(p) = mean over the best-matching share of the companions r of  min_q | u_i(p) - u_r(q) |

    Source: MuSc (2401.16753), section 3.3, here with the most alike companions only, and level by level. A
    companion that is the image itself, or a copy of it, does not count.

    Args:
        levels: L tensors (B, N, D_l) of unit vectors.
        companions: patches of the companions, on the same levels.
        count: largest number of companions that an image is compared with.
        best_share: share of these that counts for a patch, rounded down, at least one.

    Returns:
        The comparison, with K = count + 1 (one may be the image itself), or M if that is smaller.
    """
    similarity = describe(levels) @ companions.descriptors.T
    chosen = similarity.topk(min(count + 1, len(companions)), dim=1).indices  # one more: it may be itself
    nearest = torch.stack(
        [_nearest(level, known, chosen) for level, known in zip(levels, companions.levels, strict=True)],
        dim=1,
    )  # (B, L, K + 1, N)
    counted = nearest.mean(dim=(1, 3)) > COPY_DISTANCE
    if chosen.shape[1] > count:  # of those that are no copies, one is too many
        surplus = counted & (counted.cumsum(dim=1) > count)
        counted = counted & ~surplus
    distances = best_mean(nearest, counted, best_share)
    own = torch.stack([own_distances(level) for level in levels], dim=1)
    ratios = distances.median(dim=2).values / own.median(dim=2).values.clamp(min=1e-6)
    return Comparison(distances, chosen, counted, ratios.mean(dim=1))


def best_mean(nearest: Tensor, counted: Tensor, best_share: float) -> Tensor:
    """Mean over the best-matching share of the companions that count.

    Args:
        nearest: (B, L, K, N) distances.
        counted: (B, K) bool.
        best_share: share of the companions, rounded down, at least one.

    Returns:
        (B, L, N); 0 where no companion counts.

    Example:
        >>> nearest = torch.tensor([0.0, 0.2, 0.4, 0.9]).reshape(1, 1, 4, 1)
        >>> best_mean(nearest, torch.tensor([[False, True, True, True]]), best_share=0.7)
        tensor([[[0.3000]]])
    """
    there = counted.sum(dim=1)
    wanted = (best_share * there).int().clamp(min=1)
    ranked = nearest.masked_fill(~counted[:, None, :, None], torch.inf).sort(dim=2).values
    rank = torch.arange(nearest.shape[2], device=nearest.device)
    used = (rank < torch.minimum(wanted, there)[:, None])[:, None, :, None]
    total = torch.where(used, ranked, 0.0).sum(dim=2)
    return total / wanted[:, None, None]


def own_distances(tokens: Tensor) -> Tensor:
    """Mean distance of each patch to the patches of its own image that resemble it most.

    The patch and its eight neighbours are left out, because they show the same place.

    Args:
        tokens: (B, N, D) unit vectors.

    Returns:
        (B, N) in [0, 2].
    """
    side = grid_side(tokens.shape[1])
    row = torch.arange(tokens.shape[1], device=tokens.device) // side
    column = torch.arange(tokens.shape[1], device=tokens.device) % side
    close = ((row[:, None] - row).abs() <= 1) & ((column[:, None] - column).abs() <= 1)
    count = min(OWN_NEIGHBOURS, tokens.shape[1])

    def measured(own: Tensor) -> tuple[Tensor]:
        similarity = (own @ own.transpose(-1, -2)).masked_fill(close, -1.0)
        return (chord(largest(similarity, count).float().mean(dim=-1)),)

    return in_parts(measured, tokens, 1)[0]  # image by image, because N x N similarities are large


def _nearest(tokens: Tensor, known: Tensor, chosen: Tensor) -> Tensor:
    """Distances to the nearest patch of each companion, on one level.

    Args:
        tokens: (B, N, D) unit vectors.
        known: (M, N, D) unit vectors of all companions.
        chosen: (B, K) numbers of the companions of each image.

    Returns:
        (B, K, N) float32.
    """
    if torch.compiler.is_compiling():  # a graph holds a product for each companion, and none for each image
        found = [(tokens @ known[rows].transpose(1, 2)).amax(dim=2) for rows in chosen.unbind(dim=1)]
        similarity = torch.stack(found, dim=1)
    else:
        similarity = torch.stack(
            [nearest_similarity(own, known[rows]) for own, rows in zip(tokens, chosen, strict=True)]
        )
    return chord(similarity.float())
