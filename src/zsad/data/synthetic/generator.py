"""Generates synthetic images with masks and captions, each from a seed and a number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from zsad.data.synthetic.camera import photograph
from zsad.data.synthetic.captions import caption
from zsad.data.synthetic.defects import add_defect, sample_fraction
from zsad.data.synthetic.distractors import distract, lettering, reflect_and_shade, seams
from zsad.data.synthetic.noise import Bytes, Mask, Rng, blur_field, largest_change, to_bytes
from zsad.data.synthetic.scenes import SCENES
from zsad.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from zsad.data.synthetic.arrays import Faulty, Layout
    from zsad.data.synthetic.materials import Materials
    from zsad.data.synthetic.noise import FloatImage


@dataclass(frozen=True)
class SyntheticImage:
    """A synthetic image with its mask and words.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        mask: (S, S) bool, True on defective pixels; all False for a normal image.
        label: 1 anomalous, 0 normal; 1 exactly if the mask holds a True.
        caption: text in the style of CLIP's captions about the object and its state.
        object_name: name of the object ("metal plate", "screw").
        defect: kind of defect, a key of `CAPTIONS`; that of the last one if there are several, "good" for a
            normal image.
    """

    image: Bytes
    mask: Mask
    label: int
    caption: str
    object_name: str
    defect: str


def _default_shares() -> dict[str, float]:
    return {
        "surface": 0.33,
        "one_object": 0.25,
        "many_objects": 0.09,
        "pattern": 0.1,
        "assembly": 0.06,
        "scan": 0.14,
        "photograph": 0.03,
    }


@dataclass(frozen=True)
class SyntheticConfig:
    """Settings of `generate`.

    Attributes:
        size: side of the square images, in pixels, at least 32.
        anomalous_fraction: share of images with defects, in [0, 1].
        scenes: kind of scene (keys of `SCENES`) -> share; the shares are normalised to sum to 1.
        structural_fraction: share of faults of order and form (missing, moved, bitten) among the defects of
            scenes that can have them, in [0, 1].
        camera: whether to simulate a camera (light, blur, noise, JPEG).
        hard_normals: probability that what a camera sees has seams or print, and that a reflection or a
            cast shadow lies on it, in [0, 1]; they are no defects.
    """

    size: int = 320
    anomalous_fraction: float = 0.5
    scenes: dict[str, float] = field(default_factory=_default_shares)
    structural_fraction: float = 0.45
    camera: bool = True
    hard_normals: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ConfigError(f"SyntheticConfig.size is at least 32; got {self.size}")
        if not 0 <= self.anomalous_fraction <= 1:
            raise ConfigError(
                f"SyntheticConfig.anomalous_fraction lies in [0, 1]; got {self.anomalous_fraction}"
            )
        if not 0 <= self.hard_normals <= 1:
            raise ConfigError(f"SyntheticConfig.hard_normals lies in [0, 1]; got {self.hard_normals}")
        for name in self.scenes:
            if name not in SCENES:
                raise unknown_name("scene", name, SCENES)
        if not self.scenes or sum(self.scenes.values()) <= 0:
            raise ConfigError("SyntheticConfig.scenes needs at least one scene with a positive share")


_WHOLE = frozenset({"moved", "wrong", "missing"})
_PRINTABLE = frozenset({"surface", "one_object", "assembly"})
_STRUCTURAL = frozenset({"one_object", "many_objects", "pattern", "assembly"})


def generate(index: int, materials: Materials, config: SyntheticConfig, seed: int) -> SyntheticImage:
    """Generates an image of an endless synthetic set.

    The result depends on `index`, `materials`, `config` and `seed` alone.

    Args:
        index: number of the image, at least 0.
        materials: source of surfaces, objects and photographs.
        config: size of the image and shares of scenes and defects.
        seed: seed of the set.

    Returns:
        The image, its mask and its words.
    """
    rng = np.random.default_rng([seed, index])
    names = list(config.scenes)
    shares = np.array([config.scenes[name] for name in names], dtype=np.float64)
    scene = str(rng.choice(names, p=shares / shares.sum()))
    layout = SCENES[scene](rng, materials, config.size)
    if scene in _PRINTABLE and rng.random() < 0.08:
        layout = _dressed(layout, lettering, rng)
    if config.hard_normals and scene != "scan" and rng.random() < config.hard_normals:
        layout = _dressed(layout, lettering if rng.random() < 0.4 else seams, rng)
    mask = np.zeros((config.size, config.size), dtype=bool)
    image, defect = to_bytes(layout.image), "good"
    if rng.random() < config.anomalous_fraction:
        structural = scene in _STRUCTURAL and rng.random() < config.structural_fraction
        spoiled = _structural(layout, rng) if structural else None
        image, mask, defect = spoiled or _superficial(image, layout, materials, rng)
    image = distract(image, rng)
    if config.hard_normals and rng.random() < config.hard_normals:
        image = reflect_and_shade(image, rng)
    if config.camera:
        # What an instrument drew in grey stays grey, coloured marks included.
        neutral = bool(np.ptp(layout.image[::8, ::8], axis=2).max() < 1.0)
        image = photograph(image, rng, grey=True if neutral and rng.random() < 0.75 else None)
    words = caption(rng, layout.name, defect)
    return SyntheticImage(image, mask, int(mask.any()), words, layout.name, defect)


def _dressed(layout: Layout, draw: Callable[[FloatImage, Mask, Rng], FloatImage], rng: Rng) -> Layout:
    """Draws print or seams onto the scene, the same in its faultless and its faulty form."""
    seed = int(rng.integers(2**31))

    def dressed(image: FloatImage) -> FloatImage:
        return draw(image, layout.region, np.random.default_rng(seed))

    def fault(rng: Rng) -> Faulty:
        image, cover, kind = layout.fault(rng)
        return dressed(image), cover, kind

    return replace(layout, image=dressed(layout.image), fault=fault)


def _structural(layout: Layout, rng: Rng) -> tuple[Bytes, Mask, str] | None:
    """Draws a fault of form or order and a mask of its visible part; None if it would not be visible."""
    good = to_bytes(layout.image).astype(np.float32)
    for _ in range(4):
        faulty, cover, kind = layout.fault(rng)
        image = to_bytes(faulty)
        difference = largest_change(image, good)
        # A moved part changes few of its own pixels; as a whole it is what an annotator would draw.
        visible = blur_field((difference > 12).astype(np.float32), 4.0) > 0.12
        mask = cover > 0.4
        if kind not in _WHOLE or visible[mask].mean() < 0.1:
            mask &= visible
        if mask.sum() >= max(10, mask.size * 1.5e-4) and float(difference[mask].mean()) > 10:
            return image, mask, kind
    return None


def _superficial(image: Bytes, layout: Layout, materials: Materials, rng: Rng) -> tuple[Bytes, Mask, str]:
    """Adds one to six defects to the surface."""
    size = image.shape[0]
    mask, kind = np.zeros(image.shape[:2], dtype=bool), "good"
    wanted = str(rng.choice(layout.likely)) if layout.likely and rng.random() < 0.75 else None
    count = int(rng.choice([1, 2, 3, 6], p=[0.66, 0.19, 0.09, 0.06]))
    # Many defects in one image are small ones.
    limit = 0.3 if count == 1 else 0.15 / count
    for _ in range(count):
        foreign = to_bytes(materials.texture(rng, size)[0]) if wanted is None and rng.random() < 0.1 else None
        chosen = "foreign_texture" if foreign is not None else wanted
        share = min(sample_fraction(rng) * layout.size_factor, limit)
        image, more, kind = add_defect(
            image,
            rng,
            kind=chosen,
            region=layout.region,
            foreign=foreign,
            fraction=share,
        )
        mask |= more
        if wanted is None and kind != "foreign_texture" and rng.random() < 0.7:
            wanted = kind
    return image, mask, kind
