"""A backbone of the shape that the papers use, with random weights, for measuring time."""

from __future__ import annotations

import functools

import torch

from zsad.backbones.clip import CLIP, ClipConfig, TextConfig, VisionConfig
from zsad.types import WeightRecord

L14_336 = ClipConfig(VisionConfig(336, 14, 1024, 24, 16), TextConfig(768, 12, 12), 768, "quick_gelu")


@functools.cache  # methods leave a backbone as it is
def random_l14(seed: int = 0) -> CLIP:
    """Makes a network of the shape of OpenAI's ViT-L/14-336 with random weights.

    Args:
        seed: seed of the global random numbers of torch, which this function sets.
    """
    torch.manual_seed(seed)
    record = WeightRecord(
        name="random ViT-L/14-336",
        source="random",
        image_size=336,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        activation="quick_gelu",
        licence="none",
    )
    return CLIP(L14_336, record).eval()
