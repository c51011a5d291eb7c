"""Dual-Image against plain loops that share no code with it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage

import zsad
from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError
from zsad.methods.dual_image import (
    Config,
    DualImage,
    DualImageState,
    Features,
)
from zsad.methods.functional import pairing
from zsad.methods.functional.pairing import neighbourhood_means, visual_scores

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(
        torch.as_tensor(found).double(), torch.as_tensor(expected).double(), rtol=0, atol=atol
    )


def unit_vectors(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def abnormal(patch, text, temperature):
    """Probability of the second text."""
    angles = [float(patch @ row) / float(np.linalg.norm(patch) * np.linalg.norm(row)) for row in text]
    powers = [np.exp(angle / temperature) for angle in angles]
    return powers[1] / sum(powers)


def choose_partners(*args, **settings):
    """The numbers of the companions as lists."""
    draws = pairing.choose_partners(*args, **settings)
    return [[numbers.tolist() for numbers in partners] for partners in draws]


def naive_visual(tokens, partners, share):
    tokens = tokens.double().numpy()
    total, blocks, patches, _ = tokens.shape
    scores = np.zeros((total, patches))
    for i in range(total):
        for p in range(patches):
            means = []
            for block in range(blocks):
                distances = sorted(
                    min((1 - tokens[i, block, p] @ tokens[j, block, q]) / 2 for q in range(patches))
                    for j in partners[i]
                )
                means.append(np.mean(distances[: max(1, int(share * len(distances)))]) if distances else 0)
            scores[i, p] = np.mean(means)
    return scores


def make_features(total=4, patches=9, seed=0):
    return Features(
        unit_vectors(total, 6, seed=seed),
        unit_vectors(total, patches, 6, seed=seed + 1),
        unit_vectors(total, 2, patches, 5, seed=seed + 2),
        None,
    )


def make_state(*names):
    return DualImageState(unit_vectors(len(names), 2, 6, seed=9), names)


@pytest.fixture
def make(make_small_clip):
    return lambda **settings: zsad.load("dual_image", make_small_clip(), device="cpu", **settings)


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(4))


def test_nearest_partners():
    features = unit_vectors(7, 3)
    names = ["nut", "tile", "nut", "nut", "tile", "nut", "cable"]
    for count in (1, 2, None):
        (partners,) = choose_partners(names, features, "nearest", count=count)
        for i, found in enumerate(partners):
            others = [j for j in range(7) if j != i and names[j] == names[i]]
            others.sort(key=lambda j: -float(features[i] @ features[j]))
            assert found == others[:count]


@pytest.mark.parametrize(("total", "count"), [(2, 1), (6, 1), (7, 1), (9, 2), (8, 2), (3, 10)])
def test_sequential_partners(total, count):
    names, features = ["nut"] * total, unit_vectors(total, 3)
    (partners,) = choose_partners(names, features, "sequential", count=count, seed=1)
    for i, found in enumerate(partners):
        assert i not in found
        assert len(found) == len(set(found)) == min(count, total - 1)
    one_sided = [(i, j) for i, found in enumerate(partners) for j in found if i not in partners[j]]
    left_over = total % (min(count, total - 1) + 1)
    assert len({i for i, _ in one_sided}) == left_over
    assert choose_partners(names, features, "sequential", count=count, seed=1) == [partners]


def test_sequential_pairs_are_shuffled():
    drawn = {
        str(choose_partners(["nut"] * 8, unit_vectors(8, 3), "sequential", seed=seed)) for seed in range(5)
    }
    assert len(drawn) > 1


def test_random_partners():
    names = ["nut", "tile"] * 5
    draws = choose_partners(names, unit_vectors(10, 3), "random", count=2, draws=6, seed=3)
    assert len(draws) == 6
    assert len({str(partners) for partners in draws}) > 1
    for partners in draws:
        for i, found in enumerate(partners):
            assert len(set(found)) == 2
            assert all(j != i and j % 2 == i % 2 for j in found)
    assert draws == choose_partners(names, unit_vectors(10, 3), "random", count=2, draws=6, seed=3)


def test_visual_scores():
    tokens = unit_vectors(8, 2, 4, 5)
    partners = [[j for j in range(8) if j != i] for i in range(6)] + [[0], []]
    for share in (0.0, 0.3, 1.0):
        numbers = [torch.tensor(found, dtype=torch.long) for found in partners]
        close(visual_scores(tokens, numbers, share), naive_visual(tokens, partners, share))


def test_neighbourhood_means():
    tokens = torch.randn(2, 1, 16, 3, generator=torch.Generator().manual_seed(0))
    found = neighbourhood_means(tokens, 3)
    grid = tokens.double().numpy().reshape(2, 4, 4, 3)
    for row in range(4):
        for column in range(4):
            around = grid[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            close(found[:, 0, row * 4 + column], around.mean(axis=(1, 2)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"alpha": 0.2, "beta": 0.7, "visual_scale": 4.0, "sigma": 1.5, "temperature": 0.3},
        {"pairing": "random", "draws": 3, "partners": 2, "best_share": 1.0},
        {"pairing": "sequential", "partners": None, "best_share": 0.5},
    ],
)
def test_joint_scores(small_clip, settings):
    config = Config(**settings)
    method = DualImage(small_clip, config)
    features, state = make_features(), make_state("nut", "nut", "tile", "tile")
    raw = method.score(features, state)
    draws = choose_partners(
        state.class_names,
        features.image_features,
        config.pairing,
        count=config.partners,
        draws=config.draws,
        seed=config.seed,
    )
    visual = np.mean(
        [naive_visual(features.visual_tokens, partners, config.best_share) for partners in draws], axis=0
    )
    for i in range(4):
        text = state.text_features[i].double().numpy()
        language = abnormal(features.image_features[i].double().numpy(), text, config.temperature)
        close(raw.scores[i], (1 - config.beta) * language + config.beta * visual[i].max())
        grid = np.zeros((3, 3))
        for p in range(9):
            patch = features.patch_features[i, p].double().numpy()
            grid[p // 3, p % 3] = (1 - config.alpha) * abnormal(patch, text, config.temperature)
            grid[p // 3, p % 3] += config.alpha * min(1, config.visual_scale * visual[i, p])
        large = torch.nn.functional.interpolate(torch.as_tensor(grid)[None, None], (24, 24), mode="bilinear")
        expected = ndimage.gaussian_filter(large[0, 0].numpy(), config.sigma) if config.sigma else large[0, 0]
        close(raw.maps[i], expected)
    low, high = method.map_range
    assert raw.maps.min() >= low
    assert raw.maps.max() <= high


def test_features(make, images):
    method = make(features_list=[1, 3], value_value_from=2).method
    found = method.features(images)
    visual = method.backbone.visual
    with torch.no_grad():
        output = visual(images, taps=(1, 2, 3), value_value_from=2)
        for index, layer in enumerate((1, 3)):
            tokens = output.tokens[layer][:, 1:].double()
            close(found.visual_tokens[:, index], tokens / tokens.norm(dim=-1, keepdim=True))
        patches = visual.project(output.value_tokens[3][:, 1:]).double()
        close(found.patch_features, patches / patches.norm(dim=-1, keepdim=True))
        whole = method.backbone.encode_image(images).double()
        close(found.image_features, whole / whole.norm(dim=-1, keepdim=True))
    value = make(features_list=[1, 3], value_value_from=2, visual_features="value_value").method
    tokens = output.value_tokens[3][:, 1:].double()
    close(value.features(images).visual_tokens[:, 1], tokens / tokens.norm(dim=-1, keepdim=True))
    assert make().method.config.value_value_from == 2


def test_text_vectors(make):
    method = make(prompt_set="two_words").method
    sentences = ["a photo of a normal nut", "a photo of an anomalous nut"]
    with torch.no_grad():
        vectors = method.backbone.encode_text(tokenize(sentences)).double()
    close(method.prepare(["nut"]).text_features[0], vectors / vectors.norm(dim=-1, keepdim=True))
    assert make().method.prepare(["nut"]).text_features.shape == (1, 2, 16)


def test_a_single_image_is_scored_by_the_texts_and_says_so(make, images):
    joint = make()
    with pytest.warns(UserWarning, match="1 of 1 images have no other image"):
        alone = joint.score_tensors(images[:1], "nut")
    texts_only = make(alpha=0.0, beta=0.0).score_tensors(images, "nut")
    close(alone.scores[0], texts_only.scores[0])
    close(alone.maps[0], texts_only.maps[0])
    together = joint.score_tensors(images, "nut")
    assert not torch.allclose(alone.maps[0], together.maps[0])


def test_mixed_class_names_are_scored_apart(make, images):
    detector = make()
    together = detector.score_tensors(images, ["nut", "tile", "Nut", "tile"])
    nuts, tiles = (
        detector.score_tensors(images[start::2], name) for start, name in ((0, "nut"), (1, "tile"))
    )
    close(together.scores, torch.stack([nuts.scores, tiles.scores], dim=1).flatten(), atol=1e-4)
    with pytest.warns(UserWarning, match="2 of 4 images"):
        detector.score_tensors(images, ["nut", "tile", "cable", "tile"])


def test_a_mixed_folder_without_names_finds_its_like(make, images):
    pairs = torch.stack([images[0], images[1], images[0] + 0.01 * images[2], images[1] + 0.01 * images[3]])
    detector = make(pairing="nearest")
    features = detector.method.features(pairs)
    assert choose_partners(["object"] * 4, features.image_features, "nearest") == [[[2], [3], [0], [1]]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.score_tensors(pairs)


def test_many_images_go_through_the_encoder_in_parts(make, images):
    many = torch.cat([images, images.flip(-1), images.flip(-2)])
    found = make().method.features(many)
    close(found.patch_features[8:], make().method.features(many[8:]).patch_features, atol=1e-4)


def test_adaptation_changes_the_map_alone(make, images):
    plain, adapted = (make(tta_steps=steps, tta_variants=2) for steps in (0, 2))
    before, after = (detector.score_tensors(images, "nut") for detector in (plain, adapted))
    assert torch.equal(before.scores, after.scores)
    assert not torch.equal(before.maps, after.maps)
    assert torch.equal(after.maps, adapted.score_tensors(images, "nut").maps)
    with pytest.warns(UserWarning, match="no other image"):
        adapted.score_tensors(images[:1], "nut")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partners": 0}, "partners .*at least 1"),
        ({"draws": 0}, "draws .*at least 1"),
        ({"alpha": 1.5}, "alpha .*at least 0 and at most 1"),
        ({"visual_scale": 0.0}, "visual_scale .*above 0"),
        ({"sigma": -1.0}, "sigma .*at least 0"),
        ({"neighbourhood": 2}, "odd number"),
        ({"pairing": "closest"}, "closest"),
        ({"visual_features": "raw"}, "raw"),
        ({"prompt_set": "wincilp"}, "wincilp"),
        ({"features_list": [4]}, "layers 1 to 3"),
        ({"value_value_from": 9}, "layers 1 to 3"),
    ],
)
def test_impossible_settings(make, settings, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings)
