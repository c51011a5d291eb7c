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
    [
        ("train", True),
        ("train", False),
        ("train_clone", True),
        ("train_clone", False),
        ("train_dattn", False),
    ],
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


def test_gradients_reach_the_prompts_alone(build, golden_inputs):
    method = build(**PLUS)
    arguments = golden_inputs["images"], golden_inputs["masks"][:, 0], golden_inputs["labels"]
    sum(method.loss(*arguments).values()).backward()
    assert {name for name, _ in method.trainable()} == {
        "ctx_pos",
        "ctx_neg",
        *(f"compound_prompts_text.{i}" for i in range(8)),
    }
    assert all(parameter.grad is not None for _, parameter in method.trainable())
    assert all(parameter.grad is None for parameter in method.backbone.parameters())


@pytest.mark.parametrize("place", ["pad_suffix", "pad_prefix", "replace_suffix", "replace_prefix"])
def test_the_place_of_the_image_in_the_prompts(build, golden_inputs, place):
    """Each prompt by itself, put together token by token."""
    method = build()
    learner, clip = method.prompt_learner, method.backbone
    images = method.features(golden_inputs["images"]).image_features
    found = encode_with_images(learner, clip, images, place)
    for row, image in zip(found, F.normalize(images, dim=-1), strict=True):
        for index, context in enumerate((learner.ctx_pos, learner.ctx_neg)):
            end = int(learner.tokens[index].argmax())
            words = list(clip.embed_tokens(learner.tokens[index])[: end + 1])
            start, vectors, rest = words[:1], list(context[0, 0]), words[13:]
            vectors = {
                "pad_suffix": [*vectors, image],
                "pad_prefix": [image, *vectors],
                "replace_suffix": [*vectors[:-1], image],
                "replace_prefix": [image, *vectors[1:]],
            }[place]
            prompt = torch.stack([*start, *vectors, *rest])[None]
            expected = learner.encode_spliced(clip, prompt, torch.tensor([prompt.shape[1] - 1]))
            torch.testing.assert_close(row[index], expected[0])


