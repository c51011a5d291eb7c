"""The images that a run gets most wrong, with their maps, for a sheet to look at."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.data.masks import read_mask
from zsad.errors import ZsadError
from zsad.evaluation.results import Mistake, WorstPicture
from zsad.files.atomic import atomic_file
from zsad.images.drawing import draw_contour, overlay
from zsad.images.reading import read_image

if TYPE_CHECKING:
    from zsad.types import Sample

KEPT = 8  # of each kind of mistake, in a run
LONGEST_SIDE = 384  # of an overlay, in pixels


@dataclass(frozen=True)
class Candidate:
    """An image that may be among the worst.

    Attributes:
        score: its image score.
        sample: the image.
        anomaly_map: (S, S).
    """

    score: float
    sample: Sample
    anomaly_map: NDArray[np.float32]


class WorstOfCategory:
    """Keeps the anomalous images with the lowest scores and the normal ones with the highest."""

    def __init__(self) -> None:
        self._candidates: dict[int, list[Candidate]] = {0: [], 1: []}
        self._scores: dict[int, list[float]] = {0: [], 1: []}

    def add(self, candidate: Candidate) -> None:
        """Takes note of an image; its map is released if others are worse."""
        label = candidate.sample.label
        self._scores[label].append(candidate.score)
        kept = self._candidates[label]
        bisect.insort(kept, candidate, key=lambda each: each.score if label else -each.score)
        del kept[KEPT:]

    def write(self, directory: Path, stem: str, map_range: tuple[float, float]) -> list[WorstPicture]:
        """Draws the candidates that are mistakes into a run's folder.

        Args:
            directory: of the results.
            stem: of the files, relative to it ("runs/RUN/maps/000").
            map_range: the colour scale.

        Returns:
            The mistakes of the category, worst first by kind. Where a class is missing, no score can be
            called wrong; the lowest (or highest) are returned then, with `outranked` NaN.
        """
        found = []
        kinds: tuple[tuple[Mistake, int], ...] = (("false negative", 1), ("false positive", 0))
        for mistake, label in kinds:
            for rank, candidate in enumerate(self._candidates[label]):
                outranked = _outranked(candidate, self._scores[1 - label])
                if outranked == 0:
                    continue
                file = f"{stem}_{mistake.replace(' ', '-')}_{rank}.png"
                if not _draw(candidate, directory / file, map_range):
                    continue
                sample = candidate.sample
                found.append(
                    WorstPicture(
                        mistake,
                        str(sample.path),
                        sample.category,
                        sample.defect,
                        candidate.score,
                        outranked,
                        file,
                    )
                )
        return found


def worst_of_run(found: Sequence[WorstPicture]) -> tuple[WorstPicture, ...]:
    """The worst of all categories: by how many of the other class outrank them, then by score.

    Scores of two categories need not be comparable, hence the rank within the category comes first.
    """
    chosen: list[WorstPicture] = []
    for mistake in ("false negative", "false positive"):
        sign = 1 if mistake == "false negative" else -1
        of_kind = [picture for picture in found if picture.mistake == mistake]
        of_kind.sort(key=lambda each: (-_known(each.outranked), sign * each.score))
        chosen += of_kind[:KEPT]
    return tuple(chosen)


def _known(outranked: float) -> float:
    return 0.0 if math.isnan(outranked) else outranked


def _outranked(candidate: Candidate, others: Sequence[float]) -> float:
    """The share of the other class on the wrong side of an image, ties counting half."""
    if not others:
        return math.nan
    scores = np.asarray(others)
    above = np.mean(scores > candidate.score) + np.mean(scores == candidate.score) / 2
    return float(above if candidate.sample.label else 1 - above)


def _draw(candidate: Candidate, file: Path, map_range: tuple[float, float]) -> bool:
    """Writes the image with its heat map and a line around the true defect; False if it cannot be read."""
    sample = candidate.sample
    try:
        picture = read_image(sample.path)
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        heat = Image.fromarray(candidate.anomaly_map).resize(picture.size, Image.Resampling.BILINEAR)
        drawn = overlay(np.asarray(picture), np.asarray(heat), map_range)
        if sample.mask_path is not None:
            mask = Image.fromarray(read_mask(sample.mask_path)).resize(picture.size, Image.Resampling.NEAREST)
            drawn = draw_contour(np.asarray(drawn), np.asarray(mask))
    except (ZsadError, OSError):
        return False
    with atomic_file(file) as target:
        drawn.save(target, "PNG")
    return True
