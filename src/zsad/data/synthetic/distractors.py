"""Draws what looks irregular and is no defect: dust, shadows, reflections, seams, print.

A detector that has only seen clean normal images calls every shadow a defect. These marks go onto normal and
anomalous images alike, and never into a mask.
"""

from __future__ import annotations

import numpy as np

from zsad.data.synthetic.marks import text_cover
from zsad.data.synthetic.noise import Bytes, Field, FloatImage, Mask, Rng, smooth_noise, to_bytes
from zsad.data.synthetic.shapes import Site, specks
from zsad.data.synthetic.surfaces import random_colour


def distract(image: Bytes, rng: Rng) -> Bytes:
    """Adds legitimate irregularities to the whole image: even dust, soft cast shadows, broad highlights.

    Args:
        image: (S, S, 3) uint8 image.
        rng: source of randomness.

    Returns:
        (S, S, 3) uint8 image.
    """
    size = image.shape[0]
    result: FloatImage = image.astype(np.float32)
    if rng.random() < 0.1:
        everywhere = Site(size / 2, size / 2, size * 0.8, np.ones((size, size), dtype=bool), 0.5, None)
        dust = specks(rng, everywhere, int(rng.integers(60, 300)), rng.uniform(0.8, 1.6))
        result = result + (dust * rng.choice([-1, 1]) * rng.uniform(10, 60))[..., None]
    if rng.random() < 0.12:
        broad = smooth_noise(rng, size, size, size * rng.uniform(0.3, 0.8))
        edge = np.clip(broad * rng.uniform(0.5, 3), 0, 1)
        result = result * (1 - np.float32(rng.uniform(0.1, 0.35)) * edge)[..., None]
    if rng.random() < 0.12:
        broad = smooth_noise(rng, size, size, size * rng.uniform(0.2, 0.6), stretch=rng.uniform(1, 4))
        glare = np.clip(broad - rng.uniform(0.3, 1.2), 0, 1)
        result = result + (glare * rng.uniform(10, 90))[..., None]
    return to_bytes(result)


