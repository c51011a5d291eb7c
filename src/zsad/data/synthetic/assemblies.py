"""Draws parts with legs on a board: electronic components, plugs, brackets; legs may be faulty."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from zsad.data.synthetic.arrays import Faulty, Layout
from zsad.data.synthetic.layers import Shadow, composite, random_shadow
from zsad.data.synthetic.noise import (
    Field,
    FloatImage,
    Rng,
    blur_field,
    relief,
    smooth_noise,
)
from zsad.data.synthetic.shapes import draw_strokes, fill_polygon
from zsad.data.synthetic.surfaces import neighbour, random_colour


@dataclass(frozen=True)
class _Part:
    """Geometry of the component in pixels: centre, half sides, turn of the body, polyline (n, 2) per leg."""

    centre: tuple[float, float]
    half: tuple[float, float]
    turn: float
    legs: tuple[np.ndarray, ...]
    leg_width: float


@dataclass(frozen=True)
class _Look:
    """Colours and fields that stay the same when the part is drawn again with a fault."""

    skin: FloatImage
    metal: np.ndarray
    tab: np.ndarray
    hole: float
    light: float
    shadow: Shadow


def board(rng: Rng, size: int) -> FloatImage:
    """A perforated or plain board: a regular grid of holes, which may have rings around them."""
    base = random_colour(rng, saturation=0.9)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    pitch = size * rng.uniform(0.05, 0.13)
    radius = pitch * rng.uniform(0.15, 0.36)
    turn = rng.normal(0, 0.01)
    row, column = (
        y + turn * x + rng.uniform(0, pitch),
        x - turn * y + rng.uniform(0, pitch),
    )
    in_y = np.mod(row, pitch) - pitch / 2
    in_x = np.mod(column, pitch) - pitch / 2
    distance = np.sqrt(in_y**2 + in_x**2)
    dark = np.clip(radius - distance + 0.5, 0, 1)[..., None]
    image = base + (smooth_noise(rng, size, size, 2) * rng.uniform(1, 6))[..., None]
    if rng.random() < 0.5:
        ring = np.clip(radius * 1.7 - distance + 0.5, 0, 1)[..., None]
        image = image + ring * (random_colour(rng) - image)
    return np.asarray((image + dark * (base * rng.uniform(0.05, 0.4) - image)).astype(np.float32))


def _draw(part: _Part, look: _Look, size: int) -> tuple[np.ndarray, list[Field], Field]:
    """Draws the layer (S, S, 4), and the coverage of each leg and of the body."""
    legs = [draw_strokes([(leg, np.full(len(leg), part.leg_width))], size, size) for leg in part.legs]
    half_y, half_x = part.half
    corners = np.array([[-half_x, -half_y], [half_x, -half_y], [half_x, half_y], [-half_x, half_y]])
    cosine, sine = np.cos(part.turn), np.sin(part.turn)
    turned = corners @ np.array([[cosine, sine], [-sine, cosine]]) + [
        part.centre[1],
        part.centre[0],
    ]
    body = fill_polygon(turned, size, size)
    layer = np.zeros((size, size, 4), dtype=np.float32)
    every_leg = np.clip(sum(legs, np.zeros((size, size), dtype=np.float32)), 0, 1)
    round_leg = relief(blur_field(every_leg, max(part.leg_width * 0.3, 0.8)), look.light, 130)
    layer[..., :3] = look.metal + round_leg[..., None]
    raised = relief(blur_field(body, 2.0), look.light, 160)
    face = look.skin + raised[..., None]
    if look.hole > 0:
        y = np.arange(size, dtype=np.float32)[:, None] - np.float32(part.centre[0] - half_y * 0.55)
        x = np.arange(size, dtype=np.float32)[None, :] - np.float32(part.centre[1])
        upper = np.clip(-(y - half_y * 0.25) / 2, 0, 1) * np.ones_like(x)
        face = face + upper[..., None] * (look.tab - face)
        round_hole = np.clip(look.hole - np.sqrt(y**2 + x**2) + 0.5, 0, 1)
        face = face * (1 - 0.85 * round_hole[..., None])
    layer[..., :3] += body[..., None] * (face - layer[..., :3])
    layer[..., 3] = np.maximum(every_leg, body)
    return layer, legs, body


def _legs(rng: Rng, centre: np.ndarray, half: tuple[float, float], size: int) -> tuple[np.ndarray, ...]:
    count, both = int(rng.choice([2, 3, 3, 3, 4, 6])), rng.random() < 0.3
    length = size * rng.uniform(0.12, 0.4)
    splay = rng.choice([0.0, rng.uniform(0, 0.25)])
    legs = []
    for number in range(count):
        across = (number - (count - 1) / 2) / max(count - 1, 1) * 1.6 * half[1]
        for side in (1, -1) if both else (1,):
            start = np.array([centre[1] + across, centre[0] + side * half[0] * 0.9])
            knee = start + np.array([across * splay, side * (half[0] * 0.1 + length * 0.4)])
            end = knee + np.array([0, side * length * 0.6])
            legs.append(np.stack([start, knee, end]))
    return tuple(legs)


def _bend(rng: Rng, leg: np.ndarray, size: int) -> np.ndarray:
    """Bends the lower part of a leg aside."""
    at = rng.uniform(0.1, 0.7)
    knee = leg[0] + (leg[-1] - leg[0]) * at
    angle = rng.choice([-1, 1]) * rng.uniform(0.2, 1.2)
    rest = leg[-1] - knee
    turned = np.array(
        [
            rest[0] * np.cos(angle) - rest[1] * np.sin(angle),
            rest[0] * np.sin(angle) + rest[1] * np.cos(angle),
        ]
    )
    middle = knee + turned * 0.5 + rng.normal(0, size * 0.01, 2)
    return np.stack([leg[0], knee, middle, knee + turned])


def component(rng: Rng, skin: FloatImage, ground: FloatImage) -> Layout:
    """A component with legs; a leg may be bent, cut or missing, the body turned, shifted or absent.

    Args:
        rng: source of randomness.
        skin: (S, S, 3) float32 image of the body's material.
        ground: (S, S, 3) float32 image of the ground, which replaces the perforated board in half of the
            scenes.

    Returns:
        The scene and its faults.
    """
    size = ground.shape[0]
    if rng.random() < 0.6:
        ground = board(rng, size)
    half = (size * rng.uniform(0.1, 0.24), size * rng.uniform(0.1, 0.28))
    centre = np.array([size * rng.uniform(0.32, 0.5), size * 0.5]) + rng.normal(0, size * 0.02, 2)
    colour = random_colour(rng, saturation=0.3, high=0.5)
    detail = (skin - skin.mean(axis=(0, 1))) * np.float32(rng.uniform(0, 0.35))
    face = colour + detail
    metal = neighbour(rng, np.array([185, 185, 188], dtype=np.float32), 0.15)
    hole = half[1] * rng.uniform(0.2, 0.4) if rng.random() < 0.5 else 0.0
    look = _Look(
        face,
        metal,
        neighbour(rng, metal, 0.1),
        hole,
        rng.uniform(0, 7),
        random_shadow(rng, size),
    )
    width = max(size * rng.uniform(0.012, 0.035), 1.5)
    part = _Part((centre[0], centre[1]), half, 0.0, _legs(rng, centre, half, size), width)
    quarter = int(rng.integers(4))
    layer, legs, body = _draw(part, look, size)
    image = np.rot90(composite(ground, layer, look.shadow), quarter).copy()

    def fault(rng: Rng) -> Faulty:
        kind = str(rng.choice(["bent", "bent", "severed", "missing", "moved", "moved", "bitten"]))
        chosen = int(rng.integers(len(part.legs)))
        kept = part.legs[:chosen] + part.legs[chosen + 1 :]
        if kind == "bent":
            new = replace(part, legs=(*kept, _bend(rng, part.legs[chosen], size)))
        elif kind == "severed":
            new = replace(part, legs=(*kept, part.legs[chosen][:2] * [1, 1]))
        elif kind == "missing":
            new = replace(part, legs=kept)
        elif kind == "moved":
            shift = rng.normal(0, size * 0.05, 2)
            legs_moved = tuple(leg + shift[::-1] for leg in part.legs)
            turn = rng.normal(0, 0.25)
            place = (part.centre[0] + shift[0], part.centre[1] + shift[1])
            new = replace(part, centre=place, turn=turn, legs=_swing(legs_moved, place, turn))
        else:
            cut = rng.uniform(0.3, 0.8)
            new = replace(part, half=(part.half[0], part.half[1] * cut))
        redrawn, legs_after, body_after = _draw(new, look, size)
        if kind == "moved":
            cover = np.maximum(layer[..., 3], redrawn[..., 3])
        elif kind == "bitten":
            cover = np.clip(body - body_after, 0, 1)
        else:
            after = legs_after[-1] if kind != "missing" else np.zeros_like(body)
            gone = legs[chosen] * (1 - body)
            # An annotator marks a bent leg where it is and where it was, a cut leg where it should be.
            cover = np.maximum(
                gone * (1 - after) if kind == "severed" else gone,
                0 if kind == "severed" else after,
            )
            cover = np.clip(blur_field(cover * (1 - body), 1.0) * 2, 0, 1)
        result = composite(ground, redrawn, look.shadow)
        return np.rot90(result, quarter).copy(), np.rot90(cover, quarter).copy(), kind

    region = np.rot90(layer[..., 3] > 0.5, quarter).copy()
    return Layout(
        image,
        region,
        str(rng.choice(["transistor", "component", "chip", "plug", "part"])),
        fault,
    )


def _swing(legs: tuple[np.ndarray, ...], centre: tuple[float, float], angle: float) -> tuple[np.ndarray, ...]:
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, sine], [-sine, cosine]])
    middle = np.array([centre[1], centre[0]])
    return tuple((leg - middle) @ rotation + middle for leg in legs)
