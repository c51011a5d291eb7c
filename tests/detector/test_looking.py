"""A detector that looks at a region of interest: nothing outside of it counts, whatever the method."""

from __future__ import annotations

import pickle
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import zsad
from zsad.detector.calibration.calibrating import calibrate
from zsad.errors import ConfigError, ImageReadError

BOX = "25%,25%,50%,50%"
ROUND = np.hypot(*np.mgrid[-1:1:40j, -1:1:40j]) < 0.6


@pytest.fixture
def detector(small_clip):
    return zsad.load("clip_ac", backbone=small_clip, device="cpu")


def images(count=4, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(count)]


def changed_outside(image, inside):
    return np.where(inside[..., None], image, 255 - image)


@pytest.mark.parametrize("method", ["clip_ac", "winclip", "april_gan", "musc", "dual_image"])
@pytest.mark.parametrize("roi", [BOX, ROUND])
def test_nothing_outside_counts(make_small_clip, method, roi):
    arguments = {"checkpoint": "fresh"} if method == "april_gan" else {}
    detector = zsad.load(method, backbone=make_small_clip(), device="cpu", roi=roi, **arguments)
    detector.is_trained = True
    shown = images(3)
    found = detector.predict(shown)
    inside = found[0].roi
    again = detector.predict([changed_outside(image, inside) for image in shown])
    for one, other, image in zip(found, again, shown, strict=True):
        assert one.score == other.score
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
        np.testing.assert_array_equal(one.image, image)
        assert one.anomaly_map.shape == inside.shape == image.shape[:2]
        assert set(one.anomaly_map[~inside]) <= {np.float32(one.map_range[0])}


def test_a_box_is_scored_like_the_image_cut_to_it(detector):
    (image,) = images(1)
    whole, part = detector.predict(image, roi=BOX), detector.predict(image[10:30, 10:30])
    assert whole.score == part.score
    np.testing.assert_array_equal(whole.anomaly_map[10:30, 10:30], part.anomaly_map)
    assert whole.roi.sum() == 400
    assert detector.roi is None
    assert detector.predict(image).roi is None


def test_lists_streams_and_copies(detector):
    looking = detector.with_roi(BOX)
    shown = images(3)
    expected = [one.score for one in detector.predict(shown, roi=BOX)]
    assert [one.score for one in looking.predict_iter(shown)] == expected
    assert [one.score for one in pickle.loads(pickle.dumps(looking)).predict(shown)] == expected
    assert looking.with_roi(None).roi is None


def test_masks_and_overlays_leave_out_what_is_outside(detector):
    detector.map_threshold = -100.0
    found = detector.predict(images(1)[0], roi=BOX)
    np.testing.assert_array_equal(found.mask(), found.roi)
    drawn = np.asarray(found.overlay())
    assert drawn[~found.roi].mean() < 0.4 * found.image[~found.roi].mean()
    assert drawn[found.roi].mean() > 0.5 * found.image[found.roi].mean()


def test_images_that_are_too_small_do_not_stop_the_others(detector):
    small = np.zeros((20, 20, 3), np.uint8)
    looking = detector.with_roi("30,0,10,10")
    with pytest.raises(ImageReadError, match="outside of this image of 20 x 20"):
        looking.predict(small)
    found = list(looking.predict_iter([*images(1), small, *images(1)], on_error="yield"))
    assert [isinstance(one, ImageReadError) for one in found] == [False, True, False]


def test_references_are_cut_too(make_small_clip):
    shown = images(3)
    loaded = zsad.load("winclip", make_small_clip(), device="cpu", references=shown[:2], roi=BOX)
    inside = loaded.predict(shown[2]).roi
    clean = zsad.load(
        "winclip",
        make_small_clip(),
        device="cpu",
        references=[changed_outside(image, inside) for image in shown[:2]],
        roi=BOX,
    )
    assert loaded.predict(shown[2]).score == clean.predict(shown[2]).score
    with pytest.raises(ConfigError, match="prepared for another region"):
        loaded.predict(shown[2], roi="0,0,10,10")


def test_a_calibration_belongs_to_its_region(detector, small_clip, tmp_path):
    normal = images(6)
    looking = detector.with_roi(BOX)
    calibration = calibrate(looking, normal)
    assert calibration.settings["roi"] == BOX
    looking.apply_calibration(calibration)
    assert looking.predict(normal[0]).is_anomalous is False
    with pytest.raises(ConfigError, match="region of interest"):
        detector.apply_calibration(calibration)
    with pytest.raises(ConfigError, match="region of interest"):
        looking.predict(normal[0], roi=ROUND)
    for_all = calibrate(detector, normal)
    with pytest.raises(ConfigError, match="region of interest none, and this detector has '25%,25%,50%,50%'"):
        detector.with_roi(BOX).apply_calibration(for_all)
    looking.save(tmp_path / "line.safetensors")
    with pytest.raises(ConfigError, match="region of interest"):
        zsad.load(backbone=small_clip, checkpoint=tmp_path / "line.safetensors", roi=ROUND)


@pytest.mark.parametrize("roi", [BOX, ROUND], ids=["box", "mask"])
def test_a_file_keeps_its_region(detector, small_clip, tmp_path, roi):
    looking = detector.with_roi(roi)
    looking.fit(images(5), rate=0.2)
    looking.save(tmp_path / "line.safetensors")
    again = zsad.load(backbone=small_clip, checkpoint=tmp_path / "line.safetensors")
    shown = images(7)[6]
    np.testing.assert_array_equal(again.predict(shown).anomaly_map, looking.predict(shown).anomaly_map)
    assert (again.roi, again.threshold) == (looking.roi, looking.threshold)
    with pytest.raises(ConfigError, match="was fitted with roi"):
        zsad.load(backbone=small_clip, checkpoint=tmp_path / "line.safetensors", roi="0,0,9,9")


def test_the_tolerated_area_is_a_share_of_the_region(detector):
    looking = detector.with_roi(BOX)
    low = calibrate(looking, images(6), options=zsad.CalibrateOptions(tolerated_area=0.5)).map_threshold
    heights = [np.median(one.anomaly_map[one.roi]) for one in looking.predict(images(6))]
    assert low == pytest.approx(max(heights), rel=0.05)
    assert low > looking.map_range[0]


def test_open_files_and_pillow_images(detector):
    (image,) = images(1)
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    expected = detector.predict(image, roi=BOX).score
    assert detector.predict(file, roi=BOX).score == expected
    assert detector.predict(Image.fromarray(image), roi=BOX).score == expected
