"""FAPrompt against the numbers of the authors' code (tests/golden/faprompt.npz)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import zsad
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


def test_the_fixed_selection_takes_the_most_anomalous_patches(build, golden_inputs, golden):
    expected = golden("faprompt")
    method = build(topk_selection="fixed")
    features, state = method.features(golden_inputs["images"]), method.prepare([])
    found = method._two_passes(features, state, state.normal)
    chosen = found.first[..., 1].topk(10, dim=1).indices
    assert (chosen.numpy() == expected["eval.topk_indices"]).all()
    patches = F.normalize(features.patch_features[:, 0], dim=-1)
    selected = method._selected(features.patch_features[:, 0], found.first)
    for image, rows in enumerate(chosen.tolist()):
        assert torch.equal(selected[image], patches[image][rows])


def test_the_prior_counts_normal_images_alone(build, golden_inputs):
    method = build()
    images, masks = golden_inputs["images"], torch.zeros(3, 70, 70)
    features = method.features(images)
    state = method.prepare([])
    bias = method._two_passes(features, state, state.normal).bias.detach().square().mean(dim=-1)
    for labels in ([0, 0, 0], [1, 0, 1], [1, 1, 1]):
        expected = sum(float(each) for each, label in zip(bias, labels, strict=True) if label == 0)
        found = method.loss_from_features(features, masks, torch.tensor(labels))["prior"]
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_weight_of_the_orthogonal_loss(build, golden_inputs):
    arguments = golden_inputs["images"], golden_inputs["masks"][:, 0], golden_inputs["labels"]
    one, two = (build(lambda_orth=weight).loss(*arguments) for weight in (0.1, 0.2))
    close(two["orthogonal"], 2 * one["orthogonal"].detach(), rtol=1e-6)
    assert one["image"] == two["image"]


def test_gradients_reach_the_prompts_and_the_small_network(build, golden_inputs):
    method = build()
    arguments = golden_inputs["images"], golden_inputs["masks"][:, 0], golden_inputs["labels"]
    sum(method.loss(*arguments).values()).backward()
    assert {name for name, _ in method.trainable()} == {
        *RECORDED,
        "patch_meta_net.linear1.weight",
        *(f"compound_prompts_text.{i}" for i in range(8)),
    }
    assert all(parameter.grad is not None for _, parameter in method.trainable())
    assert all(parameter.grad is None for parameter in method.backbone.parameters())


def test_official_config_reads_the_shapes(official_file):
    assert FAPrompt.official_config(official_file) == {
        "n_ctx_pos": 5,
        "n_ctx_neg": 2,
        "num_p": 10,
        "k": 10,
        "depth": 9,
        "t_n_ctx": 4,
    }


def test_every_length_goes_through_an_authors_file(make_small_clip):
    lengths = {"n_ctx_pos": 3, "n_ctx_neg": 1, "num_p": 4, "k": 6, "depth": 2, "t_n_ctx": 2}
    clip = make_small_clip(embed_dim=32)  # as wide as the text encoder, as in the authors' network
    first, second = (FAPrompt(clip, Config(**lengths)) for _ in range(2))
    file = {"prompt_learner": {**first.learned_state(), "token_prefix_pos": torch.zeros(1)}}
    assert FAPrompt.official_config(file) == lengths
    second.load_official(file)
    assert torch.equal(first.prepare([]).abnormal, second.prepare([]).abnormal)


@pytest.mark.parametrize("gone", ["ctx_neg", "patch_meta_net.linear2.bias", "compound_prompts_text.3"])
def test_a_part_of_a_file_is_refused(golden_clip, official_file, gone):
    learner = {name: value for name, value in official_file["prompt_learner"].items() if name != gone}
    with pytest.raises(WeightsError, match=f"FAPrompt.*missing: {gone}"):
        FAPrompt(golden_clip, Config()).load_official({"prompt_learner": learner})


@pytest.mark.parametrize("state", [{}, {"prompt_learner": 3}, {"prompt_learner": {"ctx_pos": [1.0]}}])
def test_a_foreign_file_is_refused(golden_clip, state):
    with pytest.raises(WeightsError, match="FAPrompt"):
        FAPrompt(golden_clip, Config()).load_official(state)


def test_constants_follow_the_number_of_layers(make_small_clip):
    method = FAPrompt(make_small_clip(layers=4, text_layers=3), Config())
    assert (method.config.dpam_layer, method.value_value_from, method.config.depth) == (4, 2, 3)
    paper = Config().resolved(with_layers(24, 12))
    assert (paper.dpam_layer, paper.depth) == (20, 9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_ctx_pos": 0}, "n_ctx_pos 0: use 1 or more"),
        ({"num_p": 0}, "num_p 0: use 1 or more"),
        ({"k": 0}, "k 0: use 1 or more"),
        ({"n_ctx_neg": 70}, "75 context vectors do not fit"),
        ({"depth": 3}, "use 1 to 2"),
        ({"dpam_layer": 5}, r"to 4 \(all layers\)"),
        ({"lambda_orth": -1.0}, "lambda_orth"),
    ],
)
def test_impossible_settings_name_the_range(small_clip, settings, message):
    with pytest.raises(ConfigError, match=message):
        FAPrompt(small_clip, Config(**settings))


def test_more_patches_than_there_are_are_refused(small_clip):
    method = FAPrompt(small_clip, Config(k=17))
    with pytest.raises(ConfigError, match="k 17: the images have 16 patches"):
        method.score(method.features(torch.zeros(1, 3, 32, 32)), method.prepare([]))


def test_the_authors_file_through_the_public_functions(golden_clip, golden_inputs, golden, golden_path):
    expected = golden("faprompt")
    detector = zsad.load(
        "faprompt", golden_clip, golden_path / "faprompt_official.pth", device="cpu", image_size=70
    )
    raw = detector.score_tensors(golden_inputs["images"])
    close(raw.scores, expected["eval.scores"], atol=1e-5)
    close(raw.maps, expected["eval.map_gauss10"], atol=1e-5)
