"""The convolutional stem of hybrid towers: padding, shapes, and self-novelty against a naive loop."""

import pytest
import torch
from torch.nn import functional as F

from zsad.backbones.stems import EfficientNetLiteStem, SameConv2d, build_stem, self_novelty
from zsad.errors import ConfigError


def naive_novelty(feature_map, neighbours):
    """One image, position by position."""
    side = feature_map.shape[-1]
    vectors = feature_map.flatten(1).T
    mean = vectors.mean(0)
    spread = (vectors - mean).pow(2).mean(0).sqrt()
    scaled = [(vector - mean) / (spread + 1e-4) for vector in vectors]
    rows = []
    for here in range(side * side):
        similar = []
        for there in range(side * side):
            distance = max(abs(here // side - there // side), abs(here % side - there % side))
            if distance > 1:
                similar.append(F.cosine_similarity(scaled[here], scaled[there], dim=0))
        best = torch.stack(similar).sort(descending=True).values[:neighbours]
        far = (vectors[here] - mean).norm() / (spread.norm() + 1e-4)
        rows.append(torch.stack([1 - best[0], 1 - best.mean(), far]))
    return torch.stack(rows).T.view(3, side, side)


def test_self_novelty_equals_a_naive_loop():
    torch.manual_seed(0)
    features = torch.randn(2, 7, 6, 6)
    expected = torch.stack([naive_novelty(each, 8) for each in features])
    torch.testing.assert_close(self_novelty(features), expected, atol=1e-5, rtol=1e-5)


def test_the_odd_patch_is_the_most_novel():
    torch.manual_seed(0)
    features = torch.randn(1, 16, 1, 1) + 0.1 * torch.randn(1, 16, 8, 8)
    features[0, :, 3, 5] = torch.randn(16) * 2
    for channel in self_novelty(features)[0]:
        assert channel.argmax() == 3 * 8 + 5


@pytest.mark.parametrize("side", [1, 2, 3])
def test_grids_too_small_for_neighbours_stay_finite(side):
    assert self_novelty(torch.randn(1, 4, side, side)).isfinite().all()


@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(3, 2, 32), (5, 2, 33), (3, 1, 9), (5, 1, 8), (5, 2, 7)]
)
def test_same_padding_gives_the_ceiling(kernel, stride, size):
    assert SameConv2d(1, 1, kernel, stride)(torch.zeros(1, 1, size, size)).shape[-1] == -(-size // stride)


def test_even_images_are_padded_right_and_bottom():
    convolution = SameConv2d(1, 1, 3, 2, bias=False)
    torch.nn.init.ones_(convolution.weight)
    image = torch.arange(16.0).view(1, 1, 4, 4)
    expected = F.conv2d(F.pad(image, (0, 1, 0, 1)), convolution.weight, stride=2)
    torch.testing.assert_close(convolution(image), expected)


def test_what_a_stem_says_beside_its_embeddings():
    """The widened patches are what enters the depthwise convolution of the first block of stride 32."""
    torch.manual_seed(0)
    stem, images, entering = EfficientNetLiteStem(24), torch.randn(2, 3, 64, 64), []
    block = stem.trunk.stages[5][0]
    block.depthwise.register_forward_pre_hook(lambda _, given: entering.append(given[0].clone()))
    with torch.inference_mode():
        embeddings, beside = stem.read(images)
        torch.testing.assert_close(embeddings, stem(images))
        middle, widened = beside.on_patch_grid
    assert [tuple(level.shape[1:]) for level in beside.levels] == [(48, 8, 8), (120, 4, 4), (352, 2, 2)]
    assert middle is beside.levels[1]
    torch.testing.assert_close(widened, entering[0])


def test_stem_gives_one_embedding_per_16_pixels():
    with torch.inference_mode():
        assert EfficientNetLiteStem(24)(torch.zeros(2, 3, 64, 64)).shape == (2, 24, 4, 4)


def test_unknown_stem_is_refused_by_name():
    with pytest.raises(ConfigError, match="efficientnet_lite2"):
        build_stem("efficientnet_lite3", 8)


def test_images_do_not_depend_on_how_many_come_together():
    torch.manual_seed(0)
    stem = build_stem("efficientnet_lite2", 16).eval()
    images = torch.randn(5, 3, 64, 64)
    with torch.inference_mode():
        together = stem(images)
        alone = torch.cat([stem(image[None]) for image in images])
    assert together.shape == (5, 16, 4, 4)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
