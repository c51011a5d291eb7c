"""Bayes-PFL: 2503.10080, section 3, and the authors' test script; the score is the mean probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from plain.encoders import image_encoder, text_encoder
from plain.maps import enlarged, smoothed
from zsad.backbones.tokenizer import tokenize

if TYPE_CHECKING:
    from plain import Scorer
    from zsad.methods.base import Method


def plain(method: Method) -> Scorer:
    """Makes the plain implementation with the weights of the method."""
    encoder, texts, settings = image_encoder(method.backbone), text_encoder(method.backbone), method.config
    learnt = method.network
    ids = tokenize("X object", method.backbone.config.text.context_length)
    noise_normal, noise_abnormal, noise_context = method.noise[0], method.noise[1], method.noise[2]
    states = [
        flowed(*gaussian(learnt.state_encoder, flow.state), noise, *free_parameters(flow))[0]
        for flow, noise in ((learnt.PFL_normal, noise_normal), (learnt.PFL_abnormal, noise_abnormal))
    ]

    def prompts_of(image: Tensor) -> Tensor:
        """Returns the text features (2 R K, E) of one image (1, E): normal, then abnormal."""
        flow, count = learnt.PFL_context, settings.num_flows
        u, w = (layer(image).reshape(1, count, -1) for layer in (flow.amor_u, flow.amor_w))
        shifts = flowed(*gaussian(learnt.context_encoder, image), noise_context, u, w, flow.amor_b(image))[0]
        rows = []
        for bank, moved in zip(
            (learnt.prompt_state_normal, learnt.prompt_state_abnormal), states, strict=True
        ):
            for shift, state in zip(shifts, moved, strict=True):
                for context, vectors in zip(learnt.prompt_context, bank, strict=True):
                    rows.append(torch.cat([context + shift, vectors + state]))
        vectors = torch.stack(rows)
        added = vectors.shape[1] - 1
        words = method.backbone.embed_tokens(ids).expand(len(vectors), -1, -1)
        kept = words[:, 2 : words.shape[1] - added]
        embedded = torch.cat([words[:, :1], vectors.to(words.dtype), kept], dim=1)
        ends = (ids.argmax(dim=-1) + added).expand(len(vectors))
        return F.normalize(texts.encode(embedded, ends), dim=-1)

    def attended(text: Tensor, patches: Tensor) -> Tensor:
        """Returns the texts (B, M, E) with what they find among patches (B, N, E) of length 1."""
        attention = learnt.RCA
        queries = attention.q_proj_pre(text.transpose(1, 2)).transpose(1, 2)
        queries, values = (
            each.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for each in (queries, patches)
        )
        weights = (queries @ values.transpose(-2, -1) * text.shape[-1] ** -0.5).softmax(dim=-1)
        return F.normalize(text + (weights @ values).transpose(1, 2).flatten(2), dim=-1)

    @torch.inference_mode()
    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = encoder.tokens(images)
        image = encoder.joint(tokens[encoder.layers][:, 0])
        levels = [tokens[layer][:, 1:].float() for layer in method.layers]
        text = torch.stack([prompts_of(each[None]) for each in image])
        maps = []
        for layer, level in zip(learnt.RCA.linear_proj, levels, strict=True):
            patches = F.normalize(layer(level), dim=-1)
            logits = learnt.temperature_pixel.exp() * patches @ attended(text, patches).transpose(1, 2)
            whole = enlarged(logits, images.shape[-1], align_corners=True)
            pairs = torch.stack(whole.chunk(2, dim=1), dim=1).softmax(dim=1)
            maps.append(pairs[:, 1].mean(dim=1))
        if method.stage == 2:
            image = learnt.image_mapping(image + learnt.fuse(torch.stack(levels, dim=1)))
        mapped = F.normalize(learnt.class_mapping(text), dim=-1)
        logits = learnt.temperature_image.exp() * (mapped @ F.normalize(image, dim=-1)[..., None])[..., 0]
        pairs = torch.stack(logits.chunk(2, dim=1), dim=1).softmax(dim=1)
        return pairs[:, 1].mean(dim=1), smoothed(torch.stack(maps).mean(dim=0), settings.sigma)

    return score


def gaussian(encoder: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation (1, D) of a distribution from (1, F)."""
    return encoder.weight_mean(x), torch.exp(encoder.weight_log_variance(x) / 4)


def free_parameters(flow: torch.nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Returns u (1, K, D), w (1, K, D) and b (1, K) of flows that depend on no image."""
    return flow.amor_u[..., 0], flow.amor_w[..., 0, :], flow.amor_b[..., 0, 0]


def flowed(mean: Tensor, deviation: Tensor, noise: Tensor, u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Returns samples (1, R, D) after all planar flows, from noise (R, D)."""
    z = mean[:, None] + deviation[:, None] * noise
    for number in range(u.shape[1]):
        bend = torch.tanh((z * w[:, None, number]).sum(dim=-1, keepdim=True) + b[:, number, None, None])
        z = z + u[:, None, number] * bend
    return z
