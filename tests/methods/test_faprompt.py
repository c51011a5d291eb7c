"""FAPrompt against the numbers of the authors' code (tests/golden/faprompt.npz)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from helpers.clip_shapes import with_layers
from helpers.golden_checks import adam, check_gradients, check_parameters, close, near
from zsad.errors import ConfigError, WeightsError
from zsad.methods.faprompt import Config, FAPrompt

RECORDED = (
    "ctx_pos",
    "ctx_neg",
    "compound_prompts_text.0",
    "compound_prompts_text.7",
    "patch_meta_net.linear1.bias",
    "patch_meta_net.linear2.weight",
    "patch_meta_net.linear2.bias",
)


@pytest.fixture(scope="module")
def official_file(golden_path):
    return torch.load(golden_path / "faprompt_official.pth", weights_only=True)


@pytest.fixture
def build(official_file, golden_clip):
    """Makes the method with the authors' weights on the golden CLIP."""

    def make(**settings):
        method = FAPrompt(golden_clip, Config(**settings))
        method.load_official(official_file)
        return method

    return make


@pytest.mark.parametrize(("prefix", "selection"), [("eval", "as_published"), ("eval_topk_fixed", "fixed")])
def test_scores_and_maps(build, golden_inputs, golden, prefix, selection):
    expected = golden("faprompt")
    method = build(topk_selection=selection)
    features = method.features(golden_inputs["images"])
    state = method.prepare(["object"])
    raw = method.score(features, state)
    close(raw.scores, expected[f"{prefix}.scores"], atol=1e-5)
    close(raw.maps, expected[f"{prefix}.map_gauss10"], atol=1e-5)
    for sigma, name in ((4.0, "map_gauss4"), (0.0, "map")):
        other = build(topk_selection=selection, sigma=sigma)
        close(other.score(features, state).maps, expected[f"{prefix}.{name}"], atol=1e-5)
    found = method._two_passes(features, state, state.normal)
    close(found.bias, expected[f"{prefix}.meta_bias"], atol=1e-5)
    selected = method._selected(features.patch_features[:, 0], found.first)
    close(selected, expected[f"{prefix}.selected_tokens"], atol=1e-5)


def test_features_and_both_passes(build, golden_inputs, golden):
    expected = golden("faprompt")
    method = build()
    features, state = method.features(golden_inputs["images"]), method.prepare(["object"])
    near(features.image_features, expected["eval.image_features_raw"])
    near(features.patch_features[:, 0], expected["eval.patch_features_raw"][:, 1:])
    near(state.normal, expected["eval.text_features_normal_raw"][0])
    near(state.abnormal, expected["eval.text_features_abnormal_raw"][0])
    found = method._two_passes(features, state, state.normal)
    close(found.first, expected["eval.similarity_1"][:, 1:], atol=1e-5)
    close(found.second, expected["eval.similarity_2"][:, 1:], atol=1e-5)
    close(found.image_logits.softmax(dim=-1)[:, 1], expected["eval.image_prob"], atol=1e-5)


@pytest.mark.parametrize(
    ("prefix", "half", "selection"),
    [
        ("train", True, "as_published"),
        ("train_nohalf", False, "as_published"),
        ("train_topk_fixed_nohalf", False, "fixed"),
    ],
)
def test_training(build, golden_inputs, golden, prefix, half, selection):
    expected = golden("faprompt")
    method = build(round_prompts_to_half=half, topk_selection=selection)
    parameters = dict(method.trainable())
    recorded = {name: parameters[name] for name in RECORDED}
    optimiser = adam(parameters)
    for step in (1, 2, 3):
        terms = method.loss(golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"])
        total, at = sum(terms.values()), f"{prefix}.step{step}"
        close(total, expected[f"{at}.loss_total"], rtol=1e-5 if step == 1 else 1e-4)
        if step == 1:
            for name in ("focal", "dice_abnormal", "dice_normal"):
                both = expected[f"{at}.loss_{name}_1"] + 0.5 * expected[f"{at}.loss_{name}_2"]
                close(terms[name], both, rtol=1e-5)
            for name, weight in (("image", 1), ("image_focal", 1), ("orthogonal", 0.1), ("prior", 1)):
                close(terms[name], weight * expected[f"{at}.loss_{name}"], rtol=1e-5)
        optimiser.zero_grad()
        total.backward()
        if step == 1:
            check_gradients(recorded, expected, f"{prefix}.grad1", half)
        optimiser.step()
        if step != 2:
            check_parameters(recorded, expected, f"{prefix}.after{step}", step)
