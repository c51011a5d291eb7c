"""Residual adapters: small layers that change the tokens of a frozen encoder a little, block by block.

Source: AA-CLIP (2503.06661), section 3.2, as in the authors' code.

Shapes: B images, S pixels of one side, T used layers, N patches, D encoder width, E joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import ConfigError

if TYPE_CHECKING:
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
    rescaled: Tensor = F.normalize(adapter(exact), dim=-1) * exact.norm(dim=-1, keepdim=True)
    mixed: Tensor = weight * rescaled + (1 - weight) * exact
    return mixed.to(x.dtype)


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


class ImageAdapter(nn.Module):
    """Everything that the second stage learns; the names are those of the authors' file.

    Attributes:
        layer_adapters: adapters after the first blocks of the image encoder.
        seg_proj: heads of the patches, one for each used layer.
        det_proj: head of the image.
    """

    def __init__(self, width: int, embed_dim: int, adapters: int, levels: int, *, relu: bool) -> None:
        super().__init__()
        self.layer_adapters = nn.ModuleList(BiasFreeLayer(width, width, relu=True) for _ in range(adapters))
        self.seg_proj = nn.ModuleList(BiasFreeLayer(width, embed_dim, relu=relu) for _ in range(levels))
        self.det_proj = BiasFreeLayer(width, embed_dim, relu=relu)

    def heads(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Patches of the used layers and the feature of the image, in the joint space.

        Args:
            patches: (B, T, N, D), the last of them of the last used layer.

        Returns:
            (B, T, N, E) unit vectors, and (B, E) the mean of unit vectors, which is shorter.
        """
        levels = [head(level) for head, level in zip(self.seg_proj, patches.unbind(dim=1), strict=True)]
        image = F.normalize(self.det_proj(patches[:, -1]), dim=-1).mean(dim=1)
        return F.normalize(torch.stack(levels, dim=1), dim=-1), image


def adapted_layers(chosen: int | None, layers: int, setting: str) -> int:
    """Number of the first layers that have an adapter, checked.

    Args:
        chosen: value of the setting; None for a quarter of all layers.
        layers: number of layers of the encoder.
        setting: name of the setting, for the message.

    Raises:
        ConfigError: the encoder has fewer.

    Example:
        >>> adapted_layers(None, 24, "image_adapt_until"), adapted_layers(None, 3, "image_adapt_until")
        (6, 1)
    """
    if chosen is not None and chosen > layers:
        raise ConfigError(f"{setting} {chosen}: use 0 to {layers}, the number of layers of the encoder")
    return max(1, round(layers / 4)) if chosen is None else chosen
