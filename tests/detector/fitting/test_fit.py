"""`Detector.fit`: for every method, honest scores, one file, additions, and nothing but features kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import zsad
from zsad.detector.inputs import batch_for
from zsad.errors import ConfigError, DataError, WeightsError
from zsad.methods._registry import method_class

ALONE = [name for name in zsad.list_methods() if name != "musc"]  # musc cannot score a single image


def part(generator, spot=None):
    """A striped part with noise; `spot` paints a bright defect."""
    columns = np.indices((64, 64)).sum(axis=0) % 16 < 8
    pixels = np.where(columns[..., None], 90, 150) + generator.normal(0, 12, (64, 64, 3))
    if spot:
        pixels[20:40, 20:40] = (250, 20, spot)
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture
def good():
    generator = np.random.default_rng(1)
    return [part(generator) for _ in range(8)]


@pytest.fixture
def more():
    generator = np.random.default_rng(2)
    return [part(generator) for _ in range(4)]


@pytest.fixture
def load(make_small_clip):
    """Loads a method with fresh parameters that count as trained."""

    def loaded(name="clip_ac", checkpoint="fresh", **arguments):
        detector = zsad.load(name, make_small_clip(image_size=64), checkpoint, device="cpu", **arguments)
        detector.is_trained = True
        return detector

    return loaded


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.filterwarnings("ignore:dual_image")
def test_every_method_decides_after_a_round_trip(load, good, more, tmp_path, name):
    detector = load(name)
    found = detector.fit(good, rate=0.1)
    new = [*more, part(np.random.default_rng(3), spot=90)]
    whole = [one.score for one in detector.predict(new)]
    detector.save(tmp_path / "line3.safetensors")

    again = load(name, tmp_path / "line3.safetensors")
    assert again.threshold == detector.threshold == found.calibration.threshold
    for image, score in zip(new, whole, strict=True):
        prediction = again.predict(image)
        assert prediction.score == pytest.approx(score, abs=1e-5)  # alone or in a batch
        assert prediction.is_anomalous is not None
    assert again.calibration == detector.calibration
    assert max(found.scores) < detector.threshold


@pytest.mark.parametrize("name", ["clip_ac", "auto", "winclip", "april_gan"])
def test_a_left_out_score_is_that_of_a_detector_without_the_image(load, good, name):
    detector = load(name)
    found = detector.fit(good)
    for number in (0, 5):
        detector.set_references([image for place, image in enumerate(good) if place != number])
        assert found.scores[number] == pytest.approx(detector.predict(good[number]).score, abs=1e-5)


@pytest.mark.parametrize("name", ["clip_ac", "winclip"])
def test_adding_equals_fitting_to_all(load, good, more, tmp_path, name):
    """The calibration is made again from stored features, without any of the old images."""
    whole = load(name)
    whole.fit([*good, *more], rate=0.2)
    first = load(name)
    first.fit(good, rate=0.2)
    first.save(tmp_path / "line3.safetensors")
    second = load(name, tmp_path / "line3.safetensors")
    found = second.fit(more, add=True)
    assert second.threshold == pytest.approx(whole.threshold, abs=1e-5)
    assert found.calibration.false_alarm_rate == 0.2  # kept from the file
    assert second.reference_fingerprints == whole.reference_fingerprints
    assert found.good.images[8].name == "image 1"
    with pytest.raises(DataError, match="known already"):
        second.fit(good, add=True)


def test_no_pixels_are_kept(load, good):
    for name in ("clip_ac", "adaclip"):
        detector = load(name)
        detector.fit(good)
        pixels = batch_for(detector.method, [Image.fromarray(good[0])], detector.preparation)
        for tensor in detector.good_images.tensors().values():
            assert tensor.shape[1:] != pixels.shape[1:]


def test_copies_count_once_and_near_copies_are_left_out_together(load, good):
    close = good[0].copy()
    close[0, 0] ^= 3  # another content, all but the same image
    found = load().fit([*good, good[1], close])
    assert found.copies == 1
    assert found.near_copies == ((0, 8),)
    assert len(found.calibration.normal_scores) == 8
    assert any("near-copies" in line for line in found.calibration.warnings)
    assert found.scores[0] > 0.9 * min(found.scores[1:8])  # not close to 0, which its copy would give


def test_a_bad_image_among_the_good_ones_is_named_and_kept_unless_dropped(load, good, tmp_path):
    paths = []
    for number, pixels in enumerate([*good, part(np.random.default_rng(4), spot=90)]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    detector = load()
    found = detector.fit(paths)
    assert found.outliers == (8,)
    assert any("8.png" in line and "--drop-outliers" in line for line in found.calibration.warnings)
    assert len(detector.reference_fingerprints) == 9
    dropped = detector.fit(paths, drop_outliers=True)
    assert [image.name for image in dropped.dropped] == [str(paths[8])]
    assert len(detector.reference_fingerprints) == 8
    assert dropped.calibration.threshold < found.calibration.threshold


def test_one_bad_file_does_not_stop_the_others(load, good, tmp_path):
    for number, pixels in enumerate(good):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = load().fit(tmp_path)
    assert len(found.failed) == 1
    assert "broken.png" in found.failed[0]
    assert len(found.good.images) == 8


def test_split_holds_images_out(load, good, tmp_path):
    detector = load()
    found = detector.fit(good, split=True)
    assert found.calibration.left_out == 0
    assert len(detector.reference_fingerprints) == 4
    assert len(found.calibration.normal_scores) == 4
    other = load()
    other.set_references(good[::2])
    assert found.scores[1] == pytest.approx(other.predict(good[1]).score, abs=1e-5)
    assert np.isnan(found.scores[0])
    detector.save(tmp_path / "split.safetensors")
    again = load(checkpoint=tmp_path / "split.safetensors")
    assert again.predict(good[3]).score == pytest.approx(found.scores[3], abs=1e-5)


def test_more_images_than_folds(load, good, monkeypatch):
    monkeypatch.setattr("zsad.detector.fitting.fit.MOST_FOLDS", 4)
    found = load().fit(good)
    assert found.calibration.left_out == 2
    other = load()
    other.set_references([image for number, image in enumerate(good) if number % 4])
    assert found.scores[4] == pytest.approx(other.predict(good[4]).score, abs=1e-5)


def test_a_fitted_detector_takes_no_companions(load, good, more):
    detector = load("auto")
    detector.fit(good)
    assert not detector.scores_jointly
    batch = [one.score for one in detector.predict([*more, *good])]
    assert batch[0] == detector.predict(more[0]).score
    with pytest.raises(ConfigError, match="by itself"):
        detector.set_companions(more)


def test_other_settings_are_refused_by_name(load, good, tmp_path, make_small_clip):
    detector = load()
    detector.fit(good)
    file = detector.save(tmp_path / "line3.safetensors")
    with pytest.raises(ConfigError, match="image_size=64, not with 32"):
        load(checkpoint=file, image_size=32)
    with pytest.raises(ConfigError, match="temperature"):
        load(checkpoint=file, temperature=0.5, calibration="none")
    with pytest.raises(WeightsError, match="trained on"):
        zsad.load(checkpoint=file, backbone=make_small_clip(seed=1, image_size=64), device="cpu")
    with pytest.raises((ConfigError, WeightsError), match="clip_ac"):
        load("anomalyclip", checkpoint=file)


def test_damaged_features_are_refused(load, good, tmp_path):
    from zsad.detector import checkpoints

    detector = load()
    detector.fit(good)
    file = detector.save(tmp_path / "line3.safetensors")
    found = checkpoints.read(file)
    checkpoints.write(file, found.content, found.info, {**found.good_images, "owners.0": torch.zeros(3)})
    with pytest.raises(WeightsError, match="zsad fit"):
        load(checkpoint=file)


def test_new_references_or_weights_drop_what_was_fitted(load, good, more):
    detector = load()
    detector.fit(good)
    detector.set_references(more)
    assert detector.threshold is None
    assert detector.good_images is None


def test_what_cannot_be_fitted(load, good):
    with pytest.raises(DataError, match="got 2, expected at least 3"):
        load().fit(good[:2])
    with pytest.raises(DataError, match=r"no good image could be read: .*nowhere"):
        load().fit(["nowhere.png"])
    with pytest.raises(DataError, match="no good image"):
        load().fit([])
    with pytest.raises(ConfigError, match="add=True"):
        load().fit(good, add=True)
    with pytest.raises(ConfigError, match="confidense"):
        load().fit(good, confidense=0.9)
    with pytest.raises(ConfigError, match="59"):
        load().fit(good, strict=True)
    with pytest.raises(ConfigError, match="fit scores each image alone"):
        load("musc").fit(good)
    detector = load()
    with pytest.raises(DataError):
        detector.fit(good[:1])
    assert detector.threshold is None
    assert detector.reference_fingerprints == ()


def test_methods_know_the_class_of_their_features():
    from zsad.detector.fitting.good_images import answer_class

    for name in zsad.list_methods():
        kind = method_class(name)
        if kind.INFO.references == "own":
            assert answer_class(object.__new__(kind)).__name__.endswith("Features")
