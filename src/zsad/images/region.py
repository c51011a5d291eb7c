"""The region of interest: the part of every image that is looked at, a box or a mask.

An image is cut to the bounding box of the region before anything is scored, and in the box the pixels outside
of a mask get the mean colour of those inside. What lies outside of the region therefore changes neither score
nor map, whatever the method.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ConfigError, ImageReadError, printable

Pixels = NDArray[np.bool_]

_NUMBER = r"[+-]?\d+(?:\.\d+)?\s*%?"
_MASK = "mask:"  # beginning of the text of a mask, which base64 of a PNG follows
_BOX = re.compile(rf"\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}\s*")
_EXAMPLES = "as in 100,50,400,300 (pixels) or 10%,10%,80%,80% (shares of the image)"


@dataclass(frozen=True)
class Window:
    """The region in an image of a known size.

    Attributes:
        box: left, top, right and bottom of the bounding box, in pixels.
        size: width and height of the image, in pixels.
        inside: (bottom - top, right - left) bool, the pixels of the box that belong to the region; None for
            all.
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    inside: Pixels | None = None

    def cut(self, image: Image.Image) -> Image.Image:
        """The RGB image in the bounding box; pixels outside of the region get the mean of the others."""
        found = image.crop(self.box)
        if self.inside is None:
            return found
        levels = np.array(found, dtype=np.uint8)
        levels[~self.inside] = np.round(levels[self.inside].mean(axis=0))
        return Image.fromarray(levels)

    def cut_array(self, values: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The part of an (H, W) array of the image's size that lies in the bounding box."""
        left, top, right, bottom = self.box
        return values[top:bottom, left:right]

    def place(self, anomaly_map: NDArray[np.float32], lowest: float) -> NDArray[np.float32]:
        """A map of the bounding box as a map of the whole image, `lowest` outside of the region.

        Args:
            anomaly_map: float32 map of the size of the box.
            lowest: smallest value that a map can take.

        Returns:
            (H, W) float32.
        """
        left, top, right, bottom = self.box
        placed = np.full(self.size[::-1], lowest, dtype=np.float32)
        inside = True if self.inside is None else self.inside
        placed[top:bottom, left:right] = np.where(inside, anomaly_map, np.float32(lowest))
        return placed

    def pixels(self) -> Pixels:
        """The pixels of the region: (H, W) bool of the image's size."""
        left, top, right, bottom = self.box
        found = np.zeros(self.size[::-1], dtype=np.bool_)
        found[top:bottom, left:right] = True if self.inside is None else self.inside
        return found


@dataclass(frozen=True)
class Region:
    """A part of every image, whatever the image's size.

    Attributes:
        identity: what tells regions apart: the text of a box, or size and digest of a mask.
        box: left, top, width and height, each a length and whether it is a share of the image instead of a
            number of pixels; None for a mask.
        mask: (h, w) bool, True where images are looked at; it is resized to each image. None for a box.
    """

    identity: str
    box: tuple[tuple[float, bool], ...] | None = field(default=None, compare=False, repr=False)
    mask: Pixels | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_box(cls, text: str) -> Region:
        """A box.

        Args:
            text: left, top, width and height, separated by commas: whole numbers are pixels, numbers with %
                and decimal numbers up to 1 are shares of the image.

        Raises:
            ConfigError: the text is no box, or the box is empty or begins outside of every image.

        Example:
            >>> Region.of_box("10%, 0, 80%, 300")
            Region(identity='10%,0,80%,300')
        """
        numbers = re.findall(_NUMBER, text) if _BOX.fullmatch(text) else []
        if not numbers:
            raise ConfigError(f"a region is x,y,width,height, {_EXAMPLES}, or a mask; got {text!r}")
        are_shares = any("." in number for number in numbers if "%" not in number)
        lengths = []
        for number in numbers:
            value = float(number.strip(" %"))
            is_share = are_shares or "%" in number
            lengths.append((value / 100 if "%" in number else value, is_share))
        if any(value < 0 or (is_share and value > 1) for value, is_share in lengths):
            raise ConfigError(f"a region lies inside the image, {_EXAMPLES}; got {text!r}")
        for (start, starts_at_share), (length, is_share) in zip(lengths[:2], lengths[2:], strict=True):
            if starts_at_share and is_share and start + length > 1 + 1e-9:
                raise ConfigError(f"a region ends inside the image, {_EXAMPLES}; got {text!r}")
        if any(value == 0 for value, _ in lengths[2:]):
            raise ConfigError(f"a region needs a width and a height, {_EXAMPLES}; got {text!r}")
        return cls(",".join("".join(number.split()) for number in numbers), tuple(lengths))

    @classmethod
    def of_mask(cls, mask: NDArray[np.generic]) -> Region:
        """A mask.

        Args:
            mask: (h, w) array, above 0 where images are looked at.

        Raises:
            ConfigError: the mask is not two-dimensional, or marks nothing.
        """
        marked = np.asarray(mask) > 0
        if marked.ndim != 2 or not marked.any():
            problem = "marks nothing" if marked.ndim == 2 else f"has the shape {marked.shape}"
            raise ConfigError(
                f"a mask of a region is (height, width), above 0 where to look; this one {problem}"
            )
        size = f"{marked.shape[1]} x {marked.shape[0]}"
        digest = hashlib.sha256(size.encode() + np.packbits(marked).tobytes()).hexdigest()[:16]
        return cls(f"mask {size} {digest}", mask=marked)

    @classmethod
    def from_text(cls, text: str) -> Region:
        """The region that `to_text` wrote, or a box as `of_box` takes it.

        Raises:
            ConfigError: the text is neither.
        """
        if not text.startswith(_MASK):
            return cls.of_box(text)
        try:
            with Image.open(io.BytesIO(base64.b64decode(text.removeprefix(_MASK))), formats=["PNG"]) as mask:
                return cls.of_mask(np.asarray(mask.convert("1")))
        except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ConfigError("the mask of the region is damaged: give the region again (--roi)") from error

    def to_text(self) -> str:
        """All of the region in one line, for files that keep it: the box, or the mask as a PNG in base64.

        Example:
            >>> Region.from_text(Region.of_box("10%, 0, 80%, 300").to_text())
            Region(identity='10%,0,80%,300')
        """
        if self.mask is None:
            return self.identity
        file = io.BytesIO()
        Image.fromarray(self.mask).save(file, "PNG")
        return _MASK + base64.b64encode(file.getvalue()).decode()

    def window(self, size: tuple[int, int]) -> Window:
        """The region in an image.

        Args:
            size: width and height of the image, in pixels.

        Raises:
            ImageReadError: no pixel of the region lies in the image.
        """
        found = _window_of_mask(self.mask, size) if self.box is None else _window_of_box(self.box, size)
        if found is None:
            raise ImageReadError(
                f"the region {self.identity} lies outside of this image of {size[0]} x {size[1]} pixels"
            )
        return found


def check_region(image: Image.Image, roi: Region | None, path: Path | None) -> None:
    """Refuses an image that the region of interest lies outside of.

    Raises:
        ImageReadError: the message begins with the path, if there is one.
    """
    try:
        if roi is not None:
            roi.window(image.size)
    except ImageReadError as error:
        raise error if path is None else ImageReadError(f"{printable(path)}: {error}") from None


def _window_of_box(box: tuple[tuple[float, bool], ...], size: tuple[int, int]) -> Window | None:
    lengths = [
        value * whole if is_share else value
        for (value, is_share), whole in zip(box, (*size, *size), strict=True)
    ]
    edges = []
    for start, length, whole in zip(lengths[:2], lengths[2:], size, strict=True):
        if start >= whole:
            return None
        first = min(round(start), whole - 1)
        # A part beyond the edge of the image holds no pixels; a narrow share of a small image still has one.
        edges.append((first, min(max(round(start + length), first + 1), whole)))
    (left, right), (top, bottom) = edges
    return Window((left, top, right, bottom), size)


def _window_of_mask(mask: Pixels | None, size: tuple[int, int]) -> Window | None:
    resized = np.asarray(Image.fromarray(np.asarray(mask)).resize(size, Image.Resampling.NEAREST), np.bool_)
    rows, columns = resized.any(axis=1).nonzero()[0], resized.any(axis=0).nonzero()[0]
    if not rows.size:
        return None
    left, right, top, bottom = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    inside = resized[top:bottom, left:right]
    return Window((left, top, right, bottom), size, None if inside.all() else inside)
