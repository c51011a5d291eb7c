"""MetricSuite against `evaluate`: equal while exact, later within its own bounds and within 1e-4."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as sklearn_metrics

from zsad import metrics
from zsad.errors import ConfigError, DataError
from zsad.metrics import MetricSuite, sketch, suite

PIXEL_NAMES = [name for name in metrics.METRIC_NAMES if name.startswith("pixel")]


@st.composite
def sets_of_images(draw):
    """Up to four tiny images of different sizes: ties, constant maps and single classes are frequent."""
    count = draw(st.integers(1, 4))
    values = draw(
        st.sampled_from(
            [
                st.just(0.5),
                st.sampled_from([0.0, 0.1, 0.5, 0.55, 0.9, 1.0]),
                st.floats(-1e6, 1e6, allow_nan=False, width=32),
            ]
        )
    )
    shapes = [draw(st.tuples(st.integers(1, 6), st.integers(1, 6))) for _ in range(count)]
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    maps = [draw(arrays.arrays(dtype, shape, elements=values)) for shape in shapes]
    masks = [draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, 1))) for shape in shapes]
    scores = draw(arrays.arrays(np.float64, count, elements=st.sampled_from([0.0, 0.3, 0.6, 1.0])))
    labels = draw(arrays.arrays(np.uint8, count, elements=st.integers(0, 1)))
    return maps, masks, scores, labels


def filled(a_suite, images):
    for image in zip(*images, strict=True):
        a_suite.update(*image)
    return a_suite


@settings(max_examples=100, deadline=None)
@given(sets_of_images(), st.sampled_from(["exact", "script"]), st.sampled_from([0.05, 0.3, 1.0]))
def test_equals_evaluate_while_exact(images, pro, limit):
    expected = metrics.evaluate(*images, pro, fpr_limit=limit)
    one_by_one = filled(MetricSuite(pro, limit), images)
    at_once = MetricSuite(pro, limit)
    at_once.update(*images)
    for a_suite in (one_by_one, at_once):
        assert a_suite.is_exact
        assert list(a_suite.compute()) == list(metrics.METRIC_NAMES)
        assert a_suite.compute() == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(sets_of_images(), st.sampled_from(["exact", "script"]))
def test_groups_without_loss_equal_evaluate(images, pro):
    """The pixels are folded, but there are enough bins for every distinct value."""
    streamed = filled(MetricSuite(pro, exact_pixels=0), images)
    assert not streamed.is_exact
    assert list(streamed.compute()) == list(metrics.METRIC_NAMES)
    assert streamed.compute() == pytest.approx(metrics.evaluate(*images, pro), abs=1e-9, nan_ok=True)


@settings(max_examples=150, deadline=None)
@given(sets_of_images(), st.integers(1, 12), st.integers(0, 40), st.sampled_from([0.05, 0.3, 1.0]))
def test_bounds_hold_however_coarse(images, bins, exact_pixels, limit):
    expected = metrics.evaluate(*images, fpr_limit=limit)
    halves = [
        filled(
            MetricSuite(fpr_limit=limit, bins=bins, exact_pixels=exact_pixels),
            [one[half::2] for one in images],
        )
        for half in (0, 1)
    ]
    halves[0].merge(halves[1])
    bounds, result = halves[0].bounds(), halves[0].compute()
    for name, value in expected.items():
        low, high = bounds[name]
        if np.isnan(value):
            assert np.isnan([low, high, result[name]]).all()
        else:
            assert low - 1e-9 <= value <= high + 1e-9
            assert abs(result[name] - value) <= (high - low) / 2 + 1e-9


def test_single_pixel_values_equal_scikit_learn_when_folded():
    generator = np.random.default_rng(0)
    maps = generator.integers(0, 9, (3, 8, 8)).astype(np.float32)
    masks = generator.integers(0, 2, (3, 8, 8))
    streamed = MetricSuite(exact_pixels=0)
    streamed.update(maps, masks, None, None)
    result = streamed.compute()
    assert result["pixel_auroc"] == pytest.approx(
        sklearn_metrics.roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-9
    )
    assert result["pixel_ap"] == pytest.approx(
        sklearn_metrics.average_precision_score(masks.ravel(), maps.ravel()), abs=1e-9
    )


def blobs(generator, count, size):
    """Masks of one square region in three of four images."""
    masks = np.zeros((count, size, size), dtype=bool)
    for mask in masks[: 3 * count // 4]:
        top, left = generator.integers(0, size - 8, 2)
        mask[top : top + 8, left : left + 8] = True
    return masks


def gaussian(generator, masks):
    return generator.normal(size=masks.shape) + 1.5 * masks


def saturated(generator, masks):
    """Almost all values are near 0 and 1, the structure within 1e-4 of them; a third of them are tied."""
    maps = 1 / (1 + np.exp(-12 * gaussian(generator, masks)))
    return np.where(generator.random(masks.shape) < 0.33, np.round(maps), maps)


def heavy_ties(generator, masks):
    return np.round(gaussian(generator, masks) * 3) / 3


def two_scales(generator, masks):
    """Half of the images are a million times larger; the others lie around 1 in float32's finest steps."""
    maps = gaussian(generator, masks)
    maps[::2] *= 1e6
    maps[1::2] = 1 + 1e-6 * maps[1::2]
    return maps


