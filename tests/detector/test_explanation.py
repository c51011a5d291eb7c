"""`Prediction.explain` against a naive re-computation, and everything that it refuses."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import zsad
from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError
from zsad.images.preparing import Preparation, prepare
from zsad.methods.prompts.templates import NORMAL_STATES, WINCLIP_TEMPLATES, average_vector, state_of
from zsad.types import Prediction

PHRASES = ["cracked", "a scratch", "{} with stains"]
SENTENCE_PARTS = {"cracked": "cracked nut", "a scratch": "nut with a scratch", PHRASES[2]: "nut with stains"}


@pytest.fixture
def detector(small_clip):
    return zsad.load("clip_ac", backbone=small_clip, device="cpu")


def unit(vector):
    return vector / np.linalg.norm(vector)


def text_vector(clip, parts):
    sentences = [template.replace("{}", part) for part in parts for template in WINCLIP_TEMPLATES]
    with torch.no_grad():
        vectors = clip.encode_text(tokenize(sentences)).double().numpy()
    return unit(np.mean([unit(vector) for vector in vectors], axis=0))


def patch_vectors(clip, image):
    """(4, 4, E): the last two blocks of three have a value-value stream, as 19 of 24 have in the paper."""
    from PIL import Image

    preparation = Preparation(32, clip.record.mean, clip.record.std)
    images = torch.from_numpy(prepare(Image.fromarray(image), preparation))[None]
    with torch.no_grad():
        tokens = clip.visual(images, taps=(3,), value_value_from=2).value_tokens[3]
        return clip.visual.project(tokens[:, 1:]).double().numpy().reshape(4, 4, -1)


def naive(clip, image, weights, class_name="nut"):
    """Similarities by loops over patches; `weights` is (4, 4)."""
    patches = patch_vectors(clip, image)
    normal = text_vector(clip, [state.replace("{}", class_name) for state in NORMAL_STATES])
    result = {}
    for phrase in PHRASES:
        words = text_vector(clip, [SENTENCE_PARTS[phrase].replace("nut", class_name)])
        inside = outside = inside_weight = outside_weight = 0.0
        for row in range(4):
            for column in range(4):
                patch, weight = unit(patches[row, column]), weights[row, column]
                gain = patch @ words - patch @ normal
                inside, inside_weight = inside + weight * gain, inside_weight + weight
                outside, outside_weight = outside + (1 - weight) * gain, outside_weight + 1 - weight
        rest = outside / outside_weight if outside_weight else 0.0
        result[phrase] = inside / inside_weight - rest
    return result


def check(rows, expected, scale):
    assert {row.phrase: row.similarity for row in rows} == pytest.approx(expected, abs=2e-6)
    assert [row.phrase for row in rows] == sorted(expected, key=lambda phrase: -expected[phrase])
    total = sum(np.exp(scale * value) for value in expected.values())
    shares = {phrase: np.exp(scale * value) / total for phrase, value in expected.items()}
    assert {row.phrase: row.share for row in rows} == pytest.approx(shares, abs=1e-4)


def block_means(values):
    """(4, 4) means of the 8 x 8 blocks of a 32 x 32 array."""
    return np.array(
        [[values[8 * r : 8 * r + 8, 8 * c : 8 * c + 8].mean() for c in range(4)] for r in range(4)]
    )


@pytest.mark.parametrize("where", ["map", "mask", "region", "weights", "everywhere"])
def test_the_naive_similarity(detector, small_clip, uint8_images, where):
    prediction = detector.predict(uint8_images[1], classes="nut")
    values = prediction.anomaly_map.astype(float)
    region = None
    weights = block_means((values - values.min()) / (values.max() - values.min()))
    if where == "mask":
        detector.map_threshold = float(np.quantile(values, 0.7))
        prediction = detector.predict(uint8_images[1], classes="nut")
        weights = block_means((values >= detector.map_threshold).astype(float))
    elif where == "region":
        region = np.zeros((32, 32), bool)
        region[3:13, 5:30] = True
        weights = block_means(region.astype(float))
    elif where == "weights":
        region = np.random.default_rng(1).random((32, 32))
        weights = block_means(region)
    elif where == "everywhere":
        region = np.ones((32, 32), np.uint8)
        weights = np.ones((4, 4))
    scale = float(small_clip.logit_scale.detach().exp())
    check(prediction.explain(PHRASES, region), naive(small_clip, uint8_images[1], weights), scale)


def test_a_mask_that_marks_nothing_is_passed_over(detector, uint8_images):
    expected = detector.predict(uint8_images[1]).explain(PHRASES)
    detector.map_threshold = 2.0
    assert detector.predict(uint8_images[1]).explain(PHRASES) == expected


def test_the_class_name_is_in_the_sentences(detector, small_clip, uint8_images):
    region = np.zeros((32, 32))
    region[:8] = 1
    found = detector.predict(uint8_images[1]).explain(PHRASES, region)
    scale = float(small_clip.logit_scale.detach().exp())
    check(found, naive(small_clip, uint8_images[1], block_means(region), "object"), scale)


def test_a_planted_defect_is_named(detector, small_clip, uint8_images, monkeypatch):
    """Where the region's patches are the vector of a phrase, that phrase wins."""
    prediction = detector.predict(uint8_images[0], classes="nut")
    region = np.zeros(prediction.anomaly_map.shape, bool)
    region[:20, :16] = True
    planted = average_vector(small_clip, [t.replace("{}", "nut with a scratch") for t in WINCLIP_TEMPLATES])
    normal = average_vector(small_clip, [t.replace("{}", "nut") for t in WINCLIP_TEMPLATES])
    patches = normal.expand(4, 4, -1).clone()
    patches[:2, :2] = planted
    monkeypatch.setattr(prediction.ranker, "_patches", lambda image: patches.flatten(0, 1))
    rows = prediction.explain(PHRASES, region)
    assert rows[0].phrase == "a scratch"
    assert sum(row.share for row in rows) == pytest.approx(1)


