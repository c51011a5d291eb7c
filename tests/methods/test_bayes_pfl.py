"""Bayes-PFL against the numbers of the authors' code (tests/golden/bayes_pfl.npz)."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import zsad
from helpers.golden_checks import adam, check_gradients, check_parameters, close, near
from zsad.errors import ConfigError, WeightsError
from zsad.methods.bayes_pfl import BayesPFL, Config
from zsad.methods.functional.maps import min_max
from zsad.methods.prompts.draws import Draws

CLASSES = ["candle", "metal_nut", "pcb1"]
STAGES = (1, 2)


@pytest.fixture(scope="module")
def official_path(golden_path):
    return golden_path / "bayes_pfl_official.pth"


@pytest.fixture(scope="module")
def load(official_path, make_golden_clip):
    """Makes a detector with the authors' weights on the golden CLIP."""
    clip = make_golden_clip()

    def build(**settings):
        return zsad.load("bayes_pfl", clip, official_path, device="cpu", activation="gelu", **settings)

    return build


@pytest.fixture
def fresh(make_small_clip):
    """Makes a method with new parameters on a small random CLIP."""

    def build(**settings):
        torch.manual_seed(0)
        return BayesPFL(make_small_clip(), Config(**settings)).eval()

    return build


@pytest.fixture
def batch():
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(3, 32, 32)
    masks[1, 4:12, 4:12] = 1
    return images, masks, torch.tensor([0, 1, 1])


def noise_of(expected, mode):
    """Arguments of `set_draws` for the recorded noise: 4 draws for each distribution."""
    noise = torch.tensor(expected[f"{mode}.eps"])
    if mode == "eval":  # each image has its own context noise; the states keep that of the first image
        return noise[:, :4], noise[0, 4:8], noise[0, 8:]
    return noise[:4], noise[4:8], noise[8:]


def test_the_parts_of_the_image_encoder_and_of_the_flows(load, golden, golden_inputs):
    expected = golden("bayes_pfl")
    method = load(stage=2, sample_num=4).method
    features = method.features(golden_inputs["images"])
    near(features.image_features, expected["eval.image_features_raw"])
    for index, layer in enumerate((6, 12, 18, 24)):
        near(features.patch_tokens[:, index], expected[f"eval.tokens.{layer}"])
    network = method.network
    mean, log_variance = network.context_encoder(features.image_features)
    near(mean, expected["eval.context.mu"])
    near(log_variance.exp(), expected["eval.context.var_as_returned"])
    context, normal, abnormal = noise_of(expected, "eval")
    _, normal_shift, abnormal_shift = network.sample(
        features.image_features, Draws.given(context, normal, abnormal, 64)
    )
    near(normal_shift.vectors[0], expected["state.zk_normal"])
    near(abnormal_shift.vectors[0], expected["state.zk_abnormal"])
    text = torch.tensor(expected["eval.text_embeddings"])
    prompts, _ = next(network.RCA(text, features.patch_tokens))
    near(prompts, expected["eval.rca.text.6"])
    near(network.fuse(features.patch_tokens), expected["eval.fused_global"])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("mode", ["eval", "eval_shared", "eval_mean"])
def test_scores_and_maps(load, golden, golden_inputs, mode, stage):
    expected = golden("bayes_pfl")
    detector = load(stage=stage, sample_num=0 if mode == "eval_mean" else 4)
    if mode != "eval_mean":
        detector.method.set_draws(*noise_of(expected, mode))
    raw = detector.score_tensors(golden_inputs["images"], CLASSES)
    close(raw.scores, expected[f"{mode}.stage{stage}.scores"], atol=1e-5)
    if f"{mode}.stage{stage}.map_gauss8" in expected:
        close(raw.maps, expected[f"{mode}.stage{stage}.map_gauss8"], atol=1e-5)
    unsmoothed = load(stage=stage, sample_num=0 if mode == "eval_mean" else 4, sigma=0)
    unsmoothed.method._given = detector.method._given
    raw = unsmoothed.score_tensors(golden_inputs["images"], CLASSES)
    close(raw.maps, expected[f"{mode}.stage{stage}.map"], atol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("top_k", "name"), [(2000, "final_scores"), (20, "final_scores_top20")])
