"""Draws defects of form: bumps, dents, folds, crushed places, torn edges, bitten outlines, bad threads.

The defects are functions of (image, rng, site), as `zsad.data.synthetic.marks` describes.
"""

from __future__ import annotations

import numpy as np

from zsad.data.synthetic.marks import Drawn, contrast_colour, lay, local_colour
from zsad.data.synthetic.noise import (
    FloatImage,
    Rng,
    blur_field,
    fractal_noise,
    relief,
    sample_bilinear,
    smooth_noise,
)
from zsad.data.synthetic.patches import blend
from zsad.data.synthetic.shapes import (
    Site,
    blob_distance,
    coverage,
    crack_strokes,
    draw_strokes,
    noise_blob,
    offsets,
)


def warp(image: FloatImage, shift_y: np.ndarray, shift_x: np.ndarray) -> FloatImage:
    """Displaces an image by fields (H, W) of row and column shifts, in pixels."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    return sample_bilinear(image, (y + shift_y).astype(np.float32), (x + shift_x).astype(np.float32))


def bump(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A smooth raised lump (blister, swelling, polyp): magnified texture, shading, highlights, own tint."""
    distance = blob_distance(rng, site, irregularity=rng.uniform(0, 0.25), elongation=rng.uniform(1, 2))
    dome = np.clip(1 - distance**2, 0, 1) ** rng.uniform(0.7, 2.0)
    cover = coverage(distance, rng.uniform(0.1, 0.5))
    y, x = offsets(site)
    zoom = np.float32(rng.uniform(0.1, 0.5)) * dome
    changed = warp(image, -y * zoom, -x * zoom)
    light = rng.uniform(0, 7)
    changed = changed + (relief(dome * site.radius, light, 12 + 70 * site.strength))[..., None]
    tint = rng.normal(0, 6 + 25 * site.strength, 3) + rng.normal(0, 15)
    changed = changed + (cover * rng.uniform(0.3, 1))[..., None] * tint.astype(np.float32)
    shadow = np.clip(1 - np.abs(distance - 1.05) / 0.25, 0, 1)
    side = np.clip((x * np.cos(light) + y * np.sin(light)) / -site.radius, 0, 1)
    changed = changed * (1 - np.float32(rng.uniform(0, 0.6)) * shadow * side)[..., None]
    if rng.random() < 0.3:
        knobs = fractal_noise(rng, site.height, site.width, max(site.radius * 0.4, 3), octaves=2)
        changed = changed + (relief(knobs * dome * site.radius * 0.2, light, 40 * rng.random()))[..., None]
    for _ in range(int(rng.choice([0, 0, 1, 2, 4]))):
        off = -np.array([np.sin(light), np.cos(light)]) * 0.4 + rng.normal(0, 0.25, 2)
        size = rng.uniform(0.002, 0.03) * site.radius**2 + 0.5
        glint = np.exp(-((y - off[0] * site.radius) ** 2 + (x - off[1] * site.radius) ** 2) / size)
        changed = changed + (glint * cover * rng.uniform(20, 160))[..., None]
    return changed, coverage(distance, 0.1)


