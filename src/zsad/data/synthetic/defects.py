"""The table of defects and `add_defect`, which puts one of them into any image with an exact mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from zsad.data.synthetic import marks, patches, reliefs
from zsad.data.synthetic.noise import (
    Bytes,
    Field,
    FloatImage,
    Mask,
    Rng,
    blur_field,
    grow,
    largest_change,
    luminance,
    to_bytes,
)
from zsad.data.synthetic.shapes import Site
from zsad.errors import ConfigError, unknown_name

Defect = Callable[[FloatImage, Rng, Site], tuple[FloatImage, Field]]

DEFECTS: Mapping[str, Defect] = MappingProxyType(
    {
        "scratch": marks.scratch,
        "crack": marks.crack,
        "craquelure": marks.craquelure,
        "fibre": marks.fibre,
        "hole": marks.hole,
        "spot": marks.spot,
        "stain": marks.stain,
        "powder": marks.powder,
        "print": marks.print_mark,
        "droplet": marks.droplet,
        "vein": marks.vein,
        "foreign_texture": patches.foreign_texture,
        "displaced_patch": patches.displaced_patch,
        "discolouration": patches.discolouration,
        "burn": patches.burn,
        "smear": patches.smear,
        "grain": patches.grain,
        "cut_scar": patches.cut_scar,
        "missing_texture": patches.missing_texture,
        "bump": reliefs.bump,
        "dent": reliefs.dent,
        "lesion": reliefs.lesion,
        "deformation": reliefs.deformation,
        "wrinkle": reliefs.wrinkle,
        "step_edge": reliefs.step_edge,
        "thread_fault": reliefs.thread_fault,
        "tear": reliefs.tear,
        "chip": reliefs.chip,
        "spall": reliefs.spall,
    }
)

_WEIGHTS: Mapping[str, float] = {
    "scratch": 2.0,
    "crack": 2.2,
    "craquelure": 0.5,
    "hole": 1.8,
    "spot": 2.0,
    "stain": 1.5,
    "foreign_texture": 1.8,
    "displaced_patch": 1.2,
    "discolouration": 1.2,
    "lesion": 1.6,
    "bump": 1.5,
    "missing_texture": 1.2,
    "cut_scar": 0.8,
    "step_edge": 0.6,
    "thread_fault": 0.8,
    "droplet": 0.6,
    "print": 0.7,
    "smear": 0.8,
    "spall": 1.3,
}
_MAY_OVERFLOW = frozenset({"fibre", "powder", "droplet"})
_NEEDS_WHOLE = frozenset({"displaced_patch", "cut_scar"})
_ATTEMPTS = 6


def sample_fraction(rng: Rng) -> float:
    """Draws the area of a defect as a fraction of the image: log-uniform in 0.03-30 %, mostly 0.3-7 %."""
    ranges = [(3e-3, 7e-2), (3e-4, 4e-3), (5e-2, 0.3)]
    low, high = ranges[int(rng.choice(3, p=[0.66, 0.2, 0.14]))]
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def add_defect(
    image: Bytes,
    rng: Rng,
    *,
    kind: str | None = None,
    region: Mask | None = None,
    foreign: Bytes | None = None,
    fraction: float | None = None,
) -> tuple[Bytes, Mask, str]:
    """Puts one synthetic defect into an image.

    The mask covers what an annotator would outline, restricted to where the change is visible against the
    texture of the image; it is never empty. Pixels far from the mask do not change.

    Args:
        image: (H, W, 3) uint8 RGB, any size of at least 1 x 1.
        rng: source of randomness; the result depends on nothing else.
        kind: kind of defect, a key of `DEFECTS`; None draws one.
        region: (H, W) bool, True where the defect should lie (the object); None or an empty region means the
            whole image.
        foreign: (H, W, 3) uint8, another image from which "foreign_texture" takes its pixels; None takes
            noise.
        fraction: wanted area relative to the image, in (0, 1]; None draws one. Thin defects cover less.

    Returns:
        Image (H, W, 3) uint8, mask (H, W) bool, and kind.

    Raises:
        ConfigError: the kind is unknown, or an array has the wrong shape or type.
    """
    if kind is not None and kind not in DEFECTS:
        raise unknown_name("defect", kind, DEFECTS)
    _check(image, region, foreign)
    height, width = image.shape[:2]
    everywhere = np.ones((height, width), dtype=bool)
    region = region if region is not None and region.any() else everywhere
    names = list(DEFECTS)
    weights = np.array([_WEIGHTS.get(name, 1.0) for name in names])
    levels = image.astype(np.float32)
    for attempt in range(_ATTEMPTS):
        name = kind or str(rng.choice(names, p=weights / weights.sum()))
        overflow = name in _MAY_OVERFLOW and rng.random() < 0.3
        allowed = everywhere if overflow else region
        site = _site(rng, region, foreign, fraction, attempt)
        window, local = _window(site, whole=name in _NEEDS_WHOLE)
        piece = levels[window]
        changed, cover = DEFECTS[name](piece, rng, local)
        spoiled = _confine(piece, changed, cover, allowed=allowed[window], site=local, pixels=height * width)
        if spoiled is None:
            continue
        result, mask = image.copy(), np.zeros((height, width), dtype=bool)
        result[window], mask[window] = spoiled
        return result, mask, name
    return (*_certain_spot(image, rng, region), kind or "spot")


def _check(image: Bytes, region: Mask | None, foreign: Bytes | None) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ConfigError(f"add_defect takes a uint8 image (H, W, 3); got {image.dtype} {image.shape}")
    if region is not None and (region.shape != image.shape[:2] or region.dtype != np.bool_):
        raise ConfigError(
            f"add_defect: region must be bool {image.shape[:2]}; got {region.dtype} {region.shape}"
        )
    if foreign is not None and foreign.shape != image.shape:
        raise ConfigError(
            f"add_defect: foreign must have the image's shape {image.shape}; got {foreign.shape}"
        )


def _site(rng: Rng, region: Mask, foreign: Bytes | None, fraction: float | None, attempt: int) -> Site:
    """Draws a place in the region; later attempts are larger and stronger, so that one becomes visible."""
    inside = np.flatnonzero(region)
    y, x = divmod(int(inside[rng.integers(inside.size)]), region.shape[1])
    share = sample_fraction(rng) if fraction is None else fraction
    area = min(share * region.size * (1 + 0.5 * attempt), 0.5 * inside.size)
    strength = float(np.clip(rng.beta(1.2, 2.2) + 0.12 * attempt, 0, 1))
    if rng.random() < 0.12:
        # Now and then something crosses the whole object: long cracks, scratches, threads.
        area = max(area, 0.1 * inside.size)
    radius = max(float(np.sqrt(area / np.pi)), 1.0)
    return Site(float(y), float(x), radius, region, strength, foreign, min(region.shape) / 320)


def _window(site: Site, *, whole: bool) -> tuple[tuple[slice, slice], Site]:
    """Returns the window that a defect can reach, and the site in it, so that small defects cost little."""
    if whole:
        return (slice(0, site.height), slice(0, site.width)), site
    reach = int(4 * site.radius + 24)
    top, left = max(int(site.y) - reach, 0), max(int(site.x) - reach, 0)
    window = (slice(top, int(site.y) + reach + 1), slice(left, int(site.x) + reach + 1))
    foreign = None if site.foreign is None else site.foreign[window]
    local = replace(
        site,
        y=site.y - top,
        x=site.x - left,
        region=site.region[window],
        foreign=foreign,
    )
    return window, local


def _confine(
    image: FloatImage, changed: FloatImage, cover: Field, *, allowed: Mask, site: Site, pixels: int
) -> tuple[Bytes, Mask] | None:
    """Limits a change to the allowed area and derives its mask; None if it would not be visible.

    `pixels` is the area of the whole image, of which `image` may be a window.
    """
    if not allowed.all():
        inside = blur_field(allowed.astype(np.float32), 0.7) * allowed
        changed = image + (changed - image) * inside[..., None]
    # Rendering leaves traces far from the defect (blurred shading, rounding): they are taken back,
    # gently, so that no edge remains where they are cut off.
    near = np.clip(blur_field(grow(cover > 0.02, 4).astype(np.float32), 1.5) * 1.5 - 0.25, 0, 1)
    result = to_bytes(image + (changed - image) * (near * allowed)[..., None])
    difference = largest_change(result, image)
    smoothed = blur_field(difference, 0.6)
    visible = grow(smoothed > 6.0, max(1, min(int(site.radius * 0.15), 6)))
    gap = int(np.clip(site.radius * 0.25, 2, 12))
    mask = grow(grow((cover > 0.35) & visible, gap), -gap) & (cover > 0.2) & allowed
    if mask.sum() < max(1, min(4, pixels // 16), pixels * 1.2e-4):
        return None
    if float(difference[mask].mean()) < 8.0 or not _findable(image, result, mask):
        return None
    return result, mask


def _findable(before: FloatImage, after: Bytes, mask: Mask) -> bool:
    """Whether a change stands out from the texture of the surface; moved grass among grass does not."""
    old, new = luminance(before), luminance(after.astype(np.float32))
    old_coarse, new_coarse = blur_field(old, 2.5), blur_field(new, 2.5)
    old_fine = float(np.abs(old - old_coarse)[mask].mean())
    if old_fine < 5.0:
        return True
    colour = largest_change(after, before)[mask].mean()
    if float(colour) < 1.1 * old_fine:
        return False
    new_fine = float(np.abs(new - new_coarse)[mask].mean())
    rougher = not 0.7 < new_fine / old_fine < 1.45
    shift = float(np.abs(new_coarse - old_coarse)[mask].mean())
    tint = float(np.abs((after[mask] - before[mask]).mean(axis=0)).max())
    return rougher or shift > 0.8 * float(old_coarse.std()) + 2 or tint > 20


def _certain_spot(image: Bytes, rng: Rng, region: Mask) -> tuple[Bytes, Mask]:
    """Fallback for images on which nothing else is visible: a filled disc of inverse brightness."""
    inside = np.flatnonzero(region)
    y, x = divmod(int(inside[rng.integers(inside.size)]), region.shape[1])
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    radius = max(0.03 * max(image.shape[:2]), 1.5)
    mask = ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2) & region
    result = image.copy()
    result[mask] = 20 if image[mask].mean() > 127 else 235
    return result, mask
