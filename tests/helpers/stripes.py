"""Images of stripes with a little noise: one kind of product, each image another one of it."""

from __future__ import annotations

import numpy as np


def striped(number, size=(40, 52)):
    """Image `number` as (H, W, 3) uint8."""
    generator = np.random.default_rng(number)
    stripes = np.sin(np.arange(size[1]) / 3)[None, :, None] * 40 + 120
    return (stripes + generator.normal(0, 8, (*size, 3))).clip(0, 255).astype(np.uint8)
