"""k-means against scikit-learn's, which AdaCLIP's authors use."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from zsad.methods.functional.k_means import k_means_labels


def points(seed, count, width, *, grouped):
    """Two images of unit vectors, without order or around a few directions."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(2, count, width, generator=generator)
    if grouped:
        directions = torch.randn(2, 8, width, generator=generator)
        found += 2 * directions[:, torch.randint(0, 8, (count,), generator=generator)]
    return F.normalize(found, dim=-1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("count", "clusters", "width"), [(100, 20, 96), (60, 12, 64), (25, 5, 300)])
@pytest.mark.parametrize("grouped", [False, True])
def test_groups_equal_scikit_learns(seed, count, clusters, width, grouped):
    given = points(seed, count, width, grouped=grouped)
    for image, found in zip(given, k_means_labels(given, clusters), strict=True):
        expected = KMeans(clusters, n_init="auto", random_state=0).fit_predict(image.numpy())
        pairs = set(zip(found.tolist(), expected.tolist(), strict=True))
        assert len(pairs) == len(set(found.tolist())) == len(set(expected.tolist()))


def test_the_same_in_a_batch_and_alone():
    given = points(3, 50, 32, grouped=True)
    together = k_means_labels(given, 6)
    alone = torch.cat([k_means_labels(image[None], 6) for image in given])
    assert torch.equal(together, alone)
    assert together[0].unique().tolist() == [0, 1, 2, 3, 4, 5]


def test_fewer_points_than_clusters_are_a_cluster_each():
    assert k_means_labels(torch.zeros(1, 3, 2), 7).tolist() == [[0, 1, 2]]
