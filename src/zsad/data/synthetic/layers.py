"""Places objects on a ground, composites them, and draws faults of their form.

A layer is float32 (H, W, 4): colours in [0, 255], alpha in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from zsad.data.synthetic.noise import (
    Field,
    FloatImage,
    Rng,
    blur_field,
    fractal_noise,
    grow,
    largest_change,
    smooth_noise,
    to_bytes,
)
from zsad.data.synthetic.objects import Layer
from zsad.data.synthetic.reliefs import warp
from zsad.data.synthetic.shapes import Site, blob_distance, coverage, polygon


@dataclass(frozen=True)
class Shadow:
    """A soft shadow: offset (rows, columns) and blur in pixels, opacity in [0, 1]."""

    offset: tuple[int, int]
    blur: float
    opacity: float


def random_shadow(rng: Rng, size: int) -> Shadow:
    """Draws the shadow of a lamp or a lightbox; a third of the scenes has none."""
    reach = size * rng.uniform(0, 0.03)
    angle = rng.uniform(0, 2 * np.pi)
    offset = (round(reach * np.sin(angle)), round(reach * np.cos(angle)))
    return Shadow(
        offset,
        size * rng.uniform(0.004, 0.03),
        rng.uniform(0.1, 0.6) if rng.random() < 0.66 else 0.0,
    )


def composite(ground: FloatImage, layer: Layer, shadow: Shadow) -> FloatImage:
    """Composites a layer, with its shadow, over a ground image (H, W, 3)."""
    alpha = layer[..., 3]
    if shadow.opacity > 0:
        cast = np.roll(blur_field(alpha, shadow.blur), shadow.offset, axis=(0, 1))
        ground = ground * (1 - np.float32(shadow.opacity) * cast)[..., None]
    return np.asarray(ground + alpha[..., None] * (layer[..., :3] - ground))


def place(
    piece: Layer, size: int, y: float, x: float, *, extent: float, angle: float, flip: bool = False
) -> Layer:
    """Scales and turns a piece and puts it into an empty square layer.

    Args:
        piece: (h, w, 4) float32 layer.
        size: side of the result, in pixels.
        y: row of the piece's centre.
        x: column of the piece's centre.
        extent: longer side of the piece in the result, in pixels.
        angle: angle of the turn, in degrees.
        flip: whether to mirror the piece first.

    Returns:
        (size, size, 4) float32 layer.
    """
    small = shrink(piece, extent, angle, flip=flip)
    layer = np.zeros((size, size, 4), dtype=np.float32)
    paste_over(layer, small, y, x)
    return layer


def shrink(piece: Layer, extent: float, angle: float, *, flip: bool = False) -> Layer:
    """Scales a piece to `extent` pixels (longer side) and turns it by `angle` degrees; alpha in [0, 1]."""
    height, width = piece.shape[:2]
    scale = extent / max(height, width)
    new_size = (max(round(width * scale), 2), max(round(height * scale), 2))
    # Colours are premultiplied, so that resizing does not bleed the transparent pixels' colour into the rim.
    flat = np.dstack([piece[..., :3] * piece[..., 3:], piece[..., 3] * 255])
    image = Image.fromarray(to_bytes(flat), "RGBA") if flat.shape[2] == 4 else None
    if image is None:
        raise ValueError("a layer has four channels")
    bands = [band.resize(new_size, Image.Resampling.BILINEAR) for band in image.split()]
    if flip:
        bands = [band.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for band in bands]
    if angle % 360:
        bands = [band.rotate(angle, Image.Resampling.BILINEAR, expand=True) for band in bands]
    turned = np.dstack([np.asarray(band, dtype=np.float32) for band in bands])
    alpha = turned[..., 3:] / 255
    return np.concatenate([turned[..., :3] / np.maximum(alpha, 1 / 64), alpha], axis=2).clip(0, 255)


def paste_over(layer: Layer, piece: Layer, y: float, x: float) -> tuple[slice, slice] | None:
    """Composites a piece onto a layer in place, centred at (y, x); returns the rows and columns touched."""
    height, width = piece.shape[:2]
    top, left = round(y - height / 2), round(x - width / 2)
    row_from, row_to = max(top, 0), min(top + height, layer.shape[0])
    column_from, column_to = max(left, 0), min(left + width, layer.shape[1])
    if row_to <= row_from or column_to <= column_from:
        return None
    part = piece[row_from - top : row_to - top, column_from - left : column_to - left]
    target = layer[row_from:row_to, column_from:column_to]
    alpha = part[..., 3:]
    target[..., :3] += alpha * (part[..., :3] - target[..., :3])
    target[..., 3:] += alpha * (1 - target[..., 3:])
    return slice(row_from, row_to), slice(column_from, column_to)


LayerFault = Callable[[Layer, Rng, float], tuple[Layer, Field, str]]


def _rim_site(layer: Layer, rng: Rng, radius: float) -> Site:
    solid = layer[..., 3] > 0.5
    rim = solid & ~grow(solid, -2)
    places = np.flatnonzero(rim if rim.any() else np.ones_like(solid))
    y, x = divmod(int(places[rng.integers(places.size)]), solid.shape[1])
    return Site(float(y), float(x), max(radius, 2.0), solid, 0.5, None)


def bitten(layer: Layer, rng: Rng, radius: float) -> tuple[Layer, Field, str]:
    """Takes a bite out of the outline, where the ground shows."""
    site = _rim_site(layer, rng, radius)
    hole = (
        polygon(rng, site)
        if rng.random() < 0.4
        else coverage(blob_distance(rng, site, irregularity=0.35), 0.05)
    )
    result = layer.copy()
    result[..., 3] *= 1 - hole
    return result, hole * (layer[..., 3] > 0.3), "bitten"


def cut_off(layer: Layer, rng: Rng, radius: float) -> tuple[Layer, Field, str]:
    """Removes everything beyond a rough line near the outline."""
    site = _rim_site(layer, rng, radius)
    solid = np.argwhere(site.region)
    centre = solid.mean(axis=0)
    outward = np.array([site.y, site.x]) - centre
    outward /= max(float(np.linalg.norm(outward)), 1e-6)
    y, x = np.mgrid[: site.height, : site.width].astype(np.float32)
    beyond = (y - site.y) * outward[0] + (x - site.x) * outward[1] + np.float32(site.radius * 0.8)
    beyond = beyond + smooth_noise(rng, site.height, site.width, 8) * np.float32(rng.uniform(0, 4))
    hole = np.clip(beyond + 0.5, 0, 1)
    result = layer.copy()
    result[..., 3] *= 1 - hole
    return result, hole * (layer[..., 3] > 0.3), "missing"


def outgrowth(layer: Layer, rng: Rng, radius: float) -> tuple[Layer, Field, str]:
    """Adds surplus matter at the outline: flash, a burr, a lump of the object's own colour."""
    site = _rim_site(layer, rng, radius)
    lump = coverage(blob_distance(rng, site, irregularity=0.35), 0.08)
    solid = layer[..., 3] > 0.5
    colour = (
        layer[..., :3][solid & grow(lump > 0.5, 3)] if (solid & (lump > 0.5)).any() else layer[..., :3][solid]
    )
    paint = colour.mean(axis=0) * rng.uniform(0.6, 1.3)
    fresh = lump * (1 - layer[..., 3])
    result = layer.copy()
    rough = smooth_noise(rng, site.height, site.width, 4) * rng.uniform(0, 12)
    result[..., :3] += fresh[..., None] * (paint + rough[..., None] - result[..., :3])
    result[..., 3] = np.maximum(result[..., 3], lump)
    return result, fresh, "extra"


