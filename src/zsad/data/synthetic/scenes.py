"""Draws whole scenes, before any defect of the surface is added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from zsad.data.synthetic.arrays import Faulty, Layout, line_art, many, single, tiling
from zsad.data.synthetic.assemblies import component
from zsad.data.synthetic.layers import place, random_shadow
from zsad.data.synthetic.marks import text_cover
from zsad.data.synthetic.materials import Materials
from zsad.data.synthetic.noise import (
    Bytes,
    FloatImage,
    Rng,
    blur_image,
    fractal_noise,
    resize_image,
    smooth_noise,
    to_bytes,
)
from zsad.data.synthetic.scans import random_scan
from zsad.data.synthetic.shapes import Site, specks
from zsad.data.synthetic.surfaces import random_colour


def _no_fault(image: FloatImage) -> Callable[[Rng], Faulty]:
    def fault(rng: Rng) -> Faulty:
        return image, np.zeros(image.shape[:2], dtype=np.float32), "wrong"

    return fault


def _full(image: FloatImage, name: str) -> Layout:
    return Layout(image, np.ones(image.shape[:2], dtype=bool), name, _no_fault(image))


def ground(rng: Rng, materials: Materials, size: int) -> FloatImage:
    """A background for objects: plain, graded, or a (blurred) surface; black and white are common."""
    image: FloatImage
    choice = rng.random()
    if choice < 0.3:
        level = float(rng.choice([rng.uniform(0, 30), rng.uniform(215, 255), rng.uniform(40, 210)]))
        image = np.full((size, size, 3), level, dtype=np.float32) + rng.normal(0, 4, 3).astype(np.float32)
    elif choice < 0.62:
        clouds = fractal_noise(rng, size, size, size / 1.5, octaves=2) * rng.uniform(0, 10)
        image = random_colour(rng, saturation=0.8) + clouds[..., None]
    else:
        image, _ = materials.texture(rng, size)
        if rng.random() < 0.5:
            image = blur_image(image, rng.uniform(0.5, 5))
        if rng.random() < 0.3:
            image = image * np.float32(rng.uniform(0.3, 0.8))
    return image.astype(np.float32)


def surface(rng: Rng, materials: Materials, size: int) -> Layout:
    """A material that fills the image."""
    image, name = materials.texture(rng, size)
    if rng.random() < 0.25:
        grey = image.mean(axis=2, keepdims=True)
        spread = np.float32(rng.uniform(0.25, 1))
        image = np.repeat((grey - grey.mean()) * spread + rng.uniform(50, 200), 3, axis=2).astype(np.float32)
    return _full(image, name)


def scan(rng: Rng, materials: Materials, size: int) -> Layout:
    """An image of an instrument."""
    del materials
    image, name, region, likely = random_scan(rng, size)
    # Findings in medical images are seldom tiny; a polyp takes a tenth of the image.
    factor = 4.0 if "bump" in likely[:2] else 1.5
    return Layout(image, region, name, _no_fault(image), likely, factor)


def one_object(rng: Rng, materials: Materials, size: int) -> Layout:
    """One object on a ground."""
    piece, name = materials.object(rng, int(size * 0.9))
    extent = size * (rng.uniform(0.5, 1.0) if rng.random() < 0.85 else rng.uniform(1.0, 1.5))
    angle = float(rng.choice([0.0, 0.0, 90.0, rng.uniform(0, 360)]))
    y, x = size / 2 + rng.normal(0, size * 0.04, 2)
    layer = place(piece, size, y, x, extent=extent, angle=angle, flip=rng.random() < 0.5)
    if (layer[..., 3] > 0.5).sum() < 0.01 * size * size:
        return surface(rng, materials, size)
    return single(rng, ground(rng, materials, size), layer, random_shadow(rng, size), name)


def many_objects(rng: Rng, materials: Materials, size: int) -> Layout:
    """Equal objects in rows or strewn about."""
    piece, name = materials.object(rng, size // 3)
    other, _ = materials.object(rng, size // 3)
    return many(rng, ground(rng, materials, size), piece, other, name)


def pattern(rng: Rng, materials: Materials, size: int) -> Layout:
    """Line art or a repeated tile."""
    if rng.random() < 0.55:
        return line_art(rng, size)
    texture, name = materials.texture(rng, size)
    side = int(size * rng.uniform(0.06, 0.3))
    tile = resize_image(to_bytes(texture[: side * 2, : side * 2]), side, side).astype(np.float32)
    if rng.random() < 0.4:
        piece, name = materials.object(rng, side)
        tile = place(
            piece, side, side / 2, side / 2, extent=side * 0.95, angle=float(rng.choice([0, 90, 45]))
        )
        tile = tile[..., :3] * tile[..., 3:] + (1 - tile[..., 3:]) * random_colour(rng)
    return tiling(rng, tile.astype(np.float32), size, name)


def assembly(rng: Rng, materials: Materials, size: int) -> Layout:
    """A part with legs on a board, or parts in a frame."""
    return component(rng, materials.texture(rng, size)[0], ground(rng, materials, size))


def place_photo(rng: Rng, materials: Materials, size: int) -> Layout:
    """A photograph as it is."""
    image, name = materials.photograph(rng, size)
    return _full(image, name)


Scene = Callable[[Rng, Materials, int], Layout]

SCENES: Mapping[str, Scene] = MappingProxyType(
    {
        "surface": surface,
        "one_object": one_object,
        "many_objects": many_objects,
        "pattern": pattern,
        "assembly": assembly,
        "scan": scan,
        "photograph": place_photo,
    }
)


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
