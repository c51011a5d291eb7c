"""GenCLIP against plain loops, and against AnomalyCLIP's recorded numbers where both must agree."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import zsad
from helpers.clip_shapes import with_layers
from helpers.golden_checks import close
from zsad.backbones.attention import DeepPrompts
from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError, WeightsError
from zsad.methods.anomalyclip import AnomalyCLIP
from zsad.methods.anomalyclip import Config as AnomalyCLIPConfig
from zsad.methods.functional.losses import dice_loss, focal_loss
from zsad.methods.genclip import Config, GenCLIP, NamedPrompts

ALL_LAYERS = (6, 12, 18, 24)
TERMS = ("focal", "dice_abnormal", "dice_normal")


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def build(make_small_clip):
    """Makes the method with fresh parameters that are large enough to matter."""

    def make(**settings):
        torch.manual_seed(3)
        method = GenCLIP(make_small_clip(), Config(**settings))
        with torch.no_grad():
            for _, parameter in method.trainable():
                parameter.normal_(std=0.3)
        return method

    return make


def scored(method, images, classes=("object",)):
    return method.score(method.features(images), method.prepare(classes))


def naive_maps(method, images, names, branch):
    """(B, T, G, G) abnormal probabilities, one image, layer and prompt after the other."""
    clip, config = method.backbone, method.config
    first = 3 - config.dpam_layer + 2
    deep = {
        number + 2: vectors.half().float()
        for number, vectors in enumerate(method.prompts.compound_prompts_text)
    }
    rows = []
    for image, name in zip(images, names, strict=True):
        output = clip.visual(image[None], taps=config.features_list, value_value_from=first)
        maps = []
        for layer in config.features_list:
            linear = method.prompts.projection[str(layer)]
            mean = output.tokens[layer][0].mean(dim=0)
            shift = linear.weight @ mean + linear.bias if branch == "vision" else 0
            vectors = []
            for ending in (
                (f"{name}.", f"damaged {name}.") if branch == "vision" else ("object.", "damaged object.")
            ):
                ids = tokenize(" ".join(["X"] * config.n_query) + " " + ending)
                embedded = clip.embed_tokens(ids).clone()
                for place in range(config.n_query):
                    embedded[0, 1 + place] = method.prompts.query[place] + shift
                vectors.append(clip.encode_embeddings(embedded, ids.argmax(dim=-1), DeepPrompts(deep))[0])
            values = []
            for token in output.value_tokens[layer][0, 1:]:
                patch = clip.visual.project(token)
                logits = [F.cosine_similarity(patch, vector, dim=0) / 0.07 for vector in vectors]
                values.append(torch.softmax(torch.stack(logits), dim=0)[1])
            maps.append(torch.stack(values).reshape(4, 4))
        rows.append(torch.stack(maps))
    return torch.stack(rows)


@torch.no_grad()
def test_maps_and_scores_against_plain_loops(build, images):
    names = ["metal nut", "carpet", "metal nut"]
    method = build(name_filtering=False, sigma=0.0)
    grids = [naive_maps(method, images, names, branch).mean(dim=1) for branch in ("vision", "query")]
    expected = F.interpolate((sum(grids) / 2)[:, None], size=(32, 32), mode="bilinear")[:, 0]
    raw = scored(method, images, names)
    close(raw.maps, expected, atol=1e-5)
    for image in range(3):
        largest = sorted(expected[image].flatten().tolist(), reverse=True)[:10]  # 1 % of 1024
        assert float(raw.scores[image]) == pytest.approx(sum(largest) / 10, abs=1e-5)


def test_losses_against_plain_loops(build, images):
    names = ["metal nut", "carpet", "metal nut"]
    masks = torch.zeros(3, 32, 32)
    masks[1, 4:12, 4:12] = 1
    method = build(name_filtering=False, branches="query")  # has no say in training
    terms = method.loss(images, masks, torch.tensor([0, 1, 0]), names)
    assert terms.keys() == {f"{branch}_{term}" for branch in ("vision", "query") for term in TERMS}
    for branch in ("vision", "query"):
        expected = dict.fromkeys(TERMS, 0.0)
        for layer in naive_maps(method, images, names, branch).unbind(dim=1):
            abnormal = F.interpolate(layer[:, None], size=(32, 32), mode="bilinear")[:, 0]
            expected["focal"] += focal_loss(torch.stack([1 - abnormal, abnormal], dim=1), masks)
            expected["dice_abnormal"] += dice_loss(abnormal, masks)
            expected["dice_normal"] += dice_loss(1 - abnormal, 1 - masks)
        for term, value in expected.items():
            close(terms[f"{branch}_{term}"], value.detach(), rtol=1e-5)


def test_both_branches_are_the_mean_of_each(build, images):
    vision, query, both = (
        scored(build(branches=branches), images).maps for branches in ("vision", "query", "both")
    )
    assert (vision - query).abs().max() > 1e-3
    close(both, (vision + query) / 2, atol=1e-6)


@pytest.mark.parametrize("half", [True, False])
def test_without_projections_it_is_anomalyclip(golden_clip, golden_inputs, golden, golden_path, half):
    """With equal contexts of both prompts; the patches are also those of AnomalyCLIP's own code."""
    official = torch.load(golden_path / "anomalyclip_official.pth", weights_only=True)
    official["prompt_learner"]["ctx_neg"] = official["prompt_learner"]["ctx_pos"]
    settings = {"features_list": ALL_LAYERS, "round_prompts_to_half": half}
    anomalyclip = AnomalyCLIP(golden_clip, AnomalyCLIPConfig(**settings))
    anomalyclip.load_official(official)
    raw = scored(anomalyclip, golden_inputs["images"])
    for branches in ("vision", "query", "both"):
        method = GenCLIP(golden_clip, Config(n_query=12, branches=branches, **settings))
        parameters = dict(method.trainable())
        with torch.no_grad():
            for name, parameter in parameters.items():
                if name.startswith("projection."):
                    parameter.zero_()
                else:
                    learnt = official["prompt_learner"]["ctx_pos" if name == "query" else name]
                    parameter.copy_(learnt.reshape(parameter.shape))
        features = method.features(golden_inputs["images"])
        close(4 * method.score(features, method.prepare(["object"])).maps, raw.maps, atol=4e-5)
        for index, layer in enumerate(ALL_LAYERS):
            recorded = torch.as_tensor(golden("anomalyclip")[f"eval.patch_features_raw.{layer}"][:, 1:])
            close(
                features.patch_features[:, index],
                recorded,
                rtol=1e-4,
                atol=2e-5 * float(recorded.abs().max()),
            )


