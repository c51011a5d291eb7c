"""Procedural pictures of instruments: tissue, radiographs, ultrasound, slices of a head, luminescent cells.

The same convention as in `surfaces`, with the region that a defect may lie in as a third value.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zsad.data.synthetic.noise import (
    Field,
    Mask,
    Picture,
    Rng,
    blur_field,
    fractal_noise,
    relief,
    smooth_noise,
    worley_noise,
)
from zsad.data.synthetic.shapes import Site, blob_distance, coverage, curve, draw_strokes
from zsad.data.synthetic.surfaces import grid

Scan = tuple[Picture, str, Mask]


def _site(size: int, y: float, x: float, radius: float) -> Site:
    return Site(y, x, radius, np.ones((size, size), dtype=bool), 0.5, None)


def _vessels(rng: Rng, size: int, count: int, thickness: float) -> Field:
    strokes = []
    for _ in range(count):
        start = _site(size, rng.uniform(0, size), rng.uniform(0, size), size / 4)
        points = curve(rng, start, size * rng.uniform(0.3, 1.2), bend=1.2)
        widths = np.linspace(thickness, 0.5, len(points)) * rng.uniform(0.4, 1.2)
        strokes.append((points, np.maximum(widths, 0.5)))
        for _ in range(2):
            at = points[int(rng.integers(len(points)))]
            branch = curve(rng, _site(size, at[1], at[0], 9), size * rng.uniform(0.1, 0.4), bend=1.0)
            strokes.append((branch, np.full(len(branch), max(thickness * 0.4, 0.5))))
    return draw_strokes(strokes, size, size)


def _frame(rng: Rng, size: int) -> Field:
    """The round or cut-off field of view of an endoscope, coverage (size, size)."""
    y, x = grid(size)
    if rng.random() < 0.4:
        return np.ones((size, size), dtype=np.float32)
    half = size * rng.uniform(0.46, 0.62)
    power = float(rng.choice([2, 2, 4, 8]))
    distance = (np.abs(y - size / 2) / half) ** power + (np.abs(x - size / 2) / half) ** power
    return np.clip((1 - distance) * half / 4, 0, 1)


def mucosa(rng: Rng, size: int) -> Scan:
    """The inside of a gut: red folds lit from the camera, vessels, wet highlights, a dark lumen."""
    y, x = grid(size)
    folds = fractal_noise(rng, size, size, size / rng.uniform(1.5, 4), octaves=3, persistence=0.4)
    centre = rng.uniform(0.1, 0.9, 2) * size
    reach = np.sqrt((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / size
    rings = np.sin(reach * rng.uniform(10, 40) + folds * rng.uniform(0.5, 2)) * rng.uniform(0, 1)
    height = folds + rings * np.float32(0.6)
    base = np.array([rng.uniform(140, 225), rng.uniform(60, 150), rng.uniform(45, 125)], dtype=np.float32)
    light = 0.75 + 0.25 * folds * 0.4 + relief(height * 10, rng.uniform(0, 7), rng.uniform(0.04, 0.2))
    lumen = 1 - np.float32(rng.uniform(0.3, 1.0)) * np.exp(-((reach / rng.uniform(0.12, 0.4)) ** 2))
    picture = base * (np.clip(light, 0.1, 1.4) * lumen)[..., None]
    vessels = blur_field(_vessels(rng, size, int(rng.integers(0, 8)), 2.5), 0.8) * rng.uniform(0.1, 0.45)
    picture = picture * (1 - vessels[..., None] * np.array([0.5, 1.0, 0.8], dtype=np.float32))
    wet = smooth_noise(rng, size, size, rng.uniform(5, 16)) + folds * 0.5
    shine = np.clip((wet - rng.uniform(1.5, 2.4)) * 4, 0, 1)
    picture = picture + shine[..., None] * (245 - picture)
    picture = picture + (smooth_noise(rng, size, size, 2) * rng.uniform(0, 5))[..., None]
    frame = _frame(rng, size)
    return (
        (picture * frame[..., None]).astype(np.float32),
        str(rng.choice(["colon", "tissue", "mucosa"])),
        frame > 0.9,
    )


def slice_of_organ(rng: Rng, size: int) -> Scan:
    """A tomographic slice: a bright or dark shell, two tissues folded into one another, cavities."""
    centre, radius = size / 2 + rng.normal(0, size * 0.03, 2), size * rng.uniform(0.3, 0.44)
    body = blob_distance(rng, _site(size, *centre, radius), irregularity=0.08, elongation=rng.uniform(1, 1.4))
    folded = fractal_noise(rng, size, size, size / rng.uniform(6, 14), octaves=3)
    depth = 1 - body
    white = rng.uniform(90, 190)
    grey = white * rng.uniform(0.5, 1.5)
    matter = np.where(depth + 0.06 * folded > 0.2, white, grey)
    picture = blur_field(matter.astype(np.float32), 1.2) + folded * rng.uniform(1, 8)
    mirror = rng.random() < 0.7
    for _ in range(int(rng.integers(1, 5))):
        angle, far = rng.uniform(0, 7), rng.uniform(0.05, 0.5)
        place = centre + radius * far * np.array([np.sin(angle), np.cos(angle)])
        organ = _site(size, place[0], place[1], radius * rng.uniform(0.06, 0.28))
        shape = coverage(blob_distance(rng, organ, irregularity=0.3), 0.25)
        if mirror:
            shape = np.maximum(shape, np.roll(shape[:, ::-1], round(2 * centre[1] - size), axis=1))
        level = rng.uniform(0.15, 1.5) * white
        picture = picture + shape * (level - picture)
    inside = np.clip((1 - body) * radius / 2, 0, 1)
    shell = np.exp(-(((body - rng.uniform(1.03, 1.12)) / 0.03) ** 2)) * rng.uniform(60, 220)
    picture = picture * inside + shell + rng.uniform(0, 14)
    picture = picture + np.abs(smooth_noise(rng, size, size, 1.5)) * rng.uniform(1, 7)
    region = body < 0.92
    return (
        np.repeat(picture[..., None], 3, axis=2).astype(np.float32),
        str(rng.choice(["brain", "brain scan", "organ"])),
        region,
    )


def radiograph(rng: Rng, size: int) -> Scan:
    """An X-ray picture: overlapping soft layers, ribs or parts, film grain."""
    layers = fractal_noise(rng, size, size, size / 1.5, octaves=2) * 30 + rng.uniform(70, 150)
    for _ in range(int(rng.integers(1, 7))):
        part = _site(size, *rng.uniform(0, size, 2), size * rng.uniform(0.08, 0.5))
        shape = coverage(blob_distance(rng, part, irregularity=0.2), rng.uniform(0.05, 0.9))
        layers = layers + shape * rng.normal(0, 30)
    if rng.random() < 0.5:
        y, x = grid(size)
        ribs = np.sin((y + 0.3 * np.abs(x - size / 2)) * np.float32(2 * np.pi / rng.uniform(25, 60)))
        layers = layers + blur_field(np.clip(ribs * 3, 0, 1), 2) * rng.uniform(5, 30)
    layers = layers + smooth_noise(rng, size, size, 1.3) * rng.uniform(1, 8)
    picture = np.repeat(layers[..., None], 3, axis=2).astype(np.float32)
    return (
        picture,
        str(rng.choice(["x-ray", "radiograph", "lung", "weld"])),
        np.ones((size, size), dtype=bool),
    )


def ultrasound(rng: Rng, size: int) -> Scan:
    """Layered tissue under speckle."""
    y, x = grid(size)
    bend = smooth_noise(rng, size, size, size / 2) * rng.uniform(5, 25)
    layers = np.sin((y + bend) * np.float32(2 * np.pi / rng.uniform(30, 140))) * rng.uniform(10, 40)
    matter = rng.uniform(50, 120) + layers + fractal_noise(rng, size, size, size / 4, octaves=3) * 15
    speckle = np.abs(smooth_noise(rng, size, size, rng.uniform(1.5, 3.5), stretch=1.6)) + 0.25
    picture = np.clip(matter, 5, 250) * (0.4 + 0.7 * speckle)
    sector = np.ones((size, size), dtype=bool)
    if rng.random() < 0.5:
        sector = np.abs(x - size / 2) < (y + size * 0.25) * rng.uniform(0.35, 0.7)
    picture = np.where(sector, picture, 4.0)
    return (
        np.repeat(picture[..., None], 3, axis=2).astype(np.float32),
        str(rng.choice(["ultrasound scan", "tissue"])),
        sector,
    )


def luminescent_cell(rng: Rng, size: int) -> Scan:
    """A grey cell with bus bars and thin fingers; mono-crystalline (clouds) or poly-crystalline (grains)."""
    y, x = grid(size)
    level = rng.uniform(80, 190)
    clouds = fractal_noise(rng, size, size, size / rng.uniform(1, 4), octaves=3) * rng.uniform(2, 14)
    picture = np.full((size, size), level, dtype=np.float32) + clouds
    if rng.random() < 0.5:
        near, _ = worley_noise(rng, size, size, rng.uniform(18, 60))
        steps = smooth_noise(rng, size, size, rng.uniform(8, 25), stretch=rng.uniform(1, 2))
        picture = (
            picture - np.clip(near - 0.3, 0, 1) * rng.uniform(0, 40) + np.sign(steps) * rng.uniform(0, 9)
        )
        picture = picture - np.clip(steps - 0.9, 0, 1) * rng.uniform(0, 60)
    bars = int(rng.integers(2, 6))
    place = np.mod(y - size / bars / 2, size / bars)
    width = rng.uniform(2, 9) * size / 320
    bar = np.clip((width - np.minimum(place, size / bars - place)) / 1.5, 0, 1) * np.ones_like(x)
    picture = picture + bar * (level * rng.uniform(0.1, 0.6) - picture)
    fingers = np.sin(x * np.float32(2 * np.pi / rng.uniform(3.5, 9)))
    picture = picture + fingers * rng.uniform(0, 5)
    edge = np.minimum(np.minimum(y, size - 1 - y), np.minimum(x, size - 1 - x))
    margin = rng.uniform(0, 12)
    corner = np.minimum(y, size - 1 - y) + np.minimum(x, size - 1 - x) < rng.uniform(0, 0.2) * size
    picture = np.where((edge < margin) | corner, level * 0.1, picture)
    region = (edge >= margin + 2) & ~corner
    picture = picture if rng.random() < 0.5 else picture.T
    picture = picture + smooth_noise(rng, size, size, 1.2) * rng.uniform(0, 6)
    return (
        np.repeat(picture[..., None], 3, axis=2).astype(np.float32),
        str(rng.choice(["solar cell", "wafer", "panel"])),
        region,
    )


def fundus(rng: Rng, size: int) -> Scan:
    """The back of an eye: an orange disc with a bright spot and vessels that start from it."""
    y, x = grid(size)
    half = size * rng.uniform(0.44, 0.55)
    reach = np.sqrt((y - size / 2) ** 2 + (x - size / 2) ** 2) / half
    base = np.array([rng.uniform(150, 230), rng.uniform(60, 120), rng.uniform(15, 60)], dtype=np.float32)
    shade = 1.05 - 0.35 * reach**2 + fractal_noise(rng, size, size, size / 3, octaves=4) * 0.05
    picture = base * shade[..., None]
    disc_x = size * (0.5 + rng.choice([-1, 1]) * rng.uniform(0.12, 0.3))
    disc = _site(size, size * rng.uniform(0.42, 0.58), disc_x, size * rng.uniform(0.05, 0.08))
    bright = coverage(blob_distance(rng, disc, irregularity=0.03, elongation=1.1), 0.5)
    picture = picture + bright[..., None] * (np.array([250, 215, 140], dtype=np.float32) - picture) * 0.8
    strokes = []
    for _ in range(int(rng.integers(5, 11))):
        points = curve(rng, disc, size * rng.uniform(0.6, 1.3), bend=1.0)
        points = points - points[0] + [disc.x, disc.y]
        strokes.append((points, np.linspace(rng.uniform(2, 5), 0.6, len(points)) * size / 320))
    vessels = blur_field(draw_strokes(strokes, size, size), 0.7)
    picture = picture * (1 - vessels[..., None] * np.array([0.35, 0.6, 0.5], dtype=np.float32))
    inside = np.clip((1 - reach) * half / 3, 0, 1)
    return (
        (picture * inside[..., None]).astype(np.float32),
        str(rng.choice(["retina", "fundus"])),
        reach < 0.93,
    )


SCANS: tuple[Callable[[Rng, int], Scan], ...] = (
    mucosa,
    slice_of_organ,
    radiograph,
    ultrasound,
    luminescent_cell,
    fundus,
)


def random_scan(rng: Rng, size: int) -> Scan:
    """One of the scans above: picture, name, region for defects."""
    return SCANS[int(rng.choice(len(SCANS), p=[0.24, 0.2, 0.12, 0.1, 0.22, 0.12]))](rng, size)
