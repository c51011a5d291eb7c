"""Draws defects of areas: another texture, a displaced piece of the image, a changed colour, blur or noise.

The defects are functions of (image, rng, site), as `zsad.data.synthetic.marks` describes.
"""

from __future__ import annotations

import numpy as np

from zsad.data.synthetic.marks import Drawn, contrast_colour, local_colour
from zsad.data.synthetic.noise import (
    Field,
    FloatImage,
    Rng,
    blur_field,
    blur_image,
    fractal_noise,
    sample_bilinear,
    smooth_noise,
)
from zsad.data.synthetic.shapes import (
    Site,
    blob_distance,
    coverage,
    noise_blob,
    offsets,
    polygon,
    rectangle,
)


def area_cover(rng: Rng, site: Site) -> Field:
    """Draws a random outline: blob, ragged blob, polygon or rectangle, hard or feathered."""
    kind = rng.choice(4, p=[0.4, 0.3, 0.15, 0.15])
    if kind == 0:
        cover = coverage(blob_distance(rng, site), rng.uniform(0.02, 0.5))
    elif kind == 1:
        cover = noise_blob(rng, site)
    else:
        cover = polygon(rng, site) if kind == 2 else rectangle(rng, site, upright=rng.random() < 0.4)
    return blur_field(cover, rng.uniform(0.5, 2.0)) if kind > 1 and rng.random() < 0.4 else cover


def blend(image: FloatImage, other: FloatImage, cover: Field) -> FloatImage:
    """Blends `other` over `image` with opacity `cover` (H, W)."""
    return np.asarray(image + cover[..., None] * (other - image))


def match_colour(other: FloatImage, image: FloatImage, cover: Field, amount: float) -> FloatImage:
    """Moves `other` towards the mean and contrast that `image` has under `cover`.

    Args:
        other: (H, W, 3) float32 image to change.
        image: (H, W, 3) float32 image to match.
        cover: (H, W) weight of the pixels, in [0, 1].
        amount: strength of the change: 0 does nothing, 1 matches fully.

    Returns:
        (H, W, 3) float32 image.
    """
    inside = cover > 0.3
    if not inside.any():
        return other
    there, here = other[inside], image[inside]
    mean_there, mean_here = there.mean(axis=0), here.mean(axis=0)
    ratio = (here.std() + 4) / (there.std() + 4)
    moved = (other - mean_there) * np.float32(1 + amount * (np.clip(ratio, 0.3, 2) - 1))
    return np.asarray(moved + (mean_there + np.float32(amount) * (mean_here - mean_there)).astype(np.float32))


