"""Similarity of image and text features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_softmax(features: Tensor, text_features: Tensor, temperature: float) -> Tensor:
    """Probability of each text class for each feature vector.

    p(k) = softmax_k( cos(feature, text_k) / temperature )

    Source: Radford et al. 2021, section 2.3; with two classes AnomalyCLIP (2310.18961), equation 1.

    Args:
        features: (B, ..., E), of any length.
        text_features: (C, K, E), of any length; one row of class names (C = 1) serves all images.
        temperature: larger than 0; smaller makes the answer sharper.

    Returns:
        (B, ..., K) in [0, 1], summing to 1 over K.

    Example:
        >>> image = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> text = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> similarity_softmax(image, text, temperature=0.2)[:, 1].round(decimals=4)
        tensor([0.0067, 0.9933])
    """
    return torch.softmax(cosine_similarity(features, text_features) / temperature, dim=-1)


def cosine_similarity(features: Tensor, text_features: Tensor) -> Tensor:
    """Cosine of the angle between each feature vector and each text vector of its image.

    Args:
        features: (B, ..., E), of any length.
        text_features: (C, K, E), of any length, C = 1 or B.

    Returns:
        (B, ..., K) in [-1, 1], of the features' type, under autocast too.

    Example:
        >>> cosine_similarity(torch.tensor([[1.0, 1.0]]), torch.tensor([[[2.0, 0.0]]])).round(decimals=4)
        tensor([[0.7071]])
    """
    rows = F.normalize(features, dim=-1).reshape(features.shape[0], -1, features.shape[-1])
    columns = F.normalize(text_features, dim=-1).transpose(1, 2)
    logits = rows @ columns
    if logits.dtype != rows.dtype:
        # Autocast rounded it, which a small temperature would blow up; tracers must not meet this branch.
        with torch.autocast(rows.device.type, enabled=False):
            logits = rows @ columns.to(rows.dtype)
    return logits.reshape(*features.shape[:-1], text_features.shape[1])
