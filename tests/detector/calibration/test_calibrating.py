"""`calibrate` with a detector that knows every answer, and with real methods on a random backbone."""

import dataclasses
import json
import re
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import zsad
from zsad.detector.calibration.calibrating import calibrate
from zsad.detector.calibration.measuring import Example, measure
from zsad.detector.calibration.options import Aim, CalibrateOptions
from zsad.detector.calibration.wording import describe, summary
from zsad.detector.identity import image_fingerprint
from zsad.detector.thresholds import Calibration, read_calibration, write_calibration
from zsad.errors import ConfigError, DataError, WeightsError
from zsad.methods.prompts.state_words import parse_state_words
from zsad.types import Prediction, ScoreScale, WeightRecord


@dataclass(frozen=True)
class FakeConfig:
    sigma: float = 4.0


class FakeDetector:
    """The score is the image's mean brightness and the map its red channel."""

    roi = None

    def __init__(self, clip, joint=False, uses_class_names=False):
        self.backbone = clip
        self.fingerprint = "0"
        self.record = WeightRecord("toy", "tests", 32, (0, 0, 0), (1, 1, 1), "gelu", "none")
        self.image_size = 32
        self.bits = self.tile = None
        self.reference_fingerprints = ()
        self.scores_jointly = joint
        self.method = SimpleNamespace(
            INFO=SimpleNamespace(name="fake", uses_class_names=uses_class_names),
            config=FakeConfig(),
            learned_state=lambda: {"prompt": torch.zeros(3)},
        )
        self.calls = []

    def scoring_settings(self):
        return {
            "method": "fake",
            "backbone": "toy",
            "image_size": 32,
            "references": [],
            "config": {"size": 1},
        }

    def predict(self, images, classes=None, batch_size=None):
        self.calls.append((len(images), classes))
        pixels = [np.asarray(image) for image in images]
        if any((image == 13).all() for image in pixels):
            raise RuntimeError("out of luck")
        return [
            Prediction(np.nan if (p == 99).all() else p.mean() / 255, (p[..., 0] / 255).astype(np.float32), p)
            for p in pixels
        ]


def grey(level, spot=None, size=8):
    """A grey image, with a spot of two rows of another level."""
    image = np.full((size, size, 3), level, np.uint8)
    if spot is not None:
        image[:2] = spot
    return image


@pytest.fixture
def detector(small_clip):
    return FakeDetector(small_clip)


@pytest.fixture
def good():
    return [grey(level) for level in range(20, 60, 2)]


def test_the_threshold_lies_just_above_all_of_too_few_images(detector, good):
    calibration = calibrate(detector, good, options=CalibrateOptions(false_alarm_rate=0.05))
    assert calibration.threshold == pytest.approx(58 / 255, abs=1e-3)
    assert calibration.map_threshold == pytest.approx(58 / 255, abs=1e-3)
    assert calibration.false_alarms == 0
    assert "64 % confidence only: 95 % needs 59 images" in calibration.warnings[0]
    assert len(calibration.pictures) == len(calibration.normal_scores) == 20


def test_enough_images_allow_alarms_and_no_warning(detector):
    pictures = [grey(level) for level in range(100)]
    calibration = calibrate(
        detector, pictures, options=CalibrateOptions(false_alarm_rate=0.2, confidence=0.9)
    )
    assert calibration.warnings == (
        "left out because it could not be read or scored: image 14: out of luck and 1 more",
    )
    assert 0 < calibration.false_alarms <= 0.2 * 98


def test_strict_refuses_too_few_images(detector, good):
    with pytest.raises(ConfigError, match="needs 59 images; give more"):
        calibrate(detector, good, options=CalibrateOptions(strict=True))
    calibrate(detector, good, options=CalibrateOptions(false_alarm_rate=0.2, strict=True))


