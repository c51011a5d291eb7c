"""Random changes of training images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from zsad.data.augmentation import augment

KINDS = ("shifted", "shifted_coloured", "varied")


@pytest.fixture
def pair():
    """A grey image with a red square, and the mask of the square."""
    pixels = np.full((60, 80, 3), 90, dtype=np.uint8)
    pixels[20:35, 30:50] = (230, 20, 20)
    mask = np.zeros((60, 80), dtype=bool)
    mask[20:35, 30:50] = True
    return Image.fromarray(pixels), mask


def test_none_changes_nothing(pair):
    image, mask = augment(*pair, "none", np.random.default_rng(0))
    assert image is pair[0]
    assert mask is pair[1]


@pytest.mark.parametrize("kind", KINDS)
def test_image_and_mask_move_together(kind, pair):
    for seed in range(20):
        image, mask = augment(*pair, kind, np.random.default_rng(seed))
        pixels = np.asarray(image).astype(int)
        assert mask.shape == pixels.shape[:2]
        assert mask.dtype == bool
        red = pixels[..., 0] - pixels[..., 1]
        if mask.sum() > 100:
            assert red[mask].mean() > red[~mask].mean() + 30


@pytest.mark.parametrize("kind", KINDS)
def test_seeded_and_varied(kind, pair):
    found = [augment(*pair, kind, np.random.default_rng(seed))[0].tobytes() for seed in (1, 1, *range(2, 9))]
    assert found[0] == found[1]
    assert len(set(found)) > 4


def test_colours_change_only_where_they_should(pair):
    shifted = {np.asarray(augment(*pair, "shifted", np.random.default_rng(s))[0])[0, 0, 0] for s in range(9)}
    coloured = {
        np.asarray(augment(*pair, "shifted_coloured", np.random.default_rng(s))[0])[0, 0, 0] for s in range(9)
    }
    assert len(coloured) > len(shifted)
