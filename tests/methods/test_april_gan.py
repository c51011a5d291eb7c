"""APRIL-GAN against the numbers of the authors' code (tests/golden/april_gan.npz)."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

import zsad
from zsad.errors import ConfigError, WeightsError
from zsad.methods import april_gan
from zsad.methods.april_gan import AprilGAN, Config, batch_scores
from zsad.methods.base import Support
from zsad.methods.functional.similarity import cosine_similarity

LAYERS = (6, 12, 18, 24)
CLASSES = ["candle", "metal nut", "pcb-1"]
VARIANTS = [("size70", 70, "gelu"), ("size56", 56, "quick_gelu")]


@pytest.fixture(scope="module")
def official_path(golden_path):
    return golden_path / "april_gan_official.pth"


@pytest.fixture(scope="module")
def encoded(official_path, make_golden_clip):
    """By activation, the method with the authors' weights on the golden CLIP; it keeps the text vectors."""
    methods = {}
    for _, _, activation in VARIANTS:
        methods[activation] = AprilGAN(make_golden_clip(), Config(activation=activation))
        methods[activation].load_official(torch.load(official_path, weights_only=True))
        methods[activation].prepare(CLASSES)
    return methods


@pytest.fixture
def build(encoded):
    """Makes a copy that a test may train or change."""

    def make(activation="gelu", **settings):
        method = copy.deepcopy(encoded[activation])
        method.config = dataclasses.replace(method.config, **settings)
        return method

    return make


@pytest.fixture(scope="module")
def openai_file(make_golden_clip, tmp_path_factory):
    """The golden weights as a file of OpenAI's layout."""
    path = tmp_path_factory.mktemp("weights") / "golden.pt"
    torch.save(make_golden_clip().state_dict(), path)
    return path


def close(found, expected, rtol=0.0, atol=0.0):
    torch.testing.assert_close(found.detach(), torch.as_tensor(expected), rtol=rtol, atol=atol)


def near(found, expected):
    """The tolerance for features: relative 1e-4, absolute 2e-5 of the largest value."""
    close(found, expected, rtol=1e-4, atol=2e-5 * float(abs(expected).max()))


def images_of(inputs, size):
    """The golden images, cut to their middle for the native size."""
    border = (inputs["images"].shape[-1] - size) // 2
    return inputs["images"][..., border : border + size, border : border + size]


