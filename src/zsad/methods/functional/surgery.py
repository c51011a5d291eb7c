"""AA-CLIP's frozen features for training its prompts: value-value attention inside one stream.

Unlike the value-value stream of AnomalyCLIP, the last blocks stay whole: their attention is replaced, their
MLP is kept, and there is no second stream.

Source: AA-CLIP (2503.06661), section 3.3, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from zsad.backbones.vision import VisionTower

SurgeryAttention = Literal["fixed", "as_published"]


def surgery_features(
    visual: VisionTower, images: Tensor, layers: Sequence[int], first: int, attention: SurgeryAttention
) -> Tensor:
    """Patches of an encoder whose last blocks attend by values, plus the class token of plain CLIP.

    x <- x + W_o softmax(V V^T / sqrt(d)) V + b_o,  x <- x + MLP(x)  in blocks first, first + 1, ...
    z_l = p_l / |p_l| + c / |c|,  p_l patches of layer l, c class token of plain CLIP, both in the joint space

    Args:
        visual: the image encoder.
        images: (B, 3, S, S) resized and normalised images.
        layers: T 1-based layers.
        first: 1-based number of the first block whose attention is replaced.
        attention: what a token attends to: "fixed" for the tokens of its image; "as_published" for the tokens
            in the same place of the other images of the batch, as the authors' code does by mistake.

    Returns:
        (B, T, N, E) float32, of lengths up to 2.
    """
    blocks = visual.transformer.blocks()
    x: Tensor = visual.ln_pre(visual.embed(images))
    kept = {}
    for number, block in enumerate(blocks[: first - 1], start=1):
        x = block(x)
        kept[number] = x
    plain = x
    for block in blocks[first - 1 :]:
        plain = block(plain)
    for number, block in enumerate(blocks[first - 1 : max(layers)], start=first):
        normed = block.ln_1(x)
        if attention == "fixed":
            x = x + block.attn.forward_values(normed)
        else:
            x = x + block.attn.forward_values(normed.transpose(0, 1)).transpose(0, 1)
        x = block.add_mlp(x)
        kept[number] = x
    patches = visual.project(torch.stack([kept[layer][:, 1:] for layer in layers], dim=1)).float()
    class_token = visual.project(plain[:, 0]).float()
    return F.normalize(patches, dim=-1) + F.normalize(class_token, dim=-1)[:, None, None]
