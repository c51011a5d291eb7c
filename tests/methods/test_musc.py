"""MuSc against the numbers of the authors' code (tests/golden/musc.npz) and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import zsad
from zsad.errors import ConfigError
from zsad.methods import musc
from zsad.methods.functional.maps import to_grid
from zsad.methods.musc import (
    Config,
    MuSc,
    closest_similarities,
    mutual_scores,
    neighbourhood_features,
    normalise_maps,
    ranks_that_count,
    smooth_over_similar,
)

LAYERS = (6, 12, 18, 24)


@pytest.fixture(scope="module")
def expected(golden):
    return {name: torch.as_tensor(array) for name, array in golden("musc").items()}


@pytest.fixture(scope="module")
def method(make_golden_clip):
    return MuSc(make_golden_clip(), Config(activation="gelu"))


@pytest.fixture(scope="module")
def features(method, expected):
    return method.features(expected["images"])


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=0, atol=atol)


def near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))


def unit_vectors(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def loops(features, first, end):
    """Mutual scores without any shared code: distances by subtraction, ranks by sorting."""
    z = features.double().numpy()
    total, patches, _ = z.shape
    scores = np.zeros((total, patches))
    for i in range(total):
        for p in range(patches):
            nearest = [
                min(np.linalg.norm(z[i, p] - z[j, q]) for q in range(patches)) for j in range(total) if j != i
            ]
            scores[i, p] = np.mean(sorted(nearest)[first:end])
    return torch.as_tensor(scores, dtype=torch.float32)


def test_features(features, expected):
    near(features.image_features, expected["image_features"])
    for index, layer in enumerate(LAYERS):
        near(features.patch_tokens[:, index], expected[f"tokens.{layer}"][:, 1:])


@pytest.mark.parametrize("r", [1, 3, 5])
def test_neighbourhoods_and_mutual_scores(features, expected, r):
    means = []
    for index, layer in enumerate(LAYERS):
        found = neighbourhood_features(normalise_maps(to_grid(features.patch_tokens[:, index])), r)
        if layer == 24:
            near(found, torch.nn.functional.normalize(expected[f"lnamd_raw.r{r}.layer24"], dim=-1))
        scores = mutual_scores(found)
        close(scores, expected[f"msm.r{r}.layer{layer}"], atol=2e-5)
        means.append(scores)
    close(torch.stack(means).mean(dim=0), expected[f"msm_mean_layers.r{r}"], atol=2e-5)


def test_maps_and_scores(method, features, expected):
    raw = method.score(features, method.prepare(["object"]))
    close(raw.maps, expected["map"][:, 0], atol=2e-5)
    close(raw.scores, expected["image_scores_rscin_k123"], atol=3e-4)  # min-max stretches by 1 / 0.12


@pytest.mark.parametrize(
    ("ks", "name"),
    [
        ((1, 2, 3), "rscin_k123"),
        ((1,), "rscin_k1"),
        ((2,), "rscin_k2"),
        ((3,), "rscin_k3"),
        (None, "before_rscin"),
    ],
)
def test_rescoring(method, features, expected, ks, name):
    chosen = MuSc(method.backbone, Config(activation="gelu", rscin_k=ks))
    scores = chosen.score(features, chosen.prepare([])).scores
    close(scores, expected[f"image_scores_{name}"], atol=3e-4)
    if ks is not None:
        before = expected["image_scores_before_rscin"]
        close(smooth_over_similar(before, expected["image_features"], ks), expected[f"image_scores_{name}"])


@pytest.mark.parametrize(("name", "interval"), [("scores", (0.0, 0.3)), ("scores_10_60", (0.1, 0.6))])
def test_intervals(expected, name, interval):
    close(mutual_scores(expected["msm12.Z"], interval), expected[f"msm12.{name}"], atol=2e-5)


@pytest.mark.filterwarnings("ignore:.*treated as OpenAI")
def test_from_a_file_the_activation_follows_the_size(make_golden_clip, expected, tmp_path):
    path = tmp_path / "golden.pt"
    torch.save(make_golden_clip().state_dict(), path)
    detector = zsad.load("musc", path, image_size=70, device="cpu")
    assert detector.method.config.activation == "gelu"
    raw = detector.score_tensors(expected["images"])
    close(raw.maps, expected["map"][:, 0], atol=2e-5)
    close(raw.scores, expected["image_scores_rscin_k123"], atol=3e-4)
    assert zsad.load("musc", path, device="cpu").method.config.activation == "quick_gelu"


@pytest.mark.parametrize(("total", "interval"), [(2, (0.0, 0.3)), (5, (0.0, 0.3)), (7, (0.2, 0.9))])
def test_mutual_scores_against_loops(total, interval):
    z = unit_vectors(total, 6, 5, seed=total)
    close(mutual_scores(z, interval), loops(z, *ranks_that_count(total - 1, interval)))


def test_closest_similarities_against_plain_products():
    z = unit_vectors(5, 7, 4)
    found = closest_similarities(z)
    for i in range(5):
        for j in range(5):
            if i == j:
                assert (found[i, j] == -math.inf).all()
            else:
                close(found[i, j], (z[i] @ z[j].T).amax(dim=1), atol=1e-6)


def test_images_go_through_the_network_in_parts(small_clip, monkeypatch):
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method = MuSc(small_clip, Config())
    whole = method.features(images)
    monkeypatch.setattr(musc, "IMAGES_AT_ONCE", 2)
    parts = method.features(images)
    close(parts.patch_tokens, whole.patch_tokens)
    close(parts.image_features, whole.image_features)


def test_neighbourhood_means_against_loops():
    grids = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = neighbourhood_features(grids, 3)
    for y in range(4):
        for x in range(4):
            inside = grids[:, :, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            mean = inside.sum(dim=(2, 3)) / 9
            close(found[:, 4 * y + x], mean / mean.norm(dim=1, keepdim=True))


def test_rescoring_against_loops():
    features, scores = unit_vectors(6, 4).abs(), torch.rand(6, generator=torch.Generator().manual_seed(1))
    features = torch.nn.functional.normalize(features, dim=-1)
    normalised = (scores - scores.min()) / (scores.max() - scores.min())
    rows = []
    for i in range(6):
        similarity = [float(features[i] @ features[j]) for j in range(6)]
        per_k = []
        for k in (2, 4):
            chosen = sorted(range(6), key=lambda j: -similarity[j])[:k]
            weight = sum(similarity[j] for j in chosen)
            per_k.append(sum(similarity[j] * float(normalised[j]) for j in chosen) / weight)
        rows.append(sum(per_k) / 2)
    close(smooth_over_similar(scores, features, (2, 4)), torch.tensor(rows))


def test_order_does_not_matter(small_clip):
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method = MuSc(small_clip, Config())
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    straight, mixed = (
        method.score(method.features(each), method.prepare([])) for each in (images, images[order])
    )
    close(mixed.maps, straight.maps[order])
    close(mixed.scores, straight.scores[order], atol=1e-4)


def test_the_odd_one_out_scores_highest(small_clip):
    """Five alike images, one with a changed corner: that corner and that image stand out."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, 32, 32, generator=generator) + 0.05 * torch.randn(
        6, 3, 32, 32, generator=generator
    )
    images[4, :, :8, :8] = 3.0
    method = MuSc(small_clip, Config(r_list=(1,), rscin_k=(1,)))
    raw = method.score(method.features(images), method.prepare([]))
    assert raw.scores.argmax() == 4
    assert raw.maps[4, :4, :4].mean() > 1.2 * raw.maps[4, 16:, 16:].mean()


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_few_images(make_small_clip, uint8_images, count):
    detector = zsad.load("musc", make_small_clip(), device="cpu")
    predictions = detector.predict((uint8_images * 2)[:count])
    assert all(0 <= prediction.score <= 1 for prediction in predictions)
    assert all(np.isfinite(prediction.anomaly_map).all() for prediction in predictions)


