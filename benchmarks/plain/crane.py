"""Crane and Crane+: 2504.11055, section 3, and the authors' test script.

The network of D-Attn is the method's own (`method.vfm`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from plain.encoders import image_encoder, softmax_attention
from plain.maps import cosines, enlarged, smoothed

if TYPE_CHECKING:
    from plain import Scorer
    from zsad.methods.base import Method

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def plain(method: Method) -> Scorer:
    """Makes the plain implementation with the weights of the method."""
    encoder, settings = image_encoder(method.backbone), method.config
    text = method.prepare(["object"]).text_features[0]
    layers = settings.features_list

    def patch_sets(images: Tensor) -> tuple[Tensor, list[Tensor]]:
        original, correlated = encoder.two_streams(images, method.start, correlated_attention)
        last = encoder.layers
        sets = [correlated[last if settings.layer_aliasing == "as_published" else layer] for layer in layers]
        if settings.dino_model == "none":
            return original[last], [tokens[:, 1:] for tokens in sets]
        attention = similarity_attention(unit_features(images), settings.beta, settings.gamma)
        before = original[last - 1]
        halfway = before + encoder.merged(softmax_attention(*encoder.heads_of(before, last)), last)
        values = encoder.heads_of(halfway, last)[2][:, :, 1:]
        gathered = encoder.merged(attention[:, None].to(values.dtype) @ values, last)
        return original[last], [gathered, *(tokens[:, 1:] for tokens in sets)]

    def unit_features(images: Tensor) -> Tensor:
        record = method.backbone.record
        mean, std, other_mean, other_std = (
            torch.tensor(each).view(3, 1, 1)
            for each in (record.mean, record.std, IMAGENET_MEAN, IMAGENET_STD)
        )
        found = method.vfm(((images * std + mean).clamp(0, 1) - other_mean) / other_std)
        return F.normalize(found.float().flatten(2), dim=1)

    @torch.inference_mode()
    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens, sets = patch_sets(images)
        image = F.normalize(encoder.joint(tokens)[:, 0], dim=-1)
        patches = [F.normalize(encoder.joint(each), dim=-1) for each in sets]
        logits = [cosines(each, text) / settings.temperature for each in patches]
        weights = torch.stack(logits).mean(dim=0).softmax(dim=-1)[..., 1:]
        pooled = F.normalize((weights * torch.stack(patches).mean(dim=0)).sum(dim=1), dim=-1)
        joined = F.normalize(0.5 * pooled + 0.5 * image, dim=-1)
        scores = (cosines(joined, text) / settings.temperature).softmax(dim=-1)[:, 1]
        maps = [enlarged(each.softmax(dim=-1), images.shape[-1])[:, 1] for each in logits]
        return scores, smoothed(torch.stack(maps).mean(dim=0), settings.sigma)

    return score


def correlated_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Returns the sum of softmax(s s^T / sqrt(d)) over query, key and value s, times V."""
    weights = [
        ((each @ each.transpose(-2, -1)) * each.shape[-1] ** -0.5).softmax(dim=-1)
        for each in (query, key, value)
    ]
    return (weights[0] + weights[1] + weights[2]) @ value


def similarity_attention(unit_features: Tensor, beta: float, gamma: float) -> Tensor:
    """Returns the attention (B, N, N) of D-Attn from (B, C, N) features of length 1."""
    similarity = unit_features.transpose(1, 2) @ unit_features
    logits = (similarity - beta * similarity.mean(dim=(1, 2), keepdim=True)) * gamma
    return logits.masked_fill(logits < 0, -torch.inf).softmax(dim=-1)