def dent(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A smooth hollow: inverse shading of a bump, texture slightly pinched."""
    distance = blob_distance(rng, site, irregularity=rng.uniform(0, 0.35))
    bowl = np.clip(1 - distance**2, 0, 1)
    y, x = offsets(site)
    pinch = np.float32(rng.uniform(0.05, 0.35)) * bowl
    changed = warp(image, y * pinch, x * pinch)
    shade = relief(-bowl * site.radius, rng.uniform(0, 7), 15 + 80 * site.strength)
    changed = changed + shade[..., None] - (bowl * rng.uniform(0, 40))[..., None]
    return changed, coverage(distance, 0.15)


def lesion(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A soft mass inside the matter: brighter or darker, mottled, sometimes with a rim (scans, castings)."""
    distance = blob_distance(rng, site, irregularity=rng.uniform(0.05, 0.4))
    cover = coverage(distance, rng.uniform(0.15, 0.9))
    mottle = fractal_noise(rng, site.height, site.width, max(site.radius * 0.7, 3), octaves=3)
    level = contrast_colour(image, rng, site, coloured=0.1) - local_colour(image, site)
    inner = cover * (1 + np.float32(rng.uniform(0, 0.5)) * mottle)
    changed = image + inner[..., None] * level.astype(np.float32) * np.float32(rng.uniform(0.5, 1))
    if rng.random() < 0.35:
        rim = np.exp(-(((distance - 0.85) / rng.uniform(0.08, 0.25)) ** 2))
        changed = changed + rim[..., None] * level.astype(np.float32) * np.float32(rng.uniform(-0.8, 0.8))
    if rng.random() < 0.25:
        core = coverage(distance * rng.uniform(1.6, 3), 0.3)
        changed = changed - core[..., None] * level.astype(np.float32) * np.float32(rng.uniform(0.5, 1.3))
    return changed, coverage(distance, 0.15)


def deformation(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """The image is locally twisted, pushed or crumpled."""
    distance = blob_distance(rng, site, irregularity=0.15, elongation=rng.uniform(1, 1.5))
    weight = coverage(distance, 0.9)
    y, x = offsets(site)
    kind = int(rng.integers(3))
    if kind == 0:
        angle = weight * np.float32(rng.choice([-1, 1]) * rng.uniform(0.4, 1.6))
        shift_y = y * (np.cos(angle) - 1) - x * np.sin(angle)
        shift_x = x * (np.cos(angle) - 1) + y * np.sin(angle)
    elif kind == 1:
        push = rng.normal(0, 0.5, 2) * site.radius
        shift_y, shift_x = weight * push[0], weight * push[1]
    else:
        cell, reach = max(site.radius * 0.35, 3), site.radius * rng.uniform(0.1, 0.25)
        shift_y = weight * smooth_noise(rng, site.height, site.width, cell) * reach
        shift_x = weight * smooth_noise(rng, site.height, site.width, cell) * reach
    changed = warp(image, shift_y, shift_x)
    changed = changed + (relief(weight * site.radius, rng.uniform(0, 7), 30 * rng.random()))[..., None]
    return changed, coverage(distance, 0.25)


def wrinkle(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """One or several folds: the surface is shifted and shaded along a ridge."""
    y, x = offsets(site)
    angle = rng.uniform(0, np.pi)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    across = across + site.radius * 0.25 * smooth_noise(rng, site.height, site.width, max(site.radius, 6))
    count = int(rng.choice([1, 1, 2, 4]))
    length, width = (
        site.radius * rng.uniform(1.2, 2.4),
        max(site.radius * rng.uniform(0.12, 0.35), 1.5),
    )
    ridge = np.zeros((site.height, site.width), dtype=np.float32)
    for number in range(count):
        shifted = across - (number - (count - 1) / 2) * width * 2.5
        ridge = np.maximum(ridge, np.exp(-((shifted / width) ** 2)) * np.exp(-((along / length) ** 4)))
    push = ridge * width * np.float32(rng.uniform(0.3, 1.5))
    changed = warp(image, push * np.float32(np.cos(angle)), -push * np.float32(np.sin(angle)))
    light = angle + np.pi / 2 + rng.normal(0, 0.4)
    shade = relief(ridge * width, light, 30 + 110 * site.strength)
    # Folds side by side are one defect: the valleys between them belong to it.
    extent = np.clip(((count + 0.2) * width * 1.25 - np.abs(across)) / width, 0, 1) * (np.abs(along) < length)
    return changed + shade[..., None], np.maximum(np.clip(ridge * 2.2 - 0.3, 0, 1), extent)


def step_edge(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """Part of the surface has slipped along a line: a shifted strip with a hard seam."""
    y, x = offsets(site)
    angle = float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)]))
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    half, length = (
        max(site.radius * rng.uniform(0.15, 0.5), 1.5),
        site.radius * rng.uniform(1.2, 4),
    )
    cover = np.clip(half - np.abs(across) + 0.5, 0, 1) * np.clip(length - np.abs(along) + 0.5, 0, 1)
    shift = rng.choice([-1, 1]) * rng.uniform(0.6, 2.0) * max(half, 3)
    y_shift, x_shift = cover * shift * np.sin(angle), cover * shift * np.cos(angle)
    changed = warp(image, y_shift, x_shift)
    # A slipped strip lies a little higher or lower: it catches other light and has a dark seam.
    seam = np.clip(cover * (1 - blur_field(cover, 1.2)) * 3, 0, 1) * rng.uniform(0, 0.6)
    gain = cover * rng.normal(0, 0.12 + 0.1 * site.strength) - seam
    return changed * (1 + gain)[..., None], cover