@pytest.mark.parametrize(("prefix", "size", "activation"), VARIANTS, ids=str)
def test_features_scores_and_maps(build, golden_inputs, golden, prefix, size, activation):
    expected = golden("april_gan")
    method = build(activation=activation)
    assert method.layers == LAYERS
    state = method.prepare(CLASSES)
    for index, name in enumerate(CLASSES):
        near(state.text_features[index].T, expected[f"{prefix}.text_features.{name}"])
    features = method.features(images_of(golden_inputs, size))
    near(features.image_features, expected[f"{prefix}.image_features_raw"])
    logits = 100 * cosine_similarity(method.adapters(features.patch_tokens), state.text_features)
    maps = method._probability_maps(features, state.text_features)
    for index, layer in enumerate(LAYERS):
        if f"{prefix}.tokens.{layer}" in expected:
            near(features.patch_tokens[:, index], expected[f"{prefix}.tokens.{layer}"][:, 1:])
        close(logits[:, index], expected[f"{prefix}.logits.{layer}"], rtol=1e-4, atol=1e-3)
        close(maps[:, index, 1], expected[f"{prefix}.layer_map.{layer}"], atol=1e-4)
    raw = method.score(features, state)
    close(raw.scores, expected[f"{prefix}.scores"], atol=1e-4)
    close(raw.maps, expected[f"{prefix}.map"], atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*treated as OpenAI")
@pytest.mark.parametrize(("prefix", "size", "activation"), VARIANTS, ids=str)
def test_from_files_at_both_sizes(
    openai_file, official_path, golden_inputs, golden, prefix, size, activation
):
    """The activation follows from the image size, as in the authors' code."""
    expected = golden("april_gan")
    detector = zsad.load("april_gan", openai_file, official_path, image_size=size, device="cpu")
    assert detector.method.config.activation == activation
    raw = detector.score_tensors(images_of(golden_inputs, size)[:1], CLASSES[0])
    close(raw.scores, expected[f"{prefix}.scores"][:1], atol=1e-4)
    close(raw.maps, expected[f"{prefix}.map"][:1], atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*treated as OpenAI")
def test_the_activation_is_saved_and_a_setting_wins(openai_file, official_path, tmp_path):
    trained = zsad.load("april_gan", openai_file, official_path, image_size=70, device="cpu")
    path = trained.save(tmp_path / "saved.safetensors")
    again = zsad.load(checkpoint=path, backbone=openai_file, image_size=56, device="cpu")
    assert again.method.config.activation == "gelu"
    chosen = zsad.load(
        "april_gan", openai_file, "fresh", image_size=70, device="cpu", activation="quick_gelu"
    )
    assert chosen.method.config.activation == "quick_gelu"
    assert chosen.backbone.visual.transformer.blocks()[0].mlp.activation == "quick_gelu"


def test_few_shot(build, golden_inputs, golden):
    expected = golden("april_gan")
    method = build()
    images = golden_inputs["images"]
    features = method.features(images)
    plain = method.prepare(CLASSES)
    state = method.prepare(CLASSES, Support(torch.stack([images[0], images[0].flip(-1)])))
    close(method._distance_maps(features, state.memory), expected["size70.fewshot_map"], atol=1e-4)
    zero_shot, few_shot = method.score(features, plain), method.score(features, state)
    close(few_shot.maps, expected["size70.fewshot_total_map"], atol=1e-4)
    peaks = few_shot.maps.amax(dim=(1, 2))
    close(few_shot.scores, (zero_shot.scores + peaks / 8) / 2, atol=1e-6)
    for index in range(3):  # an image's score depends on itself alone
        state = method.prepare(CLASSES[index : index + 1], Support(images[:1]))
        one = method.score(method.features(images[index : index + 1]), state)
        all_at_once = method.score(features, method.prepare(CLASSES, Support(images[:1])))
        close(one.scores[0], all_at_once.scores[index], atol=1e-5)


def test_few_shot_scores_of_a_batch(build, golden_inputs, golden):
    expected = golden("april_gan")
    method = build(few_shot_score="batch")
    images = golden_inputs["images"]
    state = method.prepare(CLASSES, Support(torch.stack([images[0], images[0].flip(-1)])))
    peaks = torch.as_tensor(expected["size70.fewshot_total_map"]).amax(dim=(1, 2))
    normalised = (peaks - peaks.min()) / (peaks.max() - peaks.min())
    scores = method.score(method.features(images), state).scores
    close(scores, 0.5 * (torch.as_tensor(expected["size70.scores"]) + normalised), atol=2e-4)
    with pytest.raises(ConfigError, match="at least 2 at once"):
        method.score(method.features(images[:1]), method.prepare(CLASSES[:1], Support(images[:1])))


def test_a_large_batch_with_its_own_names_in_parts(build, golden_inputs, monkeypatch):
    images = golden_inputs["images"]
    found = []
    for at_once in (8, 2):
        monkeypatch.setattr(april_gan, "IMAGES_AT_ONCE", at_once)
        method = build(few_shot_score="batch")
        found.append(method.score(method.features(images), method.prepare(CLASSES, Support(images[:1]))))
    close(found[0].maps, found[1].maps, atol=1e-5)
    close(found[0].scores, found[1].scores, atol=1e-5)


def test_batch_scores_need_the_whole_batch_only_with_references(make_small_clip, uint8_images):
    detector = zsad.load("april_gan", make_small_clip(), "fresh", device="cpu", few_shot_score="batch")
    detector.is_trained = True
    assert not detector.scores_jointly
    detector.set_references(uint8_images[1:])
    assert detector.scores_jointly
    together = detector.predict([uint8_images[0]] * 17 + [uint8_images[1]])
    assert {round(one.score, 4) for one in together[:17]} == {round(together[0].score, 4)}
    assert together[0].score != pytest.approx(together[17].score)


def test_batch_scores_of_equal_maps_are_finite():
    close(batch_scores(torch.tensor([0.2, 0.4]), torch.ones(2, 4, 4)), torch.tensor([0.1, 0.2]))


def test_a_prediction_knows_the_range_of_few_shot_maps(make_small_clip, uint8_images):
    detector = zsad.load("april_gan", make_small_clip(), "fresh", device="cpu")
    detector.is_trained = True
    assert detector.predict(uint8_images[0]).map_range == (0.0, 3.0)
    detector.set_references(uint8_images[1:])
    prediction = detector.predict(uint8_images[0])
    assert prediction.map_range == (0.0, 6.0)
    assert prediction.anomaly_map.max() <= 6
    assert 0 <= prediction.score <= 1


def test_training(build, golden_inputs, golden):
    expected = golden("april_gan")
    method = build()
    parameters = dict(method.trainable())
    optimiser = torch.optim.Adam(parameters.values(), lr=1e-3, betas=(0.5, 0.999))
    for step in (1, 2, 3):
        terms = method.loss(golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"], CLASSES)
        total = sum(terms.values())
        rtol = 1e-5 if step == 1 else 1e-4
        close(total, expected[f"train.step{step}.loss_total"], rtol=rtol)
        for name in ("focal", "dice_abnormal"):
            close(terms[name], expected[f"train.step{step}.loss_{name}"].sum(), rtol=rtol)
        optimiser.zero_grad()
        total.backward()
        if step == 1:
            for name, parameter in parameters.items():
                gradient = expected[f"train.grad1.{name}"]
                close(parameter.grad, gradient, atol=1e-4 * float(abs(gradient).max()))
        optimiser.step()
        if step in (1, 3):
            differences = torch.cat(
                [
                    (parameter.detach() - torch.as_tensor(expected[f"train.after{step}.{name}"]))
                    .abs()
                    .flatten()
                    for name, parameter in parameters.items()
                ]
            )
            assert (differences > (1e-5 if step == 1 else 1e-4)).float().mean() <= 0.01
            assert differences.max() <= 2 * step * 1e-3  # an entry whose gradient is rounding noise


def test_losses_are_the_same_under_autocast(small_clip):
    method = AprilGAN(small_clip, Config())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    masks = (images[:, 0] > 1).float()
    features = method.features(images)
    exact = method.loss_from_features(features, masks, torch.ones(2))
    with torch.autocast("cpu", torch.bfloat16):
        lower = method.loss_from_features(features, masks, torch.ones(2))
    for name, value in exact.items():
        close(lower[name], value.detach())


def test_a_class_name_matters_and_none_means_object(small_clip):
    method = AprilGAN(small_clip, Config())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    arguments = images, torch.zeros(2, 1, 32, 32), torch.zeros(2)
    unnamed, named, other = (
        method.loss(*arguments, classes)["focal"] for classes in (None, ["object"] * 2, ["screw", "bolt"])
    )
    assert unnamed == named
    assert unnamed != other


def test_blocks_of_other_encoders(make_small_clip):
    assert AprilGAN(make_small_clip(layers=12), Config()).layers == (3, 6, 9, 12)
    assert AprilGAN(make_small_clip(layers=2), Config()).layers == (1, 2)
    assert AprilGAN(make_small_clip(), Config(features_list=(3, 1))).layers == (3, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"features_list": (0,)}, "layers 1 to 3"), ({"features_list": (2, 2)}, "twice")],
)
def test_impossible_blocks(small_clip, settings, message):
    with pytest.raises(ConfigError, match=message):
        AprilGAN(small_clip, Config(**settings))


def test_impossible_temperature():
    with pytest.raises(ConfigError, match="temperature"):
        Config(temperature=0.0)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"epoch": 3, "state_dict": {}},
        {"trainable_linearlayer": 3},
        {"trainable_linearlayer": {}},
        {"trainable_linearlayer": {"fc.0.weight": [1.0]}},
    ],
)
def test_a_foreign_file_is_refused(small_clip, state):
    with pytest.raises(WeightsError, match="APRIL-GAN"):
        AprilGAN(small_clip, Config()).load_official(state)


def test_files_that_do_not_fit_are_refused(make_small_clip, official_path):
    content = torch.load(official_path, weights_only=True)
    with pytest.raises(WeightsError, match="adapters of 4 layers, but features_list names 3"):
        AprilGAN(make_small_clip(), Config()).load_official(content)
    with pytest.raises(WeightsError, match=r"fc.0.bias \(64,\) instead of \(16,\)"):
        AprilGAN(make_small_clip(layers=4), Config()).load_official(content)
    del content["trainable_linearlayer"]["fc.2.bias"]
    with pytest.raises(WeightsError, match=r"missing: fc.2.bias"):
        AprilGAN(make_small_clip(layers=4), Config()).load_official(content)
