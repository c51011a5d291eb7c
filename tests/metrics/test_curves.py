"""Curves: their areas are the metrics, they have few points, and summaries give the same as pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from zsad.metrics import MetricSuite, evaluate
from zsad.metrics.curves import Curve, thinned
from zsad.metrics.pro import area_up_to


def images(seed, count=6, side=24, levels=None):
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, side, side), dtype=np.uint8)
    masks[::2, 4:12, 6:14] = 1
    maps = generator.normal(size=masks.shape).astype(np.float32) + 1.2 * masks
    maps = maps if levels is None else np.round(maps * levels) / levels
    labels = masks.any(axis=(1, 2)).astype(int)
    return maps, masks, labels + 0.7 * generator.normal(size=count), labels


def filled(suite, arrays):
    suite.update(*arrays)
    return suite


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.sampled_from([None, 2]), st.sampled_from([10**8, 0]))
def test_areas_are_the_metrics(seed, levels, exact_pixels):
    arrays = images(seed, levels=levels)
    curves = filled(MetricSuite(exact_pixels=exact_pixels), arrays).curves(points=10**6)
    expected = evaluate(*arrays)
    for level in ("image", "pixel"):
        roc, pr = curves[f"{level}_roc"], curves[f"{level}_pr"]
        assert np.trapezoid(roc.y, roc.x) == pytest.approx(expected[f"{level}_auroc"], abs=1e-9)
        steps = np.diff(pr.x) @ pr.y[1:]
        assert steps == pytest.approx(expected[f"{level}_ap"], abs=1e-9)
        with np.errstate(invalid="ignore"):
            f1 = np.nanmax(2 * pr.x * pr.y / (pr.x + pr.y))
        assert f1 == pytest.approx(expected[f"{level}_f1max"], abs=1e-9)
    pro = curves["pixel_pro"]
    assert area_up_to(pro.x, pro.y, 0.3) / 0.3 == pytest.approx(expected["pixel_aupro"], abs=1e-9)


def test_roc_passes_through_scikit_learns_points():
    maps, masks, scores, labels = images(0, levels=2)
    roc = filled(MetricSuite(), (maps, masks, scores, labels)).curves(points=10**6)["pixel_roc"]
    rates, recalls, _ = sklearn_metrics.roc_curve(masks.ravel(), maps.ravel(), drop_intermediate=False)
    ours, theirs = np.stack([roc.x, roc.y], axis=1), np.stack([rates, recalls], axis=1)
    assert ours[[0, -1]].tolist() == [[0, 0], [1, 1]]
    assert np.abs(ours[:, None] - theirs).sum(axis=2).min(axis=1).max() < 1e-12
    # Points within a straight piece are left out, but the piece passes through them.
    starts, steps = ours[:-1], np.diff(ours, axis=0)
    lengths = np.maximum((steps**2).sum(axis=1), 1e-30)
    along = np.clip(((theirs[:, None] - starts) * steps).sum(axis=2) / lengths, 0, 1)
    nearest = starts + along[..., None] * steps
    assert np.linalg.norm(theirs[:, None] - nearest, axis=2).min(axis=1).max() < 1e-9


def test_thin_curves_keep_ends_and_area():
    curves = filled(MetricSuite(), images(1)).curves()
    whole = filled(MetricSuite(), images(1)).curves(points=10**6)
    assert set(curves) == {"image_roc", "image_pr", "pixel_roc", "pixel_pr", "pixel_pro"}
    for name, curve in curves.items():
        assert 2 <= curve.x.size <= 200
        assert (curve.x[0], curve.y[0]) == (whole[name].x[0], whole[name].y[0])
        assert (curve.x[-1], curve.y[-1]) == (whole[name].x[-1], whole[name].y[-1])
        areas = [np.trapezoid(each.y, each.x) for each in (curve, whole[name])]
        assert areas[0] == pytest.approx(areas[1], abs=0.01)


def test_a_jump_longer_than_the_spacing_needs_no_extra_points():
    jump = Curve(np.repeat([0.0, 1.0], 300), np.linspace(0, 1, 600))
    assert thinned(jump, 10).x.size <= 10


def test_undefined_curves_are_left_out():
    maps, masks, scores, labels = images(2)
    assert MetricSuite().curves() == {}
    assert set(filled(MetricSuite(), (maps, None, scores, labels)).curves()) == {"image_roc", "image_pr"}
    for exact_pixels in (10**8, 0):
        nothing = filled(MetricSuite(exact_pixels=exact_pixels), (maps, masks * 0, None, None))
        assert nothing.curves() == {}
    only = labels == 1
    curves = filled(MetricSuite(), (maps[only], masks[only], scores[only], labels[only])).curves()
    assert set(curves) == {"pixel_roc", "pixel_pr", "pixel_pro"}