def test_prompts_without_the_image_train_as_they_score(build, golden_inputs):
    method = build(img_cls_type="none", img_cls_at_test=True)
    plain = scored(build(), golden_inputs["images"])
    torch.testing.assert_close(scored(method, golden_inputs["images"]).maps, plain.maps)
    assert set(method.loss(golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"])) == {
        "image",
        "focal",
        "dice",
    }


def in_place(method, images, dino, aliased):
    """The authors' way of running the image encoder: one tensor updated in place and handed out."""
    visual, config = method.backbone.visual, method.config
    handed_out, stream, original = [], None, visual.ln_pre(visual.embed(images))
    for number, block in enumerate(visual.transformer.blocks(), start=1):
        read = original
        if number < method.start:
            original = stream = block(original)
        else:
            if number == method.start:
                stream = read = original  # one tensor
            q, k, v = block.attn.project_heads(block.ln_1(original))
            scale = q.shape[-1] ** -0.5
            weights = sum(torch.softmax(x @ x.mT * scale, dim=-1) for x in (q, k, v))
            plain = block.attn.merge_heads(torch.softmax(q @ k.mT * scale, dim=-1) @ v)
            if number == method.start:
                original = block.add_mlp(original + plain)
            else:
                original += plain
                original = block.add_mlp(original)
            stream += block.attn.merge_heads(weights @ v)
        if number in config.features_list:
            if dino is not None:
                unit = F.normalize(dino.flatten(2), dim=1)
                similar = torch.stack([each.T @ each for each in unit])
                centred = torch.stack([(each - each.mean() * config.beta) * config.gamma for each in similar])
                attention = torch.softmax(centred.masked_fill(centred < 0, -torch.inf), dim=-1)
                values = block.attn.project_heads(block.ln_1(read))[2][:, :, 1:]
                handed_out.append(block.attn.merge_heads(attention[:, None] @ values))
            handed_out.append((stream if aliased else stream.clone())[:, 1:])
    return [visual.project(tokens) for tokens in handed_out]


@pytest.mark.parametrize("aliasing", ["as_published", "fixed"])
@pytest.mark.parametrize("dino_model", ["none", "dinov2"])
@pytest.mark.parametrize("layers", [(3, 4, 5), (4,), (3, 5)])
def test_streams_are_those_of_updates_in_place(make_small_clip, layers, dino_model, aliasing):
    clip = make_small_clip(layers=5)
    random = torch.Generator().manual_seed(2)
    images = torch.randn(2, 3, 32, 32, generator=random)
    dino = torch.randn(2, 6, 4, 4, generator=random) + 0.3
    method = Crane(
        clip,
        Config(features_list=layers, dpam_layer=4, dino_model=dino_model, layer_aliasing=aliasing, sigma=0),
    )
    method.vfm = lambda _: dino
    with torch.no_grad():
        expected = in_place(
            method, images, dino if dino_model != "none" else None, aliasing == "as_published"
        )
        state = method.prepare([])
        probabilities = [
            torch.softmax(cosine_similarity(patches, state.text_features) / 0.07, dim=-1)[..., 1]
            for patches in expected
        ]
        grid = torch.stack(probabilities).mean(dim=0).reshape(2, 1, 4, 4)
        maps = F.interpolate(grid, size=(32, 32), mode="bilinear")[:, 0]
        torch.testing.assert_close(scored(method, images).maps, maps)


def test_crane_plus_scores_each_image_by_itself(make_small_clip):
    random = torch.Generator().manual_seed(2)
    images = torch.randn(3, 3, 32, 32, generator=random)
    projection = torch.randn(5, 3, generator=random)
    together = {}
    for mean in ("picture", "batch"):
        method = Crane(make_small_clip(), Config(dino_model="dinov2", dattn_mean=mean))
        method.vfm = lambda seen: torch.einsum("cd,bdhw->bchw", projection, F.avg_pool2d(seen, 8))
        assert method.scores_jointly == (mean == "batch")
        whole = scored(method, images)
        alone = [scored(method, images[index : index + 1]) for index in range(3)]
        together[mean] = torch.allclose(whole.maps, torch.cat([each.maps for each in alone]), atol=1e-5)
    assert together == {"picture": True, "batch": False}


@pytest.mark.parametrize("mean", ["picture", "batch"])
def test_an_image_of_one_texture_has_a_finite_map(make_small_clip, mean):
    method = Crane(make_small_clip(), Config(dino_model="dinov2", dattn_mean=mean))
    method.vfm = lambda images: torch.ones(len(images), 4, 4, 4)
    raw = scored(method, torch.zeros(2, 3, 32, 32))
    assert torch.isfinite(raw.maps).all()
    assert torch.isfinite(raw.scores).all()


def test_another_network_must_see_as_many_patches(make_small_clip):
    method = Crane(make_small_clip(), Config(dino_model="dinov2"))
    method.vfm = lambda images: torch.ones(len(images), 4, 5, 5)
    with pytest.raises(ConfigError, match=r"gave \(2, 4, 5, 5\), expected \(2, C, 4, 4\)"):
        method.features(torch.zeros(2, 3, 32, 32))


def test_crane_plus_takes_a_network_through_the_detector(make_small_clip, uint8_images, tmp_path):
    detector = zsad.load("crane", make_small_clip(), "fresh", device="cpu", dino_model="dinov2")
    detector.is_trained = True  # random parameters will do here
    detector.method.vfm = torch.nn.AvgPool2d(8)
    before = detector.predict(uint8_images)
    path = detector.save(tmp_path / "plus.safetensors")
    again = zsad.load(checkpoint=path, backbone=make_small_clip(), device="cpu")
    assert again.method.config.dino_model == "dinov2"
    again.method.vfm = torch.nn.AvgPool2d(8)
    for first, second in zip(before, again.predict(uint8_images), strict=True):
        assert (first.anomaly_map == second.anomaly_map).all()


def test_official_config_reads_the_shapes(official_file):
    assert Crane.official_config(official_file) == {"n_ctx": 12, "depth": 9, "t_n_ctx": 4}


@pytest.mark.parametrize("state", [{}, {"prompt_learner": 3}, {"prompt_learner": {"ctx_pos": [1.0]}}])
def test_a_foreign_file_is_refused(golden_clip, state):
    with pytest.raises(WeightsError, match="Crane"):
        Crane(golden_clip, Config()).load_official(state)


def test_constants_follow_the_number_of_layers(make_small_clip):
    method = Crane(make_small_clip(layers=4, text_layers=3), Config())
    assert (method.config.features_list, method.config.depth, method.start) == ((1, 2, 3, 4), 3, 2)
    assert (method.eattn_layers, method.times) == ((4,), (4.0,))
    plus = Crane(make_small_clip(layers=4), Config(dino_model="dinov2"))
    assert (plus.dattn_layers, plus.eattn_layers, plus.times) == ((4,), (4,), (1.0, 1.0))
    alone = Crane(make_small_clip(layers=4), Config(dino_model="dinov2", both_eattn_dattn=False))
    assert (alone.dattn_layers, alone.eattn_layers, alone.times) == ((4,), (), (1.0,))
    paper = Config().resolved(with_layers(24, 12))
    assert (paper.features_list, paper.dpam_layer, paper.depth) == (ALL_LAYERS, 20, 9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features_list": (4,)}, "layers 1 to 3"),
        ({"features_list": (1,), "dino_model": "dinov2", "dpam_layer": 2}, "use layers 3 to 3"),
        ({"n_ctx": 75}, "use 1 to 7"),
        ({"depth": 3}, "use 1 to 2"),
        ({"beta": -1.0}, "beta"),
        ({"gamma": float("nan")}, "gamma"),
    ],
)
def test_impossible_settings_name_the_range(small_clip, settings, message):
    with pytest.raises(ConfigError, match=message):
        Crane(small_clip, Config(**settings))


def test_imagenet_normalisation():
    grey = torch.full((1, 3, 2, 2), 0.5)
    mean, std = (0.48, 0.45, 0.40), (0.26, 0.26, 0.27)
    normalised = (grey - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    found = imagenet_normalised(normalised, mean, std)[0, :, 0, 0]
    expected = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(found, expected)


def test_the_authors_file_through_the_public_functions(golden_clip, golden_inputs, golden, golden_path):
    expected = golden("crane")
    path = golden_path / "crane_official.pth"
    detector = zsad.load("crane", golden_clip, path, device="cpu", image_size=70, **PLUS)
    recorded = torch.as_tensor(expected["dattn.dino_features"])
    detector.method.vfm = lambda images: recorded
    raw = detector.score_tensors(golden_inputs["images"])
    close(raw.scores, expected["dattn.scores"], atol=1e-5)
    close(raw.maps, expected["dattn.map_mean_logits_gauss4"], atol=1e-5)
