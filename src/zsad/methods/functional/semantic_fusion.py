"""Hybrid semantic fusion: what the most anomalous patches of an image have in common, by k-means.

Source: AdaCLIP (2407.15795), section 3.4, in the form of the released code.

Shapes: B images, T layers, N patches, n of them clustered, E feature width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.methods.functional.k_means import k_means_labels

PATCHES_PER_CLUSTER = 5


def semantic_fusion(patch_features: Tensor, logits: Tensor, clusters: int) -> Tensor:
    """Mean of the clusters of the most anomalous patches.

    Args:
        patch_features: (B, T, N, E) of length 1.
        logits: (B, T, N, 2) logits of the patches, normal then abnormal.
        clusters: k; the 5 k most anomalous patches, or all patches if they are fewer, are clustered by the
            features of all layers together.

    Returns:
        (B, E) of length 1.
    """
    probabilities = torch.softmax(logits.mean(dim=1), dim=-1)[..., 1]
    chosen = most_anomalous(probabilities, PATCHES_PER_CLUSTER * clusters)
    width = patch_features.shape[-1]
    index = chosen[:, None, :, None].expand(-1, patch_features.shape[1], -1, width)
    selected = patch_features.gather(2, index)  # (B, T, n, E)
    labels = k_means_labels(selected.transpose(1, 2).flatten(2), clusters)
    count = max(clusters, labels.shape[1])  # fewer points than clusters are a cluster each
    return F.normalize(mean_of_clusters(selected.mean(dim=1), labels, count), dim=-1)


def most_anomalous(probabilities: Tensor, count: int) -> Tensor:
    """The patches with the highest values, highest first.

    Args:
        probabilities: (B, N).
        count: largest number of patches.

    Returns:
        (B, n) int64 patch numbers, n the smaller of N and count.

    Example:
        >>> most_anomalous(torch.tensor([[0.1, 0.9, 0.5]]), 2)
        tensor([[1, 2]])
    """
    return probabilities.topk(min(probabilities.shape[1], count), dim=1).indices


def mean_of_clusters(features: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """The mean of the means of the clusters, in which a small cluster weighs as much as a large one.

    Args:
        features: (B, n, E).
        labels: (B, n) int64 cluster numbers; an empty cluster does not count.
        clusters: number of clusters, larger than every label.

    Returns:
        (B, E).

    Example:
        >>> mean_of_clusters(torch.tensor([[[1.0], [3.0], [6.0]]]), torch.tensor([[0, 0, 1]]), 2)
        tensor([[4.]])
    """
    members = F.one_hot(labels, clusters).to(features.dtype)  # (B, n, k)
    sizes = members.sum(dim=1, keepdim=True)
    weights = (members / sizes.clamp(min=1)).sum(dim=-1) / (sizes > 0).sum(dim=-1)  # (B, n)
    return (weights[:, :, None] * features).sum(dim=1)
