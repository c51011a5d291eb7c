"""Draws thin and small defects: scratches, cracks, fibres, specks, holes, prints.

Every defect is a function of image ((H, W, 3) float32 in [0, 255]), rng and site. It returns the changed
image and the coverage (H, W), in [0, 1], of the area that an annotator would outline. Nothing is clipped or
thresholded here.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zsad.data.synthetic.noise import (
    Field,
    FloatImage,
    Rng,
    blur_field,
    relief,
    smooth_noise,
)
from zsad.data.synthetic.shapes import (
    Site,
    blob_distance,
    coverage,
    crack_strokes,
    curve,
    draw_strokes,
    envelope,
    noise_blob,
    offsets,
    ragged,
    specks,
)

Drawn = tuple[FloatImage, Field]


def local_colour(image: FloatImage, site: Site) -> np.ndarray:
    """Returns the mean colour (3,) of the image around the site."""
    reach = max(int(site.radius), 3)
    y = int(np.clip(site.y, 0, image.shape[0] - 1))
    x = int(np.clip(site.x, 0, image.shape[1] - 1))
    window = image[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
    return np.asarray(window.reshape(-1, 3).mean(axis=0))


def contrast_colour(image: FloatImage, rng: Rng, site: Site, *, coloured: float = 0.2) -> np.ndarray:
    """Draws a colour that differs from the surface at the site: darker, brighter or of another hue.

    Args:
        image: (H, W, 3) float32 image in [0, 255].
        rng: source of randomness.
        site: place; its strength sets the distance of the colours.
        coloured: probability of a random hue instead of that of the surface.

    Returns:
        (3,) colour, which may lie outside [0, 255].
    """
    base = local_colour(image, site)
    change = 14 + 140 * site.strength
    if float(np.ptp(image[::4, ::4].mean(axis=(0, 1)))) < 5:
        # In a grey image, a coloured mark would reveal itself.
        coloured *= 0.25
    level = float(base.mean())
    # Dark and bright are equally likely, unless the surface leaves no room on that side.
    sign = 1.0 if rng.random() < np.clip((255 - level) / 255 + rng.normal(0, 0.2), 0.05, 0.95) else -1.0
    if rng.random() < coloured:
        hue = rng.uniform(-1, 1, 3)
        hue += rng.normal(0, 0.5)
        return base + hue / max(float(np.abs(hue).max()), 0.1) * change * 0.8
    if sign < 0:
        return base * max(1 - change / max(level, 60.0), 0.02)
    return base + change * (0.6 + 0.4 * rng.random(3) ** 0.3)


def lay(image: FloatImage, cover: Field, colour: np.ndarray, *, kept: float = 0.0) -> FloatImage:
    """Lays a colour over an image.

    Args:
        image: (H, W, 3) float32 image in [0, 255].
        cover: (H, W) opacity, in [0, 1].
        colour: (3,) colour.
        kept: share of the surface's texture that shows through, in [0, 1].

    Returns:
        (H, W, 3) float32 image.
    """
    paint = np.asarray(colour, dtype=np.float32)[None, None]
    if kept > 0:
        inside = cover > 0.1
        mean = image[inside].mean(axis=0) if inside.any() else image.mean(axis=(0, 1))
        paint = paint + np.float32(kept) * (image - mean)
    return image + cover[..., None] * (paint - image)


def scratch(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """One or several thin lines, straight or curved, bright or dark, often with a two-tone relief."""
    length = site.radius * rng.uniform(2.0, 5.0)
    width = float(np.clip(rng.lognormal(np.log(1.6), 0.5), 0.7, 6)) * site.scale
    count = int(rng.choice([1, 1, 1, 2, 3, 6, 10]))
    bend = rng.choice([0.02, 0.1, 0.5, 1.5])
    spread = rng.choice([0.03, 0.15])
    main = curve(rng, site, length, bend=bend)
    strokes = []
    for _ in range(count):
        points = main
        if count > 1:
            turn = rng.normal(0, spread)
            rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
            shift = rng.normal(0, max(site.radius * 0.35, 3), 2)
            points = (main - [site.x, site.y]) @ rotation * rng.uniform(0.4, 1) + [site.x, site.y] + shift
        widths = width * np.clip(
            np.interp(np.linspace(0, 5, len(points)), np.arange(6), rng.random(6)),
            0.25,
            1,
        )
        strokes.append((points, widths * (1.2 if count == 1 else 0.8)))
    cover = draw_strokes(strokes, site.height, site.width)
    opacity = cover if rng.random() < 0.5 else ragged(rng, cover, rng.uniform(0.2, 0.8))
    changed = lay(
        image,
        opacity * rng.uniform(0.6, 1),
        contrast_colour(image, rng, site, coloured=0.12),
        kept=0.4,
    )
    if rng.random() < 0.5:
        shade = relief(blur_field(cover, 0.8), rng.uniform(0, 7), 60 + 160 * site.strength)
        changed = changed + shade[..., None]
    return changed, outlined(cover, rng)


def crack(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A dark jagged branching line with, sometimes, a bright rim or a height step between its sides."""
    length = site.radius * rng.uniform(2.2, 5.0)
    width = float(np.clip(site.radius * rng.uniform(0.03, 0.16), 0.8, 10 * max(site.scale, 0.3)))
    strokes = crack_strokes(rng, site, length, width)
    cover = draw_strokes(strokes, site.height, site.width)
    if width > 2.5:
        cover = np.clip(ragged(rng, cover, 0.6) * 1.3, 0, 1)
    base = local_colour(image, site)
    dark = base * rng.uniform(0.05, 0.75 - 0.5 * site.strength)
    changed = image
    if rng.random() < 0.4:
        rim = np.clip(blur_field(cover, max(width * 0.7, 0.8)) * 1.5 - cover, 0, 1)
        changed = changed + (rim * rng.uniform(10, 70))[..., None]
    if rng.random() < 0.15:
        dark = base + rng.uniform(40, 120)
    changed = lay(changed, cover * rng.uniform(0.7, 1), dark, kept=0.2)
    if rng.random() < 0.4:
        changed = changed + relief(blur_field(cover, 1.0), rng.uniform(0, 7), 90 * rng.random())[..., None]
    return changed, outlined(cover, rng)