def drifting(generator, masks):
    """Each image lies in an interval of its own, the last ones within the first one's."""
    maps = gaussian(generator, masks) + 5 * np.arange(len(masks))[:, None, None]
    maps[len(masks) // 2 :] %= 3.0
    return maps


@pytest.mark.parametrize("make_maps", [gaussian, saturated, heavy_ties, two_scales, drifting])
def test_streaming_errs_less_than_a_ten_thousandth(make_maps, monkeypatch):
    """Blocks and bins are a fraction of their defaults, so that few images pass several levels."""
    monkeypatch.setattr(suite, "BLOCK", 2**14)
    generator = np.random.default_rng(1)
    masks = blobs(generator, 24, 96)
    maps = make_maps(generator, masks).astype(np.float32)
    streamed = MetricSuite(exact_pixels=0, bins=2**13)
    for one, mask in zip(maps, masks, strict=True):
        streamed.update(one, mask, None, None)
    assert len(streamed._levels) >= 4
    expected = metrics.evaluate(maps, masks, None, None)
    result, bounds = streamed.compute(), streamed.bounds()
    for name in PIXEL_NAMES:
        low, high = bounds[name]
        assert low - 1e-9 <= expected[name] <= high + 1e-9
        assert result[name] == pytest.approx(expected[name], abs=1e-4)


def test_summaries_stay_small(monkeypatch):
    monkeypatch.setattr(suite, "BLOCK", 2**10)
    generator = np.random.default_rng(2)
    streamed = MetricSuite(exact_pixels=2000, bins=64)
    for _ in range(60):
        streamed.update(generator.normal(size=(40, 40)), generator.integers(0, 2, (40, 40)), None, None)
    sizes = [part.high.size for part in streamed._levels if part is not None]
    assert 0 < max(sizes) <= 128
    assert len(streamed._levels) <= 10  # each image makes 9 blocks; 2 to the 10th is above 540
    assert streamed._held <= 2**10


def test_a_large_image_is_folded_in_blocks(monkeypatch):
    """The same holds for pixels that `compute` pooled before the budget was exceeded."""
    monkeypatch.setattr(suite, "BLOCK", 2**10)
    sizes = []
    monkeypatch.setattr(
        suite,
        "group_pixels",
        lambda anomalous, overlap, normal: (
            sizes.append(normal.size + suite.ANOMALOUS_COST * anomalous.size)
            or sketch.group_pixels(anomalous, overlap, normal)
        ),
    )
    generator = np.random.default_rng(6)
    maps, masks = generator.random((2, 70, 70)).astype(np.float32), np.zeros((2, 70, 70), dtype=bool)
    masks[:, 10:20, 10:20] = True
    streamed = MetricSuite(exact_pixels=8000)
    streamed.update(maps[0], masks[0], None, None)
    assert streamed.is_exact
    streamed.compute()
    streamed.update(maps[1], masks[1], None, None)
    assert not streamed.is_exact
    assert max(sizes) < 2 * 2**10
    expected = metrics.evaluate(maps, masks, None, None)
    assert streamed.compute() == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_a_tied_value_stays_exact_when_compressed():
    generator = np.random.default_rng(3)
    normal = np.concatenate([np.full(5000, 0.5), generator.random(5000)])
    anomalous = np.concatenate([np.full(500, 0.5), generator.random(500)])
    groups = sketch.compress(sketch.group_pixels(anomalous, np.ones(1000), normal), 100, 0.3)
    at_half = (groups.low == 0.5) & (groups.high == 0.5)
    assert groups.normal[at_half].tolist() == [5000]
    assert groups.anomalous[at_half].tolist() == [500]


def test_merging_processes_equals_one_suite():
    generator = np.random.default_rng(4)
    images = (
        generator.random((6, 9, 9)).astype(np.float32),
        generator.integers(0, 2, (6, 9, 9)),
        generator.random(6),
        np.array([0, 1, 1, 0, 1, 0]),
    )
    parts = [filled(MetricSuite(), [one[start : start + 2] for one in images]) for start in (0, 2, 4)]
    total = MetricSuite()
    for part in parts:
        total.merge(pickle.loads(pickle.dumps(part)))
    assert total.compute() == pytest.approx(metrics.evaluate(*images), abs=1e-12)
    before = parts[0].compute()
    total.merge(parts[0])
    assert parts[0].compute() == before


def test_merging_other_settings_is_refused():
    with pytest.raises(ConfigError, match="same fpr_limit and bins"):
        MetricSuite().merge(MetricSuite(fpr_limit=0.05))


def test_takes_tensors_numbers_and_batches():
    maps, masks = np.float32([[[0.1, 0.9]], [[0.2, 0.3]]]), np.array([[[0, 1]], [[0, 0]]])
    expected = metrics.evaluate(maps, masks, [0.9, 0.2], [1, 0])
    by_tensor = MetricSuite()
    by_tensor.update(torch.tensor(maps), torch.tensor(masks), torch.tensor([0.9, 0.2]), torch.tensor([1, 0]))
    by_image = MetricSuite()
    by_image.update(torch.tensor(maps[0]), masks[0] > 0, torch.tensor(0.9), 1)
    by_image.update(maps[1], masks[1], np.float64(0.2), np.array(0))
    for one in (by_tensor, by_image):
        assert one.compute() == pytest.approx(expected, nan_ok=True)


def test_nothing_and_parts_of_everything():
    nothing = MetricSuite(bootstrap=3).compute()
    assert set(nothing) > set(metrics.METRIC_NAMES)
    assert all(np.isnan(value) for value in nothing.values())
    a_suite = MetricSuite()
    a_suite.update(None, None, [0.2, 0.8], [0, 1])
    result = a_suite.compute()
    assert result["image_auroc"] == 1.0
    assert all(np.isnan(result[name]) for name in PIXEL_NAMES)


def test_a_refused_batch_leaves_no_trace():
    a_suite = MetricSuite()
    good, mask = np.zeros((2, 3, 3)), np.zeros((2, 3, 3))
    for maps, masks, scores, labels, message in [
        (good + np.nan, mask, [0, 1], [0, 1], "map 0 must be finite"),
        (good, mask, [0.1, np.inf], [0, 1], "scores must be finite"),
        (good, mask, [0.1], [0], "got 2 maps for 1 scores"),
        (good, mask[0], [0.1, 0.2], [0, 1], "got 2 maps and 1 masks"),
        (good, mask + 255, [0.1, 0.2], [0, 1], "mask 0 must hold only 0 and 1"),
        (good, mask, [0.1, 0.2], None, "scores and labels go together"),
    ]:
        with pytest.raises(DataError, match=message):
            a_suite.update(maps, masks, scores, labels)
    assert all(np.isnan(value) for value in a_suite.compute().values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pro": "exakt"}, "did you mean 'exact'"),
        ({"fpr_limit": 30}, r"\(0, 1\]"),
        ({"exact_pixels": -1}, "exact_pixels must be at least 0"),
        ({"bins": 0}, "bins must be at least 1"),
        ({"bootstrap": -5}, "bootstrap must be at least 0"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        MetricSuite(**arguments)


def test_bootstrap_intervals_hold_the_estimate_and_repeat():
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 2, 80)
    scores = generator.normal(size=80) + labels
    results = []
    for seed in (0, 0, 1):
        a_suite = MetricSuite(bootstrap=200, seed=seed)
        a_suite.update(None, None, scores, labels)
        results.append(a_suite.compute())
    first, again, other = results
    assert first == pytest.approx(again, nan_ok=True)
    assert first["image_auroc_low"] != other["image_auroc_low"]
    for name in ("image_auroc", "image_ap", "image_f1max"):
        assert first[f"{name}_low"] < first[name] < first[f"{name}_high"]


def test_script_on_the_authors_maps_when_folded(golden_metrics):
    """With enough bins for every value, the result equals that of the authors' script."""
    streamed = MetricSuite("script", exact_pixels=0)
    streamed.update(golden_metrics["A.maps"], golden_metrics["A.masks"], None, None)
    expected = golden_metrics["A.aupro_official_f64"]
    assert streamed.compute()["pixel_aupro"] == pytest.approx(expected, abs=1e-9)
