"""Attention by correlation: between the tokens of CLIP themselves, or between the patches of another network.

Shapes: B images, H heads, L = 1 + N tokens, N = G*G patches, d width of a head, D encoder width.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.backbones.scaled_dot_product import attend
from zsad.backbones.vision import LAST_ROWS

if TYPE_CHECKING:
    from zsad.backbones.vision import VisionTower

AttentionType = Literal["qq+kk+vv", "vv", "kk", "qq", "qq+kk", "(q+k+v)^2"]
JOINT: AttentionType = "(q+k+v)^2"


@dataclass(frozen=True)
class CorrelatedTokens:
    """Result of one pass through the image encoder.

    Attributes:
        class_token: (B, D) after the last layer, before `ln_post`.
        patches: layer -> (B, N, D), the correlated stream after that layer, and the original stream before
            the correlated one starts.
        gathered: layer -> (B, N, D), what the attention of another network gathers in that layer.
    """

    class_token: Tensor
    patches: dict[int, Tensor]
    gathered: dict[int, Tensor]


def correlated_attention(query: Tensor, key: Tensor, value: Tensor, kind: AttentionType) -> Tensor:
    """The values, gathered by the correlation of queries, keys or values among themselves.

    sum over the named s of softmax(s s^T / sqrt(d)) V; the rows of a sum of three add up to 3. "(q+k+v)^2" is
    one softmax over the products of [q | k | v], divided by sqrt(3 d).

    Source: Crane (2504.11055), E-Attn.

    Args:
        query: (B, H, L, d).
        key: (B, H, L, d).
        value: (B, H, L, d).
        kind: correlations that are used.

    Returns:
        (B, H, L, d).

    Example:
        >>> one = torch.ones(1, 1, 2, 4)
        >>> correlated_attention(one, one, one, "qq+kk+vv")[0, 0, 0].tolist()
        [3.0, 3.0, 3.0, 3.0]
    """
    if kind == JOINT:
        joint = torch.cat([query, key, value], dim=-1)
        return attend(joint, joint, value)
    parts = {"qq": query, "kk": key, "vv": value}
    chosen = [parts[name] for name in kind.split("+")]
    return torch.stack([attend(part, part, value) for part in chosen]).sum(dim=0)


def correlated_tokens(
    visual: VisionTower,
    images: Tensor,
    layers: Collection[int],
    start: int,
    kind: AttentionType,
    *,
    attention: Tensor | None = None,
    attention_layers: Collection[int] = (),
) -> CorrelatedTokens:
    """The original stream, and beside it the correlated stream, from one pass.

    v_l = v_(l-1) + W_o(correlated attention of LN1(o_(l-1))) from layer `start` on, without MLP, where o is
    the original stream and v starts as its copy.

    A layer of `attention_layers` also gathers W_o(attention V) with the values V of the patches. The authors'
    code updates its streams in place before it reads these values: V comes from the original stream between
    the attention and the MLP of the layer, and in layer `start` from the correlated stream after it.

    Source: Crane (2504.11055), E-Attn and D-Attn, as in the authors' code.

    Args:
        visual: the image encoder.
        images: (B, 3, S, S) resized and normalised images.
        layers: 1-based layers whose patches are returned.
        start: first layer of the correlated stream.
        kind: correlations that are used.
        attention: (B, N, N) attention of another network; None for none.
        attention_layers: layers that gather with it, from `start` on.
    """
    last = visual.config.layers
    wanted = range(start, max((start, *layers)) + 1)  # of the correlated stream
    original = correlated = visual.ln_pre(visual.embed(images))
    patches: dict[int, Tensor] = {}
    gathered: dict[int, Tensor] = {}
    for number, block in enumerate(visual.transformer.blocks(), start=1):
        if number < start:
            original = correlated = block(original)
        else:
            query, key, value = block.attn.project_heads(block.ln_1(original))
            reads_all = number < last or number in attention_layers
            rows = None if reads_all else LAST_ROWS
            attended = attend(query[:, :, :rows], key, value)
            halfway = original[:, :rows] + block.attn.merge_heads(attended)
            if number in wanted:
                step = correlated_attention(query, key, value, kind)
                correlated = correlated + block.attn.merge_heads(step)
            if attention is not None and number in attention_layers:
                source = correlated if number == start else halfway
                values = block.attn.project_heads(block.ln_1(source), rows=1)[2][:, :, 1:]
                weighted = attention[:, None].to(values.dtype) @ values
                gathered[number] = block.attn.merge_heads(weighted)
            original = block.add_mlp(halfway)
        if number in layers:
            patches[number] = correlated[:, 1:]
    return CorrelatedTokens(original[:, 0], patches, gathered)


def patch_attention(features: Tensor, beta: float, gamma: float, mean: Literal["picture", "batch"]) -> Tensor:
    """Attention between patches that look alike to another network.

    A = softmax over the entries >= 0 of gamma (S - beta mean(S)), with S the cosine similarities of patches.

    A row without such an entry, which an image of one texture has, is not a number in the authors' code. Here
    it attends equally to the patches that are above the mean of the row, or to itself if there are none.

    Source: Crane (2504.11055), D-Attn, which is that of ProxyCLIP (2408.04883).

    Args:
        features: (B, C, G, G) of the other network.
        beta: factor of the mean.
        gamma: factor of the differences to the mean.
        mean: "picture" for the mean of each image, "batch" for that of all images together.

    Returns:
        (B, N, N), rows add up to 1.

    Example:
        >>> two_kinds = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]]])
        >>> patch_attention(two_kinds, beta=1.2, gamma=3.0, mean="picture")[0, 0].tolist()
        [0.5, 0.5, 0.0, 0.0]
    """
    unit = F.normalize(features.float().flatten(2), dim=1)
    similarity = unit.transpose(1, 2) @ unit
    centre = similarity.mean(dim=(1, 2), keepdim=True) if mean == "picture" else similarity.mean()
    logits = (similarity - beta * centre) * gamma
    kept = logits >= 0
    above = similarity > similarity.mean(dim=-1, keepdim=True)
    itself = torch.eye(similarity.shape[-1], dtype=torch.bool, device=similarity.device)
    above = above | (itself & ~above.any(dim=-1, keepdim=True))
    is_empty = ~kept.any(dim=-1, keepdim=True)
    # Equal logits where a row is empty, so that the softmax is uniform over the patches above the mean.
    logits = torch.where(is_empty, 0.0, logits)
    return torch.softmax(logits.masked_fill(~torch.where(is_empty, above, kept), -torch.inf), dim=-1)
