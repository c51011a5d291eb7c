"""Picks the largest values of rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def largest(values: Tensor, count: int) -> Tensor:
    """The largest values along the last dimension, in falling order: `values.topk(count).values`.

    For inference on a processor NumPy partitions the rows, because PyTorch keeps track of places that nobody
    asks for: an eighth of the time for 8 of 400 values.

    Args:
        values: (..., N).
        count: number of values, 1 to N.

    Returns:
        (..., count).

    Example:
        >>> largest(torch.tensor([[0.1, 0.7, 0.3]]), 2)
        tensor([[0.7000, 0.3000]])
    """
    is_plain = values.device.type == "cpu" and values.dtype == torch.float32 and not values.requires_grad
    if not is_plain or torch.compiler.is_compiling():
        return values.topk(count, dim=-1).values
    rest = values.shape[-1] - count
    best = np.partition(values.numpy(), rest, axis=-1)[..., rest:]
    best.sort(axis=-1)
    return torch.from_numpy(best[..., ::-1].copy())