def test_the_tolerated_area_lowers_the_map_threshold(detector):
    images = [grey(level, spot=200) for level in range(20, 60, 2)]
    whole = calibrate(detector, images)
    assert whole.map_threshold == pytest.approx(200 / 255, abs=1e-3)
    part = calibrate(detector, images, options=CalibrateOptions(tolerated_area=0.25))
    assert part.map_threshold == pytest.approx(58 / 255, abs=1e-3)
    assert part.threshold == whole.threshold
    masks = [p.anomaly_map >= part.map_threshold for p in detector.predict(images)]
    assert max(mask.mean() for mask in masks) <= 0.25


def test_anomalous_images_only_count_by_rate(detector, good):
    alone = calibrate(detector, good)
    calibration = calibrate(detector, good, [grey(200), grey(31)])
    assert calibration.threshold == alone.threshold
    assert calibration.missed == 1
    assert any("it finds 1 of 2" in line for line in describe(calibration))


def test_f1_with_masks_decides_both_thresholds(detector, good):
    bad = [grey(level, spot=220) for level in (40, 44)]
    mask = np.zeros((8, 8))
    mask[:2] = 255
    calibration = calibrate(detector, good, bad, masks=[mask, mask], options=CalibrateOptions(rule="f1"))
    assert calibration.missed == calibration.false_alarms == 0
    assert 58 / 255 < calibration.threshold < (0.75 * 40 + 0.25 * 220) / 255
    assert calibration.map_rule == "f1"
    assert calibration.map_threshold == pytest.approx(220 / 255)
    assert "F1 1.000" in describe(calibration)[1]


def test_without_masks_the_map_threshold_is_by_rate(detector, good):
    calibration = calibrate(detector, good, [grey(200)], options=CalibrateOptions(rule="f1"))
    assert calibration.map_rule == "rate"
    assert calibration.map_threshold == pytest.approx(58 / 255, abs=1e-3)


def test_cost(detector, good):
    bad = [grey(level) for level in (33, 41, 200, 210)]
    careful = calibrate(
        detector, good, bad, options=CalibrateOptions(rule="cost", cost_miss=100, cost_false_alarm=1)
    )
    careless = calibrate(
        detector, good, bad, options=CalibrateOptions(rule="cost", cost_miss=1, cost_false_alarm=100)
    )
    assert careful.missed == 0 < careless.missed
    assert careless.false_alarms == 0 < careful.false_alarms
    assert "miss 100, false alarm 1" in summary(careful)


def test_a_threshold_that_calls_every_image_anomalous_is_named(detector, good):
    calibration = calibrate(
        detector, good[:2], [grey(1), grey(2), grey(90)], options=CalibrateOptions(rule="f1")
    )
    assert "calls every image anomalous" in calibration.warnings[0]


@pytest.mark.parametrize(
    ("normal", "anomalous", "options", "message"),
    [
        ([], [], {}, "no normal image"),
        ([grey(5)], [], {}, "one normal image says nothing .* give 59 different ones"),
        ([grey(5), grey(5)], [], {}, "one normal image"),
        ([grey(5), grey(5, size=9)], [], {}, "all 2 scores are 0.0196.*does not tell"),
        ([grey(5)], [], {"rule": "f1"}, 'no anomalous image: rule "f1" needs both kinds'),
        ([], [grey(5)], {"rule": "f1"}, "no normal image"),
        ([grey(99)], [], {}, r"no normal image \(1 could not be read or scored\)"),
        ([grey(5), grey(6)], [grey(6)], {}, "image 3 is given as normal and as anomalous"),
    ],
)
def test_degenerate_images_get_one_clear_line(detector, normal, anomalous, options, message):
    with pytest.raises(DataError, match=message) as caught:
        calibrate(detector, normal, anomalous, CalibrateOptions(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "accuracy"}, "unknown rule 'accuracy'"),
        ({"false_alarm_rate": 0}, "false-alarm rate"),
        ({"confidence": 1}, "confidence"),
        ({"tolerated_area": 1}, "tolerated area"),
        ({"cost_miss": 3}, 'for rule "cost"'),
        ({"rule": "cost", "cost_miss": 3}, "needs both costs"),
        ({"batch_size": 0}, "batch size"),
        ({"rule": "cost", "cost_miss": -3, "cost_false_alarm": 1}, "cost of a miss must be a number above 0"),
        ({"rule": "cost", "cost_miss": 3, "cost_false_alarm": 1, "prevalence": 2}, "prevalence is the share"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ConfigError, match=message):
        CalibrateOptions(**options)