@pytest.mark.parametrize("mode", ["eval_shared", "eval_mean"])
def test_published_scores(load, golden, golden_inputs, stage, top_k, name, mode):
    expected = golden("bayes_pfl")
    settings = {"stage": stage, "top_k": top_k, "sample_num": 0 if mode == "eval_mean" else 4}
    joint = load(image_score="joint", **settings)
    mixed = load(image_score="mixed", **settings)
    assert joint.scores_jointly
    assert not mixed.scores_jointly
    for detector in (joint, mixed):
        if mode == "eval_shared":
            detector.method.set_draws(*noise_of(expected, mode))
    images = golden_inputs["images"]
    close(joint.score_tensors(images, CLASSES).scores, expected[f"{mode}.stage{stage}.{name}"], atol=1e-4)
    peaks = expected[f"{mode}.stage{stage}.top{top_k}_mean"]
    mean = (torch.tensor(expected[f"{mode}.stage{stage}.scores"]) + torch.tensor(peaks)) / 2
    close(mixed.score_tensors(images, CLASSES).scores, mean, atol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_training(load, golden, golden_inputs, stage):
    expected, prefix = golden("bayes_pfl"), f"train_stage{stage}"
    method = load(stage=stage).method.train()
    parameters = dict(method.trainable())
    recorded = [name for name in parameters if f"{prefix}.grad1.{name}" in expected]
    assert len(recorded) == (17 if stage == 1 else 6)
    optimiser = adam(parameters)
    for step in (1, 2, 3):
        found = {name: expected[f"{prefix}.step{step}.{name}"] for name in ("loss_total", "prompt")}
        context, normal, abnormal = (
            torch.tensor(expected[f"{prefix}.step{step}.eps_{name}"])
            for name in ("context", "normal", "abnormal")
        )
        method.set_draws(context[:, None], normal, abnormal, prompt=int(found["prompt"]))
        terms = method.loss(golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"], CLASSES)
        total = sum(terms.values())
        close(total, found["loss_total"], rtol=1e-5 if step == 1 else 1e-4)
        if step == 1:
            assert len(terms) == (7 if stage == 1 else 1)
            for name, term in terms.items():
                key = f"loss_{name}".replace("divergence", "kl") + "_times001" * name.startswith("divergence")
                close(term, expected[f"{prefix}.step1.{key}"].sum(), rtol=1e-5, atol=1e-6)
        optimiser.zero_grad()
        total.backward()
        chosen = {name: parameters[name] for name in recorded}
        if step == 1:
            check_gradients(chosen, expected, f"{prefix}.grad1", half=False)
        optimiser.step()
        if step in (1, 3):
            check_parameters(chosen, expected, f"{prefix}.after{step}", step)


def test_the_authors_file_is_of_stage_2_unless_told_otherwise(load, official_path, fresh):
    settings = {"prompt_num": 3, "prompt_context_len": 5, "prompt_state_len": 5, "num_flows": 10}
    content = torch.load(official_path, weights_only=True)
    assert BayesPFL.official_config(content) == settings
    assert load().method.stage == 2
    assert load(stage=1).method.stage == 1
    assert fresh().stage == 1
    with pytest.raises(ConfigError, match="num_flows=4 contradicts"):
        load(num_flows=4)


def test_a_saved_file_holds_what_both_stages_learn(make_small_clip, fresh, tmp_path):
    clip = make_small_clip()
    first = zsad.load("bayes_pfl", clip, "fresh", device="cpu", stage=1)
    path = first.save(tmp_path / "first.safetensors")
    second = zsad.load(checkpoint=path, backbone=clip, device="cpu", stage=2).method
    names = {name for name, _ in second.trainable()}
    assert {name.split(".")[0] for name in names} == {"class_mapping", "image_mapping", "fuse"}
    both = names | {name for name, _ in first.method.trainable()}
    assert both == set(second.learned_state()) == set(first.method.learned_state())


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_reach_what_the_stage_learns(fresh, batch, stage):
    method = fresh(stage=stage)
    sum(method.loss(*batch).values()).backward()
    reached = {name for name, each in method.network.named_parameters() if each.grad is not None}
    assert reached == {name for name, _ in method.trainable()}
    assert all(each.grad.abs().sum() > 0 for _, each in method.trainable())


def test_noise_is_random_in_training_only(fresh, batch):
    method = fresh(prompt_num=5)
    first, again = (method.loss(*batch)["image"] for _ in range(2))
    assert first == again
    method.train()
    torch.manual_seed(1)
    random, other = (method.loss(*batch)["image"] for _ in range(2))
    torch.manual_seed(1)
    assert random == method.loss(*batch)["image"]
    assert random != other


def test_draws_are_taken_out_again(fresh, batch):
    method = fresh()
    features, prompts = method.features(batch[0]), method.prepare(["screw"])
    plain = method.score(features, prompts).scores
    noise = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    method.set_draws(noise, noise, noise)
    assert not torch.equal(method.score(features, prompts).scores, plain)
    method.set_draws(method.noise[2], method.noise[0], method.noise[1])
    close(method.score(features, prompts).scores, plain)
    method.set_draws()
    assert torch.equal(method.score(features, prompts).scores, plain)


def test_another_seed_and_number_of_samples(fresh, batch):
    def scores(**settings):
        method = fresh(**settings)
        return method.score(method.features(batch[0]), method.prepare(["screw"])).scores

    assert not torch.equal(scores(), scores(seed=1))
    assert torch.equal(scores(sample_num=0), scores(sample_num=0, seed=1))
    assert not torch.equal(scores(sample_num=3), scores(sample_num=0))


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        ({"context": torch.zeros(2, 32)}, "together, or none"),
        ({"prompt": 3}, "pairs 0 to 2"),
        (dict.fromkeys(("context", "normal", "abnormal"), torch.zeros(2, 7)), r"\(R, 32\)"),
        (
            {"context": torch.zeros(2, 32), "normal": torch.zeros(1, 32), "abnormal": torch.zeros(1, 32)},
            "got",
        ),
    ],
)
def test_draws_that_do_not_fit(fresh, draws, message):
    with pytest.raises(ConfigError, match=message):
        fresh().set_draws(**draws)


