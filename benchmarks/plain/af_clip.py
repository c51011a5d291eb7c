"""AF-CLIP: ACM Multimedia 2025, and the authors' test script; without references."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from plain.encoders import image_encoder, softmax_attention
from plain.maps import enlarged, smoothed

if TYPE_CHECKING:
    from plain import Scorer
    from zsad.methods.base import Method

NEIGHBOUR_SIGMA = 4.0  # in patches
HEADS = 8


def plain(method: Method) -> Scorer:
    """Makes the plain implementation with the weights of the method."""
    encoder, settings, adaptor = image_encoder(method.backbone), method.config, method.adaptor
    text = method.prepare(["object"]).text_features

    def adapted(tokens: Tensor) -> Tensor:
        joint = adaptor.query_key_value(adaptor.norm(tokens)).unflatten(-1, (3, HEADS, -1))
        attended = softmax_attention(*joint.permute(2, 0, 3, 1, 4).unbind(0))
        return adaptor.output(attended.transpose(1, 2).flatten(2))

    @torch.inference_mode()
    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = encoder.tokens(images)
        logits = torch.zeros(())
        for layer in method.layers:
            for scale in settings.scales:
                joint = encoder.joint(adapted(gathered(tokens[layer].float(), scale)))
                logits = logits + F.normalize(joint, dim=-1) @ text.T / settings.temperature
        probabilities = logits.softmax(dim=-1)
        maps = enlarged(probabilities[:, 1:, 1:], images.shape[-1])[:, 0]
        return probabilities[:, 0, 1], smoothed(maps, settings.sigma)

    return score


def gathered(tokens: Tensor, scale: int) -> Tensor:
    """Averages each patch of (B, 1 + N, D) with its neighbours; places outside the image count as 0."""
    if scale == 1:
        return tokens
    side, width = int((tokens.shape[1] - 1) ** 0.5), tokens.shape[-1]
    grid = tokens[:, 1:].transpose(1, 2).reshape(-1, width, side, side)
    places = torch.arange(scale) - scale // 2
    weights = torch.exp(-(places[:, None] ** 2 + places**2) / (2 * NEIGHBOUR_SIGMA**2)).flatten()
    neighbours = F.unfold(grid, scale, padding=scale // 2).unflatten(1, (width, -1))
    averaged = (neighbours * (weights / weights.sum())[:, None]).sum(dim=2)
    return torch.cat([tokens[:, :1], averaged.transpose(1, 2)], dim=1)
