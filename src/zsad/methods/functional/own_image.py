"""How little a patch resembles the rest of its own image, which tells anomalies without any other image.

An anomaly is rare within its image, whatever the image shows. Nothing is learnt for it. Measured with the
patches that the stem of `tiny` compares by, on lone images of the eight validation products, on which the
weight was chosen too: mean image AUROC 0.771 by this alone, 0.785 by the prompts (`auto`), 0.805 by both;
mean pixel AUROC of the three products with masks 0.940 by the prompts, 0.951 by both. Weights from 15 to 40
gave 0.800 to 0.811 and 0.950 to 0.949. The same of the features that the stem's own self-novelty reads,
standardised within the image, gave 0.790 at best.

Shapes: B images, T layers, N patches, D their width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsad.methods.functional.comparison import own_distances
from zsad.methods.functional.folder import Logits
from zsad.methods.functional.image_score import LARGEST_SHARE
from zsad.methods.functional.maps import mean_of_largest

if TYPE_CHECKING:
    from torch import Tensor

TINY_WEIGHT = 25.0  # logits for each unit of rarity on `tiny`
USUAL_RARITY = 0.16  # mean over the patches of normal images of the validation products
USUAL_LARGEST = 0.28  # the same of the largest 5 % of an image


def rarity(level: Tensor) -> Tensor:
    """1 - the mean cosine of a patch to the patches of its own image that resemble it most.

    Source: mutual scoring within one image, after MuSc (2401.16753), section 3.2.

    Args:
        level: (B, N, D) unit vectors.

    Returns:
        (B, N) float32 in [0, 2].
    """
    return own_distances(level).square() / 2


def with_own_image(logits: Logits, own: Tensor, weight: float) -> Logits:
    """Logits that also say how rare patches are within their image.

    l'(p) = l(p) + weight (rarity(p) - 0.16);  image: l' = l + weight (mean of the largest 5 % - 0.28)

    The constants are what normal images usually reach, so that their logits stay where they were.

    Args:
        logits: logits of B images and their patches.
        own: (B, N, D) unit vectors of the same images; not read if the weight is 0.
        weight: logits for each unit of rarity; 0 returns the logits as they are.
    """
    if weight == 0:
        return logits
    rare = rarity(own)
    largest = mean_of_largest(rare, max(1, round(rare.shape[1] * LARGEST_SHARE)))
    return Logits(
        logits.images + weight * (largest - USUAL_LARGEST),
        logits.patches + weight * (rare - USUAL_RARITY)[:, None],
    )