def test_each_anomalous_image_has_its_mask(detector, good):
    with pytest.raises(ConfigError, match="1 masks for 0 anomalous"):
        calibrate(detector, good, masks=[None])


def test_a_calibration_keeps_the_aim_of_its_options(detector, good):
    options = CalibrateOptions(false_alarm_rate=0.1, confidence=0.8, tolerated_area=0.01)
    calibration = calibrate(detector, good, options=options)
    kept = {field.name: getattr(calibration, field.name) for field in dataclasses.fields(Aim)}
    assert kept == {field.name: getattr(options, field.name) for field in dataclasses.fields(Aim)}


def test_bad_images_are_left_out_and_named(detector, good, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    images = [*good, tmp_path / "broken.png", tmp_path / "gone.png", grey(99), grey(13)]
    calibration = calibrate(detector, images, options=CalibrateOptions(batch_size=24))
    assert calibration.threshold == calibrate(detector, good).threshold
    assert "broken.png" in calibration.warnings[-1]
    assert calibration.warnings[-1].endswith("and 3 more")


def test_a_mask_of_another_size_leaves_the_score_of_its_image(detector, good):
    calibration = calibrate(
        detector,
        good,
        [grey(200), grey(210)],
        masks=[np.ones((3, 3)), None],
        options=CalibrateOptions(rule="f1"),
    )
    assert len(calibration.anomalous_scores) == 2
    assert "(3, 3)" in calibration.warnings[-1]


def test_copies_and_references_are_left_out(detector, good):
    detector.reference_fingerprints = (image_fingerprint(good[0]),)
    calibration = calibrate(detector, [*good, good[5]])
    assert len(calibration.normal_scores) == 19
    assert calibration.warnings[1:] == (
        "1 copy of other images left out",
        "1 image left out: already among the references of the detector",
    )


def test_methods_that_score_together_get_one_batch_and_a_warning(small_clip, good):
    detector = FakeDetector(small_clip, joint=True)
    calibration = calibrate(detector, good, options=CalibrateOptions(batch_size=2))
    assert detector.calls == [(20, "object")]
    assert any("scores images together" in warning for warning in calibration.warnings)


def test_settings_and_references_decide_whether_images_are_scored_together(make_small_clip, noise):
    kwargs = {"checkpoint": "fresh", "device": "cpu", "few_shot_score": "batch"}
    together = zsad.load("april_gan", make_small_clip(layers=4), **kwargs)
    together.is_trained = True
    examples = [Example(picture) for picture in noise[1:]]
    options = CalibrateOptions(batch_size=2)
    assert not measure(together, examples, options).is_joint
    together.set_references(noise[:1])
    few_shot = [one.score for one in measure(together, examples, options).images]
    assert few_shot == [each.score for each in together.predict(noise[1:])]


def test_the_class_name_is_kept_where_it_matters(small_clip, good):
    assert (
        calibrate(FakeDetector(small_clip), good, options=CalibrateOptions(class_name="nut")).class_name
        is None
    )
    named = calibrate(
        FakeDetector(small_clip, uses_class_names=True), good, options=CalibrateOptions(class_name="nut")
    )
    assert named.decision.is_for("nut")
    assert not named.decision.is_for("bottle")


def test_the_score_scale(detector, good):
    calibration = calibrate(detector, good)
    scale = calibration.scale
    assert scale.relative(calibration.threshold, calibration.threshold) == 0.5
    assert scale.relative(
        float(np.median(calibration.normal_scores)), calibration.threshold
    ) == pytest.approx(0.1)
    steps = np.linspace(0, 1, 50)
    values = [scale.relative(score, calibration.threshold) for score in steps]
    assert values == sorted(values)
    assert 0 <= values[0] < values[-1] <= 1
    assert [scale.p_value(score) for score in (0.0, 30.5 / 255, 1.0)] == [1.0, 15 / 21, 1 / 21]
    prediction = Prediction(
        0.9, np.zeros((2, 2), np.float32), np.zeros((2, 2, 3), np.uint8), score_scale=scale
    )
    assert prediction.relative_score is None  # no threshold
    assert dataclasses.replace(prediction, threshold=0.9).relative_score == 0.5
    assert Prediction(0.9, prediction.anomaly_map, prediction.image).p_value is None


def test_a_scale_below_the_median_is_the_range():
    calibration = Calibration(
        rule="f1",
        threshold=0.1,
        map_rule="rate",
        map_threshold=0.5,
        normal_scores=(0.2, 0.4),
        anomalous_scores=(0.05, 0.6),
    )
    assert calibration.scale == ScoreScale(pytest.approx(0.55), (0.2, 0.4))


def test_it_knows_its_images(detector, good):
    calibration = calibrate(detector, good)
    assert calibration.saw(good[3])
    assert not calibration.saw(grey(99))
    marks = {image_fingerprint(good[0]), image_fingerprint(grey(1))}
    assert calibration.overlap(marks) == {image_fingerprint(good[0])}


def test_file_round_trip(detector, good, tmp_path):
    calibration = calibrate(
        detector, good, [grey(200)], options=CalibrateOptions(rule="f1", class_name="nut")
    )
    path = write_calibration(calibration, tmp_path / "deep" / "c.json")
    assert read_calibration(path) == calibration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nothing", "not a calibration of zsad"),
        ("[]", "not a calibration of zsad"),
        ("{}", "is not a calibration of zsad"),
        ({"zsad_calibration": 3}, "newer than this"),
        ({"threshold": None}, "threshold must be a number, got None"),
        ({"threshold": float("nan")}, "threshold must be a number, got nan"),
        ({"normal_scores": []}, "at least one"),
        ({"rule": "guess"}, "rule must be 'rate' or 'f1' or 'cost', got 'guess'"),
        ({"map_rule": "cost"}, "map_rule must be 'rate' or 'f1', got 'cost'"),
        ({"confidence": 2}, "confidence is a probability"),
        ({"surprise": 1}, "damaged"),
        ({"false_alarm_rate": float("nan")}, r"c\.json: false_alarm_rate must be a number, got nan"),
        ({"false_alarm_rate": "0.05"}, "false_alarm_rate must be a number, got '0.05'"),
        ({"normal_scores": [0.2, 0.1]}, "normal_scores of a calibration must be in rising order"),
        ({"settings": {"config": []}}, "settings.config of a calibration must be a mapping"),
        ({"zsad_calibration": True}, "is not a calibration of zsad"),
        ({"settings": 3}, "damaged"),
    ],
)
def test_damaged_files(detector, good, tmp_path, change, message):
    text = change
    if isinstance(change, dict):
        text = json.dumps({**calibrate(detector, good).to_dict(), **change})
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_calibration(tmp_path / "c.json")


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_calibration(tmp_path / "c.json")


