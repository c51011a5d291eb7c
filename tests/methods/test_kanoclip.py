"""KAnoCLIP against plain loops, and against AnomalyCLIP's recorded numbers where both must agree."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import zsad
from helpers.clip_shapes import with_layers
from helpers.golden_checks import close
from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError, WeightsError
from zsad.methods.anomalyclip import AnomalyCLIP
from zsad.methods.anomalyclip import Config as AnomalyCLIPConfig
from zsad.methods.kanoclip import Config, KAnoCLIP, knowledge_distance
from zsad.methods.prompts.knowledge import Knowledge, find_knowledge

ALL_LAYERS = (6, 12, 18, 24)
LOCAL = ("focal", "dice_abnormal", "dice_normal")
OWN = {"normal": ["a good {}"], "abnormal": ["a bad {}", "a broken {}"]}


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batch(images):
    masks = torch.zeros(3, 32, 32)
    masks[1:, 4:12, 4:12] = 1
    return images, masks, torch.tensor([0, 1, 1])


@pytest.fixture
def build(make_small_clip):
    """Makes the method with the same fresh parameters each time, or with large ones."""

    def make(large=False, **settings):
        torch.manual_seed(3)
        method = KAnoCLIP(make_small_clip(), Config(**settings))
        if large:
            with torch.no_grad():
                for _, parameter in method.trainable():
                    parameter.normal_(std=0.3)
        return method

    return make


def scored(method, images):
    return method.score(method.features(images), method.prepare(["object"]))


def naive_attention(attention, asking, answering):
    """Multi-head attention of unit vectors, head by head and token by token."""
    width, heads = attention.embed_dim, attention.num_heads
    size = width // heads
    weights, biases = attention.in_proj_weight.split(width), attention.in_proj_bias.split(width)
    found = torch.zeros_like(asking)
    for row, token in enumerate(asking):
        query = weights[0] @ token + biases[0]
        keys = [weights[1] @ other + biases[1] for other in answering]
        values = [weights[2] @ other + biases[2] for other in answering]
        joined = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            logits = torch.stack([query[part] @ key[part] for key in keys]) / math.sqrt(size)
            shares = torch.softmax(logits, dim=0)
            joined.append(sum(share * value[part] for share, value in zip(shares, values, strict=True)))
        found[row] = attention.out_proj.weight @ torch.cat(joined) + attention.out_proj.bias
    return found


@torch.no_grad()
def test_scores_and_maps_against_plain_loops(build, images):
    method = build(large=True, sigma=0.0)
    features = method.features(images)
    learnt = F.normalize(method.prompts.encode(method.backbone)[0], dim=-1)
    raw = scored(method, images)
    for index in range(3):
        total = 0
        for layer in range(3):
            patches = F.normalize(features.patch_features[index, layer], dim=-1)
            text = learnt + naive_attention(method.interaction.text_attention, learnt, patches)
            moved = patches + naive_attention(method.interaction.patch_attention, patches, learnt)
            logits = F.normalize(moved, dim=-1) @ F.normalize(text, dim=-1).T / 0.07
            total = total + torch.softmax(logits, dim=-1)[:, 1].reshape(4, 4)
        expected = F.interpolate(total[None, None], size=(32, 32), mode="bilinear")[0, 0]
        close(raw.maps[index], expected, atol=1e-5)
        adapter = method.adapter
        plane = F.gelu(adapter.reduce(patches.T.reshape(1, 16, 4, 4)))
        kernels = zip(plane[0], adapter.depthwise.weight, adapter.depthwise.bias, strict=True)
        channels = [
            F.conv2d(each[None], kernel[None], bias[None], padding=1) for each, kernel, bias in kernels
        ]
        plane = torch.cat(channels)[None]
        everywhere = torch.stack(
            [adapter.restore(F.gelu(plane)[0, :, row, column]) for row in range(4) for column in range(4)]
        )
        image = F.normalize(features.image_features[index], dim=-1) + 0.1 * everywhere.mean(dim=0)
        logits = torch.stack([F.cosine_similarity(image, each, dim=0) for each in text]) / 0.07
        assert float(raw.scores[index]) == pytest.approx(float(torch.softmax(logits, dim=0)[1]), abs=1e-5)


def test_fresh_weights_are_anomalyclips_skeleton(golden_clip, golden_inputs, golden, golden_path):
    """The numbers are those that AnomalyCLIP's own code gives with these prompts."""
    official = torch.load(golden_path / "anomalyclip_official.pth", weights_only=True)
    method = KAnoCLIP(golden_clip, Config(kd_weight=0.0))
    assert method.config.features_list == ALL_LAYERS
    with torch.no_grad():
        for name, parameter in method.prompts.learner.named_parameters():
            parameter.copy_(official["prompt_learner"][name])
    raw = scored(method, golden_inputs["images"])
    close(raw.scores, golden("anomalyclip")["eval.scores"], atol=1e-5)
    close(raw.maps, golden("anomalyclip")["eval.map_gauss"], atol=1e-5)


def test_fresh_losses_are_anomalyclips(golden_clip, golden_inputs):
    torch.manual_seed(3)
    skeleton = AnomalyCLIP(golden_clip, AnomalyCLIPConfig(features_list=ALL_LAYERS, lam=1.0))
    torch.manual_seed(3)
    method = KAnoCLIP(golden_clip, Config(kd_weight=0.0))
    arguments = golden_inputs["images"], golden_inputs["masks"], golden_inputs["labels"]
    found, expected = method.loss(*arguments), skeleton.loss(*arguments)
    assert found.pop("knowledge") == 0
    for name, value in expected.items():
        close(found[name], value.detach(), rtol=1e-4)