def test_a_rejected_name_gives_the_prompts_of_object(build, images):
    method = build()
    state, features = method.prepare(["pcb1"]), method.features(images)
    own, general = state.name_features[0]
    towards = {"own": own - general, "general": general - own}
    decided = {
        name: method.score(
            type(features)(towards[name].expand(3, -1), *list(vars(features).values())[1:]), state
        ).maps
        for name in towards
    }
    close(decided["general"], scored(method, images).maps, atol=1e-6)
    close(decided["own"], scored(build(name_filtering=False), images, ["pcb1"]).maps, atol=1e-6)
    assert (decided["own"] - decided["general"]).abs().max() > 1e-4


def test_filtering_compares_with_clips_own_features(build, images):
    method = build()
    clip = method.backbone
    names = ["pcb1", "metal nut", "screw"]
    image = clip.encode_image(images)
    chosen = method._chosen(method.features(images), method.prepare(names))
    for row, name in enumerate(names):
        own, general = (
            clip.encode_text(tokenize(f"a photo of {thing}"))[0] for thing in (f"a {name}", "an object")
        )
        keeps = F.cosine_similarity(image[row], own, dim=0) >= F.cosine_similarity(image[row], general, dim=0)
        prompt = tokenize(f"X X X X {name if keeps else 'object'}.")[0]
        assert chosen[row, 0].tolist() == prompt[: chosen.shape[-1]].tolist()


def test_the_state_holds_one_row_for_each_name(build):
    state = build().prepare(["metal nut", "carpet"])
    assert isinstance(state, NamedPrompts)
    assert state.token_ids.shape[:3] == (2, 2, 2)
    assert state.name_features.shape == (2, 2, 16)
    assert state.query_features.shape == (1, 2, 16)


def test_a_name_of_many_words_is_cut(build, images):
    raw = scored(build(name_filtering=False), images, ["metal nut " * 60])
    assert torch.isfinite(raw.maps).all()


def test_an_empty_name_is_refused(build):
    with pytest.raises(ConfigError, match="class name must not be empty"):
        build().prepare([" "])


def test_top_ratio_of_all_pixels_is_the_mean(build, images):
    raw = scored(build(top_ratio=1.0, sigma=0.0), images)
    close(raw.scores, raw.maps.mean(dim=(1, 2)), atol=1e-6)


def test_smoothing_leaves_the_score_alone(build, images):
    rough, smooth = (scored(build(sigma=sigma), images) for sigma in (0.0, 4.0))
    assert torch.equal(rough.scores, smooth.scores)
    assert not torch.equal(rough.maps, smooth.maps)


def test_parameters_have_the_papers_names(small_clip):
    names = {name for name, _ in GenCLIP(small_clip, Config(features_list=(1, 3))).trainable()}
    projections = {f"projection.{layer}.{part}" for layer in (1, 3) for part in ("weight", "bias")}
    assert names == {"query", *projections, "compound_prompts_text.0"}


def test_constants_follow_the_number_of_layers():
    paper = Config().resolved(with_layers(24, 12))
    assert (paper.features_list, paper.dpam_layer, paper.depth) == (ALL_LAYERS, 20, 9)
    small = Config().resolved(with_layers(3, 4))
    assert (small.features_list, small.dpam_layer, small.depth) == ((1, 2, 3), 3, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features_list": (4,)}, "layers 1 to 3"),
        ({"n_query": 74}, "use 1 to 7"),
        ({"depth": 3}, "use 1 to 2"),
        ({"t_n_ctx": 0}, "use 1 to 76"),
        ({"dpam_layer": 5}, r"to 4 \(all layers\)"),
    ],
)
def test_impossible_settings_name_the_range(small_clip, settings, message):
    with pytest.raises(ConfigError, match=message):
        GenCLIP(small_clip, Config(**settings))


@pytest.mark.parametrize(
    "settings", [{"top_ratio": 0.0}, {"top_ratio": 1.5}, {"n_query": 0}, {"sigma": -1.0}]
)
def test_impossible_numbers(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Config(**settings)


def test_there_is_no_file_of_the_authors(make_small_clip, tmp_path):
    torch.save({"query": torch.zeros(4, 32)}, tmp_path / "genclip.pth")
    with pytest.raises(WeightsError, match=r"genclip\.pth.*GenCLIP publish no weights"):
        zsad.load("genclip", make_small_clip(), tmp_path / "genclip.pth", device="cpu")


def test_a_step_of_training_lowers_the_loss(build, images):
    method = build()
    masks = torch.zeros(3, 32, 32)
    masks[1:, 4:12, 4:12] = 1
    parameters = [parameter.requires_grad_(True) for _, parameter in method.trainable()]
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    losses = []
    for _ in range(5):
        loss = sum(method.loss(images, masks, torch.tensor([0, 1, 1]), ["nut", "nut", "tile"]).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