@pytest.fixture
def noise():
    generator = np.random.default_rng(5)
    return [generator.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8) for i in range(6)]


@pytest.mark.parametrize("method", ["clip_ac", "winclip"])
def test_a_checkpoint_without_tensors_decides(method, make_small_clip, noise, tmp_path):
    detector = zsad.load(method, make_small_clip())
    assert detector.predict(noise[0]).is_anomalous is None
    before = detector.predict(noise)
    calibration = calibrate(
        detector, noise[:4], options=CalibrateOptions(false_alarm_rate=0.1, class_name="nut")
    )
    path = detector.apply_calibration(calibration).save(tmp_path / "mine.safetensors")
    again = zsad.load(backbone=make_small_clip(), checkpoint=path)
    assert again.calibration == calibration
    assert read_calibration(path) == calibration
    predictions = again.predict(noise, classes="nut")
    assert [p.is_anomalous for p in predictions[:4]] == [False] * 4
    assert not any(p.mask().any() for p in predictions[:4])
    assert all(p.relative_score < 0.5 and 0 < p.p_value <= 1 for p in predictions[:4])
    default = [p.score for p in again.predict(noise)]  # the calibration's class name
    assert default == pytest.approx([p.score for p in predictions])
    assert [p.score for p in again.predict(noise, classes="object")] == pytest.approx(
        [p.score for p in before]
    )
    assert again.predict(noise[0], classes="screw").threshold is None
    bare = zsad.load(backbone=make_small_clip(), checkpoint=path, calibration="none")
    assert (bare.threshold, bare.map_threshold, bare.calibration) == (None, None, None)


