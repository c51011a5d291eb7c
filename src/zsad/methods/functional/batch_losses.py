"""Losses over all pixels of a batch together, which are no means over its images.

Source: Bayes-PFL (2503.10080), section 3.4, in the form of the authors' code.

Shapes: B images, H x W pixels, K prompts, E feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOGARITHM_SMOOTHING = 1e-8
DICE_SMOOTHING = 1e-5


def balanced_focal_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Focal loss, averaged over the anomalous pixels and over the normal ones, and added.

    loss = sum over c of  mean over the pixels of class c of  -(1 - p_c)^2 log(p_c + 1e-8)

    A class without pixels counts 0.

    Args:
        probabilities: (B, H, W) probability of an anomaly.
        masks: (B, H, W) in {0, 1}.

    Example:
        >>> maps, masks = torch.tensor([[[0.5, 0.5, 1.0]]]), torch.tensor([[[0.0, 0.0, 1.0]]])
        >>> balanced_focal_loss(maps, masks).round(decimals=4)
        tensor(0.1733)
    """
    right = torch.where(masks > 0, probabilities, 1 - probabilities)
    each = -((1 - right) ** 2) * torch.log(right + LOGARITHM_SMOOTHING)
    return sum(
        ((each * chosen).sum() / chosen.sum().clamp(min=1) for chosen in (masks, 1 - masks)),
        each.new_zeros(()),
    )


def batch_dice_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """One minus the Dice overlap of all pixels of a batch.

    loss = 1 - (2 sum(A B) + 1e-5) / (sum A + sum B + 1e-5)

    Args:
        probabilities: (B, H, W) in [0, 1].
        masks: (B, H, W) in {0, 1}.

    Example:
        >>> maps, masks = torch.tensor([[[1.0, 0.0, 1.0]]]), torch.tensor([[[1.0, 1.0, 0.0]]])
        >>> batch_dice_loss(maps, masks).round(decimals=4)
        tensor(0.5000)
    """
    overlap = 2 * (probabilities * masks).sum() + DICE_SMOOTHING
    return 1 - overlap / (probabilities.sum() + masks.sum() + DICE_SMOOTHING)


def orthogonality(features: Tensor) -> Tensor:
    """How far vectors are from being orthogonal: mean over all K x K pairs of their squared cosines.

    A vector with itself counts 0.

    Args:
        features: (..., K, E) of length 1.

    Returns:
        (...).

    Example:
        >>> orthogonality(torch.tensor([[1.0, 0.0], [0.6, 0.8]])).round(decimals=4)
        tensor(0.1800)
    """
    cosines = features @ features.transpose(-1, -2)
    apart = 1 - torch.eye(features.shape[-2], dtype=features.dtype, device=features.device)
    return ((cosines * apart) ** 2).mean(dim=(-1, -2))
