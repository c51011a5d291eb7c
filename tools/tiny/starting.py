"""Where the linear layers of APRIL-GAN, AdaCLIP and Bayes-PFL start: at what `tiny`'s own projection does.

The methods bring patches into the joint space by layers of their own. Started from random numbers, as the papers
do, they forget what the projection knows and few images teach (see the card of `tiny`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

import zsad
from zsad.backbones.vision import VisionTower


@torch.no_grad()
def start_from_projection(visual: VisionTower, layers: Mapping[int, nn.Linear], images: Tensor) -> None:
    """Makes linear layers of the image encoder's final norm and projection, with the spread of an average patch.

    Args:
        visual: the image encoder.
        layers: what reads each 1-based block's patches.
        images: some images to measure the spread on.
    """
    norm, projection = visual.ln_post, visual.proj
    tokens = visual(images, taps=tuple(layers)).tokens
    for block, layer in layers.items():
        spread = (tokens[block][:, 1:].var(dim=-1, unbiased=False) + norm.eps).sqrt().mean()
        weight = projection.T * norm.weight
        layer.weight.copy_((weight - weight.mean(dim=1, keepdim=True)) / spread)
        if layer.bias is not None:
            layer.bias.copy_(norm.bias @ projection)


def start_april_gan(detector: zsad.Detector, images: Tensor) -> None:
    """APRIL-GAN's adapters."""
    method = detector.method
    layers = dict(zip(method.layers, method.adapters.fc, strict=True))
    start_from_projection(method.backbone.visual, layers, images)


def start_adaclip(detector: zsad.Detector, images: Tensor) -> None:
    """AdaCLIP's layers for patches; that for the class token starts as the identity."""
    method = detector.method
    layers = dict(zip(method.layers, method.patch_token_layer.head, strict=True))
    start_from_projection(method.backbone.visual, layers, images)
    nn.init.eye_(method.cls_token_layer.head[0].weight)
    nn.init.zeros_(method.cls_token_layer.head[0].bias)


@torch.no_grad()
def start_bayes_pfl(detector: zsad.Detector, images: Tensor) -> None:
    """Bayes-PFL's layers for patches; prompts and image are compared as they are, and no pooled patches are added.

    From the random numbers of the paper, the score of the image stays a random projection for thousands of steps.
    """
    method, network = detector.method, detector.method.network
    layers = dict(zip(method.layers, network.RCA.linear_proj, strict=True))
    start_from_projection(method.backbone.visual, layers, images)
    for mapping in (network.class_mapping, network.image_mapping):
        nn.init.eye_(mapping.weight)
        nn.init.zeros_(mapping.bias)
    for each in network.fuse.post_process.parameters():
        nn.init.zeros_(each)
