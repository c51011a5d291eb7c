"""Attention by correlation, against plain loops."""

from __future__ import annotations

import pytest
import torch

from zsad.methods.functional.correlation import correlated_attention, patch_attention


@pytest.fixture
def heads():
    random = torch.Generator().manual_seed(3)
    return torch.randn(3, 2, 2, 5, 4, generator=random)


@pytest.mark.parametrize("kind", ["qq+kk+vv", "vv", "kk", "qq", "qq+kk", "(q+k+v)^2"])
def test_correlated_attention(heads, kind):
    query, key, value = heads
    found = correlated_attention(query, key, value, kind)
    named = {"q": query, "k": key, "v": value}
    joint = torch.cat([query, key, value], dim=-1)
    correlated = [joint] if kind.startswith("(") else [named[pair[0]] for pair in kind.split("+")]
    for image in range(2):
        for head in range(2):
            for token in range(5):
                expected = torch.zeros(4)
                for each in (part[image, head] for part in correlated):
                    products = torch.stack([each[token] @ other for other in each])
                    weights = torch.softmax(products / each.shape[-1] ** 0.5, dim=0)
                    expected += sum(
                        weight * row for weight, row in zip(weights, value[image, head], strict=True)
                    )
                torch.testing.assert_close(found[image, head, token], expected)


def test_the_mean_of_a_batch_is_that_of_all_images(heads):
    features = heads[:, 0, 0].reshape(3, 5, 2, 2)
    together = patch_attention(features, 0.5, 3.0, "batch")
    alone = torch.cat([patch_attention(each[None], 0.5, 3.0, "batch") for each in features])
    assert not torch.allclose(together, alone)
    torch.testing.assert_close(patch_attention(features, 0.5, 3.0, "picture"), alone)


def test_a_row_without_a_neighbour_attends_to_what_is_above_its_mean():
    """Similarities of nearly parallel patches, all below 1.2 times their mean."""
    directions = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.3]]).T
    features = torch.cat([directions, torch.tensor([[1.0], [0.31]])], dim=1).reshape(1, 2, 2, 2)
    found = patch_attention(features, beta=1.2, gamma=3.0, mean="picture")[0]
    expected = torch.tensor([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]])
    torch.testing.assert_close(found, expected)


def test_patches_that_are_all_alike_have_finite_attention():
    found = patch_attention(torch.ones(2, 3, 4, 4), beta=1.2, gamma=3.0, mean="batch")
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 16))


def test_features_of_zeros_attend_to_themselves():
    found = patch_attention(torch.zeros(1, 3, 2, 2), beta=1.2, gamma=3.0, mean="picture")
    assert torch.isfinite(found).all()
