"""The nearest of many vectors, against plain products, whatever fits into memory at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zsad.methods.functional.matching import mutual_similarity, nearest_distance, nearest_similarity


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def tokens():
    return unit(7, 4, seed=1)


@pytest.fixture
def others():
    return unit(5, 6, 4, seed=2)


@pytest.mark.parametrize("at_once", [1, 10, 40, 100, 10**6])
def test_parts_do_not_change_the_answer(tokens, others, at_once):
    products = torch.einsum("md,knd->kmn", tokens, others)
    found = nearest_similarity(tokens, others, at_once)
    torch.testing.assert_close(found, products.amax(dim=2))
    there, back = mutual_similarity(tokens, others, at_once)
    torch.testing.assert_close(there, products.amax(dim=2))
    torch.testing.assert_close(back, products.amax(dim=1))


@pytest.mark.parametrize("at_once", [1, 30, 65, 10**6])
def test_no_more_similarities_than_allowed_are_in_memory(monkeypatch, tokens, others, at_once):
    sizes = []
    amax = torch.Tensor.amax
    monkeypatch.setattr(torch.Tensor, "amax", lambda x, dim: sizes.append(x.numel()) or amax(x, dim))
    nearest_similarity(tokens, others, at_once)
    assert max(sizes) <= max(at_once, others.shape[1])  # one row against one set is the least there can be


def test_nearest_distance_takes_vectors_of_any_length(tokens, others):
    memory = others.flatten(0, 1)
    expected = (1 - (tokens @ memory.T).amax(dim=1)) / 2
    torch.testing.assert_close(nearest_distance(3 * tokens[None], 2 * memory)[0], expected.clamp(0, 1))
