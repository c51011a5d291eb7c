"""AUROC, AP and F1-max against scikit-learn, the stored values of the authors' scripts, and bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from zsad import metrics
from zsad.errors import DataError

# Few levels make ties frequent; floats of any size check the ordering itself.
VALUES = st.one_of(
    st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(-1e6, 1e6, allow_nan=False, width=32).map(float)
)


def reference_f1_max(labels, scores):
    precision, recall, _ = sklearn_metrics.precision_recall_curve(labels, scores)
    with np.errstate(invalid="ignore"):
        return np.nanmax(2 * precision * recall / (precision + recall))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(VALUES, st.integers(0, 1)), min_size=2, max_size=60))
def test_equals_scikit_learn(pairs):
    scores, labels = (np.array(column) for column in zip(*pairs, strict=True))
    if labels.min() == labels.max():
        assert np.isnan(metrics.image_auroc(scores, labels))
        assert np.isnan(metrics.image_ap(scores, labels))
        assert np.isnan(metrics.image_f1max(scores, labels))
        return
    assert metrics.image_auroc(scores, labels) == pytest.approx(
        sklearn_metrics.roc_auc_score(labels, scores), abs=1e-9
    )
    assert metrics.image_ap(scores, labels) == pytest.approx(
        sklearn_metrics.average_precision_score(labels, scores), abs=1e-9
    )
    assert metrics.image_f1max(scores, labels) == pytest.approx(reference_f1_max(labels, scores), abs=1e-9)


def test_pixels_of_images_of_different_sizes_are_pooled():
    generator = np.random.default_rng(0)
    sizes = [(5, 7), (3, 3), (1, 11)]
    maps = [generator.integers(0, 6, size).astype(np.float32) for size in sizes]
    masks = [generator.integers(0, 2, size) for size in sizes]
    values, truth = (np.concatenate([one.ravel() for one in many]) for many in (maps, masks))
    assert metrics.pixel_auroc(maps, masks) == pytest.approx(sklearn_metrics.roc_auc_score(truth, values))
    assert metrics.pixel_ap(maps, masks) == pytest.approx(
        sklearn_metrics.average_precision_score(truth, values)
    )
    assert metrics.pixel_f1max(maps, masks) == pytest.approx(reference_f1_max(truth, values))


@pytest.mark.parametrize("case", ["A", "ties"])
@pytest.mark.parametrize("name", [name for name in metrics.METRIC_NAMES if name != "pixel_aupro"])
def test_equals_the_authors_scripts(golden_metrics, case, name):
    inputs = [golden_metrics[f"{case}.{key}"] for key in ("maps", "masks", "scores", "labels")]
    assert metrics.evaluate(*inputs)[name] == pytest.approx(golden_metrics[f"{case}.{name}_f64"], abs=1e-9)


def test_constant_scores_are_chance():
    labels = [0, 1, 1, 0]
    assert metrics.image_auroc([0.3] * 4, labels) == 0.5
    assert metrics.image_ap([0.3] * 4, labels) == 0.5
    assert metrics.image_f1max([0.3] * 4, labels) == pytest.approx(2 / 3)


def test_takes_lists_bools_and_tensors_alike():
    scores, labels = [0.1, 0.9, 0.4, 0.35], [0, 1, 1, 0]
    expected = metrics.image_ap(np.array(scores, dtype=np.float32), np.array(labels))
    assert metrics.image_ap(scores, [bool(label) for label in labels]) == expected
    assert metrics.image_ap(torch.tensor(scores), torch.tensor(labels)) == expected
    assert metrics.image_ap(torch.tensor(scores).bfloat16(), torch.tensor(labels).float()) == expected


def test_no_images_at_all_is_undefined():
    for nothing in ([], None):
        result = metrics.evaluate(nothing, nothing, nothing, nothing)
        assert list(result) == list(metrics.METRIC_NAMES)
        assert all(np.isnan(value) for value in result.values())


def test_a_set_without_masks_has_image_metrics_only():
    result = metrics.evaluate(np.zeros((2, 3, 3)), None, [0.2, 0.8], [0, 1])
    assert result["image_auroc"] == 1.0
    assert {name for name, value in result.items() if np.isnan(value)} == {
        name for name in metrics.METRIC_NAMES if name.startswith("pixel")
    }


GOOD_MAPS, GOOD_MASKS = np.zeros((2, 3, 3)), np.zeros((2, 3, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD_MAPS, GOOD_MASKS, [0.1, np.nan], [0, 1]), "scores must be finite, but 1 of 2"),
        ((GOOD_MAPS, GOOD_MASKS, [0.1, np.inf], [0, 1]), "scores must be finite"),
        ((GOOD_MAPS + np.nan, GOOD_MASKS, [0, 1], [0, 1]), "map 0 must be finite, but 9 of 9"),
        ((GOOD_MAPS, GOOD_MASKS, [0.1, 0.2], [0, 2]), "labels must hold only 0 and 1, got 2"),
        ((GOOD_MAPS, GOOD_MASKS + 255, [0.1, 0.2], [0, 1]), "mask 0 must hold only 0 and 1, got 255"),
        ((GOOD_MAPS, GOOD_MASKS + 0.5, [0.1, 0.2], [0, 1]), "mask 0 must hold only 0 and 1, got 0.5"),
        ((GOOD_MAPS, GOOD_MASKS, [0.1, 0.2, 0.3], [0, 1]), r"got \(3,\) and \(2,\)"),
        ((GOOD_MAPS, GOOD_MASKS, [0.1], [0]), "got 2 maps for 1 scores"),
        ((GOOD_MAPS, GOOD_MASKS[:1], [0.1, 0.2], [0, 1]), "got 2 maps and 1 masks"),
        ((GOOD_MAPS, [GOOD_MASKS[0], np.zeros((3, 4))], [0.1, 0.2], [0, 1]), "map 1 has shape"),
        ((GOOD_MAPS[0], GOOD_MASKS, [0.1, 0.2, 0.3], [0, 1, 1]), r"maps must have the shape \(N, H, W\)"),
        ((["a", "b"], GOOD_MASKS, [0.1, 0.2], [0, 1]), "map 0 must hold numbers"),
        (([[[1.0, 2.0], [3.0]]] * 2, GOOD_MASKS, [0.1, 0.2], [0, 1]), "map 0 is not a rectangular array"),
        ((GOOD_MAPS, GOOD_MASKS, [0.1, 0.2], None), "scores and labels go together"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, message):
    with pytest.raises(DataError, match=message):
        metrics.evaluate(*arguments)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_whole_numbers_never_become_ties(dtype):
    scores = np.array([2**53, 2**53 + 1], dtype=dtype)
    with pytest.raises(DataError, match=r"scores must be whole numbers of at most 2\*\*53.*9007199254740993"):
        metrics.image_auroc(scores, [0, 1])
    with pytest.raises(DataError, match="map 0 must be whole numbers"):
        metrics.pixel_auroc(scores.reshape(1, 1, 2), [[[0, 1]]])
    assert metrics.image_auroc(scores - dtype(2**53), [0, 1]) == 1.0
    assert metrics.image_auroc(np.array([2**60, 2**62], dtype=dtype), [0, 1]) == 1.0
