"""What leave-one-out promises, checked by simulation; outliers, near-copies and folds."""

from __future__ import annotations

import numpy as np
import pytest

from zsad.detector.calibration.statistics import threshold_above
from zsad.detector.fitting.statistics import folds, left_out_rate, near_copies, robust_z


def nearest(point, others):
    """Distance to the nearest of some points, the simplest score with references."""
    return np.abs(others - point).min() if len(others) else np.inf


@pytest.mark.parametrize(("count", "alarms", "fold"), [(5, 0, 1), (20, 0, 1), (20, 1, 1), (12, 0, 3)])
@pytest.mark.parametrize("draw", ["normal", "cauchy", "mixture"])
def test_the_average_promise_holds(count, alarms, fold, draw):
    """Over many sets, new points exceed the left-out threshold no more often than promised."""
    generator = np.random.default_rng([count, alarms, fold])

    def points(size):
        if draw == "normal":
            return generator.normal(size=size)
        if draw == "cauchy":
            return generator.standard_cauchy(size=size)
        return generator.normal(size=size) + 50 * (generator.random(size) < 0.1)

    seen = []
    for _ in range(1500):
        known, new = points(count), points(1)[0]
        groups = np.arange(count) // fold
        scores = [nearest(known[i], known[groups != groups[i]]) for i in range(count)]
        seen.append(nearest(new, known) >= threshold_above(scores, alarms))
    spread = 3 * np.sqrt(left_out_rate(count, alarms, fold) / len(seen))
    assert np.mean(seen) <= left_out_rate(count, alarms, fold) + spread


def test_leaving_out_is_what_makes_it_hold():
    """Scored with themselves among the references, good images promise nothing."""
    generator = np.random.default_rng(0)
    known = generator.normal(size=30)
    naive = threshold_above([nearest(point, known) for point in known], 0)
    new = generator.normal(size=400)
    assert np.mean([nearest(point, known) >= naive for point in new]) > 0.9


def test_robust_z_sees_an_outlier_that_hides_in_the_standard_deviation():
    scores = [0.10, 0.11, 0.12, 0.13, 0.14, 0.9, 0.95]
    ordinary = (np.array(scores) - np.mean(scores)) / np.std(scores)
    assert ordinary.max() < 3.5 < robust_z(scores)[-2]
    assert robust_z([0.5, 0.5, 0.5, 0.7]).tolist() == [0, 0, 0, 0]


def test_near_copies_are_found_through_each_other():
    distances = np.full((5, 5), 1.0)
    np.fill_diagonal(distances, 0)
    for first, second in ((0, 3), (3, 4)):
        distances[first, second] = distances[second, first] = 0.05
    assert near_copies(distances, 0.2) == [0, 1, 2, 0, 0]
    assert near_copies(np.zeros((1, 1)), 0.2) == [0]
    assert near_copies(distances * 7, 0.2) == near_copies(distances, 0.2)  # no unit


def test_folds_keep_near_copies_together():
    shared = folds([0, 1, 0, 3, 4, 4], most=2)
    assert sorted(image for fold in shared for image in fold) == list(range(6))
    assert any({0, 2} <= set(fold) for fold in shared)
    assert any({4, 5} <= set(fold) for fold in shared)
    assert folds([0, 1, 2], most=100) == [[0], [1], [2]]
