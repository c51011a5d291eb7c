"""Draws whole scenes, before any defect of the surface is added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from zsad.data.synthetic.arrays import Faulty, Layout, line_art, many, single, tiling
from zsad.data.synthetic.assemblies import component
from zsad.data.synthetic.layers import place, random_shadow
from zsad.data.synthetic.materials import Materials
from zsad.data.synthetic.noise import (
    FloatImage,
    Rng,
    blur_image,
    fractal_noise,
    resize_image,
    to_bytes,
)
from zsad.data.synthetic.scans import random_scan
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
