"""A fitted detector from its file predicts the same bits; an image is left out with its tiles and turns."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from PIL import Image

import zsad
from zsad.detector import checkpoints
from zsad.detector.fitting.false_alarms import add_false_alarms
from zsad.errors import ConfigError, DataError
from zsad.methods.functional import reference_rule

METHODS = ["clip_ac", "auto", "winclip", "april_gan"]


def stripes(seed, height=64, width=64):
    columns = np.indices((height, width)).sum(axis=0) % 16 < 8
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return np.clip(np.where(columns[..., None], 90, 150) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def load(make_small_clip):
    def loaded(name=None, checkpoint="fresh", **arguments):
        backbone = make_small_clip(image_size=64)
        detector = zsad.load(name, backbone=backbone, checkpoint=checkpoint, device="cpu", **arguments)
        detector.is_trained = True
        return detector

    return loaded


def assert_equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert (one.score, one.is_anomalous, one.tile) == (other.score, other.is_anomalous, other.tile)
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("given", [{}, {"roi": "4,4,48,48"}, {"tile": 64}], ids=["whole", "roi", "tiles"])
def test_the_file_gives_the_same_bits(load, tmp_path, name, given):
    fitted = load(name, **given)
    fitted.fit([stripes(seed, 64, 90) for seed in range(5)], rate=0.2)
    again = load(checkpoint=fitted.save(tmp_path / "a.safetensors"))
    assert again.tile == given.get("tile")
    images = [stripes(seed, 64, 90) for seed in range(20, 23)]
    for number, pixels in enumerate(images):
        (tmp_path / "parts").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "parts" / f"{number}.png")
    assert_equal([fitted.predict(images[0])], [again.predict(images[0])])
    assert_equal(fitted.predict(images), again.predict(images))
    folder = str(tmp_path / "parts")
    assert_equal(fitted.predict_iter(folder, 2), again.predict_iter(folder, 2))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("given", [{"tile": 64}, {"tile": 64, "augment": True}, {"augment": True}])
def test_a_left_out_score_is_that_of_a_detector_without_the_image(load, name, given):
    augment, tile = given.get("augment", False), given.get("tile")
    good = [stripes(seed, 80, 100) for seed in range(4)]
    detector = load(name, tile=tile)
    found = detector.fit(good, rate=0.2, augment_references=augment)
    assert detector.scoring_settings().get("augment_references", False) == augment
    detector.set_references([good[0], good[1], good[3]], augment=augment)
    # all tiles of a method's references fit into its memory here, so that both detectors keep the same ones
    assert found.scores[2] == pytest.approx(detector.predict(good[2]).score, abs=1e-5)


def test_thresholds_of_an_earlier_rule_for_references_are_refused(load):
    detector = load("clip_ac")
    detector.fit([stripes(seed) for seed in range(4)], rate=0.2)
    settings = {k: v for k, v in detector.calibration.settings.items() if k != "reference_rule"}
    earlier = dataclasses.replace(detector.calibration, settings=settings)
    with pytest.raises(ConfigError, match="edition of the rule for references 1, and this detector has 3"):
        detector.apply_calibration(earlier)


def test_answers_to_the_tiles_of_references_count(load):
    """What the method says of every tile of the references is no news in a tile."""
    detector = load("clip_ac", tile=64)
    detector.set_references([stripes(seed, 80, 100) for seed in range(3)])
    support = detector.compared.states_of_tiles(detector.looking, ["object"]).support
    assert len(support.answers) == 3 * 4


def test_split_with_tiles_holds_images_out(load):
    detector = load("clip_ac", tile=64)
    good = [stripes(seed, 80, 100) for seed in range(6)]
    found = detector.fit(good, rate=0.2, split=True)
    assert len(detector.reference_fingerprints) == 3
    assert found.scores[1] == pytest.approx(detector.predict(good[1]).score, abs=1e-5)


def test_the_thinned_memory_is_in_the_file(load, tmp_path, monkeypatch):
    for place in ("detector.fitting.good_images", "detector.fitting.leaving_out"):
        monkeypatch.setattr(f"zsad.{place}.MOST_VECTORS", 40)
    monkeypatch.setattr(reference_rule.ReferenceRule.of.__func__, "__defaults__", (40,))
    detector = load("clip_ac")
    detector.fit([stripes(seed) for seed in range(6)], rate=0.2)
    assert any(len(rows) == 40 for rows in detector.good_images.chosen)
    file = detector.save(tmp_path / "a.safetensors")
    assert any(name.startswith("chosen.") for name in checkpoints.read(file).good_images)

    def refused(*_):
        raise AssertionError("thinned again")

    monkeypatch.setattr("zsad.methods.functional.references.most_spread", refused)
    again = load(checkpoint=file)
    assert_equal([detector.predict(stripes(9))], [again.predict(stripes(9))])


def test_other_tiles_than_those_of_the_file_are_refused(load, tmp_path):
    detector = load("clip_ac", tile=64)
    detector.fit([stripes(seed, 80, 100) for seed in range(3)], rate=0.2)
    file = detector.save(tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="tile=64"):
        load(checkpoint=file, tile=70, calibration="none")


def written(folder, seeds):
    """Files of striped images, larger than a tile."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{seed}.png" for seed in seeds]
    for seed, file in zip(seeds, files, strict=True):
        Image.fromarray(stripes(seed, 80, 100)).save(file)
    return files