def test_texts_are_encoded_once(detector, small_clip, uint8_images, monkeypatch):
    first, second = detector.predict(uint8_images[:2])
    expected = second.explain(PHRASES)
    first.explain(PHRASES)
    monkeypatch.setattr(small_clip, "encode_text", lambda *_: pytest.fail("encoded again"))
    again = second.explain(PHRASES[::-1])
    assert [row.phrase for row in again] == [row.phrase for row in expected]


@pytest.mark.parametrize("method", ["anomalyclip", "winclip"])
def test_other_methods_on_the_shipped_backbone(method, uint8_images):
    rows = zsad.load(method, device="cpu").predict(uint8_images[0]).explain(["cracked", "stained"])
    assert sorted(row.phrase for row in rows) == ["cracked", "stained"]


def test_low_precision(uint8_images, small_clip):
    detector = zsad.load("clip_ac", backbone=small_clip, device="cpu", precision="bf16")
    assert len(detector.predict(uint8_images[0]).explain(PHRASES)) == 3


@pytest.mark.parametrize("again", [lambda p: pickle.loads(pickle.dumps(p)), copy.copy, copy.deepcopy])
def test_results_stay_plain(detector, uint8_images, again):
    prediction = detector.predict(uint8_images[0])
    assert len(pickle.dumps(prediction)) < 4 * prediction.image.size + 8 * prediction.anomaly_map.size
    twin = again(prediction)
    np.testing.assert_array_equal(twin.anomaly_map, prediction.anomaly_map)
    assert "ranker" not in repr(prediction)
    if again is not copy.copy:
        with pytest.raises(ConfigError, match=r"zsad\.load"):
            twin.explain(PHRASES)


def test_a_prediction_without_a_network():
    prediction = Prediction(0.5, np.zeros((4, 4), np.float32), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"zsad\.load"):
        prediction.explain(["cracked"])


def test_a_flat_map_takes_the_whole_image(detector, uint8_images):
    from dataclasses import replace

    prediction = replace(detector.predict(uint8_images[1]), anomaly_map=np.full((32, 32), 0.3, np.float32))
    assert prediction.explain(PHRASES) == prediction.explain(PHRASES, np.ones((32, 32)))


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        ("cracked", "list"),
        ([], "at least one"),
        (["cracked", " "], "words"),
        (["{}"], "words"),
        ([3], "words"),
        (["{} or {}"], "once"),
        (["cracked", "cracked "], "again"),
    ],
)
def test_impossible_phrases(detector, uint8_images, phrases, message):
    with pytest.raises(ConfigError, match=message):
        detector.predict(uint8_images[1]).explain(phrases)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (np.ones((8, 8)), r"\(32, 32\)"),
        (np.zeros((32, 32), bool), "empty"),
        (np.full((32, 32), 255, np.uint8), "0 to 1"),
        (np.full((32, 32), np.nan), "0 to 1"),
        (np.full((32, 32), "x"), "0 to 1"),
    ],
)
def test_impossible_regions(detector, uint8_images, region, message):
    with pytest.raises(ConfigError, match=message):
        detector.predict(uint8_images[1]).explain(PHRASES, region)


def test_a_map_that_is_not_finite(detector, uint8_images):
    from dataclasses import replace

    prediction = replace(detector.predict(uint8_images[1]), anomaly_map=np.full((32, 32), np.nan, np.float32))
    with pytest.raises(ConfigError, match="finite"):
        prediction.explain(PHRASES)


@pytest.mark.parametrize(
    ("phrase", "state"), [("An oil stain", "{} with An oil stain"), ("without gloss", "{} without gloss")]
)
def test_states(phrase, state):
    assert state_of(phrase) == state
