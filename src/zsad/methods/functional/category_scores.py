"""AA-CLIP's image scores, which are normalised over all test images of a category.

Shapes: B images, S pixels of one side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zsad.methods.functional.maps import min_max


def category_scores(scores: Tensor, maps: Tensor, domain: str) -> Tensor:
    """The authors' image scores, which depend on all images of a category.

    s = ( minmax(max_p M) + minmax(d) ) / 2 for industrial images, minmax(max_p M) for medical ones

    Values whose largest is exactly 1 are taken as normalised already.

    Source: AA-CLIP (2503.06661), the authors' test script.

    Args:
        scores: (B,) d of all images of a category, in [0, 1].
        maps: (B, S, S) their maps.
        domain: "Industrial" or "Medical".

    Returns:
        (B,) in [0, 1].

    Example:
        >>> maps = torch.tensor([[[0.0, 2.0]], [[1.0, 4.0]]])
        >>> category_scores(torch.tensor([0.5, 0.25]), maps, "Industrial")
        tensor([0.7500, 0.5000])
    """
    peaks = _normalised(maps).amax(dim=(1, 2)).clamp(0, 1)
    return peaks if domain == "Medical" else (peaks + _normalised(scores)) / 2


def _normalised(values: Tensor) -> Tensor:
    """Min-max normalised over all values, unless the largest is exactly 1."""
    return torch.where(values.max() == 1, values, min_max(values))
