"""AnoVL against plain loops that share no code with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import zsad
from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError
from zsad.methods.anovl import AnoVL, Config, adapt_patches, altered_views
from zsad.methods.prompts.domain import OBJECT_PROMPTS, TEXTURE_PROMPTS, ClassTexts


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def method(make_small_clip):
    return AnoVL(make_small_clip(), Config(tta_steps=0))


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(
        torch.as_tensor(found).double(), torch.as_tensor(expected).double(), rtol=0, atol=atol
    )


def unit(vector):
    return vector / np.linalg.norm(vector)


def softmax(values):
    shifted = np.exp(values - np.max(values))
    return shifted / shifted.sum()


def random_texts(sentences, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(2 + sentences, width, generator=generator), dim=-1)
    return ClassTexts(vectors[:2], vectors[2:])


def value_value_patches(visual, images, start):
    """Patches by the definition, head by head and token by token."""
    block_of = visual.transformer.resblocks
    blocks = [block_of[number] for number in range(visual.config.layers)]
    original = visual.ln_pre(visual.embed(images))
    stream = original
    for number, block in enumerate(blocks, start=1):
        normed = block.ln_1(original)
        width = normed.shape[-1]
        q, k, v = (
            normed @ block.attn.in_proj_weight[part * width : (part + 1) * width].T
            + block.attn.in_proj_bias[part * width : (part + 1) * width]
            for part in range(3)
        )
        heads = visual.config.heads
        mixed = {"original": torch.zeros_like(v), "value": torch.zeros_like(v)}
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            scale = 1 / math.sqrt(width // heads)
            for name, (left, right) in {"original": (q, k), "value": (v, v)}.items():
                weights = torch.softmax(left[..., part] @ right[..., part].transpose(1, 2) * scale, dim=-1)
                mixed[name][..., part] = weights @ v[..., part]
        attended = original + block.attn.out_proj(mixed["original"])
        original = attended + block.mlp(block.ln_2(attended))
        stream = stream + block.attn.out_proj(mixed["value"]) if number >= start else original
    return visual.ln_post(stream[:, 1:]) @ visual.proj, visual.ln_post(original[:, 0]) @ visual.proj


def test_prompts():
    normal, abnormal = OBJECT_PROMPTS.for_class("screw")
    assert len(normal) == len(set(normal)) == len(abnormal) == len(set(abnormal)) == 462
    assert "a jpeg corrupted industrial photo of the normal screw" in normal
    assert "an industrial image of a small screw without flaw" in normal
    assert "a manufacturing image of the imperfect screw for anomaly detection" in abnormal
    normal, abnormal = TEXTURE_PROMPTS.for_class("wood")
    assert len(set(normal)) == 462
    assert "a textural photo of the perfect wood" in normal
    assert "a close-up surface image of a blemished wood" in abnormal
    assert "an industrial photo of a large wood with damage" in abnormal
    assert not any(sentence.endswith(".") or "{" in sentence for sentence in normal + abnormal)


@pytest.mark.parametrize(
    ("name", "written", "prompts"),
    [("carpet", "carpet", TEXTURE_PROMPTS), ("macaroni2", "macaroni", OBJECT_PROMPTS)],
)
def test_text_vectors(method, name, written, prompts):
    texts = method.prepare([name]).texts[0]
    with torch.no_grad():
        sides = [
            method.backbone.encode_text(tokenize(sentences)).double().numpy()
            for sentences in prompts.for_class(written)
        ]
    for found, vectors in zip(texts.means, sides, strict=True):
        close(found, unit(vectors.mean(axis=0)))
    close(texts.single, np.stack([unit(vector) for vectors in sides for vector in vectors]))


def test_own_textures(make_small_clip):
    method = AnoVL(make_small_clip(), Config(textures=("Felt",), tta_steps=0))
    assert method.text.prompts("felt") is TEXTURE_PROMPTS
    assert method.text.prompts("carpet") is OBJECT_PROMPTS


def sampled(image, row, column):
    """Bilinear value of an image at a place that may lie outside, where the image is mirrored."""
    last = image.shape[0] - 1

    def mirrored(place):
        place = abs(place) % (2 * last)
        return 2 * last - place if place > last else place

    row, column = mirrored(row), mirrored(column)
    top, left = min(int(row), last - 1), min(int(column), last - 1)
    down, right = row - top, column - left
    return (
        image[top, left] * (1 - down) * (1 - right)
        + image[top + 1, left] * down * (1 - right)
        + image[top, left + 1] * (1 - down) * right
        + image[top + 1, left + 1] * down * right
    )


def test_views(images):
    views = altered_views(images)
    assert views.shape == (2, 21, 3, 32, 32)
    angles = [-4, -3, -2, -1, 1, 2, 3, 4]
    expected = []
    for sixteenths in angles:
        turn = sixteenths * math.pi / 16
        expected.append(
            lambda x, y, turn=turn: (
                math.cos(turn) * x - math.sin(turn) * y,
                math.sin(turn) * x + math.cos(turn) * y,
            )
        )
    image = images[1, 2].double().numpy()
    for number, moved in enumerate(expected):
        for row, column in ((0, 0), (3, 29), (16, 20), (31, 31)):
            x, y = moved(2 * column / 31 - 1, 2 * row / 31 - 1)
            value = sampled(image, (y + 1) / 2 * 31, (x + 1) / 2 * 31)
            assert float(views[1, number, 2, row, column]) == pytest.approx(value, abs=1e-4)
    shifts = {(a * size, b * size) for size in (0.1, 0.2) for a in (1, -1) for b in (1, -1)}
    found = set()
    for number in range(8, 16):
        for across, down in shifts:
            value = sampled(image, 20 + down * 31 / 2, 9 + across * 31 / 2)
            if abs(value - float(views[1, number, 2, 20, 9])) < 1e-4:
                found.add((across, down))
    assert found == shifts
    close(views[0, 16], images[0].numpy()[:, :, ::-1].copy())
    red, green, blue = images[0]
    for channel in range(3):
        close(views[0, 17, channel], 0.299 * red + 0.587 * green + 0.114 * blue)
    for turns in (1, 2, 3):
        close(views[0, 17 + turns], np.rot90(images[0].numpy(), turns, axes=(1, 2)).copy())


@pytest.mark.parametrize("start", [1, 2])
def test_features(make_small_clip, images, start):
    method = AnoVL(make_small_clip(), Config(value_value_from=start))
    found = method.features(images)
    with torch.no_grad():
        patches, whole = value_value_patches(method.backbone.visual, images, start)
        close(found.patch_features, patches, atol=1e-4)
        close(found.view_features[:, 0], whole, atol=1e-4)
        for number, view in enumerate(altered_views(images).unbind(1), start=1):
            close(found.view_features[:, number], method.backbone.encode_image(view), atol=1e-4)
    assert found.view_features.shape[1] == 22


def test_scores_and_maps(method, images):
    features, state = method.features(images), method.prepare(["screw", "wood"])
    raw = method.score(features, state)
    for index in range(2):
        means = state.texts[index].means.double().numpy()
        views = features.view_features[index].double().numpy()
        chances = [softmax(means @ unit(view))[1] for view in views]
        close(raw.scores[index], np.mean(chances))
        patches = features.patch_features[index].double().numpy()
        grid = np.array([softmax(means @ unit(patch))[1] for patch in patches]).reshape(4, 4)
        close(raw.maps[index], enlarged(grid, 32))


def enlarged(grid, size):
    """3 x 3 means with repeated borders, then bilinear between the outermost values."""
    side = len(grid)
    smooth = np.zeros_like(grid)
    for row in range(side):
        for column in range(side):
            smooth[row, column] = np.mean(
                [
                    grid[min(max(row + down, 0), side - 1), min(max(column + right, 0), side - 1)]
                    for down in (-1, 0, 1)
                    for right in (-1, 0, 1)
                ]
            )
    places = [place * (side - 1) / (size - 1) for place in range(size)]
    return np.array([[sampled(smooth, row, column) for column in places] for row in places])


def test_without_views(make_small_clip, images):
    method = AnoVL(make_small_clip(), Config(views=False, tta_steps=0))
    features = method.features(images)
    assert features.view_features.shape[1] == 1
    close(features.view_features[:, 0], method.backbone.encode_image(images).detach())


def naive_adaptation(patches, texts, config):
    """The same training, patch by patch, with AdamW written out."""
    z = patches.double()
    means, sentences = texts.means.double(), texts.single.double()
    width = z.shape[1]
    rows = len(sentences) if config.adapter == "text" else width
    generator = torch.Generator().manual_seed(config.seed)
    bound = width**-0.5
    learnt = [
        ((torch.rand(shape, generator=generator) * 2 - 1) * bound).double()
        for shape in ((rows, width), (rows,))
    ]
    moments = [(torch.zeros_like(value), torch.zeros_like(value)) for value in learnt]

    def moved(token, weight, bias):
        inner = weight @ (token / token.norm()) + bias
        change = sentences.T @ torch.tanh(inner) if config.adapter == "text" else inner
        return (token + change) / 2

    def chances(token, weight, bias):
        adapted = moved(token, weight, bias)
        return torch.softmax(means @ (adapted / adapted.norm()) / config.temperature, dim=0)

    for step in range(1, config.tta_steps + 1):
        noise = torch.randn(patches.shape, generator=generator).double() * config.noise_std
        weight, bias = (value.clone().requires_grad_() for value in learnt)
        total = 0
        for token, disturbed in zip(z, z + noise, strict=True):
            p, q = chances(token, weight, bias), chances(disturbed, weight, bias)
            total = total - p[0] * p[0].log() - p[1] * p[1].log() - 0.5 * (q[1].log() + p[0].log())
        gradients = torch.autograd.grad(total / len(z), [weight, bias])
        for number, gradient in enumerate(gradients):
            first, second = moments[number]
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            moments[number] = (first, second)
            decayed = learnt[number] * (1 - config.tta_lr * 0.01)
            root = (second / (1 - 0.999**step)).sqrt() + 1e-8
            learnt[number] = decayed - config.tta_lr * (first / (1 - 0.9**step)) / root
    return torch.stack([moved(token, *learnt) for token in z])


@pytest.mark.parametrize("adapter", ["text", "linear"])
def test_adaptation(adapter):
    config = Config(adapter=adapter, tta_steps=3, tta_lr=1e-2, seed=5)
    patches = 2 * torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    texts = random_texts(10, 6)
    close(adapt_patches(patches, texts, config), naive_adaptation(patches, texts, config), atol=1e-4)


def test_adaptation_in_inference_mode():
    config = Config(tta_steps=2)
    with torch.inference_mode():
        patches = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
        inside = adapt_patches(patches, random_texts(10, 6), config)
    outside = adapt_patches(patches.clone(), random_texts(10, 6), config)
    assert torch.equal(inside, outside)
    assert not outside.requires_grad


def test_adaptation_changes_the_map_alone(make_small_clip, images):
    plain, adapted = (
        zsad.load("anovl", make_small_clip(), device="cpu", views=False, tta_steps=steps) for steps in (0, 5)
    )
    before, after = (detector.score_tensors(images, "screw") for detector in (plain, adapted))
    assert torch.equal(before.scores, after.scores)
    assert not torch.equal(before.maps, after.maps)
    reversed_order = adapted.score_tensors(images.flip(0), "screw")
    close(reversed_order.maps.flip(0), after.maps)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature of anovl must be a number above 0"),
        ({"tta_steps": -1}, "tta_steps .*at least 0"),
        ({"tta_lr": 0.0}, "tta_lr .*above 0"),
        ({"adapter": "cubic"}, "cubic"),
        ({"value_value_from": 4}, "has layers 1 to 3"),
    ],
)
def test_impossible_settings(make_small_clip, settings, message):
    with pytest.raises(ConfigError, match=message):
        zsad.load("anovl", make_small_clip(), device="cpu", **settings)
