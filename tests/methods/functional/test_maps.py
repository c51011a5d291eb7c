"""The shared tensor functions against SciPy, plain loops and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from zsad.errors import ConfigError
from zsad.methods.functional.maps import gaussian_filter, grid_side, in_parts, to_grid, upsample
from zsad.methods.functional.matching import nearest_distance
from zsad.methods.functional.similarity import cosine_similarity, similarity_softmax
from zsad.methods.winclip import harmonic_window_mean, window_indices


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.3, 9))
def test_gaussian_filter_equals_scipy(height, width, sigma):
    maps = torch.rand(2, height, width, generator=torch.Generator().manual_seed(height * 41 + width))
    expected = np.stack([ndimage.gaussian_filter(single, sigma) for single in maps.numpy()])
    np.testing.assert_allclose(gaussian_filter(maps, sigma), expected, atol=2e-6)


def test_gaussian_filter_leaves_alone_at_zero_and_passes_gradients():
    maps = torch.rand(1, 6, 6, requires_grad=True)
    assert gaussian_filter(maps, 0) is maps
    with torch.inference_mode():  # the kept matrix must serve later calls that record gradients
        gaussian_filter(torch.rand(1, 6, 6), 1.25)
    gaussian_filter(maps, 1.25).sum().backward()
    torch.testing.assert_close(maps.grad.sum(), torch.tensor(36.0))


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf")])
def test_gaussian_filter_refuses(sigma):
    with pytest.raises(ConfigError, match="sigma"):
        gaussian_filter(torch.zeros(1, 4, 4), sigma)


def test_similarity_with_one_and_with_many_text_rows():
    features, text = random(3, 2, 5, 8), random(3, 2, 8, seed=1)
    many = cosine_similarity(features, text)
    for index in range(3):
        expected = torch.cosine_similarity(features[index][:, :, None], text[index], dim=-1)
        torch.testing.assert_close(many[index], expected)
    one = cosine_similarity(features, text[:1])
    torch.testing.assert_close(one[0], many[0])
    assert one.shape == (3, 2, 5, 2)


def test_similarity_ignores_length_and_sums_to_one():
    features, text = random(3, 8), random(1, 2, 8, seed=1)
    found = similarity_softmax(features, text, 0.07)
    torch.testing.assert_close(found, similarity_softmax(5 * features, 0.1 * text, 0.07))
    torch.testing.assert_close(found.sum(-1), torch.ones(3))


@pytest.mark.parametrize("align_corners", [False, True])
def test_upsample_keeps_leading_dimensions(align_corners):
    maps = random(2, 3, 4, 5, 5)
    expected = torch.nn.functional.interpolate(
        maps[1], size=(7, 9), mode="bilinear", align_corners=align_corners
    )
    torch.testing.assert_close(upsample(maps, (7, 9), align_corners)[1], expected)
    assert upsample(maps, 10).shape == (2, 3, 4, 10, 10)


def test_to_grid_is_row_major():
    values = torch.arange(18.0).reshape(9, 2)
    assert to_grid(values)[1, 1, 2] == values[5, 1]


@pytest.mark.parametrize("patches", [2, 10, 1370])
def test_grid_side_refuses(patches):
    with pytest.raises(ConfigError, match="square grid"):
        grid_side(patches)


@pytest.mark.parametrize(("prefix", "grid"), [("size70", 5), ("size56", 4)])
@pytest.mark.parametrize("scale", [2, 3])
def test_windows_are_those_of_the_golden_data(golden, prefix, grid, scale):
    expected = golden("winclip")
    assert (window_indices(grid, scale).T.numpy() == expected[f"{prefix}.window_masks_scale{scale}"]).all()
    scores = torch.as_tensor(expected[f"{prefix}.window_scores_scale{scale}"])
    found = harmonic_window_mean(scores, grid, scale)
    np.testing.assert_allclose(found, expected[f"{prefix}.harmonic_map_scale{scale}"], atol=1e-6)


@given(st.integers(1, 6), st.data())
@settings(deadline=None, max_examples=25)
def test_harmonic_window_mean_equals_a_loop(grid, data):
    window = data.draw(st.integers(1, grid))
    indices = window_indices(grid, window)
    scores = torch.rand(1, len(indices), generator=torch.Generator().manual_seed(grid)) + 0.01
    found = harmonic_window_mean(scores, grid, window).flatten()
    for patch in range(grid * grid):
        covering = scores[0][(indices == patch).any(dim=1)]
        torch.testing.assert_close(found[patch], len(covering) / (1 / covering).sum())


def test_harmonic_window_mean_of_zero_is_zero():
    assert (harmonic_window_mean(torch.zeros(1, 4), 3, 2) == 0).all()


@pytest.mark.parametrize("window", [0, 4])
def test_windows_that_do_not_fit(window):
    with pytest.raises(ConfigError, match="does not fit"):
        window_indices(3, window)


def test_nearest_distance():
    memory = random(6, 4)
    assert nearest_distance(3 * memory[None], memory).max() < 1e-6
    assert nearest_distance(memory[None], memory).min() >= 0
    torch.testing.assert_close(nearest_distance(-memory[:1][None], memory[:1]), torch.ones(1, 1))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_in_parts_gives_what_the_whole_gives(count):
    batch, sizes = random(count, 2, 3), []

    def function(part):
        sizes.append(len(part))
        return part.sum(dim=2), (part > 0)[:, 0]

    found = in_parts(function, batch, at_once=4)
    assert sum(sizes) == count
    assert max(sizes) <= 4
    for one, expected in zip(found, (batch.sum(dim=2), (batch > 0)[:, 0]), strict=True):
        assert one.dtype == expected.dtype
        assert torch.equal(one, expected)
