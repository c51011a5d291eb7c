"""Thresholds and promises: against scipy.stats, against brute force, and against simulated use."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score

from zsad.detector.calibration.statistics import (
    alarms_allowed,
    best_f1,
    binomial_interval,
    images_needed,
    lowest_cost,
    promised_confidence,
    promised_rate,
    round_up,
    threshold_above,
)
from zsad.errors import ConfigError, DataError

SCORES = st.floats(0, 1, width=32).map(float)
SAMPLES = st.lists(SCORES, min_size=1, max_size=60)
TIED_SAMPLES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=60)
RATES = st.floats(0.001, 0.49)
CONFIDENCES = st.floats(0.5, 0.999)
fast = settings(deadline=None, max_examples=50)


def threshold_of(scores, rate, confidence=0.95):
    return threshold_above(scores, alarms_allowed(len(scores), rate, confidence))


@fast
@given(SAMPLES | TIED_SAMPLES, RATES, CONFIDENCES)
def test_the_rate_on_the_calibration_sample_never_exceeds_the_wanted_one(scores, rate, confidence):
    threshold = threshold_of(scores, rate, confidence)
    assert sum(score >= threshold for score in scores) <= rate * len(scores)


@fast
@given(SAMPLES | TIED_SAMPLES, RATES, RATES, CONFIDENCES)
def test_a_higher_rate_never_raises_the_threshold(scores, one, other, confidence):
    low, high = sorted((one, other))
    assert threshold_of(scores, high, confidence) <= threshold_of(scores, low, confidence)


@fast
@given(SAMPLES, RATES, CONFIDENCES, CONFIDENCES)
def test_more_confidence_never_lowers_the_threshold(scores, rate, one, other):
    low, high = sorted((one, other))
    assert threshold_of(scores, rate, low) <= threshold_of(scores, rate, high)


@fast
@given(SAMPLES | TIED_SAMPLES, RATES, st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(scores, rate, random):
    shuffled = scores.copy()
    random.shuffle(shuffled)
    assert threshold_of(shuffled, rate) == threshold_of(scores, rate)


@fast
@given(SAMPLES, st.data())
def test_the_threshold_keeps_clear_of_the_score_below_and_reaches_the_next(scores, data):
    alarms = data.draw(st.integers(0, len(scores) - 1))
    threshold = threshold_above(scores, alarms)
    below = sorted(scores)[len(scores) - 1 - alarms]
    assert np.float32(threshold) == threshold > below
    higher = [score for score in scores if score > below]
    if higher:
        assert threshold <= min(higher)


@fast
@given(st.integers(1, 400), st.floats(0.001, 0.6), st.data())
def test_promises_equal_scipys_distributions(images, rate, data):
    alarms = data.draw(st.integers(0, images - 1))
    promised = promised_confidence(images, alarms, rate)
    assert promised == pytest.approx(stats.beta.cdf(rate, alarms + 1, images - alarms), abs=1e-12)
    assert promised == pytest.approx(stats.binom.sf(alarms, images, rate), abs=1e-10)
    confidence = data.draw(st.floats(0.01, 0.99))
    limit = promised_rate(images, alarms, confidence)
    assert promised_confidence(images, alarms, limit) == pytest.approx(confidence, abs=1e-8)


@fast
@given(st.integers(1, 400), RATES, CONFIDENCES)
def test_allowed_alarms_are_the_most_that_keep_the_promise(images, rate, confidence):
    allowed = alarms_allowed(images, rate, confidence)
    kept = [k for k in range(images) if promised_confidence(images, k, rate) >= confidence]
    assert allowed == max(kept, default=0)


@fast
@given(st.floats(0.005, 0.49), st.floats(0.5, 0.99))
def test_images_needed_are_the_fewest(rate, confidence):
    needed = images_needed(rate, confidence)
    assert promised_confidence(needed, 0, rate) >= confidence
    assert needed == 1 or promised_confidence(needed - 1, 0, rate) < confidence


def test_the_numbers_that_the_documentation_names():
    assert promised_confidence(20, 0, 0.05) == pytest.approx(1 - 0.95**20)
    assert images_needed(0.05, 0.95) == 59


@pytest.mark.parametrize(
    ("images", "rate", "confidence"), [(59, 0.05, 0.95), (200, 0.05, 0.9), (30, 0.2, 0.8)]
)
@pytest.mark.parametrize("ties", [False, True])
def test_the_promise_holds_in_simulated_use(images, rate, confidence, ties):
    """Of many calibrations, at least the promised share keeps the false-alarm rate on new images."""
    generator = np.random.default_rng(7)
    repeats, kept = 4000, 0
    allowed = alarms_allowed(images, rate, confidence)
    for _ in range(repeats):
        scores = generator.gamma(2, size=images)
        if ties:
            scores = np.floor(4 * scores) / 4
        threshold = threshold_above(scores, allowed)
        reached = math.ceil(4 * threshold) / 4 if ties else threshold
        kept += stats.gamma.sf(reached, 2) <= rate
    share = kept / repeats
    noise = 4 * math.sqrt(confidence * (1 - confidence) / repeats)
    promised = promised_confidence(images, allowed, rate)
    assert share >= promised - noise
    if not ties:  # the threshold lies a little above the order statistic, hence a little more than promised
        assert share <= promised + noise + 0.03


@fast
@given(st.integers(1, 200), st.data())
def test_intervals_equal_scipys(of, data):
    count = data.draw(st.integers(0, of))
    theirs = stats.binomtest(count, of).proportion_ci(0.95, "exact")
    assert binomial_interval(count, of) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


VALUES = st.lists(st.sampled_from([i / 8 for i in range(9)]) | SCORES, min_size=1, max_size=15).map(np.array)


def candidates(normal, anomalous):
    return [*np.unique(np.concatenate([normal, anomalous])), np.inf]


@fast
@given(VALUES, VALUES)
def test_the_f1_threshold_is_the_best_of_all(normal, anomalous):
    choice = best_f1(normal, anomalous)
    labels = [0] * normal.size + [1] * anomalous.size
    scores = np.concatenate([normal, anomalous])

    def f1(threshold):
        found, alarms = (anomalous >= threshold).sum(), (normal >= threshold).sum()
        return 2 * found / (found + alarms + anomalous.size)

    assert choice.objective == pytest.approx(max(f1(value) for value in candidates(normal, anomalous)))
    assert choice.objective == pytest.approx(f1(choice.threshold))
    assert choice.objective == pytest.approx(f1_score(labels, scores >= choice.threshold))
    assert choice.missed == (anomalous < choice.threshold).sum()
    assert choice.alarms == (normal >= choice.threshold).sum()


@fast
@given(VALUES, VALUES, st.floats(0.1, 100), st.floats(0.1, 100), st.none() | st.floats(0.01, 0.99))
def test_the_cost_threshold_is_the_cheapest_of_all(normal, anomalous, miss, alarm, prevalence):
    share = anomalous.size / (anomalous.size + normal.size) if prevalence is None else prevalence

    def cost(threshold):
        missed, alarms = (anomalous < threshold).mean(), (normal >= threshold).mean()
        return share * miss * missed + (1 - share) * alarm * alarms

    choice = lowest_cost(normal, anomalous, miss, alarm, prevalence)
    best = min(cost(value) for value in candidates(normal, anomalous))
    assert choice.objective == pytest.approx(best)
    assert cost(choice.threshold) == pytest.approx(best)


def test_weights_count_as_repeated_values():
    normal, anomalous = np.array([0.1, 0.5]), np.array([0.4, 0.9])
    weighted = best_f1(normal, anomalous, (np.array([3.0, 2.0]), np.array([1.0, 4.0])))
    assert weighted == best_f1(np.repeat(normal, [3, 2]), np.repeat(anomalous, [1, 4]))


def test_a_rare_defect_raises_the_cheapest_threshold():
    normal, anomalous = np.linspace(0.0, 0.6, 50), np.linspace(0.4, 1.0, 50)
    common = lowest_cost(normal, anomalous, 1, 1).threshold
    assert lowest_cost(normal, anomalous, 1, 1, prevalence=0.01).threshold > common


@pytest.mark.parametrize(
    "call",
    [
        lambda: alarms_allowed(10, 0.0, 0.95),
        lambda: alarms_allowed(10, 0.5, 0.95),
        lambda: alarms_allowed(10, float("nan"), 0.95),
        lambda: alarms_allowed(10, 0.05, 0.4),
        lambda: images_needed(0.05, 1.0),
        lambda: lowest_cost(np.ones(2), np.ones(2), 0, 1),
        lambda: lowest_cost(np.ones(2), np.ones(2), 1, float("inf")),
        lambda: lowest_cost(np.ones(2), np.ones(2), 1, 1, 1.0),
    ],
)
def test_impossible_arguments(call):
    with pytest.raises(ConfigError, match=r"got|above 0"):
        call()


@pytest.mark.parametrize(("normal", "anomalous"), [([], [0.5]), ([0.5], [])])
def test_one_kind_only(normal, anomalous):
    with pytest.raises(DataError, match="needs both kinds"):
        best_f1(np.array(normal), np.array(anomalous))


@fast
@given(st.floats(-1e6, 1e6))
def test_round_up_is_the_nearest_single_precision_number_above(value):
    rounded = round_up(value)
    assert rounded >= value
    assert np.float32(rounded) == rounded
    assert float(np.nextafter(np.float32(rounded), np.float32(-np.inf))) < value
