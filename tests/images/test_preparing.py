"""`to_array`: large images are copied in bands, to the same pixels."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from zsad.images import preparing
from zsad.images.preparing import to_array


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("at_once", [1, 300, 1000])
def test_bands_are_joined_to_the_whole(monkeypatch, mode, at_once):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 41, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    expected = to_array(image)
    monkeypatch.setattr(preparing, "PIXELS_COPIED_AT_ONCE", at_once)
    found = to_array(image)
    np.testing.assert_array_equal(found, expected)
    assert found.flags.writeable


def test_a_large_image_is_in_memory_once_more_and_no_more(monkeypatch):
    monkeypatch.setattr(preparing, "PIXELS_COPIED_AT_ONCE", 500_000)
    image = Image.new("RGB", (5000, 4000), (1, 2, 3))
    tracemalloc.start()
    try:
        pixels = to_array(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * pixels.nbytes  # NumPy's copy of Pillow's copy takes twice as much
