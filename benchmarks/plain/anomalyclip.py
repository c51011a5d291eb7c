"""AnomalyCLIP: Zhou et al., ICLR 2024, section 3, and their test script."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plain.encoders import image_encoder
from plain.maps import abnormal_map, cosines, smoothed

if TYPE_CHECKING:
    from plain import Scorer
    from zsad.methods.base import Method


def plain(method: Method) -> Scorer:
    """Makes the plain implementation with the weights of the method."""
    encoder, settings = image_encoder(method.backbone), method.config
    text = method.prepare(["object"]).text_features[0]
    first, layers = method.prompts.value_value_from, method.prompts.layers

    @torch.inference_mode()
    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        original, values = encoder.two_streams(images, first)
        image = encoder.projected(original[encoder.layers][:, 0])
        scores = (cosines(image, text) / settings.temperature).softmax(dim=-1)[:, 1]
        maps = torch.zeros(())
        for layer in layers:
            patches = encoder.joint(values[layer][:, 1:])
            probabilities = (cosines(patches, text) / settings.temperature).softmax(dim=-1)
            maps = maps + abnormal_map(probabilities, images.shape[-1])
        return scores, smoothed(maps, settings.sigma)

    return score
