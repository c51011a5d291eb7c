"""Mosaics: the images that they are made of, their pixels, and their repeatability."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.data.mosaic import Mosaic, Mosaics, load_mosaic
from zsad.data.samples import prepare_sample
from zsad.errors import DataError
from zsad.images.preparing import Preparation
from zsad.types import Sample

PREPARATION = Preparation(24, (0.5, 0.4, 0.3), (0.2, 0.3, 0.2))


def named(number, defect="good", category="nut"):
    return Sample(Path(f"{category}-{defect}-{number}.png"), category, int(defect != "good"), None, defect)


def draws(mosaics, samples, epoch=1, seed=5):
    return [mosaics.draw(index, seed, epoch) for index in range(len(samples))]


@pytest.fixture
def two_categories():
    samples = [named(number, defect) for defect in ("good", "bent") for number in range(300)]
    samples += [named(number, "good", "bolt") for number in range(300)]
    return samples, [0] * 600 + [1] * 300


def test_mosaics_are_as_frequent_as_their_probability(two_categories):
    samples, groups = two_categories
    drawn = draws(Mosaics(samples, groups, [0.2] * 600 + [0.0] * 300), samples)
    assert drawn[600:] == samples[600:]
    made = sum(isinstance(each, Mosaic) for each in drawn[:600])
    assert 90 <= made <= 150  # 120 expected, deviation 9.8
    assert all(each == sample or each.replaced == sample for each, sample in zip(drawn, samples, strict=True))


def test_tiles_are_of_the_category_and_kinds_are_equally_likely():
    samples = [
        named(0, "bent"),
        *(named(number) for number in range(99)),
        *(named(n, "good", "bolt") for n in range(9)),
    ]
    groups = [0] * 100 + [1] * 9
    mosaics = Mosaics(samples, groups, [1.0] * len(samples))
    tiles = [
        tile for epoch in range(1, 6) for each in draws(mosaics, samples[:100], epoch) for tile in each.tiles
    ]
    assert {tile.category for tile in tiles} == {"nut"}
    kinds = Counter(tile.defect for tile in tiles)
    assert kinds["bent"] / len(tiles) == pytest.approx(0.5, abs=0.05)
    assert len({tile.path for tile in tiles}) == 100


def test_seed_epoch_and_number_decide(two_categories):
    samples, groups = two_categories
    mosaics, again = (Mosaics(samples, groups, [0.5] * 900) for _ in range(2))
    whole = draws(mosaics, samples)
    assert [again.draw(index, 5, 1) for index in reversed(range(900))] == whole[::-1]
    assert draws(again, samples, epoch=2) != whole
    assert draws(again, samples, seed=6) != whole


@pytest.fixture
def files(tmp_path):
    """Four images of 20 x 12 pixels; the second and the last have masks."""
    generator = np.random.default_rng(2)
    samples, images, masks = [], [], []
    for number in range(4):
        images.append(generator.integers(0, 256, (12, 20, 3), dtype=np.uint8))
        masks.append(np.zeros((12, 20), dtype=bool))
        Image.fromarray(images[-1]).save(tmp_path / f"{number}.png")
        mask_path = None
        if number % 2:
            masks[-1][2 : 6 + number, 5:13] = True
            mask_path = tmp_path / f"{number}_mask.png"
            Image.fromarray(masks[-1]).save(mask_path)
        samples.append(Sample(tmp_path / f"{number}.png", "nut", number % 2, mask_path, "bent"))
    return samples, images, masks


def test_looks_like_the_four_images_side_by_side(files):
    samples, images, masks = files
    loaded = load_mosaic(Mosaic(tuple(samples), samples[0]), PREPARATION)

    def joined(parts):
        return np.concatenate([np.concatenate(parts[:2], axis=1), np.concatenate(parts[2:], axis=1)])

    expected = prepare_sample(joined(images), joined(masks), 0, "nut", PREPARATION)
    np.testing.assert_array_equal(loaded.image, expected.image)
    np.testing.assert_array_equal(loaded.mask, expected.mask)
    assert loaded.mask[:12, 12:].any()
    assert loaded.mask[12:, 12:].any()
    assert not loaded.mask[:, :12].any()
    assert (loaded.label, loaded.class_name) == (0, "nut")


def test_images_of_other_sizes_are_brought_to_the_first(files):
    samples, _, _ = files
    before = load_mosaic(Mosaic(tuple(samples), samples[0]), PREPARATION)
    for path in (samples[3].path, samples[3].mask_path):
        Image.open(path).resize((40, 24), Image.Resampling.NEAREST).save(path)
    loaded = load_mosaic(Mosaic(tuple(samples), samples[0]), PREPARATION)
    np.testing.assert_array_equal(loaded.mask, before.mask)
    np.testing.assert_array_equal(loaded.image[:, :12], before.image[:, :12])
    assert np.abs(loaded.image[:, 13:, 13:] - before.image[:, 13:, 13:]).mean() < 0.5


def test_a_mosaic_has_no_mask_if_that_of_a_tile_is_missing(files):
    samples, _, _ = files
    bare = Sample(samples[1].path, "nut", 1)
    assert load_mosaic(Mosaic((bare, *samples[1:]), bare), PREPARATION).mask is None


def test_a_mask_that_does_not_fit_is_named(files):
    samples, _, _ = files
    Image.new("L", (3, 4)).save(samples[3].mask_path)
    with pytest.raises(DataError, match=r"3_mask\.png: the mask is 3 x 4 pixels, its image 20 x 12"):
        load_mosaic(Mosaic(tuple(samples), samples[0]), PREPARATION)
