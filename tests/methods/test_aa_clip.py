"""AA-CLIP against the numbers of the authors' code (tests/golden/aa_clip.npz)."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.nn import functional as F

import zsad
from helpers.clip_shapes import with_layers
from helpers.golden_checks import close, near
from zsad.errors import ConfigError, WeightsError
from zsad.methods import aa_clip
from zsad.methods.aa_clip import AACLIP, Config
from zsad.methods.functional.residual_adapters import adapted
from zsad.methods.functional.surgery import surgery_features
from zsad.training.cache import cacheable_features

LAYERS = (6, 12, 18, 24)
NAMES = ("text_adapter", "image_adapter")
OWN = ["metal_nut", "candle", "metal_nut"]


@pytest.fixture(scope="module")
def expected(golden):
    return golden("aa_clip")


@pytest.fixture(scope="module")
def paths(golden_path):
    return [golden_path / f"aa_clip_{name}_official.pth" for name in NAMES]


@pytest.fixture(scope="module")
def official(paths):
    """The content of both files, with the entry of the optimiser that real files have."""
    content = {"text_optimizer": {"state": {0: {"step": 1.0}}, "param_groups": [{"lr": 1e-5}]}}
    for path in paths:
        content |= torch.load(path, weights_only=True)
    return content


@pytest.fixture(scope="module")
def network(make_golden_clip):
    return make_golden_clip("gelu")


@pytest.fixture
def build(official, network):
    """Makes the method with the authors' weights on the golden CLIP."""

    def make(**settings):
        method = AACLIP(network, Config(activation="gelu", **settings))
        content = official
        if settings.get("relu"):
            heads = {
                name.replace(".fc.weight", ".fc.0.weight"): each
                for name, each in official["image_adapter"].items()
            }
            content = {**official, "image_adapter": heads}
        method.load_official(content)
        return method

    return make


def score(method, images, classes=("metal_nut",)):
    with torch.inference_mode():
        return method.score(method.features(images), method.prepare(classes))


# The authors' evaluation


@pytest.mark.parametrize("name", ["metal_nut", "candle"])
@pytest.mark.parametrize("relu", [False, True])
def test_anchors(build, expected, name, relu):
    anchors = build(relu=relu).prepare([name]).text_features[0]
    near(anchors.T, expected[f"relu{int(relu)}.text_features.{name}"])


@pytest.mark.parametrize("relu", [False, True])
def test_patches_and_image_feature(build, expected, golden_inputs, relu):
    with torch.no_grad():
        patches, image = build(relu=relu)._adapted(golden_inputs["images"])
    for index, layer in enumerate(LAYERS):
        near(patches[:, index], expected[f"relu{int(relu)}.patch_features.{layer}"])
    near(image, expected[f"relu{int(relu)}.det_feature"])


@pytest.mark.parametrize("domain", ["Industrial", "Medical"])
@pytest.mark.parametrize("relu", [False, True])
def test_maps_and_scores(build, expected, golden_inputs, domain, relu):
    prefix = f"relu{int(relu)}"
    raw = score(build(domain=domain, relu=relu), golden_inputs["images"])
    close(raw.maps, expected[f"{prefix}.map_{domain}"], atol=2e-4)
    close(raw.scores, expected[f"{prefix}.image_pred"], atol=1e-5)
    joint = score(build(domain=domain, relu=relu, image_score="joint"), golden_inputs["images"])
    close(joint.maps, expected[f"{prefix}.map_{domain}"], atol=2e-4)
    close(joint.scores, expected[f"{prefix}.final_scores_{domain}"], atol=1e-4)


def test_each_image_with_its_own_class(build, expected, golden_inputs):
    raw = score(build(), golden_inputs["images"], OWN)
    close(raw.maps, expected["relu0.own_class.map_Industrial"], atol=2e-4)
    close(raw.scores, expected["relu0.own_class.image_pred"], atol=1e-5)


@pytest.mark.parametrize("level", range(4))
def test_a_single_level(build, expected, golden_inputs, level):
    """The levels are added up in the recorded map; each by itself is recorded too."""
    method = build()
    with torch.no_grad():
        patches, _ = method._adapted(golden_inputs["images"])
        text = method.prepare(["metal_nut"]).text_features
        terms = method._pixel_losses(patches[:, [level]], text, golden_inputs["masks"])
    close(sum(terms.values()), expected["relu0.train_seg_loss"][level], rtol=1e-5)


def test_joint_scores_need_company_and_come_in_parts(build, golden_inputs, monkeypatch):
    method, images = build(image_score="joint"), golden_inputs["images"]
    assert method.scores_jointly
    assert not build().scores_jointly
    whole = score(method, images, OWN)
    monkeypatch.setattr(aa_clip, "IMAGES_AT_ONCE", 2)
    parts = score(method, images, OWN)
    close(parts.scores, whole.scores, atol=1e-5)
    close(parts.maps, whole.maps, atol=2e-4)
    with pytest.raises(ConfigError, match="at least 2 at once, got 1"):
        score(method, images[:1])


