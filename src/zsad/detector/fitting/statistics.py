"""What scores of good images say when each was computed without its own image among the references; no torch.

n images are shared out to folds of at most m images, and the score of an image is computed with the
references outside of its fold (leave-one-out: m = 1). A new image is called anomalous if its score, computed
with all references, exceeds all but k of the n scores. Then, over sets of n exchangeable images,

    P(a new good image is called anomalous) <= (2 k + m) / (n + m)

if more references never raise the score of an image, as with the distance to the nearest reference. Reason:
let every two images of different folds play, each scored without the folds of both; the higher score wins.
An image that is called anomalous loses at most k games, and S such images have played at least S (S - m) / 2
games with each other, so that S <= 2 k + m. Held-out images give (k + 1) / (n + 1): with k = 0 and
leave-one-out, both are the same.

Source: the tournament of Barber, Candès, Ramdas and Tibshirani, "Predictive inference with the jackknife+",
Annals of Statistics 49 (2021), for a threshold that is the same for all images; cross-conformal prediction:
Vovk, "Cross-conformal predictors", Annals of Mathematics and Artificial Intelligence 74 (2015).

The confidence that a given set of images keeps a rate has no such proof, because scores share references. It
is close to that of held-out images as long as one image changes little.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

OUTLIER = 3.5
"""Robust z-score from which on an image stands out; recommended by Iglewicz and Hoaglin (1993)."""

MAD_TO_DEVIATION = 1.4826
SMALLEST_DEVIATION = 1e-6
SMALLEST_SCORE = 1e-6


def left_out_rate(images: int, alarms: int, fold: int = 1) -> float:
    """The share of new good images that are called anomalous, at most and on average over sets of images.

    Args:
        images: n >= 1, number of good images.
        alarms: k in [0, n), number of them that may lie at or above the threshold.
        fold: m >= 1, number of images that are left out together.

    Returns:
        (2 k + m) / (n + m), at most 1.

    Example:
        >>> round(left_out_rate(20, 0), 4), round(left_out_rate(93, 1), 4), round(left_out_rate(200, 0, 2), 4)
        (0.0476, 0.0319, 0.0099)
    """
    return min(1.0, (2 * alarms + fold) / (images + fold))


def robust_z(scores: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """How many standard deviations each score lies above the median, both estimated from the middle half.

    z_i = (s_i - median s) / (1.4826 median |s - median s|)

    Args:
        scores: (n,) finite scores, n >= 1.

    Returns:
        (n,); 0 for all if more than half of the scores are the same.

    Example:
        >>> robust_z([0.10, 0.12, 0.11, 0.13, 0.60]).round(1).tolist()
        [-1.3, 0.0, -0.7, 0.7, 32.4]
    """
    values = np.asarray(scores, dtype=np.float64)
    distances = values - np.median(values)
    deviation = MAD_TO_DEVIATION * np.median(np.abs(distances))
    if deviation < SMALLEST_DEVIATION:
        return np.zeros_like(values)
    return np.asarray(distances / deviation)


def log_odds(scores: Sequence[float]) -> NDArray[np.float64]:
    """log(s / (1 - s)) of scores in [0, 1], on which the long upper tail of good scores is shorter.

    Example:
        >>> log_odds([0.5, 0.9]).round(4).tolist()
        [0.0, 2.1972]
    """
    values = np.clip(np.asarray(scores, dtype=np.float64), SMALLEST_SCORE, 1 - SMALLEST_SCORE)
    return np.asarray(np.log(values / (1 - values)))


def near_copies(distances: NDArray[np.floating], share: float) -> list[int]:
    """Groups images that are much closer to each other than two good images usually are.

    Args:
        distances: (n, n) symmetric distances, n >= 1.
        share: share of the median distance of two images, below which they are near-copies.

    Returns:
        For each image the number of the first image of its group; its own number if it is alone.

    Example:
        >>> near_copies(np.array([[0, 4, 0.1], [4, 0, 4], [0.1, 4, 0]]), 0.25)
        [0, 1, 0]
    """
    groups = list(range(len(distances)))
    pairs = np.triu_indices(len(distances), 1)
    if not pairs[0].size:
        return groups
    limit = share * float(np.median(distances[pairs]))
    for first, second in zip(*pairs, strict=True):
        if distances[first, second] < limit and groups[first] != groups[second]:
            kept, merged = sorted((groups[first], groups[second]))
            groups = [kept if group == merged else group for group in groups]
    return groups


def folds(groups: Sequence[int], most: int) -> list[list[int]]:
    """Shares images out to folds; images of a group are left out together.

    Args:
        groups: group of each image, from `near_copies`.
        most: largest number of folds, at least 1.

    Returns:
        Numbers of the images in each fold; one group in a fold if there are at most `most` groups.

    Example:
        >>> folds([0, 1, 0, 3], 10), folds([0, 1, 2, 3], 2)
        ([[0, 2], [1], [3]], [[0, 2], [1, 3]])
    """
    names = sorted(set(groups))
    shared: list[list[int]] = [[] for _ in range(min(most, len(names)))]
    for image, group in enumerate(groups):
        shared[names.index(group) % len(shared)].append(image)
    return shared
