"""The loss terms that the methods share: pure tensor functions.

Shapes: B pictures, K = 2 classes (0 normal, 1 abnormal), H x W pixels.
"""

from __future__ import annotations

from torch import Tensor

FOCAL_GAMMA = 2.0
FOCAL_SMOOTHING = 1e-5
DICE_SMOOTHING = 1.0


def focal_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Focal loss on probabilities (not logits), averaged over all pixels and pictures.

    y_c  = one-hot mask, clamped to [1e-5, 1 - 1e-5]
    p_t  = sum_c y_c p_c + 1e-5
    loss = mean( -(1 - p_t)^2 log p_t )

    Source: Lin et al. 2017 (1708.02002), equation 4 with gamma 2 and no class weight; the clamping and the
    smoothing are those of the code that all methods of the AnomalyCLIP family share.

    Args:
        probabilities: (B, 2, H, W) in [0, 1], summing to 1 over the classes.
        masks: (B, H, W), 1 where anomalous, else 0.

    Returns:
        Scalar, at least about 0.

    Example:
        >>> import torch
        >>> focal_loss(torch.full((1, 2, 1, 2), 0.5), torch.tensor([[[0.0, 1.0]]])).round(decimals=4)
        tensor(0.1733)
    """
    abnormal = masks.to(probabilities.dtype).clamp(FOCAL_SMOOTHING, 1 - FOCAL_SMOOTHING)
    normal = (1 - masks.to(probabilities.dtype)).clamp(FOCAL_SMOOTHING, 1 - FOCAL_SMOOTHING)
    right = normal * probabilities[:, 0] + abnormal * probabilities[:, 1] + FOCAL_SMOOTHING
    return (-((1 - right) ** FOCAL_GAMMA) * right.log()).mean()


def dice_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """One minus the Dice overlap of a soft and a binary mask, per picture, averaged over the batch.

    loss = 1 - mean_n (2 sum(A_n B_n) + 1) / (sum A_n + sum B_n + 1)

    Source: Milletari et al. 2016 (1606.04797), equation 2, with the smoothing of 1 of the AnomalyCLIP family.

    Args:
        probabilities: (B, H, W) in [0, 1].
        masks: (B, H, W) in {0, 1}.

    Returns:
        Scalar in [0, 1).

    Example:
        >>> import torch
        >>> dice_loss(torch.tensor([[[1.0, 0.0, 1.0]]]), torch.tensor([[[1.0, 1.0, 0.0]]])).round(decimals=4)
        tensor(0.4000)
    """
    soft = probabilities.flatten(1)
    binary = masks.to(probabilities.dtype).flatten(1)
    overlap = 2 * (soft * binary).sum(dim=1) + DICE_SMOOTHING
    return 1 - (overlap / (soft.sum(dim=1) + binary.sum(dim=1) + DICE_SMOOTHING)).mean()
