"""Draws surfaces that fill an image: metal, wood, cloth, stone, leather, bricks, grids.

A builder is a function of (rng, size) that returns a float32 image (size, size, 3) in [0, 255] and the name
of the material. Everything in it is legitimate: veins, seams, repeated holes and speckles are not defects.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np

from zsad.data.synthetic.noise import (
    Field,
    FloatImage,
    Rng,
    fractal_noise,
    relief,
    smooth_noise,
    unit,
    worley_noise,
)

Surface = tuple[FloatImage, str]


def random_colour(rng: Rng, *, saturation: float = 0.6, low: float = 0.12, high: float = 0.95) -> np.ndarray:
    """Draws a colour (3,), float32 in [0, 255]: mostly the greys, browns and beiges of things, else any hue.

    Args:
        rng: source of randomness.
        saturation: upper bound of the saturation of colours of any hue, in [0, 1]; larger values count as 1.
        low: smallest brightness, in [0, 1].
        high: largest brightness, in [0, 1].
    """
    choice, value = rng.random(), rng.uniform(low, high)
    if choice < 0.45:
        hue, tint = rng.random(), rng.uniform(0, 0.1)
    elif choice < 0.75:
        hue, tint = rng.uniform(0.02, 0.14), rng.uniform(0.1, 0.65)
    else:
        hue, tint = rng.random(), min(saturation, 1.0) * float(rng.beta(1.4, 1.6))
    colour = colorsys.hsv_to_rgb(hue, min(tint, max(saturation, 0.1)), value)
    return np.array(colour, dtype=np.float32) * 255


def mix(field: Field, first: np.ndarray, second: np.ndarray) -> FloatImage:
    """Mixes colours: `first` where the field is 0, `second` where it is 1."""
    return np.asarray((first + field[..., None] * (second - first)).astype(np.float32))


def neighbour(rng: Rng, colour: np.ndarray, spread: float) -> np.ndarray:
    """Draws a colour near another: brightness changes most, hue a little."""
    moved = colour * np.exp(rng.normal(0, spread)) + rng.normal(0, spread * 25, 3)
    return np.asarray(np.clip(moved, 2, 253).astype(np.float32))


def grid(size: int) -> tuple[Field, Field]:
    """Returns row and column numbers, float32, (size, 1) and (1, size)."""
    ramp = np.arange(size, dtype=np.float32)
    return ramp[:, None], ramp[None, :]


def turned(rng: Rng, size: int, *, any_angle: float = 0.4) -> tuple[Field, Field]:
    """Returns row and column coordinates in a frame that is upright, lying, or turned freely at times."""
    y, x = grid(size)
    angle = float(rng.choice([0.0, np.pi / 2])) + rng.normal(0, 0.02)
    if rng.random() < any_angle:
        angle = rng.uniform(0, np.pi)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return y * cosine - x * sine, x * cosine + y * sine


def plain(rng: Rng, size: int) -> Surface:
    """Lacquer, plastic or paper: one colour, faint clouds, fine grain."""
    base = random_colour(rng, saturation=0.9)
    clouds = fractal_noise(rng, size, size, size / 2, octaves=2)
    fine = smooth_noise(rng, size, size, rng.uniform(1, 3))
    amount = rng.uniform(0, 6)
    image = base + (clouds * np.float32(rng.uniform(0, 8)) + fine * np.float32(amount))[..., None]
    return image, str(rng.choice(["plastic", "painted surface", "paper", "rubber", "ceramic"]))


def brushed(rng: Rng, size: int) -> Surface:
    """Brushed or rolled metal: streaks along one direction."""
    base = random_colour(rng, saturation=0.2, low=0.3)
    stretch = float(rng.choice([8, 20, 60]))
    streaks = smooth_noise(rng, size, size, 1.0, stretch=stretch) * rng.uniform(3, 14)
    streaks = streaks + smooth_noise(rng, size, size, rng.uniform(3, 12), stretch=stretch) * rng.uniform(
        0, 10
    )
    if rng.random() < 0.5:
        streaks = streaks.T
    clouds = fractal_noise(rng, size, size, size / rng.uniform(1.5, 5), octaves=2) * rng.uniform(2, 16)
    image = base + (streaks + clouds)[..., None].astype(np.float32)
    return image, str(rng.choice(["metal plate", "steel strip", "brushed metal", "aluminium sheet", "metal"]))


def cast(rng: Rng, size: int) -> Surface:
    """Castings, magnetic cores, unglazed tiles: grey matter with fine mottling, sometimes grinding marks."""
    base = random_colour(rng, saturation=0.12, low=0.18, high=0.8)
    rough = fractal_noise(rng, size, size, rng.uniform(3, 14), octaves=3) * rng.uniform(2, 12)
    clouds = fractal_noise(rng, size, size, size / rng.uniform(1, 4), octaves=3) * rng.uniform(2, 14)
    image = base + (rough + clouds)[..., None]
    if rng.random() < 0.4:
        v, _ = turned(rng, size)
        lines = np.sin(v * np.float32(rng.uniform(0.2, 2.0)) + smooth_noise(rng, size, size, size / 3) * 2)
        image = image + (lines * np.float32(rng.uniform(1, 6)))[..., None]
    return image.astype(np.float32), str(
        rng.choice(["casting", "ceramic tile", "magnetic tile", "cast iron"])
    )


def wood(rng: Rng, size: int) -> Surface:
    """Year rings seen along a board."""
    v, u = turned(rng, size)
    bend = smooth_noise(rng, size, size, size / 1.5, stretch=2) * rng.uniform(5, 40)
    rings = (v + bend + u * np.float32(rng.normal(0, 0.05))) / np.float32(rng.uniform(4, 28))
    profile = rings - np.floor(rings)
    profile = profile ** np.float32(rng.uniform(0.6, 3))
    streaks = smooth_noise(rng, size, size, 1.5, stretch=12)
    dark = np.array(
        [rng.uniform(60, 150), rng.uniform(35, 100), rng.uniform(15, 70)],
        dtype=np.float32,
    )
    light = np.clip(dark * rng.uniform(1.1, 1.9), 0, 250).astype(np.float32)
    image = mix(1 - profile, dark, light) + (streaks * np.float32(rng.uniform(2, 8)))[..., None]
    if rng.random() < 0.3:
        seam = np.abs(np.mod(v, size / rng.integers(2, 6)) - 3) < 1.5
        image = image * (1 - 0.6 * seam[..., None])
    return image.astype(np.float32), str(rng.choice(["wood", "wooden board", "wood plank"]))


def weave(rng: Rng, size: int) -> Surface:
    """Plain, twill or basket weave seen from above, threads shaded round."""
    v, u = turned(rng, size, any_angle=0.3)
    period = np.float32(np.exp(rng.uniform(np.log(2.6), np.log(22))) * size / 320)
    wobble = smooth_noise(rng, size, size, size / 5) * np.float32(period * rng.uniform(0, 0.12))
    v, u = (v + wobble) / period, (u - wobble) / period
    row, column = np.floor(v), np.floor(u)
    twill = int(rng.choice([2, 2, 3, 4]))
    over = np.mod(row + column, twill) < twill / 2
    across, along = v - row, u - column
    warp_shade = np.sin(np.pi * across) * (0.65 + 0.35 * np.sin(np.pi * along))
    weft_shade = np.sin(np.pi * along) * (0.65 + 0.35 * np.sin(np.pi * across))
    first = random_colour(rng, saturation=0.8)
    second = neighbour(rng, first, 0.1) if rng.random() < 0.7 else random_colour(rng)
    shade = np.where(over, warp_shade, weft_shade)
    depth = np.float32(rng.uniform(0.2, 0.8))
    image = np.where(over[..., None], first, second) * (1 - depth + depth * shade)[..., None]
    fuzz = smooth_noise(rng, size, size, 1.2) * rng.uniform(2, 10)
    return (image + fuzz[..., None]).astype(np.float32), str(
        rng.choice(["fabric", "cloth", "carpet", "canvas"])
    )


def leather(rng: Rng, size: int) -> Surface:
    """Pebbled leather: Worley cells with shaded grooves."""
    near, second = worley_noise(rng, size, size, np.exp(rng.uniform(np.log(3.5), np.log(20))))
    groove = np.clip((second - near) * rng.uniform(1.5, 4), 0, 1)
    base = random_colour(rng, saturation=0.9, high=0.7)
    shade = relief(groove * 3, rng.uniform(0, 7), rng.uniform(6, 20))
    clouds = fractal_noise(rng, size, size, size / 2, octaves=2) * rng.uniform(0, 8)
    image = base * (0.75 + 0.25 * groove)[..., None] + (shade + clouds)[..., None]
    return image.astype(np.float32), str(rng.choice(["leather", "artificial leather"]))


def stone(rng: Rng, size: int) -> Surface:
    """Granite, terrazzo or asphalt: grains of a few colours."""
    near, second = worley_noise(rng, size, size, rng.uniform(4, 26))
    base = random_colour(rng, saturation=0.4)
    pick = smooth_noise(rng, size, size, rng.uniform(3, 9))
    grain = np.clip((second - near) * 3, 0, 1) * (pick > rng.uniform(-0.5, 1))
    image = mix(grain, base, neighbour(rng, base, 0.4))
    rough = fractal_noise(rng, size, size, rng.uniform(2, 20), octaves=3) * rng.uniform(2, 14)
    return (image + rough[..., None]).astype(np.float32), str(
        rng.choice(["granite", "stone", "asphalt", "tile"])
    )


def marble(rng: Rng, size: int) -> Surface:
    """Veined stone: a folded fractal field."""
    field = fractal_noise(rng, size, size, size / rng.uniform(1.5, 5), octaves=5, persistence=0.6)
    veins = 1 - np.abs(np.sin(field * np.float32(rng.uniform(1, 4))))
    veins = veins ** np.float32(rng.uniform(1, 8))
    base = random_colour(rng, saturation=0.4, low=0.3)
    image = mix(veins, base, neighbour(rng, base, 0.3))
    return image + (field * 5)[..., None], str(rng.choice(["marble", "marble tile", "stone"]))


def concrete(rng: Rng, size: int) -> Surface:
    """Plaster, concrete, cardboard: clouds at all sizes and pores."""
    base = random_colour(rng, saturation=0.35, low=0.3, high=0.9)
    clouds = fractal_noise(
        rng,
        size,
        size,
        size / rng.uniform(1, 4),
        octaves=6,
        persistence=rng.uniform(0.5, 0.85),
    )
    image = base + (clouds * np.float32(rng.uniform(4, 18)))[..., None]
    if rng.random() < 0.4:
        pores = smooth_noise(rng, size, size, rng.uniform(2, 4)) > rng.uniform(1.6, 2.2)
        image = image * (1 - np.float32(rng.uniform(0.2, 0.6)) * pores[..., None])
    return image.astype(np.float32), str(rng.choice(["concrete", "plaster", "cardboard", "wall"]))


def bricks(rng: Rng, size: int) -> Surface:
    """Bricks, tiles or parquet with joints; each has a slightly different tone."""
    v, u = turned(rng, size, any_angle=0.15)
    height = rng.uniform(18, 110) * size / 320
    width = height * rng.choice([1.0, 2.0, 3.0])
    row = np.floor(v / height)
    shifted = u / width + np.mod(row, 2) * rng.choice([0.0, 0.5])
    column = np.floor(shifted)
    in_y, in_x = v / height - row, shifted - column
    joint = rng.uniform(0.01, 0.08)
    edge = np.minimum(np.minimum(in_y, 1 - in_y) * height, np.minimum(in_x, 1 - in_x) * width)
    solid = np.clip((edge - joint * height) / 1.5, 0, 1)
    tone_table = rng.normal(0, 1, (64, 64)).astype(np.float32)
    tone = tone_table[np.mod(row, 64).astype(int), np.mod(column, 64).astype(int)]
    base = random_colour(rng, saturation=0.8)
    rough = fractal_noise(rng, size, size, rng.uniform(5, 60), octaves=4) * rng.uniform(1, 12)
    face = base + (tone * np.float32(rng.uniform(0, 14)) + rough)[..., None]
    image = face * solid[..., None] + (1 - solid)[..., None] * neighbour(rng, base, 0.5)
    return image.astype(np.float32), str(rng.choice(["brick wall", "tile wall", "tile floor", "parquet"]))


def ribs(rng: Rng, size: int) -> Surface:
    """Corrugated, ribbed, knurled or perforated sheets: a regular relief."""
    v, u = turned(rng, size)
    period = rng.uniform(6, 48) * size / 320
    first = np.sin(v * np.float32(2 * np.pi / period))
    if rng.random() < 0.5:
        first = first * np.sin(u * np.float32(2 * np.pi / (period * rng.choice([1, 1, 2]))))
    sharp = np.float32(rng.uniform(0.8, 6))
    profile = np.clip(first * sharp, -1, 1)
    base = random_colour(rng, saturation=0.6)
    image = mix((profile + 1) / 2, neighbour(rng, base, 0.45), base)
    rough = smooth_noise(rng, size, size, rng.uniform(1, 4)) * rng.uniform(0, 6)
    return image + rough[..., None], str(rng.choice(["ribbed sheet", "perforated sheet", "grid", "mesh"]))


def fibrous(rng: Rng, size: int) -> Surface:
    """Felt, carpet, fur, straw: short strokes in all or one direction."""
    stretch = float(rng.choice([1, 3, 6]))
    field = fractal_noise(rng, size, size, rng.uniform(3, 8), octaves=3, persistence=0.8, stretch=stretch)
    crossed = fractal_noise(rng, size, size, rng.uniform(3, 8), octaves=2, stretch=stretch).T
    field = np.maximum(field, crossed) if rng.random() < 0.5 else field
    base = random_colour(rng, saturation=0.8)
    image = mix(unit(field), neighbour(rng, base, 0.5), base)
    return image, str(rng.choice(["felt", "carpet", "textile", "sponge"]))


def rolled(rng: Rng, size: int) -> Surface:
    """Rolled strip, pressed board, film: fine grain with faint bands along one direction and dull clouds."""
    level = rng.uniform(60, 200)
    bands = fractal_noise(rng, 1, size, size / rng.uniform(3, 20), octaves=4, persistence=0.7)
    grain = smooth_noise(rng, size, size, rng.uniform(1, 2.5), stretch=float(rng.choice([1, 1, 4])))
    clouds = fractal_noise(rng, size, size, size / rng.uniform(1, 6), octaves=4, persistence=0.6)
    field = bands * rng.uniform(0, 12) + grain * rng.uniform(2, 14) + clouds * rng.uniform(2, 12)
    field = field.T if rng.random() < 0.5 else field
    tint = rng.normal(0, 4, 3) if rng.random() < 0.3 else np.zeros(3)
    image = level + field[..., None] + tint
    return image.astype(np.float32), str(rng.choice(["steel", "steel strip", "metal sheet", "film", "board"]))


def machined(rng: Rng, size: int) -> Surface:
    """Turned or milled metal: regular arcs of tool marks round a centre that may lie outside."""
    y, x = grid(size)
    centre = rng.uniform(-1.0, 2.0, 2) * size
    reach = np.sqrt((y - centre[0]) ** 2 + (x - centre[1]) ** 2)
    pitch = rng.uniform(2.2, 9)
    marks = np.sin(reach * np.float32(2 * np.pi / pitch)) * (
        0.6 + 0.4 * smooth_noise(rng, size, size, size / 6)
    )
    glare = np.cos(2 * np.arctan2(y - centre[0], x - centre[1]) + rng.uniform(0, 7)) * rng.uniform(0, 30)
    base = random_colour(rng, saturation=0.15, low=0.3)
    grain = smooth_noise(rng, size, size, 1.5) * rng.uniform(0, 6)
    field = marks * rng.uniform(2, 14) + glare + grain
    return (base + field[..., None]).astype(np.float32), str(
        rng.choice(["machined metal", "metal disc", "metal"])
    )


SURFACES: tuple[Callable[[Rng, int], Surface], ...] = (
    plain,
    brushed,
    cast,
    rolled,
    machined,
    wood,
    weave,
    leather,
    stone,
    marble,
    concrete,
    bricks,
    ribs,
    fibrous,
)


def random_surface(rng: Rng, size: int) -> Surface:
    """Draws a surface of a random kind, float32 (size, size, 3), and returns the name of its material."""
    return SURFACES[int(rng.integers(len(SURFACES)))](rng, size)
