"""What the page of a run tells its script about each image: a column of values for each property.

Columns and not one object for each image, because a run may have a hundred thousand images: names of
properties are written once, and links that follow from a name are put together in the browser.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from zsad.detector.calibration.wording import percent
from zsad.files.pages import jpeg_url, relative_url
from zsad.images.names import as_path, is_uri, natural_key
from zsad.prediction.wording import explanation, ranks

if TYPE_CHECKING:
    from zsad.prediction.layout import RunLayout
    from zsad.prediction.records import ResultRecord

_SHOWN_BY_BROWSERS = frozenset((".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".avif", ".apng", ".jfif"))

Columns = Mapping[str, Sequence[Any]]


def card_columns(
    layout: RunLayout, records: Sequence[ResultRecord], root: str, *, has_overlays: bool, embed: bool
) -> Columns:
    """The cards of a page, as columns of equal length.

    Args:
        layout: files of the run; links are relative to its directory.
        records: scored images, in the order of the page, the highest score first.
        root: common folder of all images.
        has_overlays: whether the run wrote overlays.
        embed: whether the page holds the thumbnails itself.

    Returns:
        `path`, `name` and `folder` of each image; its `score`, `rank`, `width` and `height`; `by_name`,
        its place among all paths in natural order; `stem`, the percent-encoded start of the names of its
        files; `overlay`, the suffix of the overlay, "" without one; and `original`, the URL of the image, ""
        if browsers cannot show it. With `embed` also `thumbnail`,
        a `data:` URL or None; in a calibrated run also `relative`, `p_value` (in words) and `in_calibration`;
        with --explain also `explanation`.
    """
    places = [_place(record.path, root) for record in records]
    columns: dict[str, Sequence[Any]] = {
        "path": [record.path for record in records],
        "name": [name for name, _ in places],
        "folder": [folder for _, folder in places],
        "score": [record.score for record in records],
        "rank": ranks([float(record.score or 0) for record in records]),
        "width": [record.width for record in records],
        "height": [record.height for record in records],
        "by_name": _places_by_name([record.path for record in records]),
        "stem": [_quoted(layout.names[record.path]) for record in records],
        "overlay": [_overlay_suffix(layout, record.path) if has_overlays else "" for record in records],
        "original": [_original(layout.directory, record.path) for record in records],
    }
    if embed:
        columns["thumbnail"] = [_embedded(layout.thumbnail(record.path)) for record in records]
    if any(record.relative_score is not None for record in records):
        columns["relative"] = [record.relative_score for record in records]
        columns["p_value"] = ["" if each.p_value is None else percent(each.p_value) for each in records]
        columns["in_calibration"] = [bool(record.in_calibration) for record in records]
    if any(record.phrase is not None for record in records):
        columns["explanation"] = [explanation(record) for record in records]
    return columns


def _place(path: str, root: str) -> tuple[str, str]:
    """File name, and folder relative to `root`; "" for that folder itself."""
    pure = _pure(path)
    folder = os.path.relpath(pure.parent, root) if root else str(pure.parent)
    return pure.name, "" if folder == "." else folder


def _places_by_name(paths: Sequence[str]) -> list[int]:
    places = {path: place for place, path in enumerate(sorted(paths, key=natural_key))}
    return [places[path] for path in paths]


def _pure(path: str) -> PurePath:
    return PurePath(as_path(path) if is_uri(path) else path)


def _quoted(name: PurePath) -> str:
    return urllib.parse.quote(os.fsencode(name.as_posix()))


def _overlay_suffix(layout: RunLayout, path: str) -> str:
    overlay = layout.existing_file(path, "overlay")
    return "" if overlay is None else overlay.suffix


def _original(directory: Path, path: str) -> str:
    is_shown = _pure(path).suffix.lower() in _SHOWN_BY_BROWSERS and not is_uri(path)
    return relative_url(directory, Path(path)) if is_shown else ""


def _embedded(thumbnail: Path) -> str | None:
    try:
        return jpeg_url(thumbnail.read_bytes())
    except FileNotFoundError:
        return None
