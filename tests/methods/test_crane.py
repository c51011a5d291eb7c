"""Crane and Crane+ against the numbers of the authors' code (tests/golden/crane.npz)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import zsad
from helpers.clip_shapes import with_layers
from helpers.golden_checks import LEARNING_RATE, check_gradients, check_parameters, close, near
from zsad.errors import ConfigError, WeightsError
from zsad.methods.crane import Config, Crane
from zsad.methods.functional.dinov2 import imagenet_normalised
from zsad.methods.functional.similarity import cosine_similarity
from zsad.methods.prompts.context_token import encode_with_images

ALL_LAYERS = (6, 12, 18, 24)
ALIASING = {"crane": "as_published", "crane_clone": "fixed", "train": "as_published", "train_clone": "fixed"}
PLUS = {"dino_model": "dinov2", "dattn_mean": "batch", "soft_mean": False}
RECORDED = ("ctx_pos", "ctx_neg", *(f"compound_prompts_text.{index}" for index in (0, 3, 7)))


@pytest.fixture(scope="module")
def official_file(golden_path):
    return torch.load(golden_path / "crane_official.pth", weights_only=True)


@pytest.fixture
def build(official_file, golden_clip, golden):
    """Makes the method with the authors' weights on the golden CLIP, and the recorded DINO features."""

    def make(**settings):
        method = Crane(golden_clip, Config(**settings))
        method.load_official(official_file)
        recorded = torch.as_tensor(golden("crane")["dattn.dino_features"])
        method.vfm = lambda images: recorded[: len(images)]
        return method

    return make


def scored(method, images):
    return method.score(method.features(images), method.prepare(["object"]))


@pytest.mark.parametrize("prefix", ["crane", "crane_clone"])
def test_scores_and_maps(build, golden_inputs, golden, prefix):
    expected = golden("crane")
    images, aliasing = golden_inputs["images"], ALIASING[prefix]
    method = build(layer_aliasing=aliasing)
    assert method.config.features_list == ALL_LAYERS
    features, state = method.features(images), method.prepare(["object"])
    raw = method.score(features, state)
    close(raw.scores, expected[f"{prefix}.scores"], atol=1e-5)
    close(raw.maps, expected[f"{prefix}.map_soft_mean_gauss4"], atol=1e-5)
    near(features.image_features, expected[f"{prefix}.image_features_raw"])
    close(F.normalize(state.text_features, dim=-1), expected[f"{prefix}.text_features"], atol=1e-5)
    for index, layer in enumerate(method.eattn_layers):
        position = ALL_LAYERS.index(layer)
        near(features.patch_features[:, index], expected[f"{prefix}.patch_features_raw.{position}"])
    for settings, name in (({}, "map_soft_mean"), ({"soft_mean": False}, "map_mean_logits")):
        found = scored(build(layer_aliasing=aliasing, sigma=0.0, **settings), images)
        close(found.maps, expected[f"{prefix}.{name}"], atol=1e-5)
    plain = scored(build(layer_aliasing=aliasing, use_scorebase_pooling=False), images)
    close(plain.scores, expected[f"{prefix}.scores_nopooling"], atol=1e-5)


@pytest.mark.parametrize("prefix", ["crane", "crane_clone"])
def test_the_image_in_the_prompts_at_test(build, golden_inputs, golden, prefix):
    expected = golden("crane")
    method = build(layer_aliasing=ALIASING[prefix], img_cls_at_test=True)
    raw = scored(method, golden_inputs["images"])
    close(raw.scores, expected[f"{prefix}_context.scores"], atol=1e-5)
    close(raw.maps, expected[f"{prefix}_context.map_soft_mean_gauss4"], atol=1e-5)


@pytest.mark.parametrize("kind", ["vv", "qq", "kk", "qq+kk", "(q+k+v)^2"])
def test_other_attention(build, golden_inputs, golden, kind):
    expected = golden("crane")
    method = build(attn_type=kind, features_list=(24,), sigma=0.0)
    features = method.features(golden_inputs["images"])
    near(features.patch_features[:, 0], expected[f"attn_{kind}.patch_features_raw_24"])
    maps = method.score(features, method.prepare(["object"])).maps
    close(maps, expected[f"attn_{kind}.map_soft_mean"], atol=1e-5)


def test_crane_plus(build, golden_inputs, golden):
    expected = golden("crane")
    images = golden_inputs["images"]
    method = build(**PLUS)
    assert method.config.features_list == (24,)
    features = method.features(images)
    for index in range(2):
        near(features.patch_features[:, index], expected[f"dattn.patch_features_raw.{index}"])
    raw = method.score(features, method.prepare(["object"]))
    close(raw.scores, expected["dattn.scores"], atol=1e-5)
    close(raw.maps, expected["dattn.map_mean_logits_gauss4"], atol=1e-5)
    soft = scored(build(**{**PLUS, "soft_mean": True}), images)
    close(soft.maps, expected["dattn.map_soft_mean_gauss4"], atol=1e-5)


def test_the_mean_of_each_image(build, golden_inputs, golden):
    expected = golden("crane")
    method = build(**{**PLUS, "dattn_mean": "picture"})
    raw = scored(method, golden_inputs["images"])
    close(raw.scores, expected["dattn_single.scores"], atol=1e-5)
    close(raw.maps, expected["dattn_single.map_mean_logits_gauss4"], atol=1e-5)


def test_what_the_other_network_is_given(build, golden_inputs, golden):
    expected = golden("crane")
    given = []
    method = build(**PLUS)
    recorded = method.vfm
    method.vfm = lambda images: given.append(images) or recorded(images)
    method.features(golden_inputs["images"])
    close(given[0], expected["dattn.dino_input"], atol=1e-5)


@pytest.mark.parametrize(
    ("prefix", "half"),
    [("train", True), ("train", False), ("train_clone", True), ("train_clone", False), ("train_dattn", False)],
)
def test_training(build, golden_inputs, golden, prefix, half):
    expected = golden("crane")
    settings = PLUS if prefix == "train_dattn" else {"layer_aliasing": ALIASING[prefix]}
    method = build(round_prompts_to_half=half, **settings)
    prefix = prefix if half else f"{prefix}_nohalf"
    parameters = dict(method.trainable())
    recorded = {name: parameters[name] for name in RECORDED}
    optimiser = torch.optim.Adam(parameters.values(), lr=LEARNING_RATE, betas=method.TRAINING.betas)
    for step in (1, 2, 3):
        terms = method.loss(golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"])
        total, at = sum(terms.values()), f"{prefix}.step{step}"
        close(total, expected[f"{at}.loss_total"], rtol=1e-5 if step == 1 else 1e-4)
        if step == 1:
            close(terms["focal"], 2 * expected[f"{at}.loss_focal"].sum(), rtol=1e-5)
            close(terms["dice"], 2 * expected[f"{at}.loss_dice"].sum(), rtol=1e-5)
            close(terms["image"], 0.2 * expected[f"{at}.loss_image"], rtol=1e-5)
        optimiser.zero_grad()
        total.backward()
        if step == 1:
            check_gradients(recorded, expected, f"{prefix}.grad1", half)
        optimiser.step()
        if step != 2:
            check_parameters(recorded, expected, f"{prefix}.after{step}", step)
