"""Draws coverage maps, in [0, 1], of the outlines of defects: blobs, cracks, curves, polygons."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from zsad.data.synthetic.noise import (
    Field,
    Mask,
    Rng,
    blur_field,
    fractal_noise,
    smooth_noise,
)

_SUPERSAMPLING = 3


@dataclass(frozen=True)
class Site:
    """Place and size of a defect, and what it may be made of.

    Attributes:
        y: row of the centre, in pixels.
        x: column of the centre, in pixels.
        radius: radius of a disc with the wanted area, in pixels, at least 1.
        region: (H, W) bool, True where the defect should lie.
        strength: visibility of the defect, from 0 (barely visible) to 1 (glaring).
        foreign: (H, W, 3) uint8, another image of the same size, or None.
        scale: side of the whole image relative to 320 pixels; line widths are proportional to it.
    """

    y: float
    x: float
    radius: float
    region: Mask
    strength: float
    foreign: np.ndarray | None
    scale: float = 1.0

    def part(self, y: float, x: float, radius: float) -> Site:
        """Returns a site of another place and size in the same image."""
        return replace(self, y=y, x=x, radius=radius)

    @property
    def height(self) -> int:
        """Rows of the image."""
        return int(self.region.shape[0])

    @property
    def width(self) -> int:
        """Columns of the image."""
        return int(self.region.shape[1])


def offsets(site: Site) -> tuple[Field, Field]:
    """Returns row and column distances from the centre of the site, float32, (H, 1) and (1, W)."""
    y = (np.arange(site.height, dtype=np.float32) - np.float32(site.y))[:, None]
    x = (np.arange(site.width, dtype=np.float32) - np.float32(site.x))[None, :]
    return y, x


def blob_distance(
    rng: Rng,
    site: Site,
    *,
    irregularity: float | None = None,
    elongation: float | None = None,
) -> Field:
    """Returns the distance from the centre of the site, relative to the rim of a wavy or noisy outline.

    Args:
        rng: source of randomness.
        site: place and size.
        irregularity: relative amplitude of the waves of the outline; None draws one in [0, 0.45].
        elongation: ratio of the axes, at least 1; None draws one.

    Returns:
        (H, W) float32: 0 at the centre, 1 on the rim, more outside.
    """
    irregularity = rng.uniform(0.0, 0.45) if irregularity is None else irregularity
    elongation = float(np.exp(rng.exponential(0.35))) if elongation is None else elongation
    elongation = min(elongation, 6.0)
    angle = rng.uniform(0, np.pi)
    y, x = offsets(site)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    along = along / np.float32(np.sqrt(elongation) * site.radius)
    across = across * np.float32(np.sqrt(elongation) / site.radius)
    if irregularity > 0.1 and rng.random() < 0.6:
        # Moving the coordinates by smooth noise gives lobes and necks, like those of real stains and flakes.
        for cell, reach in ((1.2, 1.0), (0.4, 0.3)):
            size = max(cell * site.radius, 2.0)
            amount = np.float32(irregularity * reach)
            along = along + amount * smooth_noise(rng, site.height, site.width, size)
            across = across + amount * smooth_noise(rng, site.height, site.width, size)
        return np.asarray(np.sqrt(along**2 + across**2))
    distance = np.sqrt(along**2 + across**2)
    if irregularity < 0.02:
        return np.asarray(distance)
    theta = np.arctan2(across, along)
    table_size = 256
    turns = np.linspace(-np.pi, np.pi, table_size, dtype=np.float32)
    rim = np.zeros(table_size, dtype=np.float32)
    for wave in range(2, 9):
        rim += np.float32(rng.normal() / wave**1.1) * np.cos(wave * turns + np.float32(rng.uniform(0, 7)))
    rim = np.exp(np.float32(irregularity) * rim / max(float(rim.std()) * 1.5, 1e-3))
    index = ((theta + np.pi) * np.float32((table_size - 1) / (2 * np.pi))).astype(np.int32)
    return np.asarray(distance / rim[index])


def coverage(distance: Field, softness: float) -> Field:
    """Returns 1 inside and 0 outside, falling over the relative width `softness` up to distance 1."""
    ramp = np.clip((1 - distance) / max(softness, 1e-3), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def noise_blob(rng: Rng, site: Site) -> Field:
    """Draws a blob whose outline comes from fractal noise: ragged, with islands and holes.

    Returns:
        (H, W) float32 coverage, in [0, 1].
    """
    distance = blob_distance(rng, site, irregularity=0.2)
    cell = max(site.radius * rng.uniform(0.4, 1.3), 2.0)
    rough = fractal_noise(rng, site.height, site.width, cell, octaves=3)
    edge = rng.uniform(0.05, 0.4)
    return np.asarray(
        np.clip((1 - distance + np.float32(0.35) * rough) / np.float32(edge), 0, 1) * (distance < 1.8)
    )


def polygon(rng: Rng, site: Site, corners: int | None = None) -> Field:
    """Draws the antialiased coverage (H, W) of a random polygon around the centre of the site."""
    corners = int(rng.integers(3, 8)) if corners is None else corners
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = site.radius * rng.uniform(0.6, 1.4, corners)
    points = np.stack([site.x + radii * np.cos(angles), site.y + radii * np.sin(angles)], axis=1)
    return fill_polygon(points, site.height, site.width)


def rectangle(rng: Rng, site: Site, *, upright: bool = False) -> Field:
    """Draws the coverage (H, W) of a rectangle of about the area of the site, rotated unless `upright`."""
    ratio = float(np.exp(rng.normal(0, 0.5)))
    half_long, half_short = (
        0.89 * site.radius * np.sqrt(ratio),
        0.89 * site.radius / np.sqrt(ratio),
    )
    angle = 0.0 if upright else rng.uniform(0, np.pi)
    corner = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [half_long, half_short]
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return fill_polygon(corner @ turn + [site.x, site.y], site.height, site.width)


def fill_polygon(points: np.ndarray, height: int, width: int) -> Field:
    """Draws the antialiased coverage (height, width) of a polygon with corners (n, 2), given as x, y."""
    scale = _SUPERSAMPLING
    result = np.zeros((height, width), dtype=np.float32)
    left, top = (max(int(value), 0) for value in points.min(axis=0))
    right = min(int(points[:, 0].max()) + 2, width)
    bottom = min(int(points[:, 1].max()) + 2, height)
    if right <= left or bottom <= top:
        return result
    canvas = Image.new("L", ((right - left) * scale, (bottom - top) * scale))
    corners = ((points - [left, top]) * scale).tolist()
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in corners], fill=255)
    result[top:bottom, left:right] = np.asarray(canvas.reduce(scale), dtype=np.float32) / 255
    return result


def draw_strokes(strokes: list[tuple[np.ndarray, np.ndarray]], height: int, width: int) -> Field:
    """Draws the antialiased coverage of curves of varying width.

    Args:
        strokes: pairs of points (n, 2), given as x, y, and widths (n,), in pixels.
        height: rows of the result.
        width: columns of the result.

    Returns:
        (height, width) float32 coverage, in [0, 1].
    """
    if not strokes:
        return np.zeros((height, width), dtype=np.float32)
    everything = np.concatenate([points for points, _ in strokes])
    margin = float(max(widths.max() for _, widths in strokes)) + 2
    left, top = (int(max(value - margin, 0)) for value in everything.min(axis=0))
    right = int(min(everything[:, 0].max() + margin, width)) + 1
    bottom = int(min(everything[:, 1].max() + margin, height)) + 1
    right, bottom = min(right, width), min(bottom, height)
    result = np.zeros((height, width), dtype=np.float32)
    if right <= left or bottom <= top:
        return result
    scale = _SUPERSAMPLING
    canvas = Image.new("L", ((right - left) * scale, (bottom - top) * scale))
    draw = ImageDraw.Draw(canvas)
    for points, widths in strokes:
        local = ((points - [left, top]) * scale).tolist()
        for (start, end), stroke in zip(itertools.pairwise(local), widths, strict=False):
            pixels = max(round(float(stroke) * scale), 1)
            draw.line([tuple(start), tuple(end)], fill=255, width=pixels)
            if pixels > scale:
                half = pixels / 2
                draw.ellipse(
                    [
                        start[0] - half,
                        start[1] - half,
                        start[0] + half,
                        start[1] + half,
                    ],
                    fill=255,
                )
    result[top:bottom, left:right] = np.asarray(canvas.reduce(scale), dtype=np.float32) / 255
    return result


def curve(rng: Rng, site: Site, length: float, *, bend: float) -> np.ndarray:
    """Draws a smooth curve through the centre of the site: points (n, 2), given as x, y.

    Args:
        rng: source of randomness.
        site: place of the curve.
        length: length of the curve, in pixels.
        bend: drift of the direction over the whole length, in radians.
    """
    count = int(np.clip(length / 3, 6, 90))
    step = length / count
    heading = rng.uniform(0, 2 * np.pi) + np.linspace(0, 1, count) * rng.normal(0, bend)
    heading = heading + np.interp(np.linspace(0, 4, count), np.arange(5), rng.normal(0, bend * 0.4, 5))
    points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * step, axis=0)
    return np.asarray(points - points[count // 2] + [site.x, site.y])


def crack_strokes(rng: Rng, site: Site, length: float, width: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws a branching jagged path: the main crack and a few thinner branches.

    Args:
        rng: source of randomness.
        site: place of the middle of the crack.
        length: length of the main crack, in pixels.
        width: largest width of the main crack, in pixels.

    Returns:
        Strokes for `draw_strokes`.
    """
    jag, wander = rng.uniform(0.15, 0.7), rng.uniform(0.02, 0.25)

    def walk(start: np.ndarray, heading: float, reach: float, thick: float) -> tuple[np.ndarray, np.ndarray]:
        count = int(np.clip(reach / rng.uniform(2.5, 6.0), 4, 80))
        drift = heading + np.cumsum(rng.normal(0, wander, count)) + rng.normal(0, jag, count)
        steps = np.stack([np.cos(drift), np.sin(drift)], axis=1) * (reach / count)
        points = np.concatenate([start[None], start + np.cumsum(steps, axis=0)])
        taper = np.linspace(1, rng.uniform(0.1, 0.9), count + 1) * rng.uniform(0.6, 1.2, count + 1)
        return points, np.maximum(thick * taper, 0.5)

    heading = rng.uniform(0, 2 * np.pi)
    centre = np.array([site.x, site.y])
    half = length / 2
    strokes = [
        walk(centre, heading, half, width),
        walk(centre, heading + np.pi, half, width),
    ]
    for _ in range(int(rng.choice([0, 0, 1, 2, 3, 5]))):
        points, widths = strokes[int(rng.integers(len(strokes)))]
        at = int(rng.integers(len(points)))
        side = heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1.4)
        strokes.append(walk(points[at], side, length * rng.uniform(0.1, 0.4), widths[at] * 0.7))
    return strokes


