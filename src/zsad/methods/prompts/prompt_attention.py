"""Prompts attend to patches, and patches are pooled: the learnt layers between CLIP's two encoders.

Parameter names are those of the files of Bayes-PFL's authors.

Source: Bayes-PFL (2503.10080), section 3.4.

Shapes: B images, T used layers, M prompts of an image, N patches, D encoder width, E joint width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualCrossAttention(nn.Module):
    """Prompts attend to the patches of each layer, which come into the joint space.

    Source: Bayes-PFL (2503.10080), section 3.4.

    Attributes:
        linear_proj: one linear layer for each used layer of the image encoder.
    """

    def __init__(self, layers: int, width: int, embed_dim: int) -> None:
        super().__init__()
        self.q_proj_pre = nn.Conv1d(embed_dim, embed_dim, 1)
        self.linear_proj = nn.ModuleList(nn.Linear(width, embed_dim, bias=False) for _ in range(layers))
        self.heads = math.gcd(4, embed_dim)

    def forward(self, text: Tensor, patch_tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Prompts and patches of one layer after the other, all of length 1.

        Args:
            text: (B, M, E) prompts of length 1.
            patch_tokens: (B, T, N, D).

        Yields:
            (B, M, E) prompts and (B, N, E) patches.
        """
        queries = self._split(self.q_proj_pre(text.transpose(1, 2)).transpose(1, 2))
        for layer, tokens in zip(self.linear_proj, patch_tokens.unbind(dim=1), strict=True):
            patches = F.normalize(layer(tokens), dim=-1)
            values = self._split(patches)
            scale = text.shape[-1] ** -0.5  # of the full width, not of a head's
            attended = F.scaled_dot_product_attention(queries, values, values, scale=scale)
            yield F.normalize(text + attended.transpose(1, 2).flatten(2), dim=-1), patches

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, E) -> (B, heads, L, E / heads)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class PatchFusion(nn.Module):
    """Pools the patches of all layers into one vector, weighted by a softmax over the patches."""

    def __init__(self, inputs: int, inner: int, embed_dim: int) -> None:
        super().__init__()
        self.fuse_modules = nn.Linear(inputs, inner)
        self.compress = nn.Linear(inner, 1, bias=False)
        self.post_process = nn.Linear(inner, embed_dim)

    def forward(self, patch_tokens: Tensor) -> Tensor:
        """(B, T, N, D) -> (B, E)."""
        fused = self.fuse_modules(patch_tokens.transpose(1, 2).flatten(2))  # (B, N, inner)
        weights = torch.softmax(self.compress(fused), dim=1)
        pooled: Tensor = self.post_process((weights * fused).sum(dim=1))
        return pooled
