"""The choice of spread vectors, against the greedy choice one vector after the other."""

import pytest
import torch
from torch.nn import functional as F

from zsad.methods.functional import coreset
from zsad.methods.functional.coreset import most_spread


def greedy(vectors, most, first):
    taken = first.tolist()
    nearest = (vectors @ vectors[first].T).amax(dim=1)
    while len(taken) < most:
        left = [row for row in range(len(vectors)) if row not in taken]
        taken.append(min(left, key=lambda row: float(nearest[row])))
        nearest = torch.maximum(nearest, vectors @ vectors[taken[-1]])
    return sorted(taken)


@pytest.mark.parametrize("candidates", [1, 3, 16, 200])
@pytest.mark.parametrize("most", [2, 30, 119, 120])
def test_it_is_the_greedy_choice_whatever_the_number_of_candidates(monkeypatch, candidates, most):
    monkeypatch.setattr(coreset, "CANDIDATES", candidates)
    vectors = F.normalize(torch.randn(120, 5, generator=torch.Generator().manual_seed(most)), dim=-1)
    first = torch.tensor([4, 90])
    rows, radius = most_spread(vectors, most, first)
    assert rows.tolist() == greedy(vectors, most, first)
    assert (radius > 0) == (most < 120)


def test_equal_vectors_are_taken_once_each():
    vectors = F.normalize(torch.ones(9, 3), dim=-1)
    rows, radius = most_spread(vectors, 6, torch.tensor([0]))
    assert len(set(rows.tolist())) == 6
    assert radius < 1e-3
