"""Finds the most similar vector among many, in bounded memory: the one kernel for nearest patches.

Shapes: M vectors that look for a match, K sets of N vectors each (usually the patches of K images), D feature
width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# 64 MB of float32 similarities, however many patches are compared.
SIMILARITIES_AT_ONCE = 16 * 2**20
# Vectors of a set in one product of an exported graph: 22 MB for an image of 1369 patches.
VECTORS_IN_GRAPH = 4096


def nearest_similarity(tokens: Tensor, others: Tensor, at_once: int = SIMILARITIES_AT_ONCE) -> Tensor:
    """Similarity of each vector to the most similar vector of each set.

    s_k(m) = max_n  tokens_m . others_kn

    Args:
        tokens: (M, D); unit vectors, for cosines.
        others: (K, N, D); unit vectors, for cosines.
        at_once: largest number of similarities that are in memory at the same time.

    Returns:
        (K, M), in the type of `tokens`.

    Example:
        >>> tokens = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> nearest_similarity(tokens, torch.tensor([[[0.6, 0.8], [0.8, 0.6]], [[0.0, 1.0], [0.0, -1.0]]]))
        tensor([[0.8000, 0.8000],
                [0.0000, 1.0000]])
    """
    if torch.compiler.is_compiling():
        return _nearest_in_graph(tokens, others)
    if len(tokens) * others.shape[0] * others.shape[1] <= at_once:  # the usual case, and one plain graph
        return (tokens @ others.flatten(0, 1).T).reshape(-1, *others.shape[:2]).amax(dim=2).T
    nearest = tokens.new_empty(len(others), len(tokens))
    for rows, sets, similarity in _blocks(tokens, others, at_once):
        nearest[sets, rows] = similarity.amax(dim=2).T
    return nearest


def mutual_similarity(
    tokens: Tensor, others: Tensor, at_once: int = SIMILARITIES_AT_ONCE
) -> tuple[Tensor, Tensor]:
    """`nearest_similarity` in both directions, from one product.

    Args:
        tokens: (M, D).
        others: (K, N, D).
        at_once: largest number of similarities that are in memory at the same time.

    Returns:
        (K, M), each vector of `tokens` in each set, and (K, N), each vector of the sets in `tokens`.
    """
    nearest = tokens.new_empty(len(others), len(tokens))
    back = tokens.new_full(others.shape[:2], -torch.inf)
    for rows, sets, similarity in _blocks(tokens, others, at_once):
        nearest[sets, rows] = similarity.amax(dim=2).T
        back[sets] = torch.maximum(back[sets], similarity.amax(dim=0))
    return nearest, back


def nearest_distance(features: Tensor, memory: Tensor) -> Tensor:
    """Half the cosine distance of each vector to the nearest vector of a memory.

    A = min_r (1 - cos(feature, r)) / 2

    Source: WinCLIP (2303.14814), section 4.3, equation 6.

    Args:
        features: (B, M, E), of any length.
        memory: (R, E), of any length.

    Returns:
        (B, M) in [0, 1]. Values below 0, which only rounding causes, become 0, because a harmonic mean would
        otherwise explode.

    Example:
        >>> nearest_distance(torch.tensor([[[2.0, 0.0]]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
        tensor([[0.5000]])
    """
    rows = F.normalize(features, dim=-1)
    similarity = nearest_similarity(rows.flatten(0, -2), F.normalize(memory, dim=-1)[None])
    return ((1 - similarity[0].reshape(features.shape[:-1])) / 2).clamp(0, 1)


def chord(cosine: Tensor) -> Tensor:
    """Euclidean distance of two unit vectors from their cosine, in [0, 2], for any shape."""
    return (2 - 2 * cosine).clamp(min=0).sqrt()


def _nearest_in_graph(tokens: Tensor, others: Tensor) -> Tensor:
    """`nearest_similarity` for exporters: the number of products does not depend on the number of tokens."""
    found = []
    for known in others.unbind(dim=0):
        parts = [
            (tokens @ known[start : start + VECTORS_IN_GRAPH].T).amax(dim=1)
            for start in range(0, known.shape[0], VECTORS_IN_GRAPH)
        ]
        found.append(torch.stack(parts).amax(dim=0))
    return torch.stack(found)


def _blocks(tokens: Tensor, others: Tensor, at_once: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows of `tokens`, sets of `others` and their (rows, sets, N) similarities, block by block."""
    size = others.shape[1]
    rows_at_once = min(len(tokens), max(1, at_once // size))
    sets_at_once = max(1, at_once // (size * rows_at_once))
    for start in range(0, len(tokens), rows_at_once):
        rows = slice(start, start + rows_at_once)
        for first in range(0, len(others), sets_at_once):
            part = others[first : first + sets_at_once]
            similarity = (tokens[rows] @ part.flatten(0, 1).T).reshape(-1, *part.shape[:2])
            yield rows, slice(first, first + len(part)), similarity