def test_names_are_described(build):
    method, plain = build(), build(real_names=False)
    described = method.prepare(["pipe_fryum"]).text_features
    close(plain.prepare(["pipe-shaped fryum"]).text_features, described)
    assert not torch.equal(plain.prepare(["pipe_fryum"]).text_features, described)
    close(plain.prepare(["my part"]).text_features, method.prepare(["my part"]).text_features)


# The first stage


@pytest.mark.parametrize(("attention", "prefix"), [("as_published", "surgery"), ("fixed", "surgery_fixed")])
def test_surgery_features(network, expected, golden_inputs, attention, prefix):
    with torch.no_grad():
        view = network.view("gelu", "bicubic_antialias")
        found = surgery_features(view.visual, golden_inputs["images"], LAYERS, 6, attention)
        alone = [
            surgery_features(view.visual, image[None], LAYERS, 6, attention)
            for image in golden_inputs["images"]
        ]
    for index, layer in enumerate(LAYERS):
        near(found[:, index], expected[f"{prefix}.patch_features.{layer}"])
        single = expected[
            f"{'surgery_single' if attention == 'as_published' else prefix}.patch_features.{layer}"
        ]
        near(torch.cat(alone)[:, index], single)


def parameters_of(method):
    return dict(method.trainable())


def train(method, inputs, rate, steps=3):
    """Yields the terms of each step and the gradients before it."""
    parameters = parameters_of(method)
    optimizer = torch.optim.Adam(parameters.values(), lr=rate, betas=(0.5, 0.999))
    for _ in range(steps):
        optimizer.zero_grad()
        terms = method.loss(inputs["images"], inputs["masks"], inputs["labels"], OWN)
        sum(terms.values()).backward()
        yield terms, {name: each.grad.clone() for name, each in parameters.items()}
        optimizer.step()


def check_training(method, expected, prefix, inputs, rate):
    for step, (terms, gradients) in enumerate(train(method, inputs, rate), start=1):
        close(
            sum(terms.values()), expected[f"{prefix}.step{step}.loss_total"], rtol=1e-5 if step == 1 else 1e-4
        )
        if step == 1:
            for name, gradient in gradients.items():
                wanted = torch.as_tensor(expected[f"{prefix}.grad1.{name}"])
                close(gradient, wanted, atol=1e-4 * float(wanted.abs().max()))
        if step == 2:  # after the first step of the optimiser
            check_parameters(method, expected, f"{prefix}.after1", rate, atol=1e-5)
    check_parameters(method, expected, f"{prefix}.after3", rate, atol=1e-4)


def check_parameters(method, expected, prefix, rate, atol):
    """After Adam steps, one entry in a hundred may be out: there the gradient was rounding noise."""
    for name, parameter in parameters_of(method).items():
        if f"{prefix}.{name}" in expected:
            differences = (parameter.detach() - torch.as_tensor(expected[f"{prefix}.{name}"])).abs()
            assert (differences > atol).float().mean() <= 0.01
            assert differences.max() <= 6 * rate


