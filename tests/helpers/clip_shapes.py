"""Shapes of networks that are never built."""

from __future__ import annotations

from zsad.backbones.clip import ClipConfig, TextConfig, VisionConfig


def with_layers(vision: int, text: int) -> ClipConfig:
    """The shape of a CLIP with these numbers of layers."""
    return ClipConfig(VisionConfig(32, 8, 32, vision, 2), TextConfig(32, text, 2), 16, "gelu")
