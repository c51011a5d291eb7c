"""Draws images of instruments: tissue, radiographs, ultrasound, slices of a head, luminescent cells.

A builder is a function of (rng, size) that returns a float32 image (size, size, 3) in [0, 255], the name of
what it shows, the region in which a defect may lie, and the kinds of defects that such images suffer from.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zsad.data.synthetic.noise import (
    Field,
    FloatImage,
    Mask,
    Rng,
    blur_field,
    fractal_noise,
    relief,
    smooth_noise,
    worley_noise,
)
from zsad.data.synthetic.shapes import (
    Site,
    blob_distance,
    coverage,
    curve,
    draw_strokes,
)
from zsad.data.synthetic.surfaces import grid

Scan = tuple[FloatImage, str, Mask, tuple[str, ...]]


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
            branch = curve(
                rng,
                _site(size, at[1], at[0], 9),
                size * rng.uniform(0.1, 0.4),
                bend=1.0,
            )
            strokes.append((branch, np.full(len(branch), max(thickness * 0.4, 0.5))))
    return draw_strokes(strokes, size, size)


def _frame(rng: Rng, size: int) -> Field:
    """Draws the coverage (size, size) of the round, cornered or full field of view of an endoscope."""
    y, x = grid(size)
    choice = rng.random()
    if choice < 0.35:
        return np.ones((size, size), dtype=np.float32)
    y, x = np.abs(y - size / 2), np.abs(x - size / 2 + size * rng.uniform(-0.04, 0.04))
    half = size * rng.uniform(0.46, 0.6)
    if choice < 0.7:
        cut = half * rng.uniform(1.3, 1.7)
        return np.clip(np.minimum(half - np.maximum(y, x), cut - y - x) / 2, 0, 1)
    power = float(rng.choice([2, 4, 8]))
    return np.clip((1 - (y / half) ** power - (x / half) ** power) * half / 4, 0, 1)


def mucosa(rng: Rng, size: int) -> Scan:
    """The inside of a gut: red folds lit from the camera, vessels, wet highlights, a dark lumen."""
    y, x = grid(size)
    swell = fractal_noise(rng, size, size, size / rng.uniform(1.2, 3), octaves=3, persistence=0.35)
    centre = rng.uniform(0.1, 0.9, 2) * size
    reach = np.sqrt((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / size
    # Folds run round the lumen; their crests are broad and their valleys narrow and dark.
    fold = np.abs(np.sin(reach * rng.uniform(5, 16) + swell * rng.uniform(0.5, 1.6)))
    fold = fold ** rng.uniform(0.3, 0.8) * rng.uniform(0, 1)
    fine = fractal_noise(rng, size, size, size / rng.uniform(12, 30), octaves=3, persistence=0.6)
    height = swell * 14 + fold * 22 + fine * rng.uniform(0, 1.2)
    base = np.array(
        [rng.uniform(150, 235), rng.uniform(70, 150), rng.uniform(50, 120)],
        dtype=np.float32,
    )
    light_y, light_x = rng.uniform(0.25, 0.75, 2) * size
    lamp = np.exp(-((y - light_y) ** 2 + (x - light_x) ** 2) / (size * rng.uniform(0.45, 0.9)) ** 2)
    light = (0.3 + 0.75 * lamp) * (0.7 + 0.3 * fold) + relief(
        height, rng.uniform(0, 7), rng.uniform(0.08, 0.3)
    )
    lumen = 1 - np.float32(rng.uniform(0.2, 1.0)) * np.exp(-((reach / rng.uniform(0.1, 0.3)) ** 2))
    light = np.clip(light, 0.06, 1.4) * lumen
    # Less light makes flesh redder, not only darker.
    dim = (1 - np.clip(light, 0, 1))[..., None]
    image = base * light[..., None] * (1 - dim * np.array([0.0, 0.3, 0.35], dtype=np.float32))
    vessels = blur_field(_vessels(rng, size, int(rng.integers(0, 9)), 2.0), 1.0) * rng.uniform(0.1, 0.4)
    image = image * (1 - vessels[..., None] * np.array([0.35, 0.9, 0.7], dtype=np.float32))
    blotch = fractal_noise(rng, size, size, size / 5, octaves=3) * rng.uniform(0, 0.08)
    image = image * (1 + blotch[..., None] * np.array([0.3, 1, 1], dtype=np.float32))
    wet = (
        fine
        + swell * 0.4
        + fold
        + smooth_noise(rng, size, size, rng.uniform(4, 12), stretch=rng.uniform(1, 3))
    )
    shine = np.clip((wet - np.quantile(wet[::4, ::4], rng.uniform(0.98, 0.9997))) * 3, 0, 1) * (light > 0.35)
    image = image + blur_field(shine.astype(np.float32), 0.7)[..., None] * (248 - image)
    frame = _frame(rng, size)
    names = ["colon", "tissue", "mucosa", "colon in an endoscopy image"]
    likely = ("bump", "bump", "bump", "lesion", "spot", "stain")
    return (
        (image * frame[..., None]).astype(np.float32),
        str(rng.choice(names)),
        frame > 0.9,
        likely,
    )


def slice_of_organ(rng: Rng, size: int) -> Scan:
    """A tomographic slice through a head: shell, gap, folded grey and white matter, symmetric cavities."""
    centre, radius = (
        size / 2 + rng.normal(0, size * 0.02, 2),
        size * rng.uniform(0.34, 0.45),
    )
    body = blob_distance(
        rng,
        _site(size, centre[0], centre[1], radius),
        irregularity=0.025,
        elongation=rng.uniform(1, 1.35),
    )
    folded = fractal_noise(rng, size, size, radius / rng.uniform(3, 6), octaves=3, persistence=0.6)
    ribbon = np.abs(smooth_noise(rng, size, size, radius / rng.uniform(4, 8)))
    white, grey, fluid = np.sort(rng.uniform(0.1, 1, 3))[:: int(rng.choice([-1, 1]))] * rng.uniform(120, 220)
    depth = 1 - body
    core = np.clip((depth - 0.12 + 0.07 * folded) * 25, 0, 1)
    matter = grey + core * (white - grey)
    groove = np.clip((0.16 - ribbon) * 12, 0, 1) * np.clip((0.3 - depth) * 8, 0, 1)
    matter = matter + groove * (fluid - matter)
    _, x = grid(size)
    middle = np.exp(-(((x - centre[1]) / rng.uniform(1, 2.5)) ** 2)) * (rng.random() < 0.7)
    matter = matter + middle * 0.7 * (fluid - matter)
    for _ in range(int(rng.integers(1, 4))):
        angle, far = rng.uniform(0, 7), rng.uniform(0.05, 0.4)
        place = centre + radius * far * np.array([np.sin(angle), np.cos(angle)])
        organ = _site(size, place[0], place[1], radius * rng.uniform(0.06, 0.2))
        shape = coverage(
            blob_distance(rng, organ, irregularity=0.25, elongation=rng.uniform(1, 4)),
            0.3,
        )
        mirrored = np.roll(shape[:, ::-1], round(2 * centre[1] - size), axis=1)
        shape = np.maximum(shape, mirrored)
        matter = matter + shape * (rng.choice([fluid, grey]) - matter)
    image = blur_field(matter.astype(np.float32), rng.uniform(0.6, 1.6)) + folded * rng.uniform(1, 5)
    bias = smooth_noise(rng, size, size, size / 1.5) * rng.uniform(0, 0.12)
    inside = np.clip((1 - body) * radius / 2, 0, 1)
    shell = np.exp(-(((body - rng.uniform(1.08, 1.16)) / rng.uniform(0.02, 0.045)) ** 2)) * rng.uniform(
        60, 230
    )
    image = image * inside * (1 + bias) + shell + rng.uniform(0, 12)
    image = image + np.abs(smooth_noise(rng, size, size, 1.5)) * rng.uniform(1, 6)
    if rng.random() < 0.3:
        image = image.T
        body = body.T
    rgb = np.repeat(image[..., None], 3, axis=2).astype(np.float32)
    names = ["brain", "brain scan", "brain mri", "organ", "head in a tomographic scan"]
    return (
        rgb,
        str(rng.choice(names)),
        body < 0.9,
        ("lesion", "lesion", "lesion", "lesion", "spot", "bump"),
    )


def radiograph(rng: Rng, size: int) -> Scan:
    """An X-ray image: overlapping soft layers, ribs or parts, film grain."""
    layers = fractal_noise(rng, size, size, size / 1.5, octaves=2) * 30 + rng.uniform(70, 150)
    for _ in range(int(rng.integers(1, 7))):
        part = _site(size, rng.uniform(0, size), rng.uniform(0, size), size * rng.uniform(0.08, 0.5))
        shape = coverage(blob_distance(rng, part, irregularity=0.2), rng.uniform(0.05, 0.9))
        layers = layers + shape * rng.normal(0, 30)
    if rng.random() < 0.5:
        y, x = grid(size)
        arch = (
            y + (x - size / 2) ** 2 * rng.uniform(0, 1.2) / size + smooth_noise(rng, size, size, size / 2) * 6
        )
        ribs = np.sin(arch * np.float32(2 * np.pi / rng.uniform(25, 70)))
        layers = layers + blur_field(np.clip(ribs * 3, 0, 1), 2) * rng.uniform(5, 30)
    layers = layers + smooth_noise(rng, size, size, 1.3) * rng.uniform(1, 8)
    image = np.repeat(layers[..., None], 3, axis=2).astype(np.float32)
    names = ["x-ray", "radiograph", "lung", "weld"]
    likely = ("lesion", "lesion", "spot", "hole", "crack", "vein")
    return image, str(rng.choice(names)), np.ones((size, size), dtype=bool), likely


def ultrasound(rng: Rng, size: int) -> Scan:
    """Layered tissue under speckle."""
    y, x = grid(size)
    bend = smooth_noise(rng, size, size, size / 2) * rng.uniform(5, 25)
    layers = np.sin((y + bend) * np.float32(2 * np.pi / rng.uniform(30, 140))) * rng.uniform(10, 40)
    matter = rng.uniform(50, 120) + layers + fractal_noise(rng, size, size, size / 4, octaves=3) * 15
    speckle = np.abs(smooth_noise(rng, size, size, rng.uniform(1.5, 3.5), stretch=1.6)) + 0.25
    image = np.clip(matter, 5, 250) * (0.4 + 0.7 * speckle)
    sector = np.ones((size, size), dtype=bool)
    if rng.random() < 0.5:
        sector = np.abs(x - size / 2) < (y + size * 0.25) * rng.uniform(0.35, 0.7)
    image = np.where(sector, image, 4.0)
    rgb = np.repeat(image[..., None], 3, axis=2).astype(np.float32)
    return (
        rgb,
        str(rng.choice(["ultrasound scan", "tissue"])),
        sector,
        ("lesion", "lesion", "spot"),
    )


def luminescent_cell(rng: Rng, size: int) -> Scan:
    """A grey cell with bus bars and thin fingers; mono-crystalline (clouds) or poly-crystalline (grains)."""
    y, x = grid(size)
    level = rng.uniform(80, 190)
    clouds = fractal_noise(rng, size, size, size / rng.uniform(1, 4), octaves=3) * rng.uniform(2, 14)
    image = np.full((size, size), level, dtype=np.float32) + clouds
    if rng.random() < 0.5:
        near, _ = worley_noise(rng, size, size, rng.uniform(18, 60))
        steps = smooth_noise(rng, size, size, rng.uniform(8, 25), stretch=rng.uniform(1, 2))
        image = image - np.clip(near - 0.3, 0, 1) * rng.uniform(0, 40) + np.sign(steps) * rng.uniform(0, 9)
        image = image - np.clip(steps - 0.9, 0, 1) * rng.uniform(0, 60)
    bars = int(rng.integers(2, 6))
    place = np.mod(y - size / bars / 2, size / bars)
    width = rng.uniform(2, 9) * size / 320
    bar = np.clip((width - np.minimum(place, size / bars - place)) / 1.5, 0, 1) * np.ones_like(x)
    image = image + bar * (level * rng.uniform(0.1, 0.6) - image)
    fingers = np.sin(x * np.float32(2 * np.pi / rng.uniform(3.5, 9)))
    image = image + fingers * rng.uniform(0, 5)
    edge = np.minimum(np.minimum(y, size - 1 - y), np.minimum(x, size - 1 - x))
    margin = rng.uniform(0, 12)
    corner = np.minimum(y, size - 1 - y) + np.minimum(x, size - 1 - x) < rng.uniform(0, 0.2) * size
    image = np.where((edge < margin) | corner, level * 0.1, image)
    region = (edge >= margin + 2) & ~corner
    image = image if rng.random() < 0.5 else image.T
    image = image + smooth_noise(rng, size, size, 1.2) * rng.uniform(0, 6)
    rgb = np.repeat(image[..., None], 3, axis=2).astype(np.float32)
    likely = (
        "crack",
        "crack",
        "lesion",
        "burn",
        "stain",
        "thread_fault",
        "discolouration",
    )
    return rgb, str(rng.choice(["solar cell", "wafer", "panel"])), region, likely


def fundus(rng: Rng, size: int) -> Scan:
    """The back of an eye: an orange disc with a bright spot and vessels that start from it."""
    y, x = grid(size)
    half = size * rng.uniform(0.44, 0.55)
    reach = np.sqrt((y - size / 2) ** 2 + (x - size / 2) ** 2) / half
    base = np.array(
        [rng.uniform(150, 230), rng.uniform(60, 120), rng.uniform(15, 60)],
        dtype=np.float32,
    )
    shade = 1.05 - 0.35 * reach**2 + fractal_noise(rng, size, size, size / 3, octaves=4) * 0.05
    image = base * shade[..., None]
    disc_x = size * (0.5 + rng.choice([-1, 1]) * rng.uniform(0.12, 0.3))
    disc = _site(size, size * rng.uniform(0.42, 0.58), disc_x, size * rng.uniform(0.05, 0.08))
    bright = coverage(blob_distance(rng, disc, irregularity=0.03, elongation=1.1), 0.5)
    image = image + bright[..., None] * (np.array([250, 215, 140], dtype=np.float32) - image) * 0.8
    strokes = []
    for _ in range(int(rng.integers(5, 11))):
        points = curve(rng, disc, size * rng.uniform(0.6, 1.3), bend=1.0)
        points = points - points[0] + [disc.x, disc.y]
        strokes.append((points, np.linspace(rng.uniform(2, 5), 0.6, len(points)) * size / 320))
    vessels = blur_field(draw_strokes(strokes, size, size), 0.7)
    image = image * (1 - vessels[..., None] * np.array([0.35, 0.6, 0.5], dtype=np.float32))
    inside = np.clip((1 - reach) * half / 3, 0, 1)
    likely = ("powder", "spot", "spot", "lesion", "stain")
    rgb = (image * inside[..., None]).astype(np.float32)
    return rgb, str(rng.choice(["retina", "fundus"])), reach < 0.93, likely


SCANS: tuple[Callable[[Rng, int], Scan], ...] = (
    mucosa,
    slice_of_organ,
    radiograph,
    ultrasound,
    luminescent_cell,
    fundus,
)


def random_scan(rng: Rng, size: int) -> Scan:
    """Draws a scan of a random kind: image, name, region for defects, likely defects."""
    return SCANS[int(rng.choice(len(SCANS), p=[0.24, 0.2, 0.12, 0.1, 0.22, 0.12]))](rng, size)
