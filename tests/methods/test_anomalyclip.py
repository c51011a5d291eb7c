"""AnomalyCLIP against the numbers of the authors' code (tests/golden/anomalyclip.npz)."""

from __future__ import annotations

import pytest
import torch

from helpers.clip_shapes import with_layers
from helpers.golden_checks import adam, check_gradients, check_parameters, close, near
from zsad.errors import ConfigError, WeightsError
from zsad.methods.anomalyclip import AnomalyCLIP, Config
from zsad.methods.functional.similarity import similarity_softmax

ALL_LAYERS = (6, 12, 18, 24)


@pytest.fixture(scope="module")
def official_file(golden_path):
    return torch.load(golden_path / "anomalyclip_official.pth", weights_only=True)


@pytest.fixture
def build(official_file, golden_clip):
    """Makes the method with the authors' weights on the golden CLIP."""

    def make(**settings):
        method = AnomalyCLIP(golden_clip, Config(**settings))
        method.load_official(official_file)
        return method

    return make


@pytest.mark.parametrize(("prefix", "layers"), [("eval", ALL_LAYERS), ("eval24", (24,))])
def test_scores_and_maps(build, golden_inputs, golden, prefix, layers):
    expected = golden("anomalyclip")
    method = build(features_list=layers)
    features = method.features(golden_inputs["images"])
    state = method.prepare(["object"])
    raw = method.score(features, state)
    close(raw.scores, expected[f"{prefix}.scores"], atol=1e-5)
    close(raw.maps, expected[f"{prefix}.map_gauss"], atol=1e-5)
    patches = similarity_softmax(features.patch_features, state.text_features, 0.07)
    for index, layer in enumerate(layers):
        close(patches[:, index], expected[f"{prefix}.similarity.{layer}"][:, 1:], atol=1e-5)
    unsmoothed = build(features_list=layers, sigma=0.0)
    close(unsmoothed.score(features, state).maps, expected[f"{prefix}.map"], atol=1e-5)


def test_features(build, golden_inputs, golden):
    expected = golden("anomalyclip")
    method = build(features_list=ALL_LAYERS)
    features = method.features(golden_inputs["images"])
    near(method.prepare(["object"]).text_features[0], expected["eval.text_features_raw"])
    near(features.image_features, expected["eval.image_features_raw"])
    for index, layer in enumerate(ALL_LAYERS):
        near(features.patch_features[:, index], expected[f"eval.patch_features_raw.{layer}"][:, 1:])


def test_tokens_are_the_authors(build, golden):
    expected = golden("anomalyclip")
    tokens = build().prompts.learner.tokens
    for row, name in zip(tokens.tolist(), ("normal", "abnormal"), strict=True):
        authors = expected[f"settings.prompt_tokens_{name}"][0, 0].tolist()
        assert row + [0] * (len(authors) - len(row)) == authors


@pytest.mark.parametrize("half", [True, False])
def test_training(build, golden_inputs, golden, half):
    expected = golden("anomalyclip")
    prefix = "train" if half else "train_nohalf"
    method = build(features_list=ALL_LAYERS, round_prompts_to_half=half)
    parameters = dict(method.trainable())
    optimiser = adam(parameters)
    for step in (1, 2, 3):
        terms = method.loss(golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"])
        total = sum(terms.values())
        rtol = 1e-5 if step == 1 else 1e-4
        close(total, expected[f"{prefix}.step{step}.loss_total"], rtol=rtol)
        close(terms["image"], expected[f"{prefix}.step{step}.loss_image"], rtol=rtol)
        for name in ("focal", "dice_abnormal", "dice_normal"):
            close(terms[name], 4 * expected[f"{prefix}.step{step}.loss_{name}"].sum(), rtol=rtol)
        optimiser.zero_grad()
        total.backward()
        if step == 1:
            check_gradients(parameters, expected, f"{prefix}.grad1", half)
        optimiser.step()
        if step != 2:
            check_parameters(parameters, expected, f"{prefix}.after{step}", step)


def test_gradients_reach_the_prompts_alone(build, golden_inputs):
    method = build()
    sum(
        method.loss(golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"]).values()
    ).backward()
    assert {name for name, _ in method.trainable()} == {
        "ctx_pos",
        "ctx_neg",
        *(f"compound_prompts_text.{i}" for i in range(8)),
    }
    assert all(parameter.grad is not None for _, parameter in method.trainable())
    assert all(parameter.grad is None for parameter in method.backbone.parameters())


def test_lam_weighs_the_pixel_losses(build, golden_inputs):
    arguments = golden_inputs["images"], golden_inputs["masks"][:, 0], golden_inputs["labels"]
    one, two = (build(lam=lam).loss(*arguments) for lam in (1.0, 2.0))
    close(one["image"], two["image"].detach())
    close(2 * one["focal"], two["focal"].detach(), rtol=1e-6)


def test_official_config_reads_the_shapes(official_file):
    assert AnomalyCLIP.official_config(official_file) == {"n_ctx": 12, "depth": 9, "t_n_ctx": 4}


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"prompt_learner": 3},
        {"prompt_learner": {"ctx_pos": torch.zeros(1, 1, 12, 64)}},
        {"prompt_learner": {"ctx_pos": [1.0], "ctx_neg": [1.0]}},
        {"epoch": 3, "state_dict": {}},
    ],
)
def test_a_foreign_file_is_refused(golden_clip, state):
    method = AnomalyCLIP(golden_clip, Config())
    with pytest.raises(WeightsError, match="AnomalyCLIP"):
        method.load_official(state)


