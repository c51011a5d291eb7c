"""GlocalCLIP against the numbers of the authors' code (tests/golden/glocalclip.npz)."""

from __future__ import annotations

import pytest
import torch

from helpers.clip_shapes import with_layers
from helpers.golden_checks import adam, check_gradients, check_parameters, close, near
from zsad.errors import ConfigError, WeightsError
from zsad.methods.functional.losses import triplet_loss
from zsad.methods.functional.similarity import similarity_softmax
from zsad.methods.glocalclip import Config, GlocalCLIP

ALL_LAYERS = (6, 12, 18, 24)
ALIASING = {"eval": "as_published", "eval_clone": "fixed", "train": "as_published", "train_clone": "fixed"}


@pytest.fixture(scope="module")
def official_file(golden_path):
    return torch.load(golden_path / "glocalclip_official.pth", weights_only=True)


@pytest.fixture
def build(official_file, golden_clip):
    """Makes the method with the authors' weights on the golden CLIP."""

    def make(**settings):
        method = GlocalCLIP(golden_clip, Config(**settings))
        method.load_official(official_file)
        return method

    return make


@pytest.mark.parametrize("prefix", ["eval", "eval_clone"])
def test_scores_and_maps(build, golden_inputs, golden, prefix):
    expected = golden("glocalclip")
    method = build(layer_aliasing=ALIASING[prefix])
    assert method.config.features_list == ALL_LAYERS
    features = method.features(golden_inputs["images"])
    state = method.prepare(["object"])
    raw = method.score(features, state)
    close(raw.scores, expected[f"{prefix}.scores"], atol=1e-5)
    close(raw.maps, expected[f"{prefix}.map_gauss_sigma8"], atol=1e-5)
    for sigma, name in ((4.0, "map_gauss_sigma4"), (0.0, "map")):
        other = build(layer_aliasing=ALIASING[prefix], sigma=sigma)
        close(other.score(features, state).maps, expected[f"{prefix}.{name}"], atol=1e-5)
    patches = similarity_softmax(features.patch_features, state.local_text, 0.07)
    for index, layer in enumerate(method.layers):
        close(patches[:, index], expected[f"{prefix}.similarity.{layer}"][:, 1:], atol=1e-5)
        near(features.patch_features[:, index], expected[f"{prefix}.patch_features_raw.{layer}"][:, 1:])


def test_features(build, golden_inputs, golden):
    expected = golden("glocalclip")
    method = build()
    state = method.prepare(["object"])
    near(torch.cat([state.global_text[0], state.local_text[0]]), expected["eval.text_features_raw"])
    near(method.features(golden_inputs["images"]).image_features, expected["eval.image_features_raw"])


def test_tokens_are_the_authors(build, golden):
    expected = golden("glocalclip")
    names = ("global_pos", "global_neg", "local_pos", "local_neg")
    for row, name in zip(build().prompt_learner.tokens.tolist(), names, strict=True):
        authors = expected[f"settings.prompt_tokens_{name}"][0, 0].tolist()
        assert row + [0] * (len(authors) - len(row)) == authors


def check_losses(terms, expected, prefix, rtol):
    close(sum(terms.values()), expected[f"{prefix}.loss_total"], rtol=rtol)
    close(terms["image"], expected[f"{prefix}.loss_image"], rtol=rtol)
    for name in ("focal", "dice_abnormal", "dice_normal"):
        close(terms[name], expected[f"{prefix}.loss_{name}"].sum(), rtol=rtol)
    contrast = expected[f"{prefix}.loss_triplet_normal"] + expected[f"{prefix}.loss_triplet_abnormal"]
    close(terms["glocal"], contrast, rtol=rtol)


@pytest.mark.parametrize(("prefix", "half"), [("train", True), ("train_clone", True), ("train_clone", False)])
def test_training(build, golden_inputs, golden, prefix, half):
    expected = golden("glocalclip")
    method = build(layer_aliasing=ALIASING[prefix], round_prompts_to_half=half)
    prefix = prefix if half else f"{prefix}_nohalf"
    parameters = dict(method.trainable())
    optimiser = adam(parameters)
    for step in (1, 2, 3):
        terms = method.loss(golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"])
        check_losses(terms, expected, f"{prefix}.step{step}", rtol=1e-5 if step == 1 else 1e-4)
        optimiser.zero_grad()
        sum(terms.values()).backward()
        if step == 1:
            check_gradients(parameters, expected, f"{prefix}.grad1", half)
        optimiser.step()
        if step != 2:
            check_parameters(parameters, expected, f"{prefix}.after{step}", step)


@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0])
def test_the_triplet_loss_by_itself(golden, margin):
    expected = golden("glocalclip")
    anchor, positive, negative = (torch.as_tensor(expected[f"triplet.{name}"]) for name in "abc")
    found = triplet_loss(anchor, positive, negative, margin)
    close(found, expected[f"triplet.margin{margin}"], rtol=1e-5)


@pytest.mark.parametrize(
    ("features_list", "read"), [((6, 12), {24: 2}), ((3, 5, 6), {3: 1, 24: 2}), ((4, 24), {4: 1, 24: 1})]
)
def test_aliasing_reads_the_last_block_from_the_stream_on(build, features_list, read):
    method = build(features_list=features_list)
    assert dict(zip(method.layers, method.times, strict=True)) == read
    assert method.map_range == (0.0, len(features_list))


