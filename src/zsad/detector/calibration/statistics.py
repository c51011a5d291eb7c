"""Thresholds from a few scores, and what a sample of that size can promise: pure functions, no torch.

An image or pixel counts as anomalous if its score is at least the threshold.

The promise about false alarms needs no assumption about the distribution of the scores. With a threshold just
above the (k + 1)-th largest of n normal scores, the false-alarm rate on new images of the same kind follows
a Beta(k + 1, n - k) distribution if scores have no ties, and is stochastically smaller if they have. So

* P(rate <= a) = I_a(k + 1, n - k), the regularised incomplete beta function = P(Binomial(n, a) > k);
* on average over calibration samples the rate is (k + 1) / (n + 1).

Source: Wilks, "Determination of sample sizes for setting tolerance limits", Annals of Mathematical Statistics
12 (1941); the same bound is the training-conditional coverage of split conformal prediction (Vovk,
"Conditional validity of inductive conformal predictors", 2012).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.errors import ConfigError, DataError

# Scores of an image differ by rounding with the batch that it is in; thresholds keep this distance.
MARGIN_OF_SPREAD = 1e-3
SMALLEST_MARGIN = 1e-6

Floats = NDArray[np.float64]


def promised_confidence(images: int, alarms: int, rate: float) -> float:
    """The probability that the false-alarm rate on new images does not exceed a limit.

    Args:
        images: n >= 1, number of normal images, independent of each other.
        alarms: k in [0, n), number of these images that may lie at or above the threshold.
        rate: limit of the false-alarm rate, in (0, 1).

    Returns:
        Probability in (0, 1).

    Example:
        >>> round(promised_confidence(20, 0, 0.05), 4), round(promised_confidence(59, 0, 0.05), 4)
        (0.6415, 0.9515)
    """
    from scipy.special import betainc

    return float(betainc(alarms + 1, images - alarms, rate))


def promised_rate(images: int, alarms: int, confidence: float) -> float:
    """The false-alarm rate that new images do not exceed with a given confidence.

    Args:
        images: n >= 1, number of normal images, independent of each other.
        alarms: k in [0, n), number of these images that may lie at or above the threshold.
        confidence: probability in (0, 1).

    Returns:
        Limit of the rate in (0, 1): `promised_confidence` solved for the rate.

    Example:
        >>> round(promised_rate(20, 0, 0.95), 4)
        0.1391
    """
    from scipy.special import betaincinv

    return float(betaincinv(alarms + 1, images - alarms, confidence))


def images_needed(rate: float, confidence: float) -> int:
    """The smallest number of normal images that can promise a false-alarm rate with a given confidence.

    Source: the smallest n with 1 - (1 - rate)^n >= confidence.

    Raises:
        ConfigError: the rate is outside (0, 0.5), or the confidence outside [0.5, 1).

    Example:
        >>> images_needed(0.05, 0.95), images_needed(0.01, 0.95)
        (59, 299)
    """
    check_rate(rate)
    check_confidence(confidence)
    estimate = max(1, math.floor(math.log1p(-confidence) / math.log1p(-rate)))
    while promised_confidence(estimate, 0, rate) < confidence:
        estimate += 1
    return estimate


def alarms_allowed(images: int, rate: float, confidence: float) -> int:
    """The number of calibration images that may lie above the threshold while the promise still holds.

    Args:
        images: n >= 1, number of normal images.
        rate: false-alarm rate on new images, in (0, 0.5).
        confidence: probability in [0.5, 1).

    Returns:
        The largest k with `promised_confidence` >= confidence; 0 also if no k reaches the confidence. k / n
        never exceeds the rate, because the confidence is at least one half.

    Raises:
        ConfigError: the rate is outside (0, 0.5), or the confidence outside [0.5, 1).

    Example:
        >>> alarms_allowed(59, 0.05, 0.95), alarms_allowed(93, 0.05, 0.95), alarms_allowed(20, 0.05, 0.95)
        (0, 1, 0)
    """
    check_rate(rate)
    check_confidence(confidence)
    fewest, most = 0, math.floor(images * rate)
    while fewest < most:  # the confidence falls as alarms rise
        middle = (fewest + most + 1) // 2
        if promised_confidence(images, middle, rate) >= confidence:
            fewest = middle
        else:
            most = middle - 1
    return fewest


def threshold_above(values: Sequence[float] | Floats, alarms: int) -> float:
    """A threshold that at most k of the values reach.

    The threshold lies above the highest value that must stay below it, by a thousandth of the spread of the
    values, so that rounding does not push that value over it; but at most half way to the next higher value.

    Args:
        values: (n,) finite values in any order.
        alarms: k in [0, n), number of values that may lie at or above the threshold.

    Returns:
        The threshold, exact in single precision, in which anomaly maps are compared.

    Example:
        >>> threshold_above([0.125, 0.25, 0.5, 1.0], alarms=1)
        0.5008750557899475
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    below = ordered[ordered.size - 1 - alarms]
    margin = max(MARGIN_OF_SPREAD * (ordered[-1] - ordered[0]), SMALLEST_MARGIN * max(1.0, abs(below)))
    higher = ordered[ordered > below]
    target = below + margin if higher.size == 0 else min(below + margin, _between(below, higher[0]))
    return round_up(target)