@pytest.mark.parametrize(
    ("gone", "added", "named"),
    [
        ("ctx_neg", "", "missing: ctx_neg$"),
        ("compound_prompts_text.3", "", r"missing: compound_prompts_text\.3$"),
        ("compound_prompts_text.7", "", r"missing: compound_prompts_text\.7$"),  # the last one
        ("", "head.weight", r"unexpected: head\.weight$"),
        ("ctx_pos", "ctx_global_pos", "missing: ctx_pos; unexpected: ctx_global_pos$"),
    ],
)
def test_a_partial_or_wrong_file_is_refused_by_name(official_file, gone, added, named):
    learner = dict(official_file["prompt_learner"])
    if added:
        learner[added] = torch.zeros(1, 1, 12, 64)
    learner.pop(gone, None)
    with pytest.raises(WeightsError, match=named):
        AnomalyCLIP.official_config({"prompt_learner": learner})


def test_a_file_for_another_width_is_refused(make_small_clip, official_file):
    method = AnomalyCLIP(make_small_clip(text_layers=9), Config())
    with pytest.raises(WeightsError, match=r"compound_prompts_text.0 \(4, 64\) instead of \(4, 32\)"):
        method.load_official(official_file)


def test_constants_follow_the_number_of_layers(make_small_clip):
    method = AnomalyCLIP(make_small_clip(layers=4, text_layers=3), Config())
    assert method.config.features_list == (4,)
    assert method.config.dpam_layer == 4
    assert method.prompts.value_value_from == 2
    assert method.config.depth == 3
    paper = Config().resolved(with_layers(24, 12))
    assert (paper.features_list, paper.dpam_layer, paper.depth) == ((24,), 20, 9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features_list": (0,)}, "layers 1 to 3"),
        ({"features_list": (4,)}, "layers 1 to 3"),
        ({"features_list": (2, 2)}, "twice"),
        ({"dpam_layer": 1}, "use 2"),
        ({"dpam_layer": 5}, r"to 4 \(all layers\)"),
        ({"depth": 3}, "use 1 to 2"),
        ({"depth": 0}, "use 1 to 2"),
        ({"n_ctx": 0}, "use 1 to 7"),
        ({"n_ctx": 75}, "use 1 to 7"),
        ({"t_n_ctx": 0}, "use 1 to 76"),
    ],
)
def test_impossible_settings_name_the_range(small_clip, settings, message):
    with pytest.raises(ConfigError, match=message):
        AnomalyCLIP(small_clip, Config(**settings))


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"sigma": -1.0}, {"lam": -1.0}, {"sigma": float("nan")}]
)
def test_impossible_numbers(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Config(**settings)


def test_masks_of_another_size_are_refused(small_clip):
    method = AnomalyCLIP(small_clip, Config())
    with pytest.raises(ConfigError, match="masks must be"):
        method.loss(torch.zeros(2, 3, 32, 32), torch.zeros(2, 16, 16), torch.tensor([0, 1]))


def test_fresh_prompts_follow_the_global_seed(small_clip):
    def fresh(seed):
        torch.manual_seed(seed)
        return AnomalyCLIP(small_clip, Config()).prompts.learner.ctx_pos

    assert torch.equal(fresh(1), fresh(1))
    assert not torch.equal(fresh(1), fresh(2))
    assert 0.01 < float(fresh(1).detach().std()) < 0.03
