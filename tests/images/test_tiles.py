"""Tiles: they cover every image of every shape, their weights sum to one, and seams do not show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsad.errors import ConfigError
from zsad.images.tiles import (
    MOST_TILES,
    OVERLAP,
    blend,
    checked_tile,
    enlarged,
    seam_weights,
    tile_grid,
    tile_side,
)
from zsad.methods.functional.maps import upsample

SHAPES = [(1, 1, 1), (1, 3000, 64), (3000, 1, 7), (2, 3, 1), (17, 16, 16), (2999, 3000, 320), (321, 640, 320)]
DRAWN = [tuple(map(int, np.random.default_rng(seed).integers(1, 3001, 3))) for seed in range(40)]


@pytest.mark.parametrize(("height", "width", "side"), [*SHAPES, *DRAWN])
def test_tiles_cover_every_pixel_and_overlap_enough(height, width, side):
    grid = tile_grid(height, width, side)
    assert grid.tile == (min(side, height), min(side, width))
    for length, tile, starts in ((height, grid.tile[0], grid.tops), (width, grid.tile[1], grid.lefts)):
        assert starts[0] == 0
        assert starts[-1] + tile == length
        shared = tile - np.diff(starts)
        assert (shared >= np.floor(OVERLAP * tile) - 1).all()
        assert (np.diff(starts) > 0).all()
    assert len(grid) == len(grid.boxes) == len(set(grid.boxes))


@pytest.mark.parametrize(("height", "width", "side"), [*SHAPES, *DRAWN])
def test_weights_are_positive_and_sum_to_one(height, width, side):
    grid = tile_grid(height, width, side)
    for length, tile, starts in ((height, grid.tile[0], grid.tops), (width, grid.tile[1], grid.lefts)):
        weights = seam_weights(length, tile, starts)
        assert (weights > 0).all()
        total = np.zeros(length)
        for start, row in zip(starts, weights, strict=True):
            total[start : start + tile] += row
        np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "side"), [(40, 90, 32), (33, 200, 16), (5, 7, 3), (64, 64, 64)])
def test_tiles_of_a_map_give_the_map_back(height, width, side):
    whole = np.random.default_rng(0).random((height, width), dtype=np.float32)
    grid = tile_grid(height, width, side)
    if grid.tile[0] != grid.tile[1]:  # maps of tiles are square, as the network is
        whole = np.repeat(whole[:, :1], width, axis=1)
        grid = tile_grid(height, width, min(height, side))
    parts = [whole[top:bottom, left:right] for left, top, right, bottom in grid.boxes]
    np.testing.assert_allclose(blend(grid, parts), whole, atol=1e-6)


def test_a_smooth_map_is_resized_like_torch_does_and_shows_no_seam():
    import torch

    from zsad.methods.functional.maps import upsample

    grid = tile_grid(300, 410, 100)
    low = np.random.default_rng(1).random((len(grid), 32, 32), dtype=np.float32)
    resized = upsample(torch.from_numpy(low), (100, 100)).numpy()
    total = np.zeros((300, 410))
    rows, columns = seam_weights(300, 100, grid.tops), seam_weights(410, 100, grid.lefts)
    for number, (left, top, right, bottom) in enumerate(grid.boxes):
        row, column = divmod(number, len(grid.lefts))
        total[top:bottom, left:right] += resized[number] * rows[row][:, None] * columns[column]
    np.testing.assert_allclose(blend(grid, low), total, atol=1e-5)


def test_between_tiles_that_disagree_the_map_passes_smoothly():
    """Tiles of 0 and 1 in turn: no step between neighbouring pixels is larger than the window's slope."""
    grid = tile_grid(64, 400, 64)
    levels = np.arange(len(grid)) % 2
    blended = blend(grid, [np.full((8, 8), level, np.float32) for level in levels])
    shared = 64 - max(np.diff(grid.lefts))
    assert np.abs(np.diff(blended, axis=1)).max() < 4 / shared
    assert blended.min() > -1e-6
    assert blended.max() < 1 + 1e-6


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((320, 320), None),
        ((640, 640), None),
        ((640, 641), 640),
        ((256, 4096), 256),
        ((4096, 40), 160),
        ((100, 310), None),
        ((100, 400), 160),
        ((3000, 4000), 640),
    ],
)
def test_auto_cuts_what_is_large_or_long(size, expected):
    assert tile_side(*size, "auto", 320) == expected
    assert tile_side(*size[::-1], "auto", 320) == expected


@pytest.mark.parametrize("size", [(20_000, 20_000), (100_000, 50), (1, 1_000_000), (9000, 12_000)])
def test_auto_bounds_the_number_of_tiles(size):
    side = tile_side(*size, "auto", 320)
    assert len(tile_grid(*size, side)) <= MOST_TILES


def test_a_number_of_pixels_is_taken_as_it_is():
    assert tile_side(500, 400, 256, 320) == 256
    assert tile_side(500, 400, 500, 320) is None
    assert tile_side(500, 400, "none", 320) is tile_side(500, 4000, None, 320) is None
    with pytest.raises(ConfigError, match="at least tile=40"):
        tile_side(500, 400, 39, 320)


@pytest.mark.parametrize("wrong", [0, -5, "half", 2.5, True, ""])
def test_other_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="tile is a side in pixels above 0, auto or none"):
        checked_tile(wrong)


def test_settings_may_be_typed():
    given = [None, "none", "AUTO", "320", 320, np.int64(7)]
    assert [checked_tile(each) for each in given] == [None, "none", "auto", 320, 320, 7]


SIDES = st.integers(1, 40)


@given(st.tuples(SIDES, SIDES), st.tuples(st.integers(1, 300), st.integers(1, 300)), st.integers(0, 9))
def test_a_map_is_enlarged_as_torch_does_it(shape, size, seed):
    """Also made smaller, and with values far from zero, as raw logits are."""
    values = np.random.default_rng(seed).normal(seed, 1 + seed, shape).astype(np.float32)
    expected = upsample(torch.from_numpy(values), size).numpy()
    found = enlarged(values, size)
    assert found.dtype == np.float32
    assert found.shape == size
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(values).max()), rtol=0)