@pytest.mark.parametrize("name", ["threshold", "map_threshold"])
def test_a_threshold_set_by_hand_drops_the_calibration(make_small_clip, noise, tmp_path, name):
    detector = zsad.load("clip_ac", make_small_clip())
    detector.apply_calibration(calibrate(detector, noise, options=CalibrateOptions(class_name="nut")))
    score = detector.predict(noise[0]).score
    setattr(detector, name, 0.75)
    again = zsad.load(backbone=make_small_clip(), checkpoint=detector.save(tmp_path / "mine.safetensors"))
    assert again.decision == detector.decision
    for each in (detector, again):
        prediction = each.predict(noise[0])
        assert getattr(prediction, name) == 0.75
        assert each.calibration is None
        assert prediction.score_scale is None
        assert prediction.score == pytest.approx(score)  # still the prompts of the class name
        assert each.predict(noise[0], classes="screw").threshold is None


def test_another_decision_leaves_the_detector_as_it_is(make_small_clip, noise):
    detector = zsad.load("clip_ac", make_small_clip())
    detector.apply_calibration(calibrate(detector, noise))
    other = detector.with_decision(detector.decision.with_thresholds(map_threshold=0.9))
    assert other.predict(noise[0]).map_threshold == 0.9
    assert other.predict(noise[0]).threshold == detector.threshold == detector.calibration.threshold
    assert other.calibration == detector.calibration
    assert detector.map_threshold == detector.calibration.map_threshold != 0.9


def test_another_detector_is_refused_by_name(make_small_clip, noise):
    detector = zsad.load("winclip", make_small_clip(), scales=(2,))
    calibration = calibrate(detector, noise)
    cases = {
        "method 'winclip', and this detector has 'clip_ac'": zsad.load("clip_ac", make_small_clip()),
        "backbone 'small', and this detector has 'other'": zsad.load(
            "winclip", make_small_clip(name="other"), scales=(2,)
        ),
        "image size 32, and this detector has 40": zsad.load(
            "winclip", make_small_clip(), image_size=40, scales=(2,)
        ),
        r"scales \[2\], and this detector has \[3\]": zsad.load("winclip", make_small_clip(), scales=(3,)),
        "precision 'float32', and this detector has 'bfloat16'": zsad.load(
            "winclip", make_small_clip(), scales=(2,), precision="bf16"
        ),
        "digest": zsad.load("winclip", make_small_clip(seed=1), scales=(2,)),
        "reference images none": zsad.load("winclip", make_small_clip(), scales=(2,), references=noise[:1]),
    }
    for message, other in cases.items():
        with pytest.raises(ConfigError, match=message):
            other.apply_calibration(calibration)
        assert other.threshold is None
    zsad.load("winclip", make_small_clip(), scales=(2,)).apply_calibration(calibration)