def thread_fault(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A narrow row or column is missing, doubled or of another shade (woven and ruled surfaces)."""
    y, x = offsets(site)
    vertical = rng.random() < 0.5
    across, along = (x, y) if vertical else (y, x)
    half, length = (
        max(site.radius * rng.uniform(0.04, 0.2), 1.0),
        site.radius * rng.uniform(1.5, 6),
    )
    cover = np.clip(half - np.abs(across) + 0.5, 0, 1) * np.clip(length - np.abs(along) + 0.5, 0, 1)
    jump = 2 * half * rng.choice([-1, 1])
    shifts = (0.0, jump) if vertical else (jump, 0.0)
    other = np.roll(image, (round(shifts[0]), round(shifts[1])), axis=(0, 1))
    gain = np.exp(rng.normal(0, 0.15 + 0.5 * site.strength))
    return blend(image, other * np.float32(gain), cover), cover


def tear(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A rip: a spindle-shaped opening with frayed lips, dark or showing what lies below."""
    length, width = (
        site.radius * rng.uniform(2, 3.5),
        site.radius * rng.uniform(0.25, 0.8),
    )
    angle = rng.uniform(0, np.pi)
    y, x = offsets(site)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    rough = fractal_noise(rng, site.height, site.width, max(site.radius * 0.3, 2), octaves=3)
    spindle = np.clip(1 - (2 * along / length) ** 2, 0, 1) * (width / 2)
    inside = np.clip(spindle - np.abs(across + rough * width * 0.12) + 0.5, 0, 1) * (spindle > 0)
    ground = local_colour(image, site) * rng.uniform(0.02, 0.5)
    if rng.random() < 0.4:
        ground = contrast_colour(image, rng, site, coloured=0.4)
    changed = lay(image, inside, ground, kept=rng.uniform(0, 0.3))
    lip = np.clip(blur_field(inside, max(width * 0.15, 1)) * 1.6 - inside, 0, 1)
    changed = changed + (lip * rng.uniform(10, 80))[..., None]
    strokes = []
    for _ in range(int(rng.integers(0, 14))):
        at = rng.uniform(-0.4, 0.4) * length
        start = np.array([site.x + at * np.cos(angle), site.y + at * np.sin(angle)])
        end = start + rng.normal(0, width * 0.6, 2)
        strokes.append(
            (
                np.stack([start, (start + end) / 2 + rng.normal(0, 1, 2), end]),
                np.full(3, 0.9),
            )
        )
    threads = draw_strokes(strokes, site.height, site.width)
    changed = lay(changed, threads, local_colour(image, site) * rng.uniform(0.8, 1.3))
    return changed, np.clip(np.maximum(inside, np.clip(blur_field(threads, 1) * 2, 0, 1)) + lip * 0.6, 0, 1)


def chip(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A broken-off flake: a faceted shallow hollow with a crisp rim, a few hairline cracks beside it."""
    distance = blob_distance(rng, site, irregularity=0.35)
    facets = smooth_noise(rng, site.height, site.width, max(site.radius * 0.8, 3))
    cover = coverage(distance, 0.06)
    tone = local_colour(image, site) * rng.uniform(0.4, 1.5) + rng.normal(0, 12, 3)
    changed = lay(image, cover * rng.uniform(0.6, 1), tone, kept=0.2)
    light = rng.uniform(0, 7)
    shade = relief(facets * site.radius, light, 15 + 40 * site.strength) * cover
    rim = relief(-blur_field(cover, max(site.radius * 0.05, 0.8)), light, 140 * rng.random())
    changed = changed + (shade + rim)[..., None]
    if rng.random() < 0.4:
        lines = draw_strokes(crack_strokes(rng, site, site.radius * 3, 1.2), site.height, site.width)
        changed = lay(changed, lines * 0.8, local_colour(image, site) * 0.4)
        cover = np.maximum(cover, np.clip(blur_field(lines, 0.8) * 1.8, 0, 1))
    return changed, cover


def spall(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A rough cavity where matter has crumbled away: coarse broken ground, shaded rim, shadow inside."""
    ragged_outline = rng.random() < 0.6
    cover = (
        noise_blob(rng, site)
        if ragged_outline
        else coverage(blob_distance(rng, site, irregularity=0.4), 0.08)
    )
    cell = max(site.radius * rng.uniform(0.1, 0.5), 2.5)
    rough = fractal_noise(rng, site.height, site.width, cell, octaves=4, persistence=0.75)
    light = rng.uniform(0, 2 * np.pi)
    base = local_colour(image, site)
    tone = base * rng.uniform(0.45, 1.15) + rng.normal(0, 10, 3)
    ground = tone.astype(np.float32) + (relief(rough, light, 10 + 50 * site.strength) + rough * 9)[..., None]
    changed = blend(image, ground.astype(np.float32), cover)
    depth = blur_field(cover, max(site.radius * 0.06, 1.0))
    changed = changed + relief(-depth, light, 150 * rng.uniform(0.2, 1))[..., None]
    return changed, cover
