"""Hybrid semantic fusion against a naive one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from zsad.methods.functional.semantic_fusion import mean_of_clusters, semantic_fusion


@pytest.fixture
def patches():
    """(2 images, 3 blocks, 40 patches, 6) of length 1, and logits."""
    generator = torch.Generator().manual_seed(2)
    features = F.normalize(torch.randn(2, 3, 40, 6, generator=generator), dim=-1)
    return features, 5 * torch.randn(2, 3, 40, 2, generator=generator)


def test_against_loops(patches):
    from sklearn.cluster import KMeans

    features, logits = patches
    found = semantic_fusion(features, logits, clusters=4)
    for image in range(2):
        abnormal = torch.softmax(logits[image].mean(dim=0), dim=-1)[:, 1]
        chosen = features[image][:, abnormal.argsort(descending=True)[:20]]
        points = torch.cat(list(chosen), dim=1).numpy()
        labels = KMeans(4, n_init="auto", random_state=0).fit_predict(points)
        centres = [
            chosen[:, torch.as_tensor(labels == label)].reshape(-1, 6).mean(dim=0) for label in range(4)
        ]
        torch.testing.assert_close(found[image], F.normalize(torch.stack(centres).mean(dim=0), dim=0))


def test_a_cluster_without_members_does_not_count():
    features = torch.tensor([[[2.0], [4.0]], [[1.0], [5.0]]])
    assert mean_of_clusters(features, torch.tensor([[0, 3], [2, 2]]), 4).flatten().tolist() == [3.0, 3.0]


def test_gradients_pass(patches):
    features = patches[0].clone().requires_grad_()
    semantic_fusion(features, patches[1], clusters=4)[:, 0].sum().backward()
    reached = (features.grad.abs().sum(dim=-1) > 0).sum(dim=-1)
    assert (reached == 20).all()
