"""A plain implementation of AnomalyCLIP in the style of the authors' code, which `inference.py` times.

Every line is an ordinary operation on whole tensors. Attention is explicit in both streams, and in the layers
before the value-value stream: scores, scale, softmax, weighted sum. Every layer computes all tokens of its
streams. Maps are enlarged with both classes and smoothed by SciPy, one after the other. The prompts are not
encoded here, because the authors' test script encodes them once, before the first image. The implementation
shares weights with the network that it is compared with, but no code.

Source: Zhou et al., ICLR 2024, section 3, and their test script.

Shapes: B images, S pixels a side, L = 1 + N tokens, D width, H heads, E joint width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor


@dataclass(frozen=True)
class PlainAnomalyCLIP:
    """The image branch.

    Attributes:
        weights: weights of the image encoder, under OpenAI's names.
        positions: (L, D) position table, resized to the grid of the images; the authors' code does that once.
        text_features: (2, E) features of the normal and the abnormal prompt, not normalised.
        heads: number of heads H.
        value_value_from: first layer of the value-value stream, from 1.
        temperature: temperature of the softmax over both prompts.
        sigma: standard deviation of the Gaussian filter, in pixels.
    """

    weights: Mapping[str, Tensor]
    positions: Tensor
    text_features: Tensor
    heads: int
    value_value_from: int
    temperature: float
    sigma: float

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scores (B,) and maps (B, S, S) of normalised images (B, 3, S, S)."""
        weights = self.weights
        x = F.conv2d(
            images.to(self.positions.dtype),
            weights["conv1.weight"],
            stride=weights["conv1.weight"].shape[-1],
        )
        x = x.flatten(2).transpose(1, 2)
        class_token = weights["class_embedding"].expand(len(x), 1, -1)
        x = self.norm(torch.cat([class_token, x], dim=1) + self.positions, "ln_pre")
        patches = x
        layers = sum(name.endswith("ln_1.weight") for name in weights)
        for number in range(1, layers + 1):
            block = f"transformer.resblocks.{number - 1}"
            query, key, value = self.heads_of(self.norm(x, f"{block}.ln_1"), block)
            if number >= self.value_value_from:
                patches = patches + self.merged(softmax_attention(value, value, value), block)
            x = x + self.merged(softmax_attention(query, key, value), block)
            x = x + self.mlp(self.norm(x, f"{block}.ln_2"), block)
            if number < self.value_value_from:
                patches = x
        image_features = (x[:, 0] @ weights["proj"]).float()
        patch_features = (self.norm(patches[:, 1:], "ln_post") @ weights["proj"]).float()
        scores = self.probabilities(image_features)[:, 1]
        return scores, self.maps(self.probabilities(patch_features), images.shape[-1])

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Applies the layer norm of a name."""
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def heads_of(self, x: Tensor, block: str) -> tuple[Tensor, ...]:
        """Projects (B, L, D) to query, key and value (B, H, L, D / H)."""
        joint = F.linear(
            x, self.weights[f"{block}.attn.in_proj_weight"], self.weights[f"{block}.attn.in_proj_bias"]
        )
        return joint.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def merged(self, attended: Tensor, block: str) -> Tensor:
        """Passes (B, H, L, D / H) through the output projection."""
        return F.linear(
            attended.transpose(1, 2).flatten(2),
            self.weights[f"{block}.attn.out_proj.weight"],
            self.weights[f"{block}.attn.out_proj.bias"],
        )

    def mlp(self, x: Tensor, block: str) -> Tensor:
        """Applies two linear layers with QuickGELU between them."""
        hidden = F.linear(x, self.weights[f"{block}.mlp.c_fc.weight"], self.weights[f"{block}.mlp.c_fc.bias"])
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        return F.linear(
            hidden, self.weights[f"{block}.mlp.c_proj.weight"], self.weights[f"{block}.mlp.c_proj.bias"]
        )

    def probabilities(self, features: Tensor) -> Tensor:
        """Turns features (..., E) into probabilities of both prompts (..., 2)."""
        text = F.normalize(self.text_features, dim=-1)
        return (F.normalize(features, dim=-1) @ text.T / self.temperature).softmax(dim=-1)

    def maps(self, probabilities: Tensor, size: int) -> Tensor:
        """Turns probabilities (B, N, 2) into smoothed maps (B, size, size)."""
        side = int(probabilities.shape[1] ** 0.5)
        grid = probabilities.reshape(-1, side, side, 2).permute(0, 3, 1, 2)
        both = F.interpolate(grid, size=(size, size), mode="bilinear")
        maps = (both[:, 1] + 1 - both[:, 0]) / 2
        return torch.from_numpy(np.stack([gaussian_filter(one, sigma=self.sigma) for one in maps.numpy()]))


def softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Returns softmax(Q K^T / sqrt(d)) V, all (B, H, L, d), with the whole matrix in memory."""
    scores = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
    return scores.softmax(dim=-1) @ value