def test_aliasing_is_what_an_update_in_place_does(make_small_clip):
    """The authors' way of running the tower, with its shared tensor, beside ours."""
    clip = make_small_clip(layers=5)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    method = GlocalCLIP(clip, Config(features_list=(1, 2, 3, 4), dpam_layer=4))
    visual, handed_out = clip.visual, []
    with torch.no_grad():
        stream = original = visual.ln_pre(visual.embed(images))
        for number, block in enumerate(visual.transformer.blocks(), start=1):
            if number < 3:
                stream = original = block(original)
            else:
                _, step = block.attn.forward_dual(block.ln_1(original))
                original = block(original)
                stream += step
            if number in (1, 2, 3, 4):
                handed_out.append(stream)
        expected = torch.stack([visual.project(tokens[:, 1:]) for tokens in handed_out], dim=1)
        state = method.prepare([])
        probabilities = similarity_softmax(expected, state.local_text, 0.07)[..., 1].sum(dim=1)
        ours = similarity_softmax(method.features(images).patch_features, state.local_text, 0.07)[..., 1]
    assert method.layers == (1, 5)
    torch.testing.assert_close((ours * torch.tensor(method.times)[:, None]).sum(dim=1), probabilities)


def test_alpha_and_margin_change_the_contrastive_term_alone(build, golden_inputs):
    arguments = golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"]
    plain, doubled, pushed = (
        build(**settings).loss(*arguments) for settings in ({}, {"alpha": 2.0}, {"margin": 2.0})
    )
    close(doubled["glocal"], 2 * plain["glocal"].detach(), rtol=1e-6)
    assert pushed["glocal"] > plain["glocal"]
    for name in plain.keys() - {"glocal"}:
        assert plain[name] == doubled[name] == pushed[name]


def test_gradients_reach_the_prompts_alone(build, golden_inputs):
    method = build()
    arguments = golden_inputs["images"], golden_inputs["masks"][:, 0], golden_inputs["labels"]
    sum(method.loss(*arguments).values()).backward()
    assert {name for name, _ in method.trainable()} == {
        *(f"ctx_{pair}_{kind}" for pair in ("global", "local") for kind in ("pos", "neg")),
        *(f"compound_prompts_text.{i}" for i in range(8)),
    }
    assert all(parameter.grad is not None for _, parameter in method.trainable())
    assert all(parameter.grad is None for parameter in method.backbone.parameters())


def test_official_config_reads_the_shapes(official_file):
    found = GlocalCLIP.official_config(official_file)
    assert found == {"n_ctx": 13, "ab_ctx": 13, "depth": 9, "t_n_ctx": 4}


def test_every_length_goes_through_an_authors_file(make_small_clip):
    lengths = {"n_ctx": 3, "ab_ctx": 5, "depth": 2, "t_n_ctx": 2}
    first, second = (GlocalCLIP(make_small_clip(), Config(**lengths)) for _ in range(2))
    file = {"prompt_learner": {**first.learned_state(), "token_prefix_global_pos": torch.zeros(1)}}
    assert GlocalCLIP.official_config(file) == lengths
    second.load_official(file)
    assert torch.equal(first.prepare([]).local_text, second.prepare([]).local_text)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"prompt_learner": 3},
        {"prompt_learner": {"ctx_pos": torch.zeros(1, 1, 12, 64), "ctx_neg": torch.zeros(1, 1, 12, 64)}},
        {
            "prompt_learner": {
                f"ctx_{pair}_{kind}": [1.0] for pair in ("global", "local") for kind in ("pos", "neg")
            }
        },
        {
            "prompt_learner": {
                f"ctx_{pair}_{kind}": torch.ones(3) for pair in ("global", "local") for kind in ("pos", "neg")
            }
        },
    ],
)
def test_a_foreign_file_is_refused(golden_clip, state):
    method = GlocalCLIP(golden_clip, Config())
    with pytest.raises(WeightsError, match="GlocalCLIP"):
        method.load_official(state)
    with pytest.raises(WeightsError, match="GlocalCLIP"):
        GlocalCLIP.official_config(state)


def test_a_part_of_a_file_is_refused(golden_clip, official_file):
    method = GlocalCLIP(golden_clip, Config())
    learner = dict(official_file["prompt_learner"])
    del learner["compound_prompts_text.3"]
    with pytest.raises(WeightsError, match=r"missing: compound_prompts_text\.3"):
        method.load_official({"prompt_learner": learner})


def test_constants_follow_the_number_of_blocks(make_small_clip):
    method = GlocalCLIP(make_small_clip(layers=4, text_layers=3), Config())
    assert method.config.features_list == (1, 2, 3, 4)
    assert (method.layers, method.times) == ((4,), (4.0,))
    assert method.config.depth == 3
    paper = Config().resolved(with_layers(24, 12))
    assert (paper.features_list, paper.dpam_layer, paper.depth) == (ALL_LAYERS, 20, 9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features_list": (4,)}, "layers 1 to 3"),
        ({"features_list": (2, 2)}, "twice"),
        ({"dpam_layer": 5}, r"to 4 \(all layers\)"),
        ({"depth": 3}, "use 1 to 2"),
        ({"n_ctx": 0}, "n_ctx 0: use 1 or more"),
        ({"ab_ctx": 0}, "ab_ctx 0: use 1 or more"),
        ({"n_ctx": 40, "ab_ctx": 40}, "80 context vectors do not fit .*: use 1 to 7"),
        ({"t_n_ctx": 0}, "use 1 to 76"),
    ],
)
def test_impossible_settings_name_the_range(small_clip, settings, message):
    with pytest.raises(ConfigError, match=message):
        GlocalCLIP(small_clip, Config(**settings))


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.0}, {"sigma": -1.0}, {"alpha": -1.0}, {"margin": -0.5}, {"margin": float("nan")}],
)
def test_impossible_numbers(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Config(**settings)