def test_a_calibration_alone_tells_what_to_load(make_small_clip, noise, tmp_path):
    detector = zsad.load("winclip", make_small_clip(), scales=(2,), image_size=40)
    path = write_calibration(calibrate(detector, noise), tmp_path / "c.json")
    again = zsad.load(backbone=make_small_clip(), calibration=path)
    assert again.method.INFO.name == "winclip"
    assert again.image_size == 40
    assert again.threshold == read_calibration(path).threshold
    with pytest.raises(ConfigError, match="image size 40, and this detector has 32"):
        zsad.load(backbone=make_small_clip(), calibration=path, image_size=32)


def test_other_references_take_the_calibration_off(make_small_clip, noise):
    detector = zsad.load("winclip", make_small_clip(), scales=(2,), references=noise[:1])
    detector.apply_calibration(calibrate(detector, noise))
    assert len(detector.calibration.normal_scores) == 5
    detector.set_references(noise[1:2])
    assert detector.calibration is None
    assert detector.predict(noise[3]).is_anomalous is None


def test_learnt_weights_are_part_of_the_settings(make_small_clip):
    detector = zsad.load("anomalyclip", make_small_clip(), checkpoint="fresh")
    before = detector.scoring_settings()["weights"]
    with torch.no_grad():
        next(iter(detector.method.trainable()))[1].add_(1)
    assert detector.scoring_settings()["weights"] != before


def test_training_outdates_a_calibration(make_small_clip, noise, tmp_path):
    detector = zsad.load("anomalyclip", make_small_clip(), checkpoint="fresh")
    detector.is_trained = True
    detector.apply_calibration(calibrate(detector, noise))
    with torch.no_grad():
        next(iter(detector.method.trainable()))[1].add_(1)
    again = zsad.load(backbone=make_small_clip(), checkpoint=detector.save(tmp_path / "new.safetensors"))
    assert (again.calibration, again.threshold, again.map_threshold) == (None, None, None)


def test_a_calibration_alone_brings_state_words(make_small_clip, noise, tmp_path):
    words = parse_state_words("cracked,corroded")
    detector = zsad.load("clip_ac", make_small_clip(), state_words=words)
    path = write_calibration(calibrate(detector, noise), tmp_path / "c.json")
    assert zsad.load(backbone=make_small_clip(), calibration=path).method.config == detector.method.config


def test_a_checkpoint_without_calibration_is_no_calibration(make_small_clip, tmp_path):
    path = zsad.load("clip_ac", make_small_clip()).save(tmp_path / "plain.safetensors")
    with pytest.raises(DataError, match="holds no calibration"):
        read_calibration(path)
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError):
        read_calibration(tmp_path / "x.safetensors")


def test_fingerprints_are_of_the_pixels(tmp_path):
    image = grey(5, spot=9)
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(image).save(tmp_path / "b.bmp")
    marks = {image_fingerprint(np.asarray(Image.open(tmp_path / name))) for name in ("a.png", "b.bmp")}
    assert marks == {image_fingerprint(image)}
    assert image_fingerprint(image.reshape(4, 16, 3)) not in marks


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "10" * 300])
def test_no_number_of_a_calibration_may_be_undefined(tmp_path, text):
    values = {
        "zsad_calibration": 1,
        "threshold": 0.5,
        "map_rule": "rate",
        "map_threshold": 0.5,
        "normal_scores": [0.1, 0.2],
        "anomalous_scores": [0.3],
        "false_alarm_rate": 0.05,
        "confidence": 0.95,
        "tolerated_area": 0.0,
        "settings": {"image_size": 32, "config": {"sigma": 4.0}},
    }
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(values))
    assert read_calibration(path).threshold == 0.5
    good = json.dumps(values)
    for number in re.finditer(r"\d+\.\d+|32", good):
        path.write_text(f"{good[: number.start()]}{text}{good[number.end() :]}")
        with pytest.raises(DataError) as caught:
            read_calibration(path)
        assert str(caught.value).startswith(str(path))
        assert "must be a" in str(caught.value)