def lettering(image: FloatImage, region: np.ndarray, rng: Rng) -> FloatImage:
    """Prints an upright label, lines of text or a bar code on an object, which are no defects.

    Args:
        image: (S, S, 3) float32 image.
        region: (S, S) bool, True on the object.
        rng: source of randomness.

    Returns:
        (S, S, 3) float32 image.
    """
    size = image.shape[0]
    inside = np.argwhere(region[::4, ::4]) * 4
    if len(inside) < 40:
        return image
    centre = inside.mean(axis=0) + rng.normal(0, 0.15, 2) * np.ptp(inside, axis=0)
    high, wide = np.ptp(inside, axis=0) * rng.uniform(0.15, 0.5, 2)
    y, x = (
        np.abs(np.arange(size)[:, None] - centre[0]),
        np.abs(np.arange(size)[None, :] - centre[1]),
    )
    field = ((y < high / 2) & (x < wide / 2) & region).astype(np.float32)
    base = image[region].mean(axis=0)
    ink = np.clip(base + rng.choice([-1, 1]) * rng.uniform(60, 160), 5, 250).astype(np.float32)
    result = image
    if rng.random() < 0.5:
        paper = random_colour(rng, saturation=1.0)
        result = result + field[..., None] * (paper - result)
        ink = np.full(3, 20.0 if paper.mean() > 110 else 235.0, dtype=np.float32)
    marks = np.zeros((size, size), dtype=np.float32)
    if rng.random() < 0.3:
        bars = np.repeat(rng.random(size // 2) < 0.5, 2)[:size]
        marks[:, : bars.size] = bars[None]
    else:
        lines = int(rng.choice([1, 1, 2, 4]))
        for line in range(lines):
            text = "".join(
                rng.choice(
                    list("ABCDEFGHIKLMNOPRSTUVXYZ0123456789 -"),
                    int(rng.integers(3, 10)),
                )
            )
            place = Site(
                float(centre[0] + (line - (lines - 1) / 2) * high / lines),
                float(centre[1]),
                9.0,
                region,
                0.5,
                None,
            )
            letters = max(min(int(high / lines * 0.8), int(1.7 * wide / len(text))), 6)
            marks = np.maximum(marks, text_cover(text, letters, 0.0, place))
    return np.asarray(result + (marks * field)[..., None] * (ink - result))


def reflect_and_shade(image: Bytes, rng: Rng) -> Bytes:
    """Adds the reflection of a window or a lamp, or the cast shadow of something with a straight edge.

    Args:
        image: (S, S, 3) uint8 image.
        rng: source of randomness.

    Returns:
        (S, S, 3) uint8 image.
    """
    size = image.shape[0]
    softness = size * float(np.exp(rng.uniform(np.log(0.004), np.log(0.05))))
    y, x = _turned(rng, size)
    levels = image.astype(np.float32)
    if rng.random() < 0.5:
        width = size * rng.uniform(0.1, 0.9)
        cover = _ramp(width - np.abs(x - rng.uniform(-0.5, 0.5) * size) * 2, softness)
        return to_bytes(levels * (1 - np.float32(rng.uniform(0.1, 0.5)) * cover)[..., None])
    high, wide = size * rng.uniform(0.04, 0.35, 2)
    pane = np.minimum(high - np.abs(y - rng.normal(0, 0.25) * size), wide - np.abs(x))
    if rng.random() < 0.4:
        # The bars between the panes of a window.
        pane = np.minimum(pane, np.minimum(np.abs(x), np.abs(y)) - size * 0.01)
    return to_bytes(levels + (np.float32(rng.uniform(20, 140)) * _ramp(pane, softness))[..., None])


def seams(image: FloatImage, region: Mask, rng: Rng) -> FloatImage:
    """Draws what joins the parts of a product: grooves, stitches, rows of rivets, panels of two tones.

    Args:
        image: (S, S, 3) float32 image.
        region: (S, S) bool, True on the object.
        rng: source of randomness.

    Returns:
        (S, S, 3) float32 image.
    """
    size = image.shape[0]
    y, x = _turned(rng, size)
    pitch = size * rng.uniform(0.15, 0.9)
    phase = rng.uniform(0, pitch)
    across = (x + phase) % pitch - pitch / 2
    width = max(size * float(np.exp(rng.uniform(np.log(0.003), np.log(0.02)))), 0.8)
    depth = np.float32(rng.choice([-1, 1]) * rng.uniform(12, 70))
    kind = rng.choice(["groove", "stitches", "rivets", "panels"])
    if kind == "groove":
        dark = np.exp(-((across / width) ** 2))
        bright = np.exp(-(((across - 2 * width) / width) ** 2)) * np.float32(rng.uniform(0, 0.8))
        change = depth * (dark - bright)
    elif kind == "panels":
        change = depth * np.float32(0.5) * _ramp(pitch * rng.uniform(0.1, 0.4) - np.abs(across), width)
    else:
        step = width * rng.uniform(4, 12)
        along = (y % step) - step / 2
        reach = width * (1.5 if kind == "rivets" else 1.0)
        length = reach if kind == "rivets" else step * 0.3
        change = depth * _ramp(1.0 - np.hypot(across / reach, along / length), 0.4)
    return np.asarray(image + (change * region)[..., None], dtype=np.float32)


def _turned(rng: Rng, size: int) -> tuple[Field, Field]:
    """Rows and columns from the centre, (S, S) float32, turned by any angle; upright ones are common."""
    angle = np.deg2rad(float(rng.choice([0.0, 90.0, rng.uniform(0, 180)])) + rng.normal(0, 1))
    y, x = np.mgrid[:size, :size].astype(np.float32) - np.float32(size / 2)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return y * cos + x * sin, x * cos - y * sin


def _ramp(distance: Field, softness: float) -> Field:
    """1 well inside, where the distance to the edge is positive, 0 outside."""
    return np.asarray(np.clip(distance / np.float32(softness) + 0.5, 0, 1), dtype=np.float32)
