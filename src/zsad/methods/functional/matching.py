"""The most similar patch among many, in bounded memory."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def nearest_distance(features: Tensor, memory: Tensor) -> Tensor:
    """Half the cosine distance of each vector to the nearest vector of a memory.

    A = min_r (1 - cos(feature, r)) / 2

    Source: WinCLIP (2303.14814), section 4.3, equation 6.

    Args:
        features: (B, M, E), of any length.
        memory: (R, E), of any length.

    Returns:
        (B, M) in [0, 1]. Rounding below 0 is cut off, since a harmonic mean of it would explode.

    Example:
        >>> import torch
        >>> nearest_distance(torch.tensor([[[2.0, 0.0]]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
        tensor([[0.5000]])
    """
    similarity = F.normalize(features, dim=-1) @ F.normalize(memory, dim=-1).T
    return ((1 - similarity.amax(dim=-1)) / 2).clamp(0, 1)