@pytest.mark.parametrize("name", METHODS)
def test_adding_to_tiles_equals_fitting_to_all(load, tmp_path, name):
    """Tiles of the earlier images are scored again as those of new images are: by a detector without them."""
    old, new = written(tmp_path / "old", range(4)), written(tmp_path / "new", [7, 8])
    whole = load(name, tile=64)
    first = copy.copy(whole)
    expected = whole.fit([*old, *new], rate=0.2)
    first.fit(old, rate=0.2)
    second = load(checkpoint=first.save(tmp_path / "line3.safetensors"))
    found = second.fit([*new, old[0]], add=True)
    assert (found.scores, found.copies, found.failed) == (expected.scores, 1, ())
    assert second.threshold == whole.threshold
    assert found.calibration.false_alarm_rate == 0.2  # kept from the file
    assert_equal([second.predict(stripes(9, 80, 100))], [whole.predict(stripes(9, 80, 100))])


def test_thresholds_for_tiles_are_made_again_without_new_images(load, tmp_path):
    detector = load("clip_ac", tile=64)
    before = detector.fit(written(tmp_path, range(6)), rate=0.05)
    after = detector.fit(None, rate=0.4, add=True)
    assert after.scores == before.scores
    assert after.calibration.false_alarm_rate == 0.4
    turned = detector.fit(None, add=True, augment_references=True)
    assert turned.good.are_turned


def test_a_false_alarm_of_a_detector_with_tiles_becomes_a_good_image(load, tmp_path):
    detector = load("clip_ac", tile=64)
    detector.fit(written(tmp_path, range(4)), rate=0.2)
    odd = stripes(9, 80, 100)
    odd[20:40, 20:40] = (255, 0, 0)
    before = detector.predict(odd)
    found, (change,) = add_false_alarms(detector, [odd])
    assert len(found.good.images) == 5
    assert (change.score, change.new_score) == (before.score, detector.predict(odd).score)
    assert change.new_score < change.score


def test_earlier_images_that_tiles_need_are_named_and_found_among_those_given(load, tmp_path):
    old = written(tmp_path / "old", range(4))
    detector = load("clip_ac", tile=64)
    detector.fit(old, rate=0.2)
    threshold, new = detector.threshold, stripes(9, 80, 100)
    Image.fromarray(stripes(30, 80, 100)).save(old[1])
    (tmp_path / "old").rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"0\.png, .*3\.png cannot be found or changed: give the earlier"):
        detector.fit(None, add=True)
    with pytest.raises(DataError, match=r"old/1\.png cannot be found or changed"):
        detector.fit([tmp_path / "moved", new], add=True)
    assert detector.threshold == threshold
    found = detector.fit([tmp_path / "moved", stripes(1, 80, 100), new], add=True)
    assert len(found.good.images) == 6


def test_turned_references_have_to_be_turned_from_the_start(load):
    detector = load("clip_ac")
    detector.fit([stripes(seed) for seed in range(4)], rate=0.2)
    with pytest.raises(ConfigError, match="fit to the old and the new images together"):
        detector.fit([stripes(9)], add=True, augment_references=True)