def specks(rng: Rng, site: Site, count: int, size: float) -> Field:
    """Draws the coverage (H, W) of small round grains around the centre of the site, denser in the middle.

    Args:
        rng: source of randomness.
        site: place and spread of the grains.
        count: number of grains.
        size: mean diameter of a grain, in pixels.
    """
    scale = _SUPERSAMPLING
    canvas = Image.new("L", (site.width * scale, site.height * scale))
    draw = ImageDraw.Draw(canvas)
    spread = rng.normal(0, 0.5, (count, 2)) * site.radius
    diameters = size * rng.lognormal(0, 0.5, count)
    for (dx, dy), diameter in zip(spread, diameters, strict=True):
        x, y, half = (
            (site.x + dx) * scale,
            (site.y + dy) * scale,
            max(diameter, 0.7) * scale / 2,
        )
        draw.ellipse([x - half, y - half * rng.uniform(0.6, 1), x + half, y + half], fill=255)
    return np.asarray(canvas.reduce(scale), dtype=np.float32) / 255


def envelope(cover: Field, distance: float) -> Field:
    """Returns the blurred union of scattered marks, in [0, 1], which an annotator would outline."""
    spread = blur_field(cover, distance)
    return np.clip(spread / max(float(spread.max()) * 0.25, 1e-6), 0, 1)


def ragged(rng: Rng, cover: Field, amount: float) -> Field:
    """Roughens the edge and the inside of a coverage by noise (patchy paint, worn print)."""
    rough = smooth_noise(rng, cover.shape[0], cover.shape[1], rng.uniform(2, 8))
    return np.asarray(np.clip(cover * (1 + np.float32(amount) * rough), 0, 1))