@pytest.mark.parametrize(
    ("attention", "prefix"), [("as_published", "train_text"), ("fixed", "train_text_fixed")]
)
def test_training_the_text_encoder(build, expected, golden_inputs, attention, prefix):
    method = build(stage="text", surgery_attention=attention)
    terms = method.loss(golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"], OWN)
    close(terms["orthogonal"], 0.1 * expected[f"{prefix}.step1.loss_orthogonal"], rtol=1e-5)
    anchors = method._anchors(OWN).transpose(1, 2)
    near(anchors, expected[f"{prefix}.step1.text_features"])
    everything = build(stage="text", surgery_attention=attention, text_loss_levels="all")
    all_terms = everything.loss(golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"], OWN)
    levels = expected[f"{prefix}.step1.loss_seg"]
    for found, wanted in ((terms, levels[-1]), (all_terms, levels.sum())):
        close(sum(found.values()) - found["orthogonal"], wanted, rtol=1e-5)
    check_training(method, expected, prefix, golden_inputs, rate=1e-3)


def test_training_the_image_encoder(build, expected, golden_inputs):
    method = build(stage="image")
    terms = method.loss(golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"], OWN)
    close(terms["image"], expected["train_image.step1.loss_cls"], rtol=1e-5)
    pixels = sum(terms.values()) - terms["image"]
    close(pixels, expected["train_image.step1.loss_seg"].sum(), rtol=1e-5)
    check_training(method, expected, "train_image", golden_inputs, rate=5e-4)


def test_the_two_stages_learn_different_tensors_and_save_both(build):
    text, image = build(stage="text"), build(stage="image")
    learnt = [set(parameters_of(method)) for method in (text, image)]
    assert not learnt[0] & learnt[1]
    assert learnt[0] | learnt[1] == set(text.learned_state()) == set(image.learned_state())
    defaults = [AACLIP.training_defaults({"stage": stage}) for stage in ("text", "image")]
    assert [(each.epochs, each.batch_size) for each in defaults] == [(5, 16), (20, 2)]
    assert AACLIP.training_defaults({}) == defaults[0]


def test_the_second_stage_continues_from_the_first(make_small_clip, tmp_path):
    first = zsad.load("aa_clip", make_small_clip(), "fresh", device="cpu", stage="text")
    with torch.no_grad():
        first.method.text_adapter[0].fc[0].weight.fill_(0.5)
    path = first.save(tmp_path / "text.safetensors")
    second = zsad.load("aa_clip", make_small_clip(), path, device="cpu", stage="image")
    assert second.method.config.stage == "image"
    assert (second.method.text_adapter[0].fc[0].weight == 0.5).all()


def test_what_is_cached(build, golden_inputs):
    assert cacheable_features(AACLIP, {}) is aa_clip.FrozenPatches
    for settings in ({"stage": "image"}, {"surgery_attention": "as_published"}):
        with pytest.raises(ConfigError, match="no features to cache with these settings"):
            cacheable_features(AACLIP, settings)
    method = build()
    terms = method.loss(*(golden_inputs[name] for name in ("images", "masks", "labels")), OWN)
    kept = method.features_for_loss(golden_inputs["images"])
    for name, value in method.loss_from_features(kept, golden_inputs["masks"], None, OWN).items():
        close(value, terms[name])


# The authors' files


def test_both_files_in_any_order_or_a_folder(network, paths, expected, golden_inputs, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(paths[0], folder / "text_adapter.pth")
    shutil.copy(paths[1], folder / "image_adapter_15.pth")
    for checkpoint in (paths, paths[::-1], folder):
        detector = zsad.load("aa_clip", network, checkpoint, image_size=70, device="cpu", activation="gelu")
        raw = detector.score_tensors(golden_inputs["images"], "metal_nut")
        close(raw.maps, expected["relu0.map_Industrial"], atol=2e-4)
    shutil.copy(paths[1], folder / "image_adapter_16.pth")
    with pytest.raises(WeightsError, match=r"image_adapter_15\.pth, image_adapter_16\.pth"):
        zsad.load("aa_clip", network, folder, device="cpu")


def test_one_file_alone(network, paths):
    with pytest.raises(WeightsError, match=r"image_adapter\.pth is missing"):
        zsad.load("aa_clip", network, paths[0], device="cpu")
    for stage in ("text", "image"):
        with pytest.raises(WeightsError, match=r"text_adapter\.pth is missing"):
            zsad.load("aa_clip", network, paths[1], device="cpu", stage=stage)
    begun = zsad.load("aa_clip", network, paths[0], device="cpu", stage="image")
    near(begun.method.text_adapter[3].fc[0].weight, torch.load(paths[0])["text_adapter"]["3.fc.0.weight"])


def test_shapes_tell_the_settings(official):
    found = AACLIP.official_config(official)
    assert found == {"text_adapt_until": 3, "image_adapt_until": 6, "relu": False}


def test_contradicting_settings_are_refused(network, paths):
    for setting in ({"text_adapt_until": 2}, {"image_adapt_until": 5}, {"relu": True}):
        with pytest.raises(ConfigError, match=f"{next(iter(setting))}=.* contradicts"):
            zsad.load("aa_clip", network, paths, device="cpu", **setting)
    with pytest.raises(WeightsError, match="heads of 4 layers, but features_list names 2"):
        zsad.load("aa_clip", network, paths, device="cpu", features_list=(6, 12))


# Other backbones


def test_settings_on_other_backbones():
    found = Config().resolved(with_layers(24, 12))
    assert found.features_list == LAYERS
    assert (found.text_adapt_until, found.image_adapt_until, found.surgery_until_layer) == (3, 6, 20)
    found = Config().resolved(with_layers(3, 4))
    assert (found.features_list, found.text_adapt_until, found.image_adapt_until) == ((1, 2, 3), 1, 1)
    with pytest.raises(ConfigError, match="text_adapt_until 5: use 0 to 4"):
        Config(text_adapt_until=5).resolved(with_layers(3, 4))
    with pytest.raises(ConfigError, match="surgery_until_layer 9: use 2"):
        Config(surgery_until_layer=9).resolved(with_layers(3, 4))


def test_an_adapter_keeps_the_length_of_a_token(make_small_clip):
    method = AACLIP(make_small_clip(), Config(image_adapt_weight=1.0))
    token = torch.randn(5, 32)
    adapter = method.image_adapter.layer_adapters[0]
    changed = adapted(token, adapter, 1.0)
    close(changed.norm(dim=-1), token.norm(dim=-1), rtol=1e-5)
    plain = F.leaky_relu(token @ adapter.fc[0].weight.T, 0.01)
    close(F.normalize(changed, dim=-1), F.normalize(plain, dim=-1), atol=1e-5)
