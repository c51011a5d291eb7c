"""Probabilities and maps in plain operations.

Shapes: B images, N = G*G patches, E joint width, S pixels of one side.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor


def cosines(features: Tensor, text: Tensor) -> Tensor:
    """Returns the cosines (B, ..., K) of features (B, ..., E) and texts (K, E) or (B, K, E)."""
    return F.normalize(features, dim=-1) @ F.normalize(text, dim=-1).transpose(-1, -2)


def enlarged(values: Tensor, size: int, *, align_corners: bool = False) -> Tensor:
    """Turns values of patches (B, N, K) into (B, K, size, size)."""
    side = int(values.shape[1] ** 0.5)
    grid = values.reshape(-1, side, side, values.shape[-1]).permute(0, 3, 1, 2)
    return F.interpolate(grid, size=(size, size), mode="bilinear", align_corners=align_corners)


def abnormal_map(probabilities: Tensor, size: int) -> Tensor:
    """Turns probabilities (B, N, 2), normal then abnormal, into a map (B, size, size)."""
    both = enlarged(probabilities, size)
    return (both[:, 1] + 1 - both[:, 0]) / 2


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Smooths maps (B, S, S), one after the other."""
    return torch.from_numpy(np.stack([gaussian_filter(each, sigma=sigma) for each in maps.numpy()]))
