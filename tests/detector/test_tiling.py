"""Tiles in a detector: batches equal singles, references are cut too, calibrations know the setting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

import zsad
from zsad.detector.calibration.calibrating import calibrate
from zsad.detector.calibration.options import CalibrateOptions
from zsad.detector.tiling import resized
from zsad.errors import ConfigError
from zsad.images.tile_scoring import Cutting, ImageAnswer, score_images
from zsad.images.tiles import WHOLE_SHARE
from zsad.types import RawOutput


def noise(seed, height=90, width=130):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def brightness(images, names, is_tile):
    """A method whose score is the mean of the image in [0, 1], and whose map is flat at that value."""
    means = torch.tensor([float(np.asarray(image).mean()) / 255 for image in images])
    return RawOutput(means, means[:, None, None].expand(-1, 4, 4).contiguous())


@pytest.fixture
def detector(make_small_clip):
    return zsad.load("clip_ac", backbone=make_small_clip())


def test_score_and_map_join_the_tiles_with_the_whole():
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, 64:] = 255
    (answer,) = score_images([Image.fromarray(image)], [None], brightness, resized, Cutting(64, 32))
    boxes = [image[:, :64].mean() / 255, image[:, 32:].mean() / 255]
    whole = WHOLE_SHARE * image.mean() / 255
    assert answer.score == pytest.approx((1 - WHOLE_SHARE) * max(boxes) + whole)
    assert answer.tile == 64
    assert answer.anomaly_map.shape == (64, 96)
    left, right = answer.anomaly_map[0, 0], answer.anomaly_map[0, -1]
    assert left == pytest.approx((1 - WHOLE_SHARE) * boxes[0] + whole, abs=1e-5)
    assert right == pytest.approx((1 - WHOLE_SHARE) * boxes[1] + whole, abs=1e-5)


def test_tiles_go_through_the_network_a_few_at_a_time_and_whole_images_together():
    sizes = []

    def score(images, names, is_tile):
        sizes.append((len(names), is_tile))
        return brightness(images, names, is_tile)

    images = [
        Image.fromarray(noise(seed, *size)) for seed, size in enumerate([(30, 30), (64, 200), (20, 32)])
    ]
    answers = score_images(images, ["a", "b", "c"], score, resized, Cutting(32, 32), at_once=4)
    assert sizes[:2] == [(2, False), (1, False)]
    assert all(size <= 4 and is_tile for size, is_tile in sizes[2:])
    assert [answer.tile for answer in answers] == [None, 32, None]
    assert all(isinstance(answer, ImageAnswer) for answer in answers)


@pytest.mark.parametrize("tile", [48, "auto"])
def test_a_batch_equals_single_images(detector, tile):
    images = [noise(0), noise(1, 40, 40), noise(2, 300, 31), noise(3)]
    together = detector.predict(images, tile=tile)
    for image, found in zip(images, together, strict=True):
        alone = detector.predict(image, tile=tile)
        assert found.anomaly_map.shape == image.shape[:2]
        assert found.anomaly_map.dtype == np.float32
        assert found.tile == alone.tile
        assert found.score == pytest.approx(alone.score, abs=1e-6)
        np.testing.assert_allclose(found.anomaly_map, alone.anomaly_map, atol=1e-6)
    assert [found.tile is None for found in together] == [False, True, False, False]
    streamed = list(detector.predict_iter(images, 3, tile=tile))
    assert [found.score for found in streamed] == pytest.approx([found.score for found in together], abs=1e-6)


def test_an_image_inside_one_tile_is_scored_as_ever(detector):
    image = noise(5, 60, 60)
    plain = detector.predict(image)
    for tile in ("none", "auto", 60, 1000):
        found = detector.predict(image, tile=tile)
        assert (found.score, found.tile) == (plain.score, None)


def test_references_are_cut_like_the_image_and_make_it_normal(detector):
    image, other = noise(6), noise(7)
    before = detector.predict(image, tile=48)
    detector.set_references([other])
    compared = detector.predict(image, tile=48)
    detector.set_references([other, image])
    known = detector.predict(image, tile=48)
    assert known.score < compared.score
    assert (known.anomaly_map < compared.anomaly_map).all()
    detector.set_references(None)
    assert detector.predict(image, tile=48).score == before.score


def test_references_from_open_files_can_be_cut_later(detector, tmp_path):
    Image.fromarray(noise(8)).save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        detector.set_references([file])
    (tmp_path / "a.png").unlink()
    assert detector.predict(noise(8), tile=48).tile == 48


def test_companions_are_cut_too_and_bounded(make_small_clip):
    detector = zsad.load("auto", backbone=make_small_clip(), checkpoint="fresh")
    detector.is_trained = True
    detector.set_companions([noise(seed) for seed in range(9)])
    assert detector.predict(noise(3), tile=48).tile == 48
    looking = detector.looking.with_tile(48)
    companions = detector.compared.states_of_tiles(looking, [None]).support.unlabelled
    assert 9 < len(companions) <= detector.method.MOST_COMPANIONS


def test_methods_that_compare_whole_batches_are_refused(make_small_clip):
    detector = zsad.load("musc", backbone=make_small_clip())
    with pytest.raises(ConfigError, match="musc scores all images together"):
        detector.predict([noise(0), noise(1), noise(2)], tile=48)


def test_a_calibration_knows_how_images_were_cut(detector, tmp_path):
    good = [noise(seed) for seed in range(4)]
    options = CalibrateOptions(false_alarm_rate=0.2)
    whole = calibrate(detector, good, options=options)
    tiled = calibrate(detector.with_tile(48), good, options=options)
    assert whole.threshold != tiled.threshold
    detector.apply_calibration(whole)
    with pytest.raises(ConfigError, match="made with tile none, and this detector has 48"):
        detector.predict(good[0], tile=48)
    with pytest.raises(ConfigError, match="made with tile 48, and this detector has none"):
        detector.apply_calibration(tiled)
    cutting = detector.with_decision(type(detector.decision)()).with_tile(48).apply_calibration(tiled)
    assert cutting.predict(good[0]).tile == 48
    assert cutting.predict(good[0]).threshold == tiled.threshold
    with pytest.raises(ConfigError, match="made with tile 48, and this detector has none"):
        cutting.predict(good[0], tile="none")
    with pytest.raises(ConfigError, match="made with tile 48, and this detector has 'auto'"):
        cutting.predict(good[0], tile="auto")


def test_a_checkpoint_keeps_the_setting(detector, make_small_clip, tmp_path):
    detector.with_tile("auto").save(tmp_path / "a.safetensors")
    loaded = zsad.load(checkpoint=tmp_path / "a.safetensors", backbone=make_small_clip())
    assert loaded.tile == "auto"
    assert (
        zsad.load(checkpoint=tmp_path / "a.safetensors", backbone=make_small_clip(), tile="none").tile is None
    )


def test_a_texture_in_tiles_differs_little_from_the_whole_and_shows_no_seam():
    """On `tiny`: less than 0.05 of the map's range on average; where tiles end, steps are as beside."""
    levels = gaussian_filter(np.random.default_rng(0).normal(size=(480, 480)), 4)
    image = np.repeat((120 + 25 * levels / levels.std()).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    detector = zsad.load()
    whole, tiled = (detector.predict(image, tile=tile).anomaly_map for tile in (None, 320))
    assert np.abs(whole - tiled).mean() < 0.05
    borders = [159, 319]  # between two pixels: the second tile begins, the first one ends
    for steps in (np.diff(tiled, axis=0), np.diff(tiled, axis=1).T):
        for border in borders:
            beside = (steps[border - 1] + steps[border + 1]) / 2
            assert np.abs(steps[border] - beside).max() < 0.002