@dataclass(frozen=True)
class Choice:
    """The best of all thresholds on labelled values.

    Attributes:
        threshold: value half way between the lowest value that is called anomalous and the next lower value.
        objective: F1 or cost at the threshold.
        missed: number of anomalous values below the threshold.
        alarms: number of normal values at or above the threshold.
    """

    threshold: float
    objective: float
    missed: float
    alarms: float


def best_f1(normal: Floats, anomalous: Floats, weights: tuple[Floats, Floats] | None = None) -> Choice:
    """The threshold with the highest F1 = 2 TP / (2 TP + FP + FN); the highest threshold among equals.

    Args:
        normal: (N,) finite values of normal images or pixels in any order, N >= 1.
        anomalous: (P,) finite values of anomalous images or pixels in any order, P >= 1.
        weights: (N,) and (P,) numbers of times that each value occurs; None for once each.

    Returns:
        The choice; its objective is F1 in (0, 1].

    Raises:
        DataError: there are no normal or no anomalous values.

    Example:
        >>> best_f1(np.array([0.1, 0.2, 0.4]), np.array([0.3, 0.6])).missed
        0.0
    """

    def cost(missed: Floats, alarms: Floats, positives: float) -> Floats:
        found = positives - missed
        return -2 * found / (2 * found + alarms + missed)

    choice = _best_threshold(normal, anomalous, cost, weights)
    return Choice(choice.threshold, -choice.objective, choice.missed, choice.alarms)


def lowest_cost(
    normal: Floats,
    anomalous: Floats,
    cost_miss: float,
    cost_false_alarm: float,
    prevalence: float | None = None,
) -> Choice:
    """The threshold with the lowest expected cost of an image; the highest threshold among equals.

    Args:
        normal: (N,) finite scores of normal images in any order, N >= 1.
        anomalous: (P,) finite scores of anomalous images in any order, P >= 1.
        cost_miss: cost of an anomalous image that is called normal, above 0.
        cost_false_alarm: cost of a normal image that is called anomalous, above 0, in the same unit.
        prevalence: share of anomalous images in use, in (0, 1); None for the sample's share, P / (P + N).

    Returns:
        The choice; its objective is the mean cost of an image. Calling all images anomalous, or none, is
        among the candidates.

    Raises:
        DataError: there are no normal or no anomalous scores.
        ConfigError: a cost or the prevalence is impossible.

    Example:
        >>> lowest_cost(np.array([0.1, 0.4]), np.array([0.3, 0.6]), cost_miss=10, cost_false_alarm=1).alarms
        1.0
    """
    check_costs(cost_miss, cost_false_alarm, prevalence)
    share = anomalous.size / (anomalous.size + normal.size) if prevalence is None else prevalence

    def cost(missed: Floats, alarms: Floats, positives: float) -> Floats:
        of_misses = share * cost_miss * missed / positives
        return of_misses + (1 - share) * cost_false_alarm * alarms / normal.size

    return _best_threshold(normal, anomalous, cost)


