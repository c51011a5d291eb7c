"""Supplies surfaces, objects and places for scenes, from photographs or drawn by formula."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image

from zsad.data.synthetic.noise import Bytes, FloatImage, Rng, resize_image
from zsad.data.synthetic.objects import Layer, random_object
from zsad.data.synthetic.surfaces import random_surface
from zsad.errors import DataError
from zsad.images.finding import images_below

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_CACHE_BYTES = 768 * 2**20


class Materials:
    """A stock of source images, read when first needed and kept within a memory bound.

    The result of drawing depends only on the random generator, never on what was read before.
    """

    def __init__(
        self,
        textures: tuple[Path, ...] = (),
        objects: tuple[Path, ...] = (),
        scenes: tuple[Path, ...] = (),
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self.textures = textures
        self.objects = objects
        self.scenes = scenes
        self._cut_outs = frozenset(objects)
        self._cache: OrderedDict[Path, Bytes] = OrderedDict()
        self._cache_limit = cache_bytes
        self._cached_bytes = 0

    @classmethod
    def procedural(cls) -> Materials:
        """Makes a stock without files: everything is drawn by formula."""
        return cls()

    @classmethod
    def from_folder(cls, folder: str | Path, *, cache_bytes: int = _CACHE_BYTES) -> Materials:
        """Opens the stock in a folder that `tools/collect_materials.py` wrote, or in one of that form.

        Args:
            folder: folder with `textures/` (surfaces, RGB), `objects/` (cut-outs, RGBA PNG) and `scenes/`
                (photographs); some may be missing. The words before "__" in a file name say what it shows.
            cache_bytes: upper bound of the memory for decoded images, in bytes.

        Raises:
            DataError: the folder holds no image.
        """
        folder = Path(folder)
        lists = [_images(folder / name) for name in ("textures", "objects", "scenes")]
        if not any(lists):
            raise DataError(
                f"{folder}: no images in textures/, objects/ or scenes/; "
                "make the folder with tools/collect_materials.py, or use Materials.procedural()"
            )
        return cls(lists[0], lists[1], lists[2], cache_bytes)

    def texture(self, rng: Rng, size: int, *, photo: float = 0.62) -> tuple[FloatImage, str]:
        """Draws a surface that fills a square.

        Args:
            rng: source of randomness.
            size: side of the square, in pixels.
            photo: probability of a photograph, if the stock has any.

        Returns:
            (float32 (size, size, 3) in [0, 255], name of the material).
        """
        if not self.textures or rng.random() >= photo:
            return random_surface(rng, size)
        path = self.textures[int(rng.integers(len(self.textures)))]
        return _crop(rng, self._read(path), size, least=0.35), _name(path)

    def photograph(self, rng: Rng, size: int) -> tuple[FloatImage, str]:
        """Draws a photograph of a place or thing, cropped to a square; a texture if the stock has none."""
        if not self.scenes:
            return self.texture(rng, size)
        path = self.scenes[int(rng.integers(len(self.scenes)))]
        return _crop(rng, self._read(path), size, least=0.5, turn=False), _name(path)

    def object(self, rng: Rng, size: int, *, photo: float = 0.4) -> tuple[Layer, str]:
        """Draws an object as a layer whose longer side is about `size`.

        Args:
            rng: source of randomness.
            size: longer side of the object, in pixels.
            photo: probability of a cut-out photograph, if the stock has any.

        Returns:
            (float32 (h, w, 4), colours in [0, 255] and alpha in [0, 1]; name).
        """
        if not self.objects or rng.random() >= photo:
            texture, _ = self.texture(rng, size)
            return random_object(rng, size, texture)
        path = self.objects[int(rng.integers(len(self.objects)))]
        raw = self._read(path)
        scale = size / max(raw.shape[:2])
        shape = (
            max(round(raw.shape[0] * scale), 2),
            max(round(raw.shape[1] * scale), 2),
        )
        if scale < 1:
            raw = resize_image(raw, *shape)
        layer = raw.astype(np.float32)
        layer[..., 3] /= 255
        return layer, _name(path)

    def _read(self, path: Path) -> Bytes:
        if path in self._cache:
            self._cache.move_to_end(path)
            return self._cache[path]
        mode = "RGBA" if path in self._cut_outs else "RGB"
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert(mode))
        except OSError as error:
            raise DataError(f"{path}: cannot be read as an image ({error})") from error
        self._cache[path] = pixels
        self._cached_bytes += pixels.nbytes
        while self._cached_bytes > self._cache_limit and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= dropped.nbytes
        return pixels


def _images(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(path for path in images_below(folder) if path.suffix.lower() in _SUFFIXES))


def _name(path: Path) -> str:
    words = path.stem.split("__")[0]
    return re.sub(r"[^A-Za-z]+", " ", words).strip().lower() or "object"


def _crop(rng: Rng, pixels: Bytes, size: int, *, least: float, turn: bool = True) -> FloatImage:
    height, width = pixels.shape[:2]
    side = min(height, width) * rng.uniform(least, 1)
    top, left = rng.uniform(0, height - side), rng.uniform(0, width - side)
    box = (left, top, left + side, top + side)
    # uint8 resampling with a box crops and scales in one step.
    small = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=box)
    crop = np.asarray(small)
    if turn:
        crop = np.rot90(crop, int(rng.integers(4)))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return crop.astype(np.float32)
