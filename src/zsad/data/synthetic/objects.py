"""Draws objects as RGBA layers: discs, nuts, gears, bolts, capsules, chips, bottles from above, plates.

A builder is a function of (rng, size, texture) that returns a layer with an object that nearly fills the
square, and the name of the object. The layer is float32 (size, size, 4), colours in [0, 255], alpha in
[0, 1]. `texture` is a float32 image (size, size, 3) that may serve as the material of the object.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zsad.data.synthetic.noise import (
    Field,
    FloatImage,
    Rng,
    blur_field,
    fractal_noise,
    relief,
    smooth_noise,
)
from zsad.data.synthetic.surfaces import neighbour, random_colour

Layer = np.ndarray
Built = tuple[Layer, str]


def axes(size: int) -> tuple[Field, Field]:
    """Returns row and column coordinates in [-1.05, 1.05], float32, (size, 1) and (1, size)."""
    ramp = np.linspace(-1.05, 1.05, size, dtype=np.float32)
    return ramp[:, None], ramp[None, :]


def inside(distance: Field, size: int) -> Field:
    """Returns the antialiased coverage of the area where a signed distance, in half sides, is negative."""
    return np.clip(0.5 - distance * (size / 2.1), 0, 1)


def material(rng: Rng, size: int, texture: FloatImage) -> FloatImage:
    """Draws the skin of an object: the texture itself, the tinted texture, or a colour with slight clouds."""
    choice = rng.random()
    if choice < 0.35:
        return texture
    colour = random_colour(rng, saturation=1.0)
    if choice < 0.65:
        detail = texture - texture.mean(axis=(0, 1))
        return np.asarray((colour + detail * np.float32(rng.uniform(0.2, 0.8))).astype(np.float32))
    clouds = fractal_noise(rng, size, size, size / 3, octaves=3) * rng.uniform(0, 8)
    return (colour + clouds[..., None]).astype(np.float32)


def shaded(rng: Rng, skin: FloatImage, height_field: Field, alpha: Field) -> Layer:
    """Lights a skin from one side, with an optional highlight, and makes a layer of it.

    Args:
        rng: source of randomness.
        skin: (n, n, 3) float32 image.
        height_field: (n, n) heights, in pixels.
        alpha: (n, n) opacity, in [0, 1].
    """
    light = rng.uniform(0, 2 * np.pi)
    shade = relief(height_field, light, rng.uniform(15, 70))
    colours = skin * np.clip(1 + shade / 160, 0.2, 1.8)[..., None] + np.clip(shade, -60, 60)[..., None] * 0.35
    if rng.random() < 0.5:
        gloss = np.clip(shade / max(float(np.abs(shade).max()), 1e-3), 0, 1) ** rng.uniform(4, 14)
        colours = colours + (gloss * rng.uniform(20, 150))[..., None]
    return np.dstack([np.clip(colours, 0, 255), alpha]).astype(np.float32)


def _dome(distance: Field, size: int, rng: Rng) -> Field:
    """Returns the height, in pixels, of a pillow over a signed distance (negative inside)."""
    depth = np.clip(-distance / rng.uniform(0.1, 0.9), 0, 1)
    return np.asarray(np.sqrt(np.clip(depth * (2 - depth), 0, 1)) * np.float32(size * rng.uniform(0.05, 0.3)))


def roundish(rng: Rng, size: int, texture: FloatImage) -> Built:
    """Nuts, stones, cookies, pills, fruit: superellipses and lumpy discs."""
    y, x = axes(size)
    ratio = rng.uniform(0.45, 1)
    power = float(rng.choice([2, 2, 2, 3, 6]))
    radius = (np.abs(y / ratio) ** power + np.abs(x) ** power) ** (1 / power)
    theta = np.arctan2(y, x)
    lumps = sum(np.cos(k * theta + rng.uniform(0, 7)) * rng.normal(0, 0.03 / k**0.5) for k in range(1, 6))
    distance = radius - 0.95 + lumps * rng.choice([0, 1, 1.5])
    skin = material(rng, size, texture)
    names = ["nut", "stone", "pill", "candy", "fruit", "bean", "ball"]
    if rng.random() < 0.4:
        streaks = smooth_noise(rng, size, size, 2.0, stretch=8)
        skin = skin + (streaks * rng.uniform(2, 14))[..., None]
    if rng.random() < 0.35:
        crumbs = fractal_noise(rng, size, size, size / 12, octaves=4, persistence=0.8)
        skin = skin + (relief(crumbs, 0.8, rng.uniform(5, 25)) + crumbs * 4)[..., None]
        names = ["cookie", "bread", "nut", "potato"]
    if rng.random() < 0.25:
        cap = neighbour(rng, random_colour(rng), 0.3)
        part = np.clip((y - rng.uniform(0.1, 0.5) + 0.08 * np.cos(3 * x)) * size / 6, 0, 1)[..., None]
        skin = skin * (1 - part) + (cap + (skin - skin.mean(axis=(0, 1))) * 0.5) * part
        names = ["nut", "acorn", "egg", "container"]
    height = _dome(distance, size, rng)
    if rng.random() < 0.15:
        score = np.exp(-((y / rng.uniform(0.02, 0.06)) ** 2)) * (np.abs(x) < rng.uniform(0.4, 0.9))
        height = height - score * np.float32(size * rng.uniform(0.01, 0.04))
        names = ["pill", "tablet", "button"]
    return shaded(rng, skin, height, inside(distance, size)), str(rng.choice(names))


def cable_section(rng: Rng, size: int, texture: FloatImage) -> Built:
    """A cut cable: coloured wires with bundles of bright strands inside a sheath."""
    y, x = axes(size)
    count = int(rng.choice([1, 2, 3, 3, 4, 7]))
    far = 0.0 if count == 1 else rng.uniform(0.42, 0.5)
    wire = 0.75 if count == 1 else min(0.4, far * np.sin(np.pi / count) * 0.97)
    skin = material(rng, size, texture)
    height = np.zeros((size, size), dtype=np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    strand = wire * rng.uniform(0.12, 0.25)
    metal = np.array([200, 140, 90]) if rng.random() < 0.6 else np.array([190, 190, 195])
    pitch = 2.1 * strand
    for number in range(count):
        angle = turn + 2 * np.pi * number / count
        distance = np.sqrt((y - far * np.sin(angle)) ** 2 + (x - far * np.cos(angle)) ** 2)
        part = inside(distance - wire, size)[..., None]
        skin = skin + part * (random_colour(rng, saturation=1.0) - skin)
        row = np.floor((y - far * np.sin(angle)) / (pitch * 0.87))
        in_y = (y - far * np.sin(angle)) - (row + 0.5) * pitch * 0.87
        column = x - far * np.cos(angle) + np.mod(row, 2) * pitch / 2
        in_x = np.mod(column, pitch) - pitch / 2
        bead = inside(np.sqrt(in_y**2 + in_x**2) - strand, size) * (distance < wire * 0.72)
        skin = skin + bead[..., None] * (metal - skin)
        height = np.maximum(height, bead * np.float32(size * 0.02))
    rim = np.sqrt(y**2 + x**2) - 0.96
    return shaded(rng, skin.astype(np.float32), blur_field(height, 1.0), inside(rim, size)), "cable"


def capsule(rng: Rng, size: int, texture: FloatImage) -> Built:
    """Capsules, tubes, bars, pasta: a long rounded body, which may have two colours, ribs or a curve."""
    y, x = axes(size)
    half = rng.uniform(0.12, 0.34)
    bend = rng.choice([0.0, rng.uniform(-0.5, 0.5)])
    centre = bend * (x**2 - 0.4)
    along = np.clip(np.abs(x) - (0.97 - half), 0, None)
    distance = np.sqrt((y - centre) ** 2 + along**2) - half
    skin = material(rng, size, texture)
    names = ["tube", "bar", "cable", "pencil", "bean"]
    if rng.random() < 0.45:
        other = random_colour(rng, saturation=1.0)
        part = np.clip((x - rng.uniform(-0.3, 0.3)) * size / 3, 0, 1) * np.ones_like(y)
        skin = skin + part[..., None] * (other - skin)
        names = ["capsule", "battery", "fuse"]
    height = np.sqrt(np.clip(half**2 - (y - centre) ** 2, 0, None)) * np.float32(size / 2.2)
    if rng.random() < 0.35:
        ribs = np.sin(x * np.float32(rng.uniform(10, 60)) + y * np.float32(rng.uniform(-8, 8)))
        height = height + ribs * np.float32(size * rng.uniform(0.004, 0.02))
        names = ["macaroni", "pasta", "spring", "hose", "threaded rod"]
    return shaded(rng, skin, height, inside(distance, size)), str(rng.choice(names))


def wheel(rng: Rng, size: int, texture: FloatImage) -> Built:
    """Gears, nuts, washers, rings: a toothed, polygonal or round rim with one hole or several."""
    y, x = axes(size)
    radius, theta = np.sqrt(y**2 + x**2), np.arctan2(y, x)
    teeth = int(rng.choice([0, 0, 6, 8, 12, 20, 32]))
    rim = np.full_like(theta, 0.95)
    names = ["washer", "ring", "disc", "seal"]
    if teeth in (6, 8):
        sector = np.mod(theta, 2 * np.pi / teeth) - np.pi / teeth
        rim = 0.85 / np.cos(sector)
        names = ["nut", "metal nut", "hexagonal nut"]
    elif teeth:
        rim = 0.86 + rng.uniform(0.03, 0.09) * np.clip(np.sin(theta * teeth) * 3, -1, 1)
        names = ["gear", "cog wheel", "sprocket"]
    distance = np.maximum(radius - rim, rng.uniform(0.1, 0.7) - radius)
    holes = int(rng.choice([0, 0, 3, 4, 6]))
    if holes:
        far, small = rng.uniform(0.55, 0.7), rng.uniform(0.05, 0.13)
        for number in range(holes):
            angle = 2 * np.pi * number / holes
            gap = small - np.sqrt((y - far * np.sin(angle)) ** 2 + (x - far * np.cos(angle)) ** 2)
            distance = np.maximum(distance, gap)
    skin = material(rng, size, texture)
    if rng.random() < 0.5:
        skin = skin * (1 + rng.uniform(0, 0.2) * np.sin(radius * rng.uniform(20, 90)))[..., None]
    return shaded(rng, skin, _dome(distance, size, rng), inside(distance, size)), str(rng.choice(names))


def bottle_top(rng: Rng, size: int, texture: FloatImage) -> Built:
    """Bottles, lids, lenses, cable sections from above: concentric rings of differing brightness."""
    y, x = axes(size)
    radius = np.sqrt(y**2 + x**2)
    edges = np.sort(rng.uniform(0.15, 0.9, int(rng.integers(2, 6))))
    skin = material(rng, size, texture)
    height = np.zeros_like(radius)
    for edge in edges[::-1]:
        part = np.clip((edge - radius) * size / 2.5, 0, 1)
        colour = random_colour(rng) if rng.random() < 0.5 else neighbour(rng, skin.mean(axis=(0, 1)), 0.4)
        skin = skin + (part * rng.uniform(0.3, 1))[..., None] * (colour - skin)
        height = height + part * np.float32(rng.normal(0, size * 0.03))
    glare = np.exp(-(((np.arctan2(y, x) - rng.uniform(-3, 3)) / 0.25) ** 2)) * (radius > edges[-1])
    skin = skin + (glare * rng.uniform(0, 80))[..., None]
    distance = radius - 0.96
    layer = shaded(rng, skin, blur_field(height.astype(np.float32), 1.5), inside(distance, size))
    return layer, str(rng.choice(["bottle", "lid", "lens", "button", "cap", "plate"]))


def bolt(rng: Rng, size: int, texture: FloatImage) -> Built:
    """Screws, bolts, nails, pins from the side: head, shaft, thread, point."""
    y, x = axes(size)
    head, shaft = rng.uniform(0.2, 0.42), rng.uniform(0.07, 0.18)
    neck, tip = rng.uniform(-0.75, -0.45), rng.uniform(0.6, 0.95)
    thread_from = rng.uniform(neck, 0.3)
    pitch = rng.uniform(0.05, 0.12)
    tooth = np.abs(np.mod((x + 0.25 * y) / pitch, 1) - 0.5) * 2
    width = shaft * (1 - 0.25 * tooth * (x > thread_from))
    width = width * np.clip((1.0 - x) / max(1.0 - tip, 0.05), 0, 1)
    body = np.maximum(np.abs(y) - width, neck - x)
    slope = rng.choice([0.0, 0.6])
    cap = np.maximum(
        np.maximum(np.abs(y) - head + slope * np.clip(x + 0.95, 0, 1), x - neck),
        -0.97 - x,
    )
    distance = np.minimum(body, cap)
    skin = material(rng, size, texture)
    round_width = np.where(x < neck, head, np.maximum(width, 1e-3))
    height = np.sqrt(np.clip(round_width**2 - y**2, 0, None)) * np.float32(size / 2.2)
    height = height - tooth * (x > thread_from) * np.float32(size * 0.02)
    return shaded(rng, skin, height, inside(distance, size)), str(
        rng.choice(["screw", "bolt", "nail", "metal pin"])
    )


def plate(rng: Rng, size: int, texture: FloatImage) -> Built:
    """Flat parts: rounded rectangles with holes, slots and a printed field."""
    y, x = axes(size)
    high, corner = rng.uniform(0.35, 0.95), rng.uniform(0.02, 0.25)
    corner = min(corner, high)
    far_y = np.clip(np.abs(y) - high + corner, 0, None)
    far_x = np.clip(np.abs(x) - 0.95 + corner, 0, None)
    distance = np.sqrt(far_y**2 + far_x**2) - corner
    skin = material(rng, size, texture)
    if rng.random() < 0.4:
        box_y, box_x = rng.uniform(0.2, 0.6) * high, rng.uniform(0.2, 0.7)
        field = np.clip((box_y - np.abs(y)) * size / 3, 0, 1) * np.clip((box_x - np.abs(x)) * size / 3, 0, 1)
        skin = skin + field[..., None] * (random_colour(rng, saturation=1.0) - skin)
        for row in range(int(rng.integers(1, 4))):
            line = np.abs(y - (row - 1) * box_y * 0.5) < box_y * 0.1
            letters = line & (np.abs(x) < box_x * 0.8) & (np.sin(x * 60 + np.sin(x * 37) * 3) > -0.2)
            skin = skin * (1 - 0.7 * letters[..., None])
    for _ in range(int(rng.choice([0, 0, 1, 2, 4]))):
        hole_y, hole_x, hole = (
            rng.uniform(0.3, 0.8) * high,
            rng.uniform(0.3, 0.8),
            rng.uniform(0.05, 0.14),
        )
        gap = hole - np.sqrt((np.abs(y) - hole_y) ** 2 + (np.abs(x) - hole_x) ** 2)
        distance = np.maximum(distance, gap)
    layer = shaded(rng, skin, _dome(distance, size, rng) * 0.3, inside(distance, size))
    return layer, str(rng.choice(["plate", "card", "part", "tag", "tile", "box"]))


OBJECTS: tuple[Callable[[Rng, int, FloatImage], Built], ...] = (
    roundish,
    capsule,
    wheel,
    bottle_top,
    bolt,
    plate,
    cable_section,
)


def random_object(rng: Rng, size: int, texture: FloatImage) -> Built:
    """Draws an object of a random kind as a layer (size, size, 4), and returns its name."""
    pick = int(rng.choice(len(OBJECTS), p=[0.3, 0.17, 0.15, 0.11, 0.1, 0.13, 0.04]))
    return OBJECTS[pick](rng, size, texture)
