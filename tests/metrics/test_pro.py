"""AUPRO against brute force, the authors' script and stored values of an independent exact implementation."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from zsad import metrics
from zsad.errors import ConfigError
from zsad.metrics import pro


def brute_force_curve(maps, masks, thresholds, covers):
    """Returns (false-positive rate, PRO) per threshold, one region and one threshold at a time."""
    points = []
    for threshold in thresholds:
        overlaps, false_positives, normals = [], 0, 0
        for one, mask in zip(maps, masks, strict=True):
            predicted = covers(one, threshold)
            regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
            overlaps += [predicted[regions == region].mean() for region in range(1, count + 1)]
            false_positives += (predicted & (mask == 0)).sum()
            normals += (mask == 0).sum()
        points.append((false_positives / normals, np.mean(overlaps)))
    return points


def brute_force_aupro(maps, masks, limit):
    thresholds = sorted({float(value) for one in maps for value in one.ravel()}, reverse=True)
    points = [(0.0, 0.0), *brute_force_curve(maps, masks, thresholds, np.greater_equal)]
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit or x0 == x1:
            continue
        end = min(x1, limit)
        area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


def brute_force_script(maps, masks, limit):
    maps = np.stack(maps)
    low, high = maps.min(), maps.max()
    points = brute_force_curve(maps, masks, np.arange(low, high, (high - low) / 200), np.greater)
    kept = np.array([point for point in points if point[0] < limit])
    if len(kept) < 2 or np.ptp(kept[:, 0]) == 0:
        return float("nan")
    rates = (kept[:, 0] - kept[:, 0].min()) / np.ptp(kept[:, 0])
    return abs(np.trapezoid(kept[:, 1], rates))


IMAGES = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(
        arrays.arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.1, 0.5, 0.55, 0.9, 1.0])),
        arrays.arrays(np.uint8, shape, elements=st.integers(0, 1)),
    )
)


@settings(max_examples=150, deadline=None)
@given(IMAGES, st.sampled_from([0.05, 0.3, 1.0]))
def test_equals_brute_force(images, limit):
    maps, masks = images
    exact = metrics.pixel_aupro(maps, masks, "exact", limit)
    script = metrics.pixel_aupro(maps, masks, "script", limit)
    if masks.all() or not masks.any():
        assert np.isnan(exact)
        assert np.isnan(script)
        return
    assert exact == pytest.approx(brute_force_aupro(maps, masks, limit), abs=1e-9)
    if maps.min() < maps.max():
        assert script == pytest.approx(brute_force_script(maps, masks, limit), abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("case", ["A", "ties"])
@pytest.mark.parametrize(
    ("name", "steps", "limit"),
    [("official", 200, 0.3), ("official_step1000", 1000, 0.3), ("official_fpr005", 200, 0.05)],
)
def test_script_equals_the_authors(golden_metrics, monkeypatch, case, name, steps, limit):
    monkeypatch.setattr(pro, "SCRIPT_STEPS", steps)
    maps, masks = golden_metrics[f"{case}.maps"], golden_metrics[f"{case}.masks"]
    expected = golden_metrics[f"{case}.aupro_{name}_f64"]
    assert metrics.pixel_aupro(maps, masks, "script", limit) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("case", ["A", "ties"])
def test_script_on_double_precision_maps_equals_the_authors(golden_metrics, case):
    maps, masks = golden_metrics[f"{case}.maps"].astype(np.float64), golden_metrics[f"{case}.masks"]
    expected = golden_metrics[f"{case}.aupro_official_f64maps_f64"]
    assert metrics.pixel_aupro(maps, masks, "script") == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("case", ["A", "ties"])
@pytest.mark.parametrize(("name", "limit"), [("anomalib", 0.3), ("anomalib_fpr005", 0.05)])
def test_exact_equals_an_independent_exact_implementation(golden_metrics, case, name, limit):
    """The stored values were computed in float32, hence the tolerance."""
    maps, masks = golden_metrics[f"{case}.maps"], golden_metrics[f"{case}.masks"]
    expected = golden_metrics[f"{case}.aupro_{name}_f64"]
    assert metrics.pixel_aupro(maps, masks, "exact", limit) == pytest.approx(expected, abs=1e-7)


def test_constant_maps():
    maps, masks = np.full((2, 4, 4), 0.7), np.zeros((2, 4, 4), dtype=np.uint8)
    masks[0, 1, 1] = 1
    # The curve is the straight line from (0, 0) to (1, 1): half the limit.
    assert metrics.pixel_aupro(maps, masks) == pytest.approx(0.15)
    assert np.isnan(metrics.pixel_aupro(maps, masks, "script"))


def test_perfect_maps_reach_one():
    masks = np.zeros((1, 8, 8), dtype=np.uint8)
    masks[0, 2:4, 2:4] = masks[0, 6, 6] = 1
    assert metrics.pixel_aupro(masks.astype(float), masks) == pytest.approx(1.0)


def test_evaluate_takes_the_variant(golden_metrics):
    inputs = [golden_metrics[f"A.{key}"] for key in ("maps", "masks", "scores", "labels")]
    exact, script = (metrics.evaluate(*inputs, pro=variant) for variant in ("exact", "script"))
    assert exact["pixel_aupro"] != script["pixel_aupro"]
    assert {k: v for k, v in exact.items() if k != "pixel_aupro"} == {
        k: v for k, v in script.items() if k != "pixel_aupro"
    }


def test_unknown_variants_and_limits_are_refused():
    maps, masks = np.zeros((1, 2, 2)), np.zeros((1, 2, 2))
    with pytest.raises(ConfigError, match="did you mean 'exact'"):
        metrics.pixel_aupro(maps, masks, "exakt")
    with pytest.raises(ConfigError, match=r"\(0, 1\], got 30"):
        metrics.pixel_aupro(maps, masks, fpr_limit=30)


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_regions_equal_scipys(mask):
    labels, count = pro.label_regions(mask)
    expected, expected_count = ndimage.label(mask, structure=np.ones((3, 3)))
    assert count == expected_count
    np.testing.assert_array_equal(labels, expected)


def test_a_long_spiral_is_one_region():
    """The worst case for passing labels on: neighbouring runs have distant numbers."""
    size = 101
    mask = np.zeros((size, size), dtype=bool)
    for ring in range(0, size // 2, 2):
        mask[ring, max(ring - 2, 0) : size - ring] = True
        mask[ring : size - ring, size - 1 - ring] = True
        mask[size - 1 - ring, ring : size - ring] = True
        mask[ring + 2 : size - ring, ring] = True
    labels, count = pro.label_regions(mask)
    expected, expected_count = ndimage.label(mask, structure=np.ones((3, 3)))
    assert count == expected_count
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("limit", ["x", "0.3", None, True, float("nan"), [0.3], 0, -1])
def test_limits_that_are_no_numbers_are_refused(limit):
    maps, masks = np.zeros((1, 2, 2)), np.zeros((1, 2, 2))
    for call in (
        lambda: metrics.pixel_aupro(maps, masks, fpr_limit=limit),
        lambda: metrics.MetricSuite(fpr_limit=limit),
    ):
        with pytest.raises(ConfigError, match=r"must lie in \(0, 1\], got"):
            call()
    with pytest.raises(ConfigError, match="unknown pro variant '3'"):
        metrics.pixel_aupro(maps, masks, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", ["tiny", "huge"])
def test_script_at_the_ends_of_a_type(dtype, scale):
    """The area does not depend on the unit of the maps, also where range or step leave their type."""
    levels = np.arange(16, dtype=dtype).reshape(1, 4, 4)
    masks = np.zeros((1, 4, 4), dtype=bool)
    masks[0, 3, 1:] = masks[0, 1, 2] = True
    info = np.finfo(dtype)
    unit = info.smallest_subnormal if scale == "tiny" else info.max / dtype(8)
    maps = levels * unit if scale == "tiny" else (levels - dtype(7.5)) * unit
    expected = metrics.pixel_aupro(levels, masks, "script", fpr_limit=0.9)
    assert metrics.pixel_aupro(maps, masks, "script", fpr_limit=0.9) == pytest.approx(expected, abs=1e-3)
