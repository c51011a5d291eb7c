"""KAnoCLIP: 2501.03786, as zsad completes it (the paper could not be read in full)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plain.encoders import image_encoder
from plain.maps import abnormal_map, cosines, smoothed

if TYPE_CHECKING:
    from plain import Scorer
    from zsad.methods.base import Method

ADAPTED_SHARE = 0.1


def plain(method: Method) -> Scorer:
    """Makes the plain implementation with the weights of the method."""
    encoder, settings = image_encoder(method.backbone), method.config
    text = F.normalize(method.prepare(["object"]).text_features[0], dim=-1)
    first, layers = method.prompts.value_value_from, method.prompts.layers
    interaction, adapter = method.interaction, method.adapter

    def found(attention: nn.MultiheadAttention, asking: Tensor, answering: Tensor) -> Tensor:
        """Returns what (B, L, E) tokens find among (B, K, E) others; the weights are computed in full."""
        return attention(asking, answering, answering, need_weights=True)[0]

    @torch.inference_mode()
    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        original, values = encoder.two_streams(images, first)
        image = F.normalize(encoder.projected(original[encoder.layers][:, 0]), dim=-1)
        prompts = text.expand(len(images), -1, -1)
        maps = torch.zeros(())
        for layer in layers:
            patches = F.normalize(encoder.joint(values[layer][:, 1:]), dim=-1)
            asked = F.normalize(prompts + found(interaction.text_attention, prompts, patches), dim=-1)
            changed = F.normalize(patches + found(interaction.patch_attention, patches, prompts), dim=-1)
            probabilities = (cosines(changed, asked) / settings.temperature).softmax(dim=-1)
            maps = maps + abnormal_map(probabilities, images.shape[-1])
        side = int(patches.shape[1] ** 0.5)
        grid = patches.transpose(1, 2).unflatten(-1, (side, side))
        inner = F.gelu(adapter.depthwise(F.gelu(adapter.reduce(grid))))
        restored = adapter.restore(inner.flatten(2).transpose(1, 2)).mean(dim=1)
        logits = cosines((image + ADAPTED_SHARE * restored)[:, None], asked)[:, 0] / settings.temperature
        return logits.softmax(dim=-1)[:, 1], smoothed(maps, settings.sigma)

    return score
