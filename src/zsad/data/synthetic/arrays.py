"""Draws scenes whose faults show only in their order: many equal things, line art, repeated tiles.

A builder returns a `Layout`: the faultless image, and a function that draws the same image with a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from zsad.data.synthetic.layers import (
    LAYER_FAULTS,
    Shadow,
    composite,
    paste_over,
    random_shadow,
    shrink,
)
from zsad.data.synthetic.noise import (
    Field,
    FloatImage,
    Mask,
    Rng,
    blur_field,
    grow,
    smooth_noise,
)
from zsad.data.synthetic.surfaces import neighbour, random_colour

if TYPE_CHECKING:
    from zsad.data.synthetic.objects import Layer

Faulty = tuple[FloatImage, Field, str]


@dataclass(frozen=True)
class Layout:
    """A scene that can be drawn without and with a fault of its order.

    Attributes:
        image: (S, S, 3) float32 image without a fault.
        region: (S, S) bool, True where surface defects should lie.
        name: name of the object or material in the image.
        fault: function that draws the scene with one fault; returns image, coverage (S, S) of the fault, and
            kind.
        likely: kinds of `DEFECTS` that such an object suffers from; empty if any kind is possible.
        size_factor: factor by which the area of its defects is larger than usual.
    """

    image: FloatImage
    region: Mask
    name: str
    fault: Callable[[Rng], Faulty]
    likely: tuple[str, ...] = ()
    size_factor: float = 1.0


@dataclass(frozen=True)
class _Item:
    y: float
    x: float
    angle: float
    extent: float
    piece: int


def _draw(items: list[_Item], pieces: list[Layer], size: int) -> Layer:
    layer = np.zeros((size, size, 4), dtype=np.float32)
    ready: dict[tuple[int, float, float], Layer] = {}
    for item in items:
        key = (item.piece, round(item.extent, 1), round(item.angle, 1))
        if key not in ready:
            ready[key] = shrink(pieces[item.piece], item.extent, item.angle)
        paste_over(layer, ready[key], item.y, item.x)
    return layer


def _grid_items(rng: Rng, size: int, extent: float) -> list[_Item]:
    pitch_y, pitch_x = extent * rng.uniform(0.95, 1.4), extent * rng.uniform(0.95, 1.4)
    stagger = float(rng.choice([0.0, 0.0, 0.5]))
    turn = float(rng.choice([0, 90, 180, rng.uniform(0, 360)]))
    loose = rng.choice([0.0, 0.0, rng.uniform(0, 0.04)])
    start_y, start_x = rng.uniform(0, pitch_y), rng.uniform(0, pitch_x)
    items = []
    for row in range(int(size / pitch_y) + 2):
        for column in range(int(size / pitch_x) + 2):
            y = start_y + (row - 0.5) * pitch_y + rng.normal(0, 1) * loose * extent
            x = start_x + (column - 0.5 + stagger * (row % 2)) * pitch_x + rng.normal(0, 1) * loose * extent
            items.append(
                _Item(
                    y,
                    x,
                    turn + (rng.normal(0, 60) * loose if loose else 0.0),
                    extent,
                    0,
                )
            )
    return items


def _scattered_items(rng: Rng, size: int, extent: float) -> list[_Item]:
    items: list[_Item] = []
    for _ in range(int(rng.integers(30, 80))):
        y, x = rng.uniform(0.06, 0.94, 2) * size
        if all((y - other.y) ** 2 + (x - other.x) ** 2 > (0.85 * extent) ** 2 for other in items):
            items.append(
                _Item(
                    y,
                    x,
                    float(rng.uniform(0, 360)),
                    extent * rng.uniform(0.95, 1.05),
                    0,
                )
            )
    return items[: int(rng.integers(2, 30))]


def many(rng: Rng, ground: FloatImage, piece: Layer, other: Layer, name: str) -> Layout:
    """Equal objects in rows or strewn about; one may be missing, moved, turned or of another kind.

    Args:
        rng: source of randomness.
        ground: (S, S, 3) float32 image of the ground.
        piece: (n, n, 4) float32 layer of the object.
        other: layer of another object, which may wrongly take the place of one.
        name: name of the object.
    """
    size = ground.shape[0]
    ordered = rng.random() < 0.55
    extent = size * rng.uniform(0.09, 0.3)
    items = _grid_items(rng, size, extent) if ordered else _scattered_items(rng, size, extent)
    tinted = piece.copy()
    tinted[..., :3] = np.clip(tinted[..., :3] * np.exp(rng.normal(0, 0.45, 3)) + rng.normal(0, 25), 0, 255)
    pieces = [piece, tinted.astype(np.float32), other]
    shadow = random_shadow(rng, size)
    layer = _draw(items, pieces, size)
    image = composite(ground, layer, shadow)

    def fault(rng: Rng) -> Faulty:
        # Only an element whose centre is in the image; half-visible ones at the rim show little.
        shown = [n for n, item in enumerate(items) if 0 < item.y < size and 0 < item.x < size] or [0]
        chosen = int(rng.choice(shown))
        item = items[chosen]
        kinds = ["missing", "moved", "turned", "wrong"] if ordered else ["wrong"]
        kind = str(rng.choice(kinds))
        if kind == "missing":
            changed = [*items[:chosen], *items[chosen + 1 :]]
        else:
            if kind == "moved":
                far, way = extent * rng.uniform(0.15, 0.5), rng.uniform(0, 2 * np.pi)
                new = replace(item, y=item.y + far * np.sin(way), x=item.x + far * np.cos(way))
            elif kind == "turned":
                new = replace(
                    item,
                    angle=item.angle + float(rng.choice([-1, 1]) * rng.uniform(25, 155)),
                )
            else:
                new = replace(item, piece=int(rng.integers(1, 3)))
            changed = [*items[:chosen], *items[chosen + 1 :], new]
        redrawn = _draw(changed, pieces, size)
        cover = np.maximum(
            _own(item, pieces, size),
            0 if kind == "missing" else _own(changed[-1], pieces, size),
        )
        result = composite(ground, redrawn, shadow)
        near = blur_field(cover, shadow.blur + 3)[..., None] > 0.01
        return (
            np.where(near, result, image),
            cover,
            "moved" if kind == "turned" else kind,
        )

    return Layout(image, layer[..., 3] > 0.5, name, fault)


def _own(item: _Item, pieces: list[Layer], size: int) -> Field:
    return np.asarray(_draw([item], pieces, size)[..., 3])


def _tracks(rng: Rng, size: int) -> Image.Image:
    """Binary line art of pads, tracks and vias at twice the size."""
    scale = 2
    canvas = Image.new("L", (size * scale, size * scale))
    draw = ImageDraw.Draw(canvas)
    pitch = scale * rng.uniform(9, 24) * size / 320
    width = pitch * rng.uniform(0.3, 0.6)
    cells = int(size * scale / pitch) + 1
    for _ in range(int(rng.integers(6, 26))):
        row, column = rng.integers(0, cells, 2)
        length, lanes = int(rng.integers(4, cells + 4)), int(rng.choice([1, 1, 2, 4]))
        turn, vertical = int(rng.integers(2, 6)), rng.random() < 0.5
        slope = int(rng.choice([-1, 0, 1]))
        for lane in range(lanes):
            a, b, c = (
                np.array([column, row + lane]),
                np.array([column + length // 2, row + lane]),
                turn * slope,
            )
            points = [a, b, b + np.array([abs(c), c]), b + np.array([abs(c) + length // 2, c])]
            if vertical:
                points = [point[::-1] for point in points]
            line = [tuple(float(value) * pitch for value in point) for point in points]
            draw.line(line, fill=255, width=round(width), joint="curve")
            for x, y in (line[0], line[-1]):
                half = width * rng.choice([0.8, 1.0])
                if rng.random() < 0.5:
                    draw.ellipse([x - half, y - half, x + half, y + half], fill=255)
                else:
                    draw.rectangle([x - half, y - half, x + half, y + half], fill=255)
                if rng.random() < 0.3:
                    draw.ellipse([x - half / 3, y - half / 3, x + half / 3, y + half / 3], fill=0)
    for _ in range(int(rng.choice([0, 1, 3]))):
        left, top = rng.uniform(0, size * scale, 2)
        wide, high = rng.uniform(2, 8, 2) * pitch
        draw.rectangle([left, top, left + wide, top + high], fill=255)
    return canvas


def line_art(rng: Rng, size: int) -> Layout:
    """Printed circuits, masks, stencils: two tones; tracks may be open, short, bitten or spurred."""
    rough: Field
    canvas = _tracks(rng, size)
    pattern = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255
    if rng.random() < 0.4:
        front, back = np.full(3, 255, dtype=np.float32), np.zeros(3, dtype=np.float32)
        rough = np.zeros((size, size, 1), dtype=np.float32)
    else:
        back = random_colour(rng, saturation=1.2)
        front = neighbour(rng, back, 0.5) if rng.random() < 0.4 else random_colour(rng, saturation=1.0)
        if np.abs(front - back).max() < 40:
            front = np.clip(back + np.where(back.mean() > 127, -80, 80), 0, 255).astype(np.float32)
        rough = (smooth_noise(rng, size, size, 2) * rng.uniform(1, 6))[..., None]
    if rng.random() < 0.3:
        front, back = back, front

    def paint(cover: Field) -> FloatImage:
        return np.asarray(back + cover[..., None] * (front - back) + rough)

    def fault(rng: Rng) -> Faulty:
        changed, kind = _break_pattern(rng, pattern)
        difference = np.abs(changed - pattern) > 0.3
        return (
            paint(changed),
            grow(difference, int(rng.integers(1, 8))).astype(np.float32),
            kind,
        )

    name = str(rng.choice(["printed circuit board", "circuit board", "circuit", "pcb"]))
    return Layout(paint(pattern), np.ones((size, size), dtype=bool), name, fault)


def _break_pattern(rng: Rng, pattern: Field) -> tuple[Field, str]:
    size = pattern.shape[0]
    solid = pattern > 0.5
    rim = solid & ~grow(solid, -1)
    places = np.flatnonzero(rim if rim.any() else np.ones_like(solid))
    y, x = divmod(int(places[rng.integers(places.size)]), size)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    radius = size / 320 * rng.uniform(2.5, 9.0)
    angle, ratio = rng.uniform(0, np.pi), rng.uniform(1, 3)
    along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    distance = np.sqrt((along / ratio) ** 2 + across**2) - radius
    distance = distance + smooth_noise(rng, size, size, 4) * np.float32(rng.uniform(0, 1.2))
    blob = np.clip(0.5 - distance, 0, 1).astype(np.float32)
    if rng.random() < 0.5:
        return pattern * (1 - blob), str(rng.choice(["severed", "bitten"]))
    return np.maximum(pattern, blob), str(rng.choice(["bridged", "extra"]))


def tiling(rng: Rng, tile: FloatImage, size: int, name: str) -> Layout:
    """A patch repeated over the image; one cell may be shifted, mirrored, turned, dimmed or exchanged.

    Args:
        rng: source of randomness.
        tile: (n, n, 3) float32 tile, n smaller than `size`.
        size: side of the image, in pixels.
        name: name of the material.
    """
    side = tile.shape[0]
    count = -(-size // side) + 1
    mirrored = rng.random() < 0.4
    double = (
        np.concatenate([tile, tile[:, ::-1]], axis=1) if mirrored else np.concatenate([tile, tile], axis=1)
    )
    double = np.concatenate([double, double[::-1] if mirrored else double], axis=0)
    repeat = -(-count // 2)
    top, left = rng.integers(0, side, 2)
    if rng.random() < 0.3:
        double = double.copy()
        joint = rng.uniform(0.2, 0.8)
        double[::side] *= joint
        double[:, ::side] *= joint
    full = np.tile(double, (repeat, repeat, 1))
    image = full[top : top + size, left : left + size]

    def fault(rng: Rng) -> Faulty:
        rows, columns = (size + top) // side, (size + left) // side
        row, column = (
            int(rng.integers(0, max(rows, 1))),
            int(rng.integers(0, max(columns, 1))),
        )
        changed, cover = full.copy(), np.zeros(full.shape[:2], dtype=np.float32)
        wide, high = (1, 1) if rng.random() < 0.6 else (int(rng.integers(1, 4)), int(rng.integers(1, 3)))
        area = (
            slice(row * side, min((row + high) * side, full.shape[0])),
            slice(column * side, min((column + wide) * side, full.shape[1])),
        )
        cell = full[area]
        kind = int(rng.integers(5))
        if kind == 0:
            new = np.roll(cell, tuple(rng.integers(1, max(side, 2), 2)), axis=(0, 1))
        elif kind == 1:
            new = cell[::-1, ::-1]
        elif kind == 2:
            new = cell * np.float32(np.exp(rng.choice([-1, 1]) * rng.uniform(0.25, 0.9)))
        elif kind == 3:
            new = np.broadcast_to(cell.mean(axis=(0, 1)), cell.shape)
        else:
            new = cell * np.exp(rng.normal(0, 0.3, 3)).astype(np.float32) + rng.normal(0, 20, 3)
        changed[area] = new
        cover[area] = 1
        window = (slice(top, top + size), slice(left, left + size))
        return changed[window], cover[window], "repeat_fault"

    return Layout(image.astype(np.float32), np.ones((size, size), dtype=bool), name, fault)


def single(rng: Rng, ground: FloatImage, layer: Layer, shadow: Shadow, name: str) -> Layout:
    """One object on a ground; its form may be bitten, cut off, grown over or bent."""
    image = composite(ground, layer, shadow)
    solid = layer[..., 3] > 0.6
    area = float(solid.sum())

    def fault(rng: Rng) -> Faulty:
        radius = float(np.sqrt(area / np.pi)) * float(np.exp(rng.uniform(np.log(0.08), np.log(0.5))))
        change = LAYER_FAULTS[int(rng.choice(len(LAYER_FAULTS), p=[0.3, 0.15, 0.17, 0.2, 0.18]))]
        changed, cover, kind = change(layer, rng, radius)
        return composite(ground, changed, shadow), cover, kind

    return Layout(image, grow(solid, -1), name, fault)
