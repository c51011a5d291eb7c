"""Residual adapters: small layers that change the tokens of a frozen encoder a little, block by block.

Source: AA-CLIP (2503.06661), section 3.2, as in the authors' code.

Shapes: B images or prompts, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP
    from zsad.backbones.vision import VisionTower


class BiasFreeLayer(nn.Module):
    """A linear layer without bias, drawn by Xavier's rule, with or without LeakyReLU (slope 0.01) behind it.

    Attributes:
        fc: the layer; the name, and the form with and without LeakyReLU, are those of AA-CLIP's files.
    """

    def __init__(self, width: int, output_width: int, *, relu: bool) -> None:
        super().__init__()
        linear = nn.Linear(width, output_width, bias=False)
        nn.init.xavier_uniform_(linear.weight)
        self.fc: nn.Module = nn.Sequential(linear, nn.LeakyReLU()) if relu else linear

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., output width), in single precision."""
        out: Tensor = self.fc(x.float())
        return out


def adapted(x: Tensor, adapter: nn.Module, weight: float) -> Tensor:
    """Mixes each token with what an adapter makes of it, brought to the length of the token.

    x <- w A(x) |x| / |A(x)| + (1 - w) x

    Args:
        x: (..., D).
        adapter: layer D -> D.
        weight: w in [0, 1].

    Returns:
        (..., D) in the type of `x`.

    Example:
        >>> adapted(torch.tensor([[3.0, 4.0]]), lambda x: x.flip(-1), weight=0.5)
        tensor([[3.5000, 3.5000]])
    """
    exact = x.float()
    rescaled = F.normalize(adapter(exact), dim=-1) * exact.norm(dim=-1, keepdim=True)
    return (weight * rescaled + (1 - weight) * exact).to(x.dtype)


def adapted_text(backbone: CLIP, token_ids: Tensor, adapters: Sequence[nn.Module], weight: float) -> Tensor:
    """Prompts through the text encoder with an adapter after each of its first blocks.

    Args:
        backbone: network whose text encoder is used.
        token_ids: (B, L) from `zsad.backbones.tokenizer`; the largest id is the end mark.
        adapters: layers D -> D for the first blocks.
        weight: share of the adapters.

    Returns:
        (B, D) float32 end mark after the last norm, before any projection.
    """
    x = backbone.embed_tokens(token_ids) + backbone.positional_embedding[: token_ids.shape[1]]
    for number, block in enumerate(backbone.transformer.blocks()):
        x = block(x, causal=True)
        if number < len(adapters):
            x = adapted(x, adapters[number], weight)
    rows = torch.arange(len(x), device=x.device)
    ends: Tensor = backbone.ln_final(x[rows, token_ids.argmax(dim=-1)])
    return ends.float()


def adapted_patches(
    visual: VisionTower, images: Tensor, layers: Sequence[int], adapters: Sequence[nn.Module], weight: float
) -> Tensor:
    """Patches of an image encoder with an adapter after each of its first blocks.

    Args:
        visual: the image encoder.
        images: (B, 3, S, S) resized and normalised images.
        layers: T 1-based layers.
        adapters: layers D -> D for the first blocks; the class token is adapted too.
        weight: share of the adapters.

    Returns:
        (B, T, N, D) float32 patches after the final norm, before any projection.
    """
    x: Tensor = visual.ln_pre(visual.embed(images))
    kept = {}
    for number, block in enumerate(visual.transformer.blocks()[: max(layers)], start=1):
        x = block(x)
        if number <= len(adapters):
            x = adapted(x, adapters[number - 1], weight)
        if number in layers:
            kept[number] = x[:, 1:]
    patches: Tensor = visual.ln_post(torch.stack([kept[layer] for layer in layers], dim=1))
    return patches.float()
