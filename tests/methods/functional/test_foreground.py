"""The crop to the foreground: Otsu's threshold and regions against scipy and loops, boxes on drawn images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from zsad.methods.functional.foreground import above_otsu, foreground_boxes, largest_region

EIGHT = np.ones((3, 3), dtype=int)


def spiral(side):
    """A path one pixel wide that winds to the middle: the longest way within a region."""
    mask = np.zeros((side, side), dtype=bool)
    row = column = 0
    step = (0, 1)
    mask[0, 0] = True
    for _ in range(4 * side * side):
        ahead = (row + step[0], column + step[1])
        further = (row + 2 * step[0], column + 2 * step[1])
        is_free = all(0 <= place < side for place in ahead) and not mask[ahead]
        if is_free and all(0 <= place < side for place in further) and mask[further]:
            is_free = False
        if is_free:
            row, column = ahead
            mask[ahead] = True
        else:
            step = (step[1], -step[0])
    return mask


def masks():
    generator = np.random.default_rng(0)
    random = [generator.random((64, 64)) < share for share in (0.05, 0.2, 0.35, 0.41, 0.5, 0.9)]
    smooth = [ndimage.gaussian_filter(generator.normal(size=(64, 64)), sigma) > 0 for sigma in (1, 2, 4)]
    checkers = np.indices((64, 64)).sum(axis=0) % 2 == 0
    return [*random, *smooth, spiral(64), spiral(64)[::-1, ::-1], checkers, np.zeros((64, 64), dtype=bool)]


@pytest.mark.parametrize("mask", masks())
def test_the_largest_region_is_scipys(mask):
    found = largest_region(torch.from_numpy(mask.copy())[None])[0].numpy()
    labels, count = ndimage.label(mask, structure=EIGHT)
    if count == 0:
        assert not found.any()
        return
    sizes = ndimage.sum_labels(mask, labels, range(1, count + 1))
    assert found.sum() == sizes.max()
    assert len(np.unique(labels[found])) == 1
    assert mask[found].all()


def test_the_regions_of_a_batch_are_those_of_its_masks():
    batch = torch.from_numpy(np.stack(masks()))
    together = largest_region(batch)
    assert all(torch.equal(largest_region(batch[i : i + 1])[0], together[i]) for i in range(len(batch)))


def test_otsu_tries_every_threshold():
    generator = np.random.default_rng(1)
    for _ in range(5):
        values = np.abs(np.concatenate([generator.normal(1, 0.3, 3000), generator.normal(4, 0.6, 1096)]))
        levels = (values / values.max() * 255).astype(int)

        def spread(threshold, levels=levels):
            low, high = levels[levels <= threshold], levels[levels > threshold]
            return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0

        best = max(range(256), key=spread)
        found = above_otsu(torch.from_numpy(values).float().reshape(1, 64, 64))
        assert (found.flatten().numpy() == (levels > best)).mean() > 0.999


def drawn(size, *rectangles):
    """(1, 3, size, size) grey image with dark rectangles (left, top, right, bottom)."""
    image = torch.full((1, 3, size, size), 0.8)
    for left, top, right, bottom in rectangles:
        image[..., top:bottom, left:right] = 0.2
    return image


@pytest.mark.parametrize("size", [128, 320, 518])
def test_a_product_is_found_to_a_pixel_of_the_small_copy(size):
    expected = torch.tensor([[0.25, 0.375, 0.625, 0.875]]) * size
    image = drawn(size, expected[0].round().int().tolist(), (0, 0, size // 10, size // 10))
    assert (foreground_boxes(image) - expected).abs().max() <= 1.5 * size / 64


@pytest.mark.parametrize(
    "image",
    [
        drawn(128),
        drawn(128, (60, 60, 70, 70)),
        drawn(128, (2, 2, 126, 126)),
        drawn(
            128,
            *((0, at, 128, at + 4) for at in range(0, 128, 16)),
            *((at, 0, at + 4, 128) for at in range(0, 128, 16)),
        ),
    ],
    ids=["even", "small", "large", "texture"],
)
def test_without_a_product_there_is_no_box(image):
    assert foreground_boxes(image).isnan().all()


def test_what_touches_one_border_is_a_product():
    assert foreground_boxes(drawn(128, (0, 32, 64, 96))).isfinite().all()