def outlined(cover: Field, rng: Rng) -> Field:
    """Widens a thin mark by one to three pixels, as annotators trace it."""
    return np.clip(blur_field(cover, rng.uniform(0.7, 1.5)) * 2.2, 0, 1)


def craquelure(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A net of fine cracks over an area; the whole area counts as defective."""
    area = coverage(blob_distance(rng, site), 0.3)
    strokes = []
    for _ in range(int(rng.integers(4, 12))):
        offset = rng.normal(0, 0.4, 2) * site.radius
        part = site.part(site.y + offset[0], site.x + offset[1], site.radius)
        strokes += crack_strokes(rng, part, site.radius * rng.uniform(0.6, 1.6), rng.uniform(0.8, 2.2))
    cover = draw_strokes(strokes, site.height, site.width) * area
    dark = local_colour(image, site) * rng.uniform(0.1, 0.6)
    return lay(image, cover, dark), envelope(cover, max(site.radius * 0.12, 1.5)) * (area > 0)


def fibre(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A hair or thread that lies on the surface, with a faint shadow."""
    thick = max(rng.uniform(0.7, 4.0) * site.scale, 0.7)
    points = curve(rng, site, site.radius * rng.uniform(3, 7), bend=rng.uniform(1, 5))
    cover = draw_strokes([(points, np.full(len(points), thick))], site.height, site.width)
    shadow = np.roll(blur_field(cover, 1.2), (int(np.ceil(thick)), int(np.ceil(thick))), axis=(0, 1))
    changed = image * (1 - np.float32(rng.uniform(0, 0.5)) * shadow)[..., None]
    changed = lay(changed, cover, contrast_colour(image, rng, site, coloured=0.35))
    if thick > 2:
        changed = changed + relief(blur_field(cover, 0.8), rng.uniform(0, 7), 80)[..., None]
    return changed, outlined(cover, rng)


def hole(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """One or a few pits: dark inside, lit on the far rim, shaded on the near one."""
    count = int(rng.choice([1, 1, 1, 2, 4]))
    changed, total = image, np.zeros(image.shape[:2], dtype=np.float32)
    light = rng.uniform(0, 7)
    for _ in range(count):
        offset = rng.normal(0, site.radius * 1.5, 2) if count > 1 else np.zeros(2)
        radius = max(site.radius * rng.uniform(0.4, 1.0) / np.sqrt(count), 1.0)
        part = site.part(site.y + offset[0], site.x + offset[1], radius)
        distance = blob_distance(rng, part, irregularity=rng.uniform(0, 0.35))
        inside = coverage(distance, rng.uniform(0.15, 0.8))
        dark = local_colour(image, part) * rng.uniform(0.02, 0.8 - 0.6 * site.strength)
        changed = lay(changed, inside * rng.uniform(0.6, 1), dark, kept=rng.uniform(0, 0.4))
        depth = np.clip(1.3 - distance, 0, 0.5)
        changed = changed + relief(-depth * radius, light, 60 * rng.random())[..., None]
        total = np.maximum(total, coverage(distance, 0.1))
    return changed, total


def spot(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A compact speck or inclusion, soft or hard, darker, brighter or coloured."""
    distance = blob_distance(rng, site)
    cover = coverage(distance, float(rng.choice([0.05, 0.15, 0.5, 1.0])))
    large = site.radius > 24 * site.scale
    opacity = cover * rng.uniform(0.5, 0.9 if large else 1.0)
    if large or rng.random() < 0.4:
        opacity = ragged(rng, opacity, rng.uniform(0.1, 0.5))
    kept = rng.choice([0.3, 0.9, 1.2]) if large else rng.choice([0.0, 0.3, 0.9])
    changed = lay(image, opacity, contrast_colour(image, rng, site), kept=kept)
    return changed, np.clip(coverage(distance, 0.1) * (cover > 0.05) + cover, 0, 1)


def stain(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A translucent ragged patch that keeps the surface's texture: oil, water marks, rust, ink."""
    cover = (
        noise_blob(rng, site)
        if rng.random() < 0.6
        else coverage(blob_distance(rng, site), rng.uniform(0.1, 1))
    )
    colour = contrast_colour(image, rng, site, coloured=0.35)
    changed = lay(image, cover * rng.uniform(0.4, 0.9), colour, kept=rng.uniform(0.6, 1.0))
    if rng.random() < 0.3:
        edge = np.clip(blur_field(cover, 1.5) - blur_field(cover, 4.0), 0, 1)
        changed = changed - (edge * rng.uniform(20, 120))[..., None]
    return changed, cover


def powder(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """Scattered grains of dust, powder, spatter or corrosion pits."""
    count = int(rng.integers(4, 60))
    size = float(np.clip(site.radius * rng.uniform(0.06, 0.25), 0.9, 8))
    cover = specks(rng, site, count, size)
    changed = lay(image, cover, contrast_colour(image, rng, site, coloured=0.3))
    return changed, envelope(cover, max(size * rng.uniform(0.6, 1.2), 1.0))


def print_mark(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """Stray letters, digits or a stamp on the surface."""
    alphabet = "ABCDEFGHKLMNPRSTUVXYZ0123456789#&%+*/"
    text = "".join(rng.choice(list(alphabet), int(rng.integers(1, 6))))
    size = max(int(site.radius * 2.2 / np.sqrt(len(text))), 6)
    cover = text_cover(text, size, rng.uniform(-180, 180), site)
    opacity = ragged(rng, cover, rng.uniform(0, 0.9))
    changed = lay(
        image,
        opacity * rng.uniform(0.6, 1),
        contrast_colour(image, rng, site, coloured=0.35),
        kept=0.3,
    )
    return changed, envelope(cover, max(size * 0.06, 1.0))


def text_cover(text: str, size: int, angle: float, site: Site) -> Field:
    """Returns the coverage (H, W) of rotated text, centred on the site, with letters `size` pixels high."""
    # Pillow's built-in scalable font needs FreeType; where that is missing the bitmap font is enlarged.
    font = ImageFont.load_default(size=max(size, 6))
    left, top, right, bottom = font.getbbox(text)
    stamp = Image.new("L", (max(int(right - left), 1) + 2, max(int(bottom - top), 1) + 2))
    ImageDraw.Draw(stamp).text((1 - left, 1 - top), text, fill=255, font=font)
    stamp = stamp.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    canvas = Image.new("L", (site.width, site.height))
    canvas.paste(stamp, (int(site.x) - stamp.width // 2, int(site.y) - stamp.height // 2))
    return np.asarray(canvas, dtype=np.float32) / 255


def droplet(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A drop of water or glue: the surface magnified and shaded, with a highlight and a dark rim."""
    distance = blob_distance(rng, site, irregularity=rng.uniform(0, 0.2), elongation=rng.uniform(1, 1.6))
    cover = coverage(distance, 0.12)
    dome = np.sqrt(np.clip(1 - distance**2, 0, 1))
    light = rng.uniform(0, 7)
    shade = relief(dome * site.radius, light, 25 + 60 * site.strength)
    changed = image + (shade * cover)[..., None]
    rim = np.exp(-(((distance - 0.95) / 0.08) ** 2))
    changed = changed * (1 - rng.uniform(0.1, 0.5) * rim)[..., None]
    y, x = offsets(site)
    glint_y, glint_x = (
        y + np.sin(light) * site.radius * 0.5,
        x + np.cos(light) * site.radius * 0.5,
    )
    glint = np.exp(-(glint_y**2 + glint_x**2) / (0.05 * site.radius**2 + 0.5))
    tint = rng.uniform(-25, 25, 3) * rng.random()
    return changed + (glint * rng.uniform(30, 160))[..., None] + cover[..., None] * tint, coverage(
        distance, 0.05
    )


def vein(image: FloatImage, rng: Rng, site: Site) -> Drawn:
    """A wide soft streak: flow line, weld seam, drip, rolled-in scale, corrosion run."""
    thick = max(site.radius * rng.uniform(0.1, 0.5), 1.0)
    points = curve(rng, site, site.radius * rng.uniform(2, 4), bend=rng.uniform(0, 0.8))
    profile = np.sin(np.linspace(0.2, np.pi - 0.1, len(points))) * rng.uniform(0.7, 1.3, len(points))
    hard = draw_strokes([(points, np.maximum(thick * profile, 0.7))], site.height, site.width)
    cover = np.clip(blur_field(hard, thick * rng.uniform(0.1, 0.4)) * 1.1, 0, 1)
    if rng.random() < 0.5:
        rough = smooth_noise(rng, site.height, site.width, max(thick * 0.4, 2))
        cover = np.clip(cover + np.float32(0.5) * rough * cover, 0, 1)
    colour = contrast_colour(image, rng, site, coloured=0.2)
    changed = lay(image, cover * rng.uniform(0.5, 1), colour, kept=rng.uniform(0, 1))
    return changed, np.maximum(hard, cover)