def bent(layer: Layer, rng: Rng, radius: float) -> tuple[Layer, Field, str]:
    """Pushes the end of the object aside."""
    site = _rim_site(layer, rng, radius * 1.3)
    weight = coverage(blob_distance(rng, site, irregularity=0.1), 0.95)
    angle, reach = rng.uniform(0, 2 * np.pi), site.radius * rng.uniform(0.4, 0.9)
    result = warp_layer(
        layer,
        weight * np.float32(reach * np.sin(angle)),
        weight * np.float32(reach * np.cos(angle)),
    )
    shifted = np.maximum(
        largest_change(result[..., :3], layer[..., :3]) * np.maximum(result[..., 3], layer[..., 3]),
        255 * np.abs(result[..., 3] - layer[..., 3]),
    )
    return result, (shifted > 20) * weight.clip(0, 1) * 4, "bent"


def warp_layer(layer: Layer, shift_y: Field, shift_x: Field) -> Layer:
    """Displaces a layer (H, W, 4 or more) by fields of row and column shifts, without dark rims."""
    alpha = layer[..., 3:4]
    moved = warp(np.concatenate([layer[..., :3] * alpha, layer[..., 3:]], axis=2), shift_y, shift_x)
    moved[..., :3] /= np.maximum(moved[..., 3:4], 1 / 64)
    return moved


def split(layer: Layer, rng: Rng, radius: float) -> tuple[Layer, Field, str]:
    """Breaks the object in two along a jagged line; one piece moves away a little."""
    del radius
    height, width = layer.shape[:2]
    solid = layer[..., 3] > 0.5
    places = np.flatnonzero(solid if solid.any() else np.ones_like(solid))
    centre_y, centre_x = divmod(int(places[rng.integers(places.size)]), width)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    jag = fractal_noise(rng, height, width, height * rng.uniform(0.05, 0.2), octaves=4, persistence=0.6)
    side = (y - centre_y) * np.float32(np.cos(angle)) - (x - centre_x) * np.float32(np.sin(angle))
    first = np.clip(side + jag * np.float32(height * rng.uniform(0.005, 0.03)) + 0.5, 0, 1)
    gap = float(height * np.exp(rng.uniform(np.log(0.006), np.log(0.06))))
    turn = rng.normal(0, 0.05)
    moved = warp_layer(
        np.dstack([layer, first]),
        (-np.cos(angle) * gap - turn * (x - centre_x)).astype(np.float32),
        (np.sin(angle) * gap + turn * (y - centre_y)).astype(np.float32),
    )
    result = layer.copy()
    result[..., 3] *= 1 - first
    piece = moved[..., :4].copy()
    piece[..., 3] *= moved[..., 4]
    joined = result[..., 3:] * (1 - piece[..., 3:])
    alpha = joined + piece[..., 3:]
    colours = (result[..., :3] * joined + piece[..., :3] * piece[..., 3:]) / np.maximum(alpha, 1e-3)
    # The seam and the gap are the defect; the shifted but sound pieces are not.
    seam = np.clip(blur_field(first * (1 - first) * 4, 1.0) * 1.5, 0, 1)
    hole = np.clip(layer[..., 3] - alpha[..., 0], 0, 1)
    cover = np.maximum(hole, seam * (layer[..., 3] > 0.3))
    near_line = np.abs(side) < 3 * gap + height * 0.08
    return np.dstack([colours, alpha]).astype(np.float32), cover * near_line, "split"


LAYER_FAULTS: tuple[LayerFault, ...] = (bitten, cut_off, outgrowth, bent, split)
