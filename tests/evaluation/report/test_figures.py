"""Figures of an evaluation: what they draw, and that several can stand in one page."""

import math
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from helpers.evaluation_examples import run_result
from zsad.evaluation.report.figures import (
    LINE_COLOURS,
    comparison_figure,
    curve_figure,
    histogram_figure,
    simplified,
    to_svg,
)
from zsad.evaluation.report.tables import overview_table

CURVE = {"x": [0.0, 0.1, 0.4, 1.0], "y": [0.0, 0.6, 0.9, 1.0]}


def labels_of(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_few_categories_are_all_coloured_the_smallest_area_first():
    areas = {"a": 0.9, "b": 0.7, "c": math.nan}
    figure = curve_figure("image_roc", dict.fromkeys("abc", CURVE), areas)
    assert labels_of(figure) == ["b  70.0", "a  90.0", "c"]


def test_of_many_categories_three_are_coloured():
    names = [f"part {i}" for i in range(len(LINE_COLOURS) + 4)]
    areas = {name: 1 - 0.05 * i for i, name in enumerate(names)}
    figure = curve_figure("pixel_pr", dict.fromkeys(names, CURVE), areas)
    assert labels_of(figure) == ["part 9  55.0", "part 8  60.0", "part 7  65.0", "7 other categories"]


def test_the_limit_of_pro_is_shaded():
    figure = curve_figure("pixel_pro", {"a": CURVE}, {"a": 0.8}, fpr_limit=0.3)
    (shaded,) = figure.axes[0].patches
    assert shaded.get_extents().width == pytest.approx(0.3 * figure.axes[0].bbox.width, rel=1e-6)
    assert "limit 0.3" in [text.get_text() for text in figure.axes[0].texts]


def test_histograms_count_every_image():
    scores = {"a": ([0.1, 0.1, 0.2], [0.9]), "b": ([], [0.4, 0.5])}
    figure = histogram_figure(scores, threshold=0.3)
    for axes, (normal, anomalous) in zip(figure.axes, scores.values(), strict=True):
        heights = [stairs.get_data().values.sum() for stairs in axes.patches]
        assert heights == pytest.approx([float(bool(normal)), float(bool(anomalous))])
        assert axes.lines[0].get_xdata()[0] == 0.3


@pytest.mark.parametrize("scores", [{}, {"a": ([0.5], [0.5])}, {"a": ([], [])}])
def test_histograms_of_hardly_anything(scores):
    assert "<svg" in to_svg(histogram_figure(scores), "scores", "s")


def test_comparison_holds_the_numbers_of_the_table():
    runs = [run_result(method, name) for method in ("winclip", "musc") for name in ("one", "two")]
    table = overview_table([*runs, run_result("adaclip", "one")])
    figure = comparison_figure(table, "pixel_aupro")
    expected = [f"{row.cells[6].value:.1f}" for row in table.rows if not row.is_mean]
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(shown) == sorted([*expected, "-"])
    bars = comparison_figure(overview_table([runs[0], runs[2]]), "image_ap").axes[0]
    assert [bar.get_width() for bar in bars.patches] == [100 * runs[0].mean["image_ap"]] * 2


def test_svg_is_well_formed_with_ids_of_its_own():
    figure = curve_figure("image_roc", {'<b>&"': CURVE}, {})
    texts = [to_svg(figure, 'curve of "<b>"', prefix) for prefix in ("one", "two")]
    for text, prefix in zip(texts, ("one", "two"), strict=True):
        ElementTree.fromstring(text)  # not valid XML would raise
        ids = re.findall(r' id="([^"]*)"', text)
        assert all(name.startswith(f"{prefix}-") for name in ids)
        assert len(ids) == len(set(ids))
        references = re.findall(r'(?:href="|url\()#([\w.-]+)', text)
        assert references
        assert set(references) == set(ids)
    assert "currentColor" in texts[0]
    assert "http" not in texts[0]


def test_tick_labels_keep_their_decimals():
    text = to_svg(histogram_figure({"a": ([0.9512, 0.9534], [0.9571, 0.9588])}), "a", "a")
    ticks = re.findall(r">(0\.\d+)</text>", text)
    assert len(ticks) > 1
    assert len(set(ticks)) == len(ticks)


def test_nothing_goes_through_pyplot(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would raise now
    assert "<svg" in to_svg(histogram_figure({"a": ([0.1], [0.9])}), "a", "a")


def test_simplified_stays_within_its_tolerance():
    x = np.linspace(0, 1, 500)
    y = x**0.2
    few_x, few_y = simplified(x, y, 0.002)
    assert len(few_x) < 60
    assert (few_x[0], few_x[-1]) == (0, 1)
    # The distance to the chord is at most the vertical one times the cosine of its slope.
    slopes = np.diff(few_y) / np.diff(few_x)
    place = np.clip(np.searchsorted(few_x, x) - 1, 0, len(slopes) - 1)
    distance = np.abs(np.interp(x, few_x, few_y) - y) / np.hypot(1, slopes[place])
    assert distance.max() <= 0.002 + 1e-12
    assert [list(part) for part in simplified(np.array([0.5]), np.array([0.5]))] == [[0.5], [0.5]]