def test_the_distance_is_0_at_the_knowledge(build):
    method = build()
    known = method.knowledge.encode(["object"])[0]
    assert float(knowledge_distance(3 * known, known)) == pytest.approx(0, abs=1e-6)
    assert float(knowledge_distance(-known, known)) == pytest.approx(4)


def test_the_knowledge_is_the_mean_of_its_sentences(build):
    method = build(knowledge=OWN)
    known = method.knowledge.encode(["object"])[0]
    for row, sentences in enumerate(OWN.values()):
        vectors = [
            method.backbone.encode_text(tokenize(each.replace("{}", "object")))[0] for each in sentences
        ]
        mean = sum(vector / vector.norm() for vector in vectors) / len(vectors)
        close(known[row], mean / mean.norm(), atol=1e-6)


def test_the_distance_falls_in_training(build, batch):
    method = build(global_weight=0.0, local_weight=0.0)
    parameters = [parameter.requires_grad_(True) for _, parameter in method.trainable()]
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    distances = []
    for _ in range(8):
        terms = method.loss(*batch)
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
        distances.append(float(terms["knowledge"].detach()))
    assert distances[-1] < 0.1 * distances[0]


def test_weights_weigh_their_terms(build, batch):
    one = build().loss(*batch)
    other = build(kd_weight=2.0, global_weight=3.0, local_weight=5.0).loss(*batch)
    for name, factor in {"knowledge": 2, "image": 3, **dict.fromkeys(LOCAL, 5)}.items():
        close(other[name], factor * one[name].detach(), rtol=1e-5)


def test_own_knowledge_changes_its_term_alone(build, batch):
    usual, own = build(), build(knowledge=OWN)
    before, after = usual.loss(*batch), own.loss(*batch)
    assert float(before.pop("knowledge").detach()) != pytest.approx(
        float(after.pop("knowledge").detach()), abs=1e-4
    )
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(scored(usual, batch[0]).maps, scored(own, batch[0]).maps)


def test_a_function_is_asked_once_and_its_sentences_are_saved(make_small_clip, tmp_path, images):
    asked = []

    def ask(class_name):
        asked.append(class_name)
        return OWN

    detector = zsad.load("kanoclip", make_small_clip(), "fresh", device="cpu", knowledge=ask)
    detector.score_tensors(images)
    path = detector.save(tmp_path / "own.safetensors")
    again = zsad.load(checkpoint=path, backbone=make_small_clip(), device="cpu")
    assert asked == ["object"]
    assert again.method.config.knowledge == Knowledge(tuple(OWN["normal"]), tuple(OWN["abnormal"]))


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_knowledge_from_a_file(make_small_clip, tmp_path, kind):
    path = tmp_path / "own.yaml"
    path.write_text('normal: ["a good {}"]\nabnormal:\n- a bad {}\n- a broken {}\n')
    detector = zsad.load("kanoclip", make_small_clip(), "fresh", device="cpu", knowledge=kind(path))
    assert detector.method.config.knowledge == find_knowledge(OWN, "object")
    path.write_text('normal: ["a good {}"]\nabnormal:\n- a bad {}\n- broken\n')
    with pytest.raises(ConfigError, match=r"own\.yaml, line 4: abnormal\[1\] must be a sentence with one {}"):
        zsad.load("kanoclip", make_small_clip(), "fresh", device="cpu", knowledge=kind(path))


@pytest.mark.parametrize(
    "wrong", [3, {"normal": ["a {}"]}, {"normal": [], "abnormal": ["a {}"]}, lambda name: None]
)
def test_broken_knowledge_is_refused(make_small_clip, wrong):
    with pytest.raises(ConfigError, match=r"knowledge|abnormal|normal"):
        zsad.load("kanoclip", make_small_clip(), "fresh", device="cpu", knowledge=wrong)


def test_heads_must_divide_the_width(small_clip):
    with pytest.raises(ConfigError, match="heads 3: use a number that divides the width 16"):
        KAnoCLIP(small_clip, Config(heads=3))


def test_constants_follow_the_number_of_layers():
    paper = Config().resolved(with_layers(24, 12))
    assert (paper.features_list, paper.dpam_layer, paper.depth) == (ALL_LAYERS, 20, 9)
    small = Config().resolved(with_layers(3, 4))
    assert (small.features_list, small.dpam_layer, small.depth) == ((1, 2, 3), 3, 4)


def test_there_is_no_file_of_the_authors(make_small_clip, tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "kanoclip.pth")
    with pytest.raises(WeightsError, match=r"kanoclip\.pth.*KAnoCLIP publish no weights"):
        zsad.load("kanoclip", make_small_clip(), tmp_path / "kanoclip.pth", device="cpu")


def test_heads_belong_to_the_weights(make_small_clip, tmp_path):
    path = zsad.load("kanoclip", make_small_clip(), "fresh", device="cpu").save(
        tmp_path / "saved.safetensors"
    )
    with pytest.raises(ConfigError, match="heads=2 contradicts"):
        zsad.load(checkpoint=path, backbone=make_small_clip(), device="cpu", heads=2)