def binomial_interval(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact confidence interval of a share, from `count` successes in `of` trials.

    Source: Clopper and Pearson, Biometrika 26 (1934).

    Args:
        count: number of successes, in [0, of].
        of: number of trials, at least 1.
        confidence: two-sided confidence in (0, 1).

    Returns:
        Lower and upper end of the interval, in [0, 1].

    Example:
        >>> tuple(round(end, 4) for end in binomial_interval(0, 20))
        (0.0, 0.1684)
    """
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, of - count + 1, tail))
    high = 1.0 if count == of else float(betaincinv(count + 1, of - count, 1 - tail))
    return low, high


def check_rate(rate: float) -> None:
    """Refuses a false-alarm rate outside (0, 0.5).

    Raises:
        ConfigError: the rate is outside this range.
    """
    if not _is_number(rate) or not 0 < rate < 0.5:
        raise ConfigError(f"a false-alarm rate is a share above 0 and below 0.5, such as 0.05; got {rate!r}")


def check_confidence(confidence: float) -> None:
    """Refuses a confidence outside [0.5, 1).

    Raises:
        ConfigError: the confidence is outside this range.
    """
    if not _is_number(confidence) or not 0.5 <= confidence < 1:
        raise ConfigError(
            f"a confidence is a probability from 0.5 to below 1, such as 0.95; got {confidence!r}"
        )


def check_costs(cost_miss: float, cost_false_alarm: float, prevalence: float | None) -> None:
    """Refuses costs that are not above 0, and a prevalence outside (0, 1).

    Raises:
        ConfigError: as said.
    """
    for name, value in (("cost of a miss", cost_miss), ("cost of a false alarm", cost_false_alarm)):
        if not (_is_number(value) and 0 < value < np.inf):
            raise ConfigError(f"the {name} must be a number above 0, got {value!r}")
    if prevalence is not None and not (_is_number(prevalence) and 0 < prevalence < 1):
        raise ConfigError(f"the prevalence is the share of anomalous images, in (0, 1), got {prevalence!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def round_up(value: float) -> float:
    """The smallest single-precision number that is not below a value."""
    rounded = np.float32(value)
    return float(rounded if float(rounded) >= value else np.nextafter(rounded, np.float32(np.inf)))


def _best_threshold(
    normal: Floats,
    anomalous: Floats,
    cost: Callable[[Floats, Floats, float], Any],
    weights: tuple[Floats, Floats] | None = None,
) -> Choice:
    """The threshold with the lowest cost; candidates are all distinct values and one above all of them."""
    for name, values in (("normal", normal), ("anomalous", anomalous)):
        if values.size == 0:
            raise DataError(f"there is no {name} example; a threshold from labels needs both kinds")
    of_normal, of_anomalous = weights or (np.ones(normal.size), np.ones(anomalous.size))
    values, place = np.unique(np.concatenate([normal, anomalous]), return_inverse=True)
    alarms_at = np.bincount(place[: normal.size], of_normal, values.size)
    found_at = np.bincount(place[normal.size :], of_anomalous, values.size)
    alarms = np.append(np.cumsum(alarms_at[::-1])[::-1], 0.0)  # the last: nothing is called anomalous
    found = np.append(np.cumsum(found_at[::-1])[::-1], 0.0)
    positives = float(found[0])
    costs = cost(positives - found, alarms, positives)
    best = costs.size - 1 - int(np.argmin(costs[::-1]))
    if best == values.size:
        threshold = threshold_above(values, 0)
    elif best == 0:
        threshold = float(values[0])
    else:
        threshold = min(round_up(_between(values[best - 1], values[best])), float(values[best]))
    return Choice(threshold, float(costs[best]), positives - float(found[best]), float(alarms[best]))


def _between(low: float, high: float) -> float:
    """A number above `low` and at most `high`, half way between them if precision allows."""
    middle = low + (high - low) / 2
    return float(middle if middle > low else high)