def test_draws_of_another_number_of_images(fresh, batch):
    method = fresh()
    method.set_draws(torch.zeros(2, 1, 32), torch.zeros(1, 32), torch.zeros(1, 32))
    with pytest.raises(ConfigError, match="noise of 2 images, but 3 came"):
        method.loss(*batch)


def test_a_large_batch_is_scored_in_parts(fresh):
    method = fresh(image_score="joint")
    images = torch.randn(11, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    joint = method.score(method.features(images), method.prepare(["nut"] * 11))
    method.config = dataclasses.replace(method.config, image_score="prob", sigma=0.0)
    single = method.score(method.features(images), method.prepare(["nut"]))
    expected = (min_max(single.scores) + min_max(single.maps.mean(dim=(1, 2)))) / 2  # top_k is all pixels
    close(joint.scores, expected.detach(), atol=1e-4)
    method.config = dataclasses.replace(method.config, image_score="joint")
    with pytest.raises(ConfigError, match="at least 2"):
        method.score(method.features(images[:1]), method.prepare(["nut"]))


def test_a_long_class_name_is_cut_and_too_many_vectors_are_refused(fresh, batch):
    method = fresh()
    raw = method.score(method.features(batch[0]), method.prepare(["very " * 90 + "long"]))
    assert torch.isfinite(raw.scores).all()
    with pytest.raises(ConfigError, match="use 1 to 74"):
        fresh(prompt_context_len=70)
    with pytest.raises(ConfigError, match="class name must not be empty"):
        method.prepare([" "])


def test_the_two_stages_are_judged_by_what_they_learn():
    assert BayesPFL.training_defaults({"stage": 1}).judged_by == "pixel_ap"
    assert BayesPFL.training_defaults({"stage": 2}).judged_by == "image_ap"
    assert BayesPFL.TRAINING.for_dataset("mvtec").mosaic == 0.4
    assert not BayesPFL.LOSS_IS_MEAN


def test_files_that_do_not_fit_are_refused(load, official_path, make_golden_clip):
    content = torch.load(official_path, weights_only=True)
    with pytest.raises(WeightsError, match="for 4 layers, but features_list names 1"):
        load(features_list=(24,))
    tensors = content["MyModel"]
    tensors["PFL_normal.encoder.weight_mean.module.0.bias"] = torch.ones(64)
    with pytest.raises(WeightsError, match=r"PFL_normal.encoder.weight_mean.module.0.bias.*same numbers"):
        BayesPFL.official_config(content)
    with pytest.raises(WeightsError, match=r"missing: PFL_normal.amor_b, prompt_context"):
        BayesPFL.official_config({"MyModel": {"prompt_state_normal": torch.zeros(3, 5, 64)}})
    for foreign in ({}, {"MyModel": 3}, {"MyModel": {"prompt_context": [1.0]}}):
        with pytest.raises(WeightsError, match="not a file of Bayes-PFL's authors"):
            BayesPFL.official_config(foreign)
