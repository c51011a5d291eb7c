"""Unreadable images in a stream of good ones."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import zsad
from zsad.errors import ConfigError, ImageReadError


@pytest.fixture(scope="module")
def detector():
    return zsad.load("winclip", device="cpu", image_size=64, scales=(2,))


@pytest.fixture
def folder(tmp_path):
    """Images 0 to 4, of which 1 and 3 are damaged."""
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((20, 30, 3), 40 * number, np.uint8)).save(path)
        if number % 2:
            path.write_bytes(b"no image")
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_skip_leaves_them_out(detector, folder, batch_size):
    found = list(detector.predict_iter(folder, batch_size, on_error="skip"))
    assert [prediction.path.name for prediction in found] == ["0.png", "2.png", "4.png"]
    assert found[1].score == pytest.approx(detector.predict(folder / "2.png").score, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_yield_keeps_the_places(detector, folder, batch_size):
    names = sorted(folder.iterdir())
    found = list(detector.predict_iter(names, batch_size, classes=list("abcde"), on_error="yield"))
    assert [isinstance(each, ImageReadError) for each in found] == [False, True, False, True, False]
    assert "inputs[3]: " in str(found[3])
    assert "3.png" in str(found[3])


def test_raise_is_the_default_and_comes_after_earlier_batches(detector, folder):
    stream = detector.predict_iter(folder, 1)
    assert next(stream).path.name == "0.png"
    with pytest.raises(ImageReadError, match=r"1\.png"):
        next(stream)


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 9), np.uint8), "missing.png", None, b"no image"])
def test_a_list_names_the_item(detector, bad):
    good = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ImageReadError, match=r"^inputs\[2\]: "):
        detector.predict([good, good, bad, good])


def test_other_wishes_are_refused(detector, folder):
    with pytest.raises(ConfigError, match="did you mean 'skip'"):
        detector.predict_iter(folder, on_error="skp")
