"""Losses of AF-CLIP: a sharper focal loss, and patches that resemble their own kind most.

Source: AF-CLIP (ACM MM 2025), as in the authors' code.

Shapes: B images, N patches, E feature width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def binary_focal_loss(probabilities: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Focal loss of one probability, without class weights, averaged over all values.

    p_t = p y + (1 - p) (1 - y),   loss = mean( (1 - p_t)^gamma BCE(p, y) )

    Args:
        probabilities: (...) in [0, 1].
        targets: (...) in [0, 1].
        gamma: larger looks more at what is wrong.

    Example:
        >>> binary_focal_loss(torch.tensor([0.5]), torch.tensor([1.0]), gamma=4).round(decimals=4)
        tensor(0.0433)
    """
    right = probabilities * targets + (1 - probabilities) * (1 - targets)
    entropy = F.binary_cross_entropy(probabilities, targets, reduction="none")
    return ((1 - right) ** gamma * entropy).mean()


def alignment_loss(patches: Tensor, labels: Tensor) -> Tensor:
    """How much more patches resemble those of the other kind than those of their own kind.

    loss = max(0, mean cos over pairs of different kind - mean cos over pairs of the same kind)

    Pairs are formed inside an image, a patch with itself included, and the means are over the pairs of the
    whole batch. The sum of the cosines between two groups is the product of their sums, so that no N x N
    similarities are formed.

    Args:
        patches: (B, N, E) of length 1.
        labels: (B, N), 0 for normal, 1 for abnormal; patches with other values are left out.

    Returns:
        Scalar; 0 if all patches of the batch are of one kind.

    Example:
        >>> patches = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> alignment_loss(patches, torch.tensor([[1.0, 0.0, 0.0]])).round(decimals=4)
        tensor(0.)
    """
    kinds = torch.stack([labels == 0, labels == 1], dim=1).to(patches.dtype)  # (B, 2, N)
    sums, counts = kinds @ patches, kinds.sum(dim=2)  # (B, 2, E), (B, 2)
    across = (sums[:, 0] * sums[:, 1]).sum(), (counts[:, 0] * counts[:, 1]).sum()
    within = (sums**2).sum(), (counts**2).sum()
    difference = across[0] / across[1].clamp(min=1) - within[0] / within[1].clamp(min=1)
    return torch.where(across[1] > 0, difference, 0.0).clamp(min=0)


def reduced_masks(masks: Tensor, side: int) -> Tensor:
    """Masks on the grid of the patches.

    Values below 0.5 become 0 and values above it 1. A value of exactly 0.5, where an edge runs through the
    four pixels that a patch is read from, stays.

    Args:
        masks: (B, S, S) in {0, 1}.
        side: patches along one side.

    Returns:
        (B, side, side) float32 in {0, 0.5, 1}.
    """
    small = F.interpolate(masks[:, None], size=(side, side), mode="bilinear", align_corners=False)[:, 0]
    return torch.where(small == 0.5, small, (small > 0.5).to(small.dtype))
