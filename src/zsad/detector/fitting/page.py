"""The page of a fit: the promise and all good images by score, so that a bad one among them is seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from zsad.detector.calibration.wording import counted, summary
from zsad.errors import ConfigError
from zsad.files.pages import jpeg_url, write_page

if TYPE_CHECKING:
    from zsad.detector.fitting.fit import Fitting

TITLE = "Good images"
_MADE_BY_ZSAD = b"zsad</title>"


@dataclass(frozen=True)
class GoodCard:
    """What the page shows of one good image.

    Attributes:
        name: file name.
        path: file as it was given.
        thumbnail: URL of the small image; "" for an image of an earlier fit, of which features are left.
        score: score without the image itself, in words.
        notes: what is special about the image, in a few words each.
        stands_out: whether to look at it.
    """

    name: str
    path: str
    thumbnail: str
    score: str
    notes: tuple[str, ...]
    stands_out: bool


def check_page(path: Path) -> None:
    """Refuses to replace a page that zsad did not write.

    Raises:
        ConfigError: a file of another origin lies there.
    """
    if path.exists() and _MADE_BY_ZSAD not in path.read_bytes()[:4096]:
        raise ConfigError(f"{path} exists and is no page of zsad: choose another --out")


def write_fit_page(path: Path, fitting: Fitting, lines: Sequence[str]) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        fitting: what came of the fit.
        lines: sentences on the promise.

    Raises:
        OSError: the file cannot be written.
    """
    scores = [score for score in fitting.scores if not math.isnan(score)]
    low, high = min(scores), max(*scores, fitting.calibration.threshold)
    width = (high - low) or 1.0
    values = {
        "title": TITLE,
        "about": f"{counted(len(fitting.good.images), 'good image')}. {summary(fitting.calibration)}.",
        "lines": [*lines],
        "warnings": fitting.calibration.warnings,
        "places": [f"{100 * (score - low) / width:.2f}" for score in scores],
        "mark": f"{100 * (fitting.calibration.threshold - low) / width:.2f}",
        "low": f"{low:.4g}",
        "high": f"{high:.4g}",
        "cards": _cards(fitting),
    }
    write_page(path, "fit", values)


def _cards(fitting: Fitting) -> list[GoodCard]:
    """The images, those that stand out first, then by falling score, those without a score last."""
    twins = {number: group for group in fitting.near_copies for number in group}
    found = []
    for number, (image, score) in enumerate(zip(fitting.good.images, fitting.scores, strict=True)):
        is_outlier = number in fitting.outliers
        notes = ["stands out"] if is_outlier else []
        if number in twins:
            others = [fitting.good.images[twin].name for twin in twins[number] if twin != number]
            notes.append(f"near-copy of {PurePath(others[0]).name}")
        if math.isnan(score):
            notes.append("reference only")
        elif image.is_held_out:
            notes.append("held out for the threshold")
        content = fitting.thumbnails.get(image.fingerprint)
        card = GoodCard(
            name=PurePath(image.name).name,
            path=image.name,
            thumbnail="" if content is None else jpeg_url(content),
            score="" if math.isnan(score) else f"{score:.3f}",
            notes=tuple(notes),
            stands_out=is_outlier,
        )
        found.append((math.inf if is_outlier else -1.0 if math.isnan(score) else score, card))
    return [card for _, card in sorted(found, key=lambda pair: -pair[0])]
