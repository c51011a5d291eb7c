"""The loss terms that the methods share: pure tensor functions.

Shapes: B images, K = 2 classes (0 normal, 1 abnormal), H x W pixels, T layers, E feature width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_GAMMA = 2.0
FOCAL_SMOOTHING = 1e-5
DICE_SMOOTHING = 1.0


def focal_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Focal loss on probabilities (not logits), averaged over all pixels and images.

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
        >>> focal_loss(torch.full((1, 2, 1, 2), 0.5), torch.tensor([[[0.0, 1.0]]])).round(decimals=4)
        tensor(0.1733)
    """
    abnormal = masks.to(probabilities.dtype).clamp(FOCAL_SMOOTHING, 1 - FOCAL_SMOOTHING)
    normal = (1 - masks.to(probabilities.dtype)).clamp(FOCAL_SMOOTHING, 1 - FOCAL_SMOOTHING)
    # Unbound, because the gradient of a selected class is a whole tensor of zeros around it.
    as_normal, as_abnormal = probabilities.unbind(dim=1)
    right = normal * as_normal + abnormal * as_abnormal + FOCAL_SMOOTHING
    return (-((1 - right) ** FOCAL_GAMMA) * right.log()).mean()


def dice_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """One minus the Dice overlap of a soft and a binary mask, per image, averaged over the batch.

    loss = 1 - mean_n (2 sum(A_n B_n) + 1) / (sum A_n + sum B_n + 1)

    Source: Milletari et al. 2016 (1606.04797), equation 2, with the smoothing of 1 of the AnomalyCLIP family.

    Args:
        probabilities: (B, H, W) in [0, 1].
        masks: (B, H, W) in {0, 1}.

    Returns:
        Scalar in [0, 1).

    Example:
        >>> dice_loss(torch.tensor([[[1.0, 0.0, 1.0]]]), torch.tensor([[[1.0, 1.0, 0.0]]])).round(decimals=4)
        tensor(0.4000)
    """
    soft = probabilities.flatten(1)
    binary = masks.to(probabilities.dtype).flatten(1)
    overlap = 2 * (soft * binary).sum(dim=1) + DICE_SMOOTHING
    return 1 - (overlap / (soft.sum(dim=1) + binary.sum(dim=1) + DICE_SMOOTHING)).mean()


def pixel_losses(maps: Tensor, masks: Tensor, weights: Sequence[float]) -> dict[str, Tensor]:
    """Focal loss and the Dice losses of both classes, summed over the maps of several layers.

    sum_t w_t [ Focal(P_t, G) + Dice(P_abnormal,t , G) + Dice(P_normal,t , 1 - G) ]

    Source: AnomalyCLIP (2310.18961), equation 2, as in the authors' train.py.

    Args:
        maps: (B, T, 2, H, W) in [0, 1], summing to 1 over the classes.
        masks: (B, H, W) in {0, 1}, 1 where anomalous.
        weights: T factors.

    Returns:
        Scalars "focal", "dice_abnormal" and "dice_normal", weights included.

    Example:
        >>> terms = pixel_losses(torch.full((1, 1, 2, 1, 2), 0.5), torch.tensor([[[0.0, 1.0]]]), [2.0])
        >>> {name: round(float(term), 4) for name, term in terms.items()}
        {'focal': 0.3465, 'dice_abnormal': 0.6667, 'dice_normal': 0.6667}
    """
    layers = maps.unbind(dim=1)
    normal, abnormal = zip(*(layer.unbind(dim=1) for layer in layers), strict=True)

    def summed(losses: Iterable[Tensor]) -> Tensor:
        return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()

    return {
        "focal": summed(focal_loss(layer, masks) for layer in layers),
        "dice_abnormal": summed(dice_loss(layer, masks) for layer in abnormal),
        "dice_normal": summed(dice_loss(layer, 1 - masks) for layer in normal),
    }


def binary_focal_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Focal loss of image scores that are taken for logits, averaged over the images.

    bce  = -log sigmoid(s) for an anomalous image, -log(1 - sigmoid(s)) for a normal one
    loss = mean( (1 - exp(-bce))^2 bce )

    Source: Lin et al. 2017 (1708.02002), equation 4 with gamma 2 and no class weight. FAPrompt (2410.10289)
    gives it scores in [0, 1].

    Args:
        scores: (B,) scores.
        labels: (B,), 1 for an anomalous image, else 0.

    Returns:
        Scalar, 0 or more.

    Example:
        >>> binary_focal_loss(torch.tensor([0.0]), torch.tensor([1])).round(decimals=4)
        tensor(0.1733)
    """
    entropy = F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), reduction="none")
    return ((1 - torch.exp(-entropy)) ** FOCAL_GAMMA * entropy).mean()


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Pulls an anchor to its positive, and pushes it from its negative up to a margin.

    loss = mean( |a - p|^2 + max(0, margin - |a - q|)^2 )

    Distances are those of `torch.pairwise_distance`, which adds 1e-6 to each difference. With margin 0 the
    negative has no influence.

    Source: GlocalCLIP (2411.06071), glocal contrastive loss.

    Args:
        anchor: (..., E).
        positive: (..., E).
        negative: (..., E).
        margin: distance from which the negative is far enough, 0 or more.

    Returns:
        Scalar, 0 or more.

    Example:
        >>> near, far = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> triplet_loss(near, near, far, margin=2.0).round(decimals=4)
        tensor(0.3431)
    """
    pull = torch.pairwise_distance(anchor, positive)
    push = (margin - torch.pairwise_distance(anchor, negative)).clamp(min=0)
    return (pull**2 + push**2).mean()
