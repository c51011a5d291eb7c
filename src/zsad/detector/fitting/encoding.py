"""Reads and encodes good images, each once; one that fails does not stop the others."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from zsad.detector.fitting.good_images import GoodImage, GoodImages, joined
from zsad.detector.general_rule import remembered
from zsad.detector.identity import image_fingerprint
from zsad.detector.inputs import batch_for
from zsad.detector.tiling import reference_tiles, tiles_of_each
from zsad.errors import DataError, ImageReadError, printable
from zsad.images.drawing import thumbnail
from zsad.images.looking import cut
from zsad.images.preparing import to_array
from zsad.images.saving import save_jpeg
from zsad.images.scoring import score_batch

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from zsad.detector.reference_tiles import ReferenceTiles
    from zsad.images.looking import Looking
    from zsad.methods.base import Method

THUMBNAIL_SIDE = 240  # pixels
THUMBNAIL_QUALITY = 85


@dataclass(frozen=True)
class Encoded:
    """Good images that could be read.

    Attributes:
        good: the images, each content once.
        thumbnails: small JPEG files by fingerprint, for the page.
        failed: one line for each image that could not be read or encoded.
        copies: number of images left out because another image has the same content.
        items: the images as they were given, by fingerprint.
    """

    good: GoodImages
    thumbnails: dict[str, bytes] = field(repr=False)
    failed: tuple[str, ...]
    copies: int
    items: dict[str, Any] = field(repr=False)


def encode(
    method: Method,
    looking: Looking,
    items: Sequence[Any],
    class_name: str,
    batch_size: int,
    are_turned: bool = False,
    known: frozenset[str] = frozenset(),
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Reads and encodes good images.

    Args:
        method: the system, with what it has learnt.
        looking: how images are read, cut and prepared.
        items: images as `Detector.predict` takes them.
        class_name: name of what the images show.
        batch_size: number of images that go through the network at once.
        are_turned: whether references also count turned and flipped.
        known: fingerprints of images that the detector already has; these count as copies.
        progress: called with the number of images done and the total.

    Raises:
        DataError: no image is left.
    """
    parts: list[GoodImages] = []
    kept: dict[str, Any] = {}
    tiles: ReferenceTiles | None = None
    thumbnails: dict[str, bytes] = {}
    failed: list[str] = []
    copies = 0

    def prepared(some: Iterable[Image.Image]) -> Tensor:
        return batch_for(method, some, looking.preparation)

    for start in range(0, len(items), batch_size):
        names: list[GoodImage] = []
        images: list[Image.Image] = []
        sources: list[Any] = []
        for number, item in enumerate(items[start : start + batch_size], start=start + 1):
            name = _name(item) or f"image {number}"
            try:
                whole = looking.read(item)[1]
            except ImageReadError as error:
                failed.append(str(error) if str(error).startswith(name) else f"{name}: {error}")
                continue
            fingerprint = image_fingerprint(to_array(whole))
            if fingerprint in known or fingerprint in thumbnails:
                copies += 1
                continue
            image = cut(whole, looking.roi)
            thumbnails[fingerprint] = _small_jpeg(image)
            names.append(GoodImage(name, fingerprint, image.height, image.width))
            images.append(image)
            sources.append(item)
        outcomes = score_batch(lambda some: _encoded(method, prepared(some), class_name, are_turned), images)
        for one, outcome, image, source in zip(names, outcomes, images, sources, strict=True):
            if isinstance(outcome, str):
                failed.append(f"{one.name}: {outcome}")
                continue
            if looking.tile is not None:
                most, first = tiles_of_each(len(items), are_turned), len(parts)
                more = reference_tiles(
                    method, image, looking.cutting, most, first, prepared, class_name, are_turned
                )
                tiles = more if tiles is None else tiles.joined_with(more)
            parts.append(replace(outcome, images=(one,)))
            kept[one.fingerprint] = source
        if progress is not None:
            progress(min(start + batch_size, len(items)), len(items))
    if not parts:
        if failed:
            raise DataError(f"no good image could be read: {failed[0]}")
        reason = f": all {copies} are known already" if copies else ""
        raise DataError(f"there is no good image to fit to{reason}; give some")
    good = replace(joined(parts), tiles=None if tiles is None else tiles.bounded())
    return Encoded(good, thumbnails, tuple(failed), copies, kept)


@torch.inference_mode()
def _encoded(method: Method, images: Tensor, class_name: str, are_turned: bool) -> list[GoodImages]:
    """Memory and answer of each image; the images have no names here."""
    memory, answers = remembered(method, images, class_name, are_turned)
    names = tuple(GoodImage("", "", 1, 1) for _ in images)
    batch = GoodImages(names, memory, answers, are_turned=are_turned)
    return [batch.only([number]) for number in range(len(images))]


def _name(item: Any) -> str:
    """Path of an image, or the file name that an image in memory carries; "" without one."""
    is_path = isinstance(item, str) or hasattr(item, "__fspath__")
    return printable(item if is_path else getattr(item, "filename", None) or "")


def _small_jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    save_jpeg(thumbnail(image, THUMBNAIL_SIDE), file, THUMBNAIL_QUALITY)
    return file.getvalue()
