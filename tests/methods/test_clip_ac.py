"""CLIP-AC against a naive computation with loops, block by block, and against the golden CLIP features."""

from __future__ import annotations

import math

import pytest
import torch

from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError
from zsad.methods.clip_ac import ClipAC, Config
from zsad.methods.prompts.templates import prompt_set

CLASSES = ["metal nut", "screw", "metal nut"]


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))


def text_vector(clip, sentences):
    """Mean direction of sentences, one forward pass each."""
    mean = torch.zeros(clip.config.embed_dim)
    for sentence in sentences:
        vector = clip.encode_text(tokenize(sentence))[0]
        mean += vector / vector.norm()
    return mean / mean.norm()


def probability(vector, normal, anomalous, temperature):
    """Logistic function of the difference of two cosines."""
    unit = vector / vector.norm()
    difference = float(unit @ anomalous - unit @ normal)
    return 1 / (1 + math.exp(-difference / temperature))


@torch.no_grad()
def naive(clip, image, normal, anomalous, temperature):
    """Score, and the grid of patch scores, of one image (3, S, S)."""
    visual = clip.visual
    tokens = visual.ln_pre(visual.embed(image[None]))
    for block in visual.transformer.blocks():
        tokens = block(tokens)
    joint = visual.ln_post(tokens)[0] @ visual.proj
    scores = [probability(token, normal, anomalous, temperature) for token in joint]
    side = math.isqrt(len(scores) - 1)
    return scores[0], torch.tensor(scores[1:]).reshape(side, side)


def bilinear(grid, size):
    """Upsampling with aligned areas, one pixel after the other."""
    side = len(grid)

    def place(pixel):
        position = min(max((pixel + 0.5) * side / size - 0.5, 0), side - 1)
        low = int(position)
        return low, min(low + 1, side - 1), position - low

    result = torch.zeros(size, size)
    for row in range(size):
        top, bottom, down = place(row)
        for column in range(size):
            left, right, along = place(column)
            upper = grid[top, left] * (1 - along) + grid[top, right] * along
            lower = grid[bottom, left] * (1 - along) + grid[bottom, right] * along
            result[row, column] = upper * (1 - down) + lower * down
    return result


@pytest.mark.parametrize(
    ("settings", "sentences"),
    [
        (
            {"prompt_set": "two_words"},
            {
                name: (["a photo of a normal " + name], ["a photo of an anomalous " + name])
                for name in set(CLASSES)
            },
        ),
        (
            {"prompt_set": "winclip", "temperature": 0.02},
            {name: prompt_set("paper").for_class(name) for name in set(CLASSES)},
        ),
    ],
)
def test_scores_and_maps_are_the_naive_ones(small_clip, images, settings, sentences):
    method = ClipAC(small_clip, Config(sigma=0.0, **settings))
    raw = method.score(method.features(images), method.prepare(CLASSES))
    temperature = settings.get("temperature", 0.07)
    for index, name in enumerate(CLASSES):
        with torch.no_grad():
            normal, anomalous = (text_vector(small_clip, part) for part in sentences[name])
        score, grid = naive(small_clip, images[index], normal, anomalous, temperature)
        assert float(raw.scores[index]) == pytest.approx(score, abs=1e-5)
        torch.testing.assert_close(raw.maps[index], bilinear(grid, 32), rtol=0, atol=1e-5)


def test_the_map_is_smoothed_as_scipy_does(small_clip, images):
    from scipy.ndimage import gaussian_filter

    smooth, rough = (ClipAC(small_clip, Config(sigma=sigma)) for sigma in (4.0, 0.0))
    features, state = rough.features(images), rough.prepare(["screw"])
    expected = gaussian_filter(rough.score(features, state).maps[0].numpy(), sigma=4)
    torch.testing.assert_close(smooth.score(features, state).maps[0], torch.as_tensor(expected))


def test_imagenet_is_eighty_prompts_each():
    normal, anomalous = prompt_set("imagenet").for_class("cable")
    assert len(set(normal)) == len(set(anomalous)) == 80
    assert "a bad photo of a normal cable." in normal
    assert "a sketch of the anomalous cable." in anomalous
    assert Config().prompt_set == "imagenet"


def test_features_are_those_of_plain_clip(golden_clip, golden):
    method = ClipAC(golden_clip, Config())
    pixels, expected = golden("clip")["image56.pixels"], golden("clip")
    features = method.features(torch.as_tensor(pixels))
    patches = torch.as_tensor(expected["image56.patch_proj_layer24"])[:, 1:]
    image = torch.as_tensor(expected["image56.features"])
    torch.testing.assert_close(
        features.image_features, image, rtol=1e-4, atol=2e-5 * float(image.abs().max())
    )
    torch.testing.assert_close(
        features.patch_features[:, 0], patches, rtol=1e-4, atol=2e-5 * float(patches.abs().max())
    )


def test_the_networks_own_temperature(small_clip):
    assert ClipAC(small_clip, Config()).temperature == pytest.approx(0.07)
    assert ClipAC(small_clip, Config(temperature=0.5)).temperature == 0.5


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": -1.0}, {"sigma": -1.0}])
def test_impossible_numbers(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Config(**settings)