def test_equal_images_have_no_anomaly(small_clip):
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).repeat(4, 1, 1, 1)
    method = MuSc(small_clip, Config())
    raw = method.score(method.features(images), method.prepare([]))
    assert raw.maps.max() < 2e-3  # the root of a rounding error
    assert torch.isfinite(raw.scores).all()


def test_one_image_is_refused(make_small_clip, uint8_images):
    with pytest.raises(ConfigError, match="at least 2 of the same product"):
        zsad.load("musc", make_small_clip(), device="cpu").predict(uint8_images[0])


@pytest.mark.parametrize(
    ("partners", "interval", "ranks"),
    [
        (1, (0.0, 0.3), (0, 1)),
        (5, (0.0, 0.3), (0, 1)),
        (11, (0.0, 0.3), (0, 3)),
        (11, (0.1, 0.6), (1, 6)),
        (3, (0.9, 1.0), (2, 3)),
        (1, (0.5, 1.0), (0, 1)),
        (10, (0.0, 1.0), (0, 10)),
    ],
)
def test_ranks_that_count(partners, interval, ranks):
    assert ranks_that_count(partners, interval) == ranks


@pytest.mark.parametrize(
    "settings",
    [{"r_list": (2,)}, {"r_list": (0,)}, {"r_list": ()}, {"rscin_k": (0,)}, {"rscin_k": ()}]
    + [{"interval": limits} for limits in ((0.3,), (0.3, 0.3), (0.5, 0.1), (-0.1, 0.3), (0.0, 1.5))],
    ids=str,
)
def test_impossible_settings(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Config(**settings)


def test_impossible_blocks(small_clip):
    with pytest.raises(ConfigError, match="layers 1 to 3"):
        MuSc(small_clip, Config(features_list=(4,)))
