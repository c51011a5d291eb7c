"""AA-CLIP: 2503.06661, section 3, and the authors' test script; the score of each image by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from plain.encoders import image_encoder
from plain.maps import enlarged

if TYPE_CHECKING:
    from plain import Scorer
    from zsad.methods.base import Method

SIDE, SIGMA = 7, 1.0  # of the Gaussian filter, in patches


def plain(method: Method) -> Scorer:
    """Makes the plain implementation with the weights of the method."""
    encoder, weight, learnt = (
        image_encoder(method.backbone),
        method.config.image_adapt_weight,
        method.image_adapter,
    )
    text = method.prepare(["object"]).text_features[0]

    def adapted(x: Tensor, adapter: torch.nn.Module) -> Tensor:
        found = adapter(x.float())
        found = found / found.norm(dim=-1, keepdim=True) * x.float().norm(dim=-1, keepdim=True)
        return (weight * found + (1 - weight) * x.float()).to(x.dtype)

    @torch.inference_mode()
    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        x, kept = encoder.embed(images), {}
        for number in range(1, encoder.layers + 1):
            x = encoder.block(x, number)
            if number <= len(learnt.layer_adapters):
                x = adapted(x, learnt.layer_adapters[number - 1])
            kept[number] = x
        maps = torch.zeros(())
        for layer, head in zip(method.layers, learnt.seg_proj, strict=True):
            patches = F.normalize(head(encoder.norm(kept[layer][:, 1:], "ln_post").float()), dim=-1)
            logits = patches @ text.T / method.config.temperature
            contrast = (logits[..., 1] + 1 - logits[..., 0]) / 2
            maps = maps + enlarged(blurred(contrast)[..., None], images.shape[-1], align_corners=True)[:, 0]
        last = encoder.norm(kept[method.layers[-1]][:, 1:], "ln_post").float()
        image = F.normalize(learnt.det_proj(last), dim=-1).mean(dim=1)
        return (image @ text[1] + 1) / 2, maps

    return score


def blurred(values: Tensor) -> Tensor:
    """Smooths values of patches (B, N) on their grid; the outermost ones mirror it."""
    side = int(values.shape[1] ** 0.5)
    offsets = torch.arange(SIDE) - SIDE // 2
    kernel = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    grid = F.pad(values.reshape(-1, 1, side, side), [SIDE // 2] * 4, mode="reflect")
    return F.conv2d(F.conv2d(grid, kernel[..., None]), kernel[:, :, None]).flatten(1)