def foreign_texture(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """Another material shows inside a noise-shaped outline (the anomalies of DRAEM, arXiv 2108.07610)."""
    cover = area_cover(rng, site)
    if site.foreign is None:
        base = local_colour(image, site)
        rough = fractal_noise(rng, site.height, site.width, rng.uniform(3, 30))
        other = (base + rough[..., None] * rng.uniform(5, 60, 3) + rng.normal(0, 40, 3)).astype(np.float32)
    else:
        other = site.foreign.astype(np.float32)
    other = match_colour(other, image, cover, rng.uniform(0, 1.0) * (1.1 - site.strength))
    return blend(image, other, cover * rng.uniform(0.5, 1.0)), cover


def displaced_patch(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A piece of the same image in the wrong place, turned or mirrored (CutPaste, arXiv 2104.04015)."""
    cover = area_cover(rng, site)
    y, x = offsets(site)
    angle = rng.choice([0.0, np.pi / 2, np.pi, rng.uniform(0, 6.3)])
    scale = float(np.exp(rng.normal(0, 0.25)))
    flip = rng.choice([-1, 1])
    reach = 2 * site.radius + 4
    target_y = np.clip(site.y + rng.normal(0, 1) * site.height / 4, reach / 2, site.height - reach / 2)
    target_x = np.clip(site.x + rng.normal(0, 1) * site.width / 4, reach / 2, site.width - reach / 2)
    from_y = target_y + (y * np.cos(angle) - flip * x * np.sin(angle)) * scale
    from_x = target_x + (flip * x * np.cos(angle) + y * np.sin(angle)) * scale
    other = sample_bilinear(image, from_y.astype(np.float32), from_x.astype(np.float32))
    if rng.random() < 0.5:
        other = match_colour(other, image, cover, rng.uniform(0.3, 1))
    if rng.random() < 0.5:
        other = other * np.float32(rng.uniform(0.7, 1.3)) + rng.normal(0, 12, 3).astype(np.float32)
    return blend(image, other, cover), cover


def discolouration(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """The surface keeps its texture but changes hue, saturation or brightness."""
    cover = area_cover(rng, site)
    mean = image.mean(axis=2, keepdims=True)
    gain = np.exp(rng.normal(0, 0.12 + 0.35 * site.strength, 3))
    if rng.random() < 0.4:
        gain = np.full(3, np.exp(rng.choice([-1, 1]) * (0.12 + 0.5 * site.strength)))
    saturation = rng.choice([0.0, 0.4, 1.0, 1.0, 1.8])
    other = (mean + np.float32(saturation) * (image - mean)) * gain.astype(np.float32)
    return blend(image, other, cover), cover


def burn(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A scorched or oxidised place: dark centre, coloured halo, smooth fall-off."""
    distance = blob_distance(rng, site, irregularity=0.3)
    rough = fractal_noise(rng, site.height, site.width, max(site.radius * 0.6, 3), octaves=3)
    heat = np.clip(1.1 - distance + np.float32(0.2) * rough, 0, 1)
    tone = np.array([0.45, 0.3, 0.2]) if rng.random() < 0.6 else rng.uniform(0.1, 0.6, 3)
    keep = 1 - heat[..., None] * (1 - tone.astype(np.float32)) * np.float32(0.35 + 0.65 * site.strength)
    return image * keep, coverage(distance - np.float32(0.1), 0.3) * (heat > 0.08)


def smear(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """The texture is wiped out: blurred evenly, along one direction, or flattened to its mean."""
    cover = area_cover(rng, site)
    kind = int(rng.integers(3))
    if kind == 0:
        other = blur_image(image, rng.uniform(2, 7))
    elif kind == 1:
        angle, reach = (
            rng.uniform(0, np.pi),
            max(site.radius * rng.uniform(0.2, 0.8), 4),
        )
        other = np.zeros_like(image)
        y, x = np.mgrid[: site.height, : site.width].astype(np.float32)
        for step in np.linspace(-1, 1, 7):
            shift = reach * step
            shifted = (
                y + np.float32(shift * np.sin(angle)),
                x + np.float32(shift * np.cos(angle)),
            )
            other += sample_bilinear(image, *shifted) / 7
    else:
        other = blur_image(image, 8) * 0.5 + local_colour(image, site).astype(np.float32) * 0.5
    other = other + np.float32(rng.normal(0, 8))
    return blend(image, other, cover), cover


def grain(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A rough place: noise or a coarse texture on top of the surface (corrosion, abrasion, mould)."""
    cover = area_cover(rng, site)
    cell = float(rng.choice([1.0, 2.0, 4.0, 8.0]))
    rough = smooth_noise(rng, site.height, site.width, cell, stretch=float(rng.choice([1, 1, 3])))
    if rng.random() < 0.5:
        rough = np.maximum(rough, 0) * 2
    amount = (20 + 70 * site.strength) * (
        rng.choice([-1, 1]) if rng.random() < 0.7 else rng.uniform(-1, 1, 3)
    )
    change = rough[..., None] * np.asarray(amount, dtype=np.float32)
    return image + cover[..., None] * change, cover


def cut_scar(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A long thin rectangle of another colour or of another place (CutPaste's "scar")."""
    ratio = rng.uniform(3, 9)
    angle = rng.uniform(0, np.pi)
    y, x = offsets(site)
    along = np.abs(x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)))
    across = np.abs(y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle)))
    half = max(site.radius * 0.89 / np.sqrt(ratio), 0.8)
    cover = np.clip(half - across + 0.5, 0, 1) * np.clip(half * ratio - along + 0.5, 0, 1)
    if rng.random() < 0.5:
        shift = (int(rng.integers(site.height)), int(rng.integers(site.width)))
        other = np.roll(image, shift, axis=(0, 1)) + rng.normal(0, 15, 3).astype(np.float32)
    else:
        other = np.broadcast_to(contrast_colour(image, rng, site), image.shape).astype(np.float32)
    return blend(image, other, cover), cover


def missing_texture(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A coating or layer has come off: a flat, slightly shaded ground with a crisp rim."""
    cover = noise_blob(rng, site) if rng.random() < 0.5 else coverage(blob_distance(rng, site), 0.06)
    ground = contrast_colour(image, rng, site, coloured=0.25).astype(np.float32)
    rough = fractal_noise(rng, site.height, site.width, rng.uniform(4, 40), octaves=3)
    other = ground + rough[..., None] * np.float32(rng.uniform(2, 18))
    rim = np.clip(blur_field(cover, 1.0) * (1 - blur_field(cover, 1.0)) * 4, 0, 1)
    changed = blend(image, other, cover) + (rim * rng.uniform(-70, 50))[..., None]
    return changed, cover
