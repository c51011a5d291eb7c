"""Cheung et al.: 2411.19220, as zsad completes it; the boxes come from the method's own detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from plain.encoders import image_encoder
from plain.maps import abnormal_map, cosines, smoothed

if TYPE_CHECKING:
    from plain import Scorer
    from zsad.methods.base import Method

MAP_TEMPERATURE = 0.07


def plain(method: Method) -> Scorer:
    """Makes the plain implementation with the weights of the method, for boxes of whole pixels."""
    encoder, settings = image_encoder(method.backbone), method.config
    text = method.prepare(["object"]).text_features[0]
    layers = method.features_list
    first = method._value_value_from

    def maps_of_crops(crops: Tensor) -> tuple[Tensor, Tensor]:
        original, values = encoder.two_streams(crops, first)
        image = encoder.joint(original[encoder.layers][:, 0])
        scores = (cosines(image, text) / settings.temperature).softmax(dim=-1)[:, 1]
        maps = torch.zeros(())
        for layer in layers:
            probabilities = (cosines(encoder.joint(values[layer][:, 1:]), text) / MAP_TEMPERATURE).softmax(-1)
            maps = maps + abnormal_map(probabilities, crops.shape[-1]) / len(layers)
        return scores, smoothed(maps, settings.sigma)

    @torch.inference_mode()
    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        size = images.shape[-1]
        boxes = method.detector(images, ["object"] * len(images)).int().tolist()
        crops = [
            F.interpolate(image[None, :, top:bottom, left:right], size=(size, size), mode="bilinear")
            for image, (left, top, right, bottom) in zip(images, boxes, strict=True)
        ]
        scores, maps = maps_of_crops(torch.cat(crops))
        whole = []
        for found, (left, top, right, bottom) in zip(maps, boxes, strict=True):
            shape = (bottom - top, right - left)
            inside = F.interpolate(found[None, None], size=shape, mode="bilinear")[0, 0]
            canvas = torch.full((size, size), float(inside.min()))
            canvas[top:bottom, left:right] = inside
            whole.append(canvas)
        return scores, torch.stack(whole)

    return score
