"""The score of an image, from its class token alone or from its class token and its patches.

The papers' methods score an image by its class token. On validation data (eight real products, 30 normal and
30 anomalous images at most, anomalyclip on `tiny`), the mean image AUROC is 0.774 for the class token, 0.761
for the largest patch logit, 0.738 for the mean of the largest 5 %, and 0.784 for the class token with these 5
%; the choice was made on these products. Each side is far behind on some of them (tin cans 0.69 against
0.896, castings 0.86 against 0.61). Their mean is ahead on average, and may still be far behind the better
side: 0.793 for tin cans, where the patches alone give 0.896. Smoothing the patches first makes them worse
(0.73 for the largest, at one patch).

Shapes: B images, T layers, N patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.types import WeightRecord

ImageScore = Literal["class_token", "both"]
"""What scores an image: the class token, or the class token and the most anomalous patches."""

LARGEST_SHARE = 0.05

ValueT = TypeVar("ValueT")


def image_score_for(chosen: ImageScore | None, record: WeightRecord | None) -> ImageScore:
    """The setting, or if it is None what suits the weights: "both" on `tiny`, the papers' rule on all others.

    Args:
        chosen: value of the setting.
        record: record of the backbone's weights; None for random weights.
    """
    return by_weights(chosen, record, on_tiny="both", elsewhere="class_token")


def by_weights(
    chosen: ValueT | None, record: WeightRecord | None, on_tiny: ValueT, elsewhere: ValueT
) -> ValueT:
    """A setting, or if it is None what suits the weights: all but `tiny` have what the papers say.

    Args:
        chosen: value of the setting.
        record: record of the backbone's weights; None for random weights.
        on_tiny: value on `tiny`.
        elsewhere: value on all other weights.
    """
    if chosen is not None:
        return chosen
    return on_tiny if record is not None and record.name == "tiny" else elsewhere


def image_scores(image: Tensor, patches: Tensor, rule: ImageScore) -> Tensor:
    """Scores of images.

    Args:
        image: (B, 2) normal and abnormal probability of the class token.
        patches: (B, T, N, 2) normal and abnormal probability of the patches.
        rule: what scores an image.

    Returns:
        (B,) in [0, 1]; with "class_token" exactly its abnormal probability.

    Example:
        >>> image = torch.tensor([[0.5, 0.5]])
        >>> patches = torch.tensor([[[[0.9, 0.1], [0.1, 0.9]]]])
        >>> image_scores(image, patches, "class_token"), image_scores(image, patches, "both")
        (tensor([0.5000]), tensor([0.7500]))
    """
    if rule == "class_token":
        return image[:, 1]
    return image_logits(_ahead(image), _ahead(patches), rule).sigmoid()


def image_logits(image: Tensor, patches: Tensor, rule: ImageScore) -> Tensor:
    """Logits of images; with "both" the mean of two logits, so that neither side decides alone.

    l = ( l_class + mean of the largest 5 % of l_patch ) / 2, where l_patch is a mean over the layers

    Args:
        image: (B,) how far abnormal is ahead of normal in the class token.
        patches: (B, T, N) how far abnormal is ahead of normal in the patches.
        rule: what scores an image.

    Returns:
        (B,).
    """
    if rule == "class_token":
        return image
    count = max(1, round(patches.shape[-1] * LARGEST_SHARE))
    return (image + patches.mean(dim=1).topk(count, dim=-1).values.mean(dim=-1)) / 2


def _ahead(probabilities: Tensor) -> Tensor:
    """How far abnormal is ahead of normal, finite: (..., 2) probabilities to (...) logits."""
    logs = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
    return logs[..., 1] - logs[..., 0]
