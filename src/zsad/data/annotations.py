"""Reads ground truth that people draw as outlines: labelme (a JSON file per image) and COCO (one for all).

A mask path names the file of labelme ("crack/000.json"), or file and image of COCO
("annotations/instances.json#image=17"). Regions whose label means "normal" or "background" mark nothing.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.data.canvas import Canvas, Point
from zsad.data.run_lengths import decode_run_lengths
from zsad.data.vocabulary import is_normal
from zsad.errors import ImageReadError, ZsadError
from zsad.files.json_text import read_json
from zsad.images.names import ANNOTATION_SUFFIXES, file_and_part, suffix_of

_BACKGROUND = frozenset({"background", "_background_", "ignore", "__ignore__", "hintergrund"})
_FILES_KEPT = 4


@dataclass(frozen=True)
class Annotated:
    """What an annotation file says about one image.

    Attributes:
        name: name of the image file as the annotation file gives it; it may contain folders.
        kinds: labels of the regions that mark a defect; () if there is none.
        mask_path: path from which `read_annotation` reads the mask.
    """

    name: str
    kinds: tuple[str, ...]
    mask_path: Path


def is_annotation(path: str | os.PathLike[str]) -> bool:
    """Whether a mask path names an annotation file, by its suffix."""
    return suffix_of(file_and_part(path)[0]) in ANNOTATION_SUFFIXES


def labelme_of(path: Path) -> Annotated | None:
    """Returns what a file of labelme says about its image; None if the file is no such file."""
    document = _document_or_none(path)
    shapes = document.get("shapes") if document else None
    if not document or not isinstance(shapes, list):
        return None
    kinds = dict.fromkeys(str(shape.get("label")) for shape in _marking_shapes(document))
    return Annotated(str(document.get("imagePath") or path.stem), tuple(kinds), path)


def coco_of(path: Path) -> tuple[Annotated, ...] | None:
    """Returns what a COCO file says about each of its images; None if the file is no such file."""
    document = _document_or_none(path)
    if not document or not all(isinstance(document.get(key), list) for key in ("images", "annotations")):
        return None
    names = _category_names(document)
    kinds: dict[str, list[str]] = defaultdict(list)
    for region in _marking_regions(document, names):
        kinds[str(region.get("image_id"))].append(names.get(region.get("category_id"), "anomalous"))
    return tuple(
        Annotated(
            str(image.get("file_name", "")),
            tuple(dict.fromkeys(kinds[str(image.get("id"))])),
            path.with_name(f"{path.name}#image={image.get('id')}"),
        )
        for image in document["images"]
        if isinstance(image, dict)
    )


@dataclass(frozen=True)
class CocoMasks:
    """Masks of images by the names that COCO files give them.

    Attributes:
        by_name: file name without folders -> what COCO files say about images of that name.
    """

    by_name: dict[str, list[Annotated]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.by_name)

    def mask_of(self, image: Path) -> Path | None:
        """Returns the mask of an image; None if it has no outline, or if two entries could be meant."""
        entries = [entry for entry in self.by_name.get(image.name, ()) if entry.kinds]
        exact = [entry for entry in entries if ends_with(image, entry.name)]
        found = [entry for entry in exact if "/" in entry.name.replace("\\", "/")] or exact or entries
        return found[0].mask_path if len(found) == 1 else None


def coco_masks(folders: Iterable[Path]) -> CocoMasks:
    """Reads the COCO files right in some folders."""
    by_name: dict[str, list[Annotated]] = defaultdict(list)
    for path in json_files(dict.fromkeys(folders)):
        for entry in coco_of(path) or ():
            by_name[PurePosixPath(entry.name.replace("\\", "/")).name].append(entry)
    return CocoMasks(dict(by_name))


def json_files(folders: Iterable[Path]) -> Iterator[Path]:
    """Yields the JSON files right in some folders."""
    for folder in folders:
        if folder.is_dir():
            files = (path for path in folder.iterdir() if path.suffix.lower() in ANNOTATION_SUFFIXES)
            yield from sorted(files)


def ends_with(image: Path, name: str) -> bool:
    """Whether the path of an image ends in the name that a COCO file gives it."""
    return f"/{image.as_posix()}".endswith("/" + name.replace("\\", "/").lstrip("./"))


def read_annotation(path: str | os.PathLike[str]) -> NDArray[np.bool_]:
    """Reads the mask of one image from an annotation file.

    Args:
        path: file of labelme, or file of COCO with "#image=ID" behind it.

    Returns:
        (H, W) bool of the size that the file gives, True inside a region; a pixel counts by its centre.

    Raises:
        ImageReadError: the file cannot be read, holds no such image, or a region is not understood.
    """
    file, part = file_and_part(path)
    try:
        document = _document(file, *_state(file))
        if "shapes" in document:
            return _mask_of_labelme(document)
        return _mask_of_coco(document, part.removeprefix("image="))
    except (ZsadError, OSError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        said = str(error).removeprefix(f"{file}: ")
        raise ImageReadError(
            f"{os.fspath(path)}: cannot be read as a mask ({said}); expected polygons of labelme or COCO"
        ) from error


def _state(path: str | os.PathLike[str]) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=_FILES_KEPT)
def _document(file: str, size: int, time: int) -> Mapping[str, Any]:
    """Reads a file once, as long as it does not change; a COCO file is asked for each of its images."""
    return read_json(Path(file))


def _document_or_none(path: Path) -> Mapping[str, Any] | None:
    try:
        return _document(os.fspath(path), *_state(path))
    except (ZsadError, OSError):
        return None


def _marks(label: object) -> bool:
    word = str(label).strip().casefold()
    return word not in _BACKGROUND and not is_normal(word)


def _marking_shapes(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in document["shapes"] if isinstance(each, dict) and _marks(each.get("label"))]


def _category_names(document: Mapping[str, Any]) -> dict[Any, str]:
    categories = document.get("categories") or ()
    return {each.get("id"): str(each.get("name")) for each in categories if isinstance(each, dict)}


def _marking_regions(document: Mapping[str, Any], names: Mapping[Any, str]) -> list[Mapping[str, Any]]:
    regions = (each for each in document["annotations"] if isinstance(each, dict))
    return [each for each in regions if _marks(names.get(each.get("category_id"), "anomalous"))]


def _mask_of_labelme(document: Mapping[str, Any]) -> NDArray[np.bool_]:
    canvas = Canvas(document.get("imageWidth"), document.get("imageHeight"))
    for shape in _marking_shapes(document):
        points = [_point(each) for each in shape["points"]]
        kind = shape.get("shape_type") or "polygon"
        if kind == "circle":
            canvas.circle(points[0], math.dist(points[0], points[1]))
        elif kind == "rectangle":
            (left, top), (right, bottom) = points[0], points[-1] if len(points) == 2 else points[2]
            canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)])
        elif kind == "mask":
            canvas.paste(_embedded(shape["mask"]), points[0])
        elif kind in ("polygon", "rotation"):
            canvas.polygon(points)
        else:
            canvas.line(points)
    return canvas.mask()


def _mask_of_coco(document: Mapping[str, Any], identity: str) -> NDArray[np.bool_]:
    found = [each for each in document["images"] if str(each.get("id")) == identity]
    if not found:
        raise ValueError(f"no image with the id {identity!r}")
    canvas = Canvas(found[0].get("width"), found[0].get("height"))
    for region in _marking_regions(document, _category_names(document)):
        if str(region.get("image_id")) != identity:
            continue
        outline = region.get("segmentation")
        if isinstance(outline, dict):
            canvas.add(decode_run_lengths(outline["counts"], outline["size"]))
        elif outline:
            for ring in outline:
                canvas.polygon([_point(ring[at : at + 2]) for at in range(0, len(ring), 2)])
        else:
            left, top, width, height = map(float, region["bbox"])
            right, bottom = left + width, top + height
            canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)])
    return canvas.mask()


def _point(given: Sequence[Any]) -> Point:
    x, y = given
    return float(x), float(y)


def _embedded(text: str) -> NDArray[np.bool_]:
    """Decodes the small image that labelme keeps for a region which was brushed or found by a model."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            return np.asarray(image.convert("L")) > 0
    except (binascii.Error, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the mask of a region is damaged: {error}") from error
