"""Cutting an image takes no more memory than the image, its map, and a few tiles."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np, torch, zsad

side, tile = map(int, sys.argv[1:])
torch.set_num_threads(1)
detector = zsad.load()
detector.predict(np.zeros((400, 400, 3), np.uint8), tile=300)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = detector.predict(np.full((side, side, 3), 90, np.uint8), tile=tile)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert found.tile == tile and found.anomaly_map.shape == (side, side)
print((after - before) * 1024 / side**2)
"""


def bytes_per_pixel(side, tile):
    arguments = [sys.executable, "-c", SCRIPT, str(side), str(tile)]
    return float(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


def test_memory_is_that_of_the_image_and_its_map():
    """3 bytes of the array, 4 in Pillow, 3 in the prediction, 4 of the map; tiles and bands are the rest."""
    assert bytes_per_pixel(6000, 3000) < 20


@pytest.mark.slow
def test_memory_of_400_megapixels():
    assert bytes_per_pixel(20_000, 5120) < 15.5
