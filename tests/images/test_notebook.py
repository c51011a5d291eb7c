"""A prediction in a notebook."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.types import Prediction


def prediction(size=(30, 40), path=None, threshold=None):
    image = np.full((*size, 3), 90, np.uint8)
    return Prediction(0.12345, np.zeros(size, np.float32), image, path, threshold)


@pytest.mark.parametrize(
    ("size", "shown"), [((30, 40), (80, 30)), ((960, 1920), (960, 240)), ((1, 1), (2, 1))]
)
def test_image_and_heat_map_stand_side_by_side(size, shown):
    with Image.open(io.BytesIO(prediction(size)._repr_png_())) as image:
        assert (image.format, image.size) == ("PNG", shown)


@pytest.mark.parametrize(
    ("threshold", "text"),
    [(None, "score 0.1235<"), (0.1, "score 0.1235, anomalous<"), (0.5, "score 0.1235, normal<")],
)
def test_score_and_decision_are_said(threshold, text):
    assert text.replace("0.1235", f"{0.12345:.4f}") in prediction(threshold=threshold)._repr_html_()


def test_a_file_name_cannot_become_markup():
    text = prediction(path=Path('<img src=x onerror="alert(1)">.png'))._repr_html_()
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
